"""The operators' own tests, run over the CUDA bindings and kernels on the host's tensors."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import emulated_build

HERE = Path(__file__).resolve().parent
TESTS = (
    "tests/ops/test_op_table.py",
    "tests/ops/test_padded_candidates.py",
    "tests/ops/test_sampler.py",
    "tests/ops/test_weighted.py",
    "tests/optim/test_row_update.py",
)


def test_the_operators_tests_pass() -> None:
    path = os.pathsep.join([str(HERE), *filter(None, [os.environ.get("PYTHONPATH")])])
    command = [sys.executable, "-m", "pytest", "-p", "emulated_bindings", "-q", "--no-header"]
    done = subprocess.run(
        [*command, *TESTS],
        cwd=HERE.parent.parent,
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr


def test_every_native_operator_is_bound() -> None:
    """In a process of its own, where the library of the CPU kernels is not loaded."""
    program = (
        "import emulated_bindings, transformers4rec_ext.functional\n"
        "from transformers4rec_ext import _native\n"
        "missing = [op for op in _native.NATIVE_OPS if not _native.has_kernel(op, 'cpu')]\n"
        "assert not missing, missing\n"
        f"assert str(_native.report()['library']) == {str(emulated_build.bound())!r}\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(HERE), str(HERE.parents[1])])}
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
