"""Cold build of the CPU kernels, and what importing the package adds to ``import torch``.

The same of Transformers4Rec, in its environment: what its import adds.
"""

from __future__ import annotations

import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks import harness, timing

_BUILT = ("csrc", "transformers4rec_ext", "setup.py", "pyproject.toml", "README.md", "LICENSE")
BUILDS = {"tiny": 0, "quick": 1, "full": 3}
IMPORTS = {"tiny": 1, "quick": 3, "full": 7}
STATEMENTS = {
    "package": "import transformers4rec_ext",
    "engine": "import transformers4rec_ext.functional",
    "model API": "import transformers4rec_ext as tr; tr.Model; tr.NextItemPredictionTask",
}


def cold_build() -> float:
    """Return the seconds that ``setup.py build_ext`` takes in a fresh copy of the sources."""
    with tempfile.TemporaryDirectory() as folder:
        for name in _BUILT:
            source = timing.ROOT / name
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


def import_seconds(python: str, statement: str) -> float:
    """Return the seconds that a statement takes in a new process that has imported torch."""
    code = (
        f"import time, torch; start = time.perf_counter(); {statement}; "
        "print(time.perf_counter() - start)"
    )
    command = [python, "-W", "ignore", "-c", code]
    return float(subprocess.check_output(command, cwd=timing.ROOT, text=True).split()[-1])


def main() -> None:
    """Measure and write the results."""
    options = harness.parser(__doc__).parse_args()
    start = time.perf_counter()
    rows: list[dict[str, Any]] = []

    def add(what: str, samples: list[float]) -> None:
        rows.append({"what": what, "seconds": statistics.median(samples)})
        print(rows[-1], flush=True)

    if builds := BUILDS[options.scale]:
        add("cold build", [cold_build() for _ in range(builds)])
    repeats = range(options.rounds or IMPORTS[options.scale])
    for name, statement in STATEMENTS.items():
        add(f"import, {name}", [import_seconds(sys.executable, statement) for _ in repeats])
    session = harness.Session(options, os.cpu_count() or 1)
    session.close()
    if "transformers4rec" in session.versions:
        statement = "import transformers4rec.torch"
        samples = [import_seconds(options.upstream, statement) for _ in repeats]
        add("import, Transformers4Rec", samples)
    harness.save("startup", options, session, rows, start, len(repeats))


if __name__ == "__main__":
    main()
