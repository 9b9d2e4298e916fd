"""Install a wheel under one torch and one Python, in an environment of its own, and try it there.

``python tests/native/check_wheel.py dist/*.whl --torch torch==2.10.0 --python python3.10``: loads
the library, asks whether every native operator has its CPU and CUDA kernel, and runs the operators'
tests on the CPU, away from the checkout. Prints a line for docs/kernels.md. ``--environment`` keeps
the environment and takes it up again.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
TESTS = ("tests/ops", "tests/optim", "tests/reference")
# Run in the environment. `current_stream` of csrc/bind_cuda.h asks for that symbol in this way.
INSPECT = """
import ctypes, os, platform, torch
from transformers4rec_ext import _native, functional
report = _native.report()
assert report["library"], report["reason"]
assert "site-packages" in report["library"], report["library"]
states = {
    (op, device): _native.has_kernel(op, device)
    for op in _native.NATIVE_OPS for device in ("cpu", "cuda")
}
missing = [key for key, there in states.items() if not there]
assert not missing, f"no kernel of {missing}"
if torch.version.cuda:
    loaded = ctypes.CDLL("libtorch_cuda.so", mode=os.RTLD_LAZY | os.RTLD_NOLOAD)
    assert loaded.aoti_torch_get_current_cuda_stream
print(f"Python {platform.python_version()}, torch {torch.__version__} "
      f"(CUDA {torch.version.cuda}), {len(_native.NATIVE_OPS)} operators with CPU and CUDA kernels "
      f"for {report['cuda archs']}")
"""


def run(*command: str | Path, cwd: Path) -> str:
    """Run a command, show what it prints, and return that; exits where it fails."""
    print("+", *command, flush=True)
    done = subprocess.run(
        list(map(str, command)), cwd=cwd, stdout=subprocess.PIPE, text=True, check=False
    )
    print(done.stdout[-4000:], flush=True)
    if done.returncode:
        sys.exit(f"failed: {command[0]}")
    return done.stdout


def main() -> None:
    """Check one wheel."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("wheel", type=Path)
    parser.add_argument("--torch", required=True, help="requirement, like torch==2.13.0")
    parser.add_argument("--python", default=sys.executable)
    parser.add_argument("--environment", type=Path, help="a folder to keep")
    options = parser.parse_args()
    wheel = options.wheel.resolve()
    with tempfile.TemporaryDirectory() as name:
        away = Path(name)
        environment = options.environment.resolve() if options.environment else away / "venv"
        python = environment / "bin" / "python"
        if not python.exists():
            run(options.python, "-m", "venv", environment, cwd=away)
        pip = (python, "-m", "pip", "install", "--quiet")
        run(*pip, options.torch, "pytest>=8", "hypothesis>=6.100", cwd=away)
        run(*pip, "--only-binary", "transformers4rec_ext", wheel, cwd=away)
        run(*pip, "--force-reinstall", "--no-deps", wheel, cwd=away)
        shutil.copytree(ROOT / "tests", away / "tests")
        shutil.copy(ROOT / "pyproject.toml", away)
        said = run(python, "-c", INSPECT, cwd=away)
        tests = run(python, "-m", "pytest", "-q", "--no-header", *TESTS, cwd=away)
    outcome = re.findall(r"^\d+ passed.*$", tests, re.MULTILINE)
    print(f"{wheel.name}: {said.strip()}; {outcome[-1]}")


if __name__ == "__main__":
    main()
