"""The operators' own tests, run over the CUDA bindings and kernels on the host's tensors."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import emulated_build

from transformers4rec_ext import _native

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


def _python(program: str) -> None:
    """Run a program in a process of its own, where no library is loaded yet."""
    path = os.pathsep.join([str(HERE), str(HERE.parents[1])])
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_every_native_operator_is_bound() -> None:
    _python(
        "import emulated_bindings\n"
        "emulated_bindings.pytest_configure()\n"
        "import transformers4rec_ext.functional\n"
        "from transformers4rec_ext import _native\n"
        "missing = [op for op in _native.NATIVE_OPS if not _native.has_kernel(op, 'cpu')]\n"
        "assert not missing, missing\n"
        f"assert str(_native.report()['library']) == {str(emulated_build.bound())!r}\n"
    )


def test_the_plugin_does_nothing_unless_it_is_asked_for() -> None:
    """A collection of doctests imports it; the kernels would then be compared with themselves."""
    _python(
        "import emulated_bindings, transformers4rec_ext.functional\n"
        "from transformers4rec_ext import _native\n"
        "assert _native.isa() is not None\n"
    )
    assert _native.isa() is not None
