"""Cold build of the CPU kernels, and what importing the package adds to ``import torch``."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks import timing

ROOT = Path(__file__).resolve().parent.parent
_BUILT = ("csrc", "transformers4rec_ext", "setup.py", "pyproject.toml", "README.md", "LICENSE")


def cold_build() -> float:
    """Return the seconds that ``setup.py build_ext`` takes in a fresh copy of the sources."""
    with tempfile.TemporaryDirectory() as folder:
        for name in _BUILT:
            source = ROOT / name
            if source.is_dir():
                ignore = shutil.ignore_patterns("*.so", "__pycache__")
                shutil.copytree(source, Path(folder, name), ignore=ignore)
            else:
                shutil.copy(source, folder)
        start = time.perf_counter()
        subprocess.run(
            [sys.executable, "setup.py", "-q", "build_ext"],
            cwd=folder,
            check=True,
            env={**os.environ, "T4R_EXT_BUILD": "cpu"},
            stdout=subprocess.DEVNULL,
        )
        return time.perf_counter() - start


def _import_seconds(statement: str) -> float:
    code = (
        f"import time, torch; start = time.perf_counter(); {statement}; "
        "print(time.perf_counter() - start)"
    )
    return float(subprocess.check_output([sys.executable, "-c", code], cwd=ROOT, text=True))


def main() -> None:
    """Measure and write ``results/startup.json``."""
    imports = {
        "package": "import transformers4rec_ext",
        "engine": "import transformers4rec_ext.functional",
        "model API": "import transformers4rec_ext as tr; tr.Model; tr.NextItemPredictionTask",
    }
    rows = [{"what": "cold build", "seconds": sorted(cold_build() for _ in range(3))[1]}]
    for name, statement in imports.items():
        samples = sorted(_import_seconds(statement) for _ in range(7))
        rows.append({"what": f"import, {name}", "seconds": samples[3]})
    for row in rows:
        print(row, flush=True)
    timing.save("startup", os.cpu_count() or 1, rows)


if __name__ == "__main__":
    main()
