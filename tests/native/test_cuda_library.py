"""The CUDA part of the compiled library, as far as it can be seen without a GPU."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from transformers4rec_ext import _build, _native

ROOT = Path(__file__).resolve().parent.parent.parent


@pytest.fixture(autouse=True)
def _library_with_cuda() -> None:
    if _native.cuda_archs() is None:
        assert os.environ.get("T4R_EXT_BUILD") != "cuda", "the build left out the CUDA kernels"
        pytest.skip("the library was built without CUDA kernels; T4R_EXT_BUILD=cuda builds them")


def library() -> str:
    return str(_native.report()["library"])


def python(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **environment},
        cwd=ROOT,
    )


def test_every_native_operator_has_its_kernel() -> None:
    assert not [op for op in _native.NATIVE_OPS if not _native.has_kernel(op, "cuda")]


def test_the_library_tells_its_architectures() -> None:
    archs = _native.cuda_archs()
    assert archs is not None
    assert re.fullmatch(r"(\d+\.\d[af]?(\+PTX)?;?)+", archs)
    code = "import torch; from transformers4rec_ext import _native; _native.load(); "
    done = python(code + "print(_native.report()['cuda archs'], _native.report()['cuda runtime'])")
    assert done.stdout.split() == [archs, _native.cuda_runtime()], done.stderr


def test_nothing_of_the_cuda_runtime_can_be_seen_from_outside() -> None:
    """Torch brings a runtime of its own, of another version perhaps."""
    listing = subprocess.run(
        ["nm", "-D", "-C", library()], capture_output=True, text=True, check=True
    ).stdout
    assert not re.findall(r"^.*\b(?:cuda[A-Z]|__cuda|cu[A-Z])\w*.*$", listing, re.MULTILINE)
    defined = set(re.findall(r" T (\w+)$", listing, re.MULTILINE))
    names = {"isa", "cuda_archs", "cuda_runtime"}
    assert defined == {f"transformers4rec_ext_{name}" for name in names}


@pytest.mark.parametrize(("version", "suffices"), [(12040, False), (13000, True), (14010, True)])
def test_a_driver_too_old_leaves_the_reference_in_place(
    tmp_path: Path, version: int, suffices: bool
) -> None:
    source = tmp_path / "driver.c"
    source.write_text(f"int cuDriverGetVersion(int* v) {{ *v = {version}; return 0; }}\n")
    compiler = _build.compiler()
    assert compiler is not None
    target = tmp_path / "libcuda.so.1"
    subprocess.run([compiler, "-shared", "-fPIC", "-xc", str(source), "-o", target], check=True)
    code = """
import torch
torch.version.cuda = "13.0"
from transformers4rec_ext import _native, functional
kernels = {op for op in _native.NATIVE_OPS if _native.has_kernel(op, "cuda")}
print(sorted(kernels), _native.driver(), _native.why_reference("rank_tile", "cuda"), sep="|")
"""
    done = python(code, LD_LIBRARY_PATH=str(tmp_path))
    kernels, driver, why = done.stdout.strip().split("|")
    assert driver == f"{version // 1000}.{version % 1000 // 10}"
    if suffices:
        assert kernels == str(sorted(_native.NATIVE_OPS))
        assert done.stderr == ""
        return
    assert kernels == "[]"
    assert why.startswith("the GPU's driver supports CUDA 12.4, and the kernels need 13.")
    assert done.stderr.count("\n") == 1
    assert f"{why}; the PyTorch reference runs on it" in done.stderr
