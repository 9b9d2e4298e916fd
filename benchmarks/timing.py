"""Interleaved timing: every provider once, round after round, so that all see the same machine."""

from __future__ import annotations

import ctypes
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).resolve().parent / "results"


def interleaved(
    providers: dict[str, Callable[[], Any]], *, rounds: int, warmup: int = 1
) -> dict[str, dict[str, float]]:
    """Time providers round-robin; return median and quartiles in seconds of each.

    A turn is a call that is not timed and one that is: a training loop calls the same thing again
    and again, and does not find its caches full of what a competitor left behind.

    Parameters
    ----------
    providers : dict of name -> callable
        Called without arguments.
    rounds, warmup : int
        Rounds that count, and rounds before them that do not.
    """
    seconds: dict[str, list[float]] = {name: [] for name in providers}
    for turn in range(warmup + rounds):
        for name, run in providers.items():
            run()
            start = time.perf_counter()
            run()
            elapsed = time.perf_counter() - start
            if turn >= warmup:
                seconds[name].append(elapsed)
    summary = {}
    for name, values in seconds.items():
        q1, median, q3 = statistics.quantiles(values, n=4, method="inclusive")
        summary[name] = {"median": median, "q1": q1, "q3": q3}
    return summary


def peak_mebibytes(run: Callable[[], Any]) -> float:
    """Return how much torch's allocator held at the most during a call, beyond what it held."""
    import torch

    run()  # compiles, and makes what is made once
    with torch.profiler.profile(profile_memory=True) as profile:
        run()
    held, peak = 0, 0
    events = profile.profiler.kineto_results.events()
    for event in sorted(events, key=lambda event: event.start_ns()):
        if event.name() == "[memory]":
            held += event.nbytes()
            peak = max(peak, held)
    return round(peak / 2**20, 1)


def keep_memory() -> None:
    """Keep glibc from giving freed memory back to the system between calls.

    A training loop allocates the same again and again and seldom pays for fresh pages; here a
    competitor that frees a gigabyte of gradients would make everybody else do so.
    """
    if platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        trim_threshold, mmap_threshold = -1, -3
        libc.mallopt(trim_threshold, 2**30)
        libc.mallopt(mmap_threshold, 2**25)


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":")[1].strip() for line in lines if "model name" in line), "unknown")


def environment(threads: int) -> dict[str, Any]:
    """Return what a number means nothing without: machine, versions, commit, threads."""
    import torch

    from transformers4rec_ext import _native

    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"],
        capture_output=True,
        text=True,
        check=False,
        cwd=RESULTS.parent,
    ).stdout.strip()
    return {
        "cpu": _cpu_model(),
        "cores": os.cpu_count(),
        "threads": threads,
        "isa": _native.isa(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "commit": commit,
        "load_at_end": round(os.getloadavg()[0], 2),
    }


def kept_rows(name: str, key: str, measured: list[int]) -> list[dict[str, Any]]:
    """Return the rows of an earlier ``results/<name>.json`` whose ``key`` is not measured now."""
    path = RESULTS / f"{name}.json"
    earlier = json.loads(path.read_text())["rows"] if path.exists() else []
    return [row for row in earlier if row[key] not in measured]


def save(
    name: str, threads: int, rows: list[dict[str, Any]], folder: Path = RESULTS, **more: Any
) -> None:
    """Write ``<folder>/<name>.json``."""
    folder.mkdir(parents=True, exist_ok=True)
    content = {"environment": environment(threads), **more, "rows": rows}
    path = folder / f"{name}.json"
    path.write_text(json.dumps(content, indent=1) + "\n")
    print(f"wrote {path}", file=sys.stderr)
