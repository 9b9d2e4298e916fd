"""Run every benchmark, each in a process of its own, then write the tables."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BENCHMARKS = (
    "bench_startup",
    "bench_sampler",
    "bench_sampled_softmax",
    "bench_full_softmax",
    "bench_eval",
    "bench_step",
    "bench_optim",
    "report",
)


def main() -> None:
    """Run them in order; stop at the first that fails."""
    for name in BENCHMARKS:
        print(f"== {name}", flush=True)
        subprocess.run([sys.executable, "-m", f"benchmarks.{name}"], cwd=ROOT, check=True)


if __name__ == "__main__":
    main()
