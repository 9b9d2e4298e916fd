"""Interleaved timing: every provider once, round after round, so that all see the same machine."""

from __future__ import annotations

import ctypes
import json
import math
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from transformers4rec_ext._files import write_text

Key = TypeVar("Key")
ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"


def seconds(run: Callable[[], Any], device: str = "cpu") -> float:
    """Call once for nothing and once for the time, and return that, in seconds.

    A training loop calls the same thing again and again, and does not find its caches full of what
    a competitor left behind. A provider in another process has a method ``seconds`` for this, which
    measures there. On CUDA two events around the call are asked for their distance.
    """
    if hasattr(run, "seconds"):
        return float(run.seconds())
    run()
    if device != "cpu":
        return _cuda_seconds(run)
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def _cuda_seconds(run: Callable[[], Any]) -> float:
    import torch

    begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    torch.cuda.synchronize()
    begin.record()
    run()
    end.record()
    end.synchronize()
    return float(begin.elapsed_time(end)) / 1e3


def interleaved(
    providers: dict[Key, Callable[[], Any]],
    *,
    rounds: int,
    device: str = "cpu",
    progress: Callable[[int, float], None] = lambda turn, elapsed: None,
) -> dict[Key, dict[str, float]]:
    """Time providers round-robin; return median and quartiles in seconds of each.

    Parameters
    ----------
    providers : dict of name -> callable
        Called without arguments, as `seconds` says.
    rounds : int
        Those that count; one before them does not.
    device : str
        What they compute on.
    progress : callable
        Told after every round how many are done, of ``1 + rounds``, and how long it took.
    """
    found: dict[Key, list[float]] = {name: [] for name in providers}
    for turn in range(1 + rounds):
        start = time.perf_counter()
        for name, run in providers.items():
            value = seconds(run, device)
            if turn > 0:
                found[name].append(value)
        progress(turn + 1, time.perf_counter() - start)
    return {name: _spread(values) for name, values in found.items()}


def _spread(values: list[float]) -> dict[str, float]:
    if len(values) == 1:
        return dict.fromkeys(("median", "q1", "q3"), values[0])
    q1, median, q3 = statistics.quantiles(values, n=4, method="inclusive")
    return {"median": median, "q1": q1, "q3": q3}


def peak_mebibytes(run: Callable[[], Any], device: str = "cpu") -> float:
    """Return how much torch's allocator held at the most during a call, beyond what it held.

    A provider in another process has a method ``peak_mebibytes`` for this, which measures there.
    """
    if hasattr(run, "peak_mebibytes"):
        return float(run.peak_mebibytes())
    import torch

    run()  # compiles, and makes what is made once
    if device != "cpu":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        held = torch.cuda.memory_allocated()
        run()
        return round((torch.cuda.max_memory_allocated() - held) / 2**20, 1)
    os.environ.setdefault("KINETO_LOG_LEVEL", "6")  # it tells when it starts and stops
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
    competitor that frees a gigabyte of gradients would make everybody else do so. Only of blocks up
    to 32 MiB, glibc's limit: larger ones it maps anew at each call, here as in a training loop.
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


def commit() -> str:
    """Return the short hash of the commit, with "-dirty" where code that is measured differs."""
    code = ["transformers4rec_ext", "csrc", "setup.py", "benchmarks/*.py"]
    revision = _git("rev-parse", "--short", "HEAD")
    changed = _git("status", "--porcelain", "--", *code)
    return f"{revision}-dirty" if changed else revision


def _git(*arguments: str) -> str:
    done = subprocess.run(
        ["git", *arguments], capture_output=True, text=True, check=False, cwd=ROOT
    )
    return done.stdout.strip()


def available_bytes(device: str = "cpu") -> float:
    """Return how much memory can still be had; infinity where the system does not tell."""
    if device != "cpu":
        import torch

        return float(torch.cuda.mem_get_info()[0])
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return math.inf
    found = (int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))
    return next(found, math.inf)


def environment(threads: int) -> dict[str, Any]:
    """Return what a number means nothing without: machine, versions, commit, threads."""
    import torch

    from transformers4rec_ext import _native, functional

    assert functional  # it is who loads the kernels
    return {
        "cpu": _cpu_model(),
        "cores": os.cpu_count(),
        "threads": threads,
        "isa": _native.isa(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "commit": commit(),
        "load_at_end": round(os.getloadavg()[0], 2),
    }


def save(
    name: str, threads: int, rows: list[dict[str, Any]], folder: Path = RESULTS, **more: Any
) -> None:
    """Write ``<name>.json`` into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    content = {"environment": environment(threads), **more, "rows": rows}
    path = folder / f"{name}.json"
    # whole or not at all: whoever goes on with an interrupted run believes what is there
    write_text(path, json.dumps(content, indent=1) + "\n")
    print(f"wrote {path}", file=sys.stderr)


def load(name: str, folder: Path = RESULTS) -> dict[str, Any]:
    """Return the content of ``<name>.json`` in a folder, empty if it is not there."""
    path = folder / f"{name}.json"
    content: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    return content
