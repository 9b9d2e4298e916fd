"""Run the benchmarks, each in a process of its own, then draw the pictures and write the tables.

A benchmark that has been measured at this commit and scale is not measured again, so that an
interrupted run goes on where it was; ``--again`` does measure it. One that fails does not keep the
others from running; the command then fails at the end.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time

from benchmarks import harness, timing

#: What to expect of two idle cores, in minutes, by scale; the time that is left is guessed from it.
MINUTES: dict[str, dict[str, float]] = {
    "startup": {"tiny": 0.2, "quick": 1, "full": 2.5},
    "sampler": {"tiny": 0.2, "quick": 0.4, "full": 0.7},
    "sampled_softmax": {"tiny": 0.5, "quick": 1.7, "full": 7.5},
    "full_softmax": {"tiny": 0.5, "quick": 1, "full": 21},
    "evaluation": {"tiny": 0.2, "quick": 1.2, "full": 15},
    "optim": {"tiny": 0.2, "quick": 0.6, "full": 2},
    "step": {"tiny": 1, "quick": 2, "full": 2.5},
    "largest": {"tiny": 0.2, "quick": 0.7, "full": 5},
}


def parser() -> argparse.ArgumentParser:
    """Return the options: those of every benchmark, and which of them to run."""
    made = harness.parser(__doc__.partition("\n")[0])
    made.add_argument("--only", nargs="+", choices=MINUTES, metavar="NAME", help=" ".join(MINUTES))
    made.add_argument("--again", action="store_true", help="measure again what has been measured")
    return made


def done(name: str, options: argparse.Namespace, commit: str) -> bool:
    """Tell whether there is a result of this commit, scale, device, threads and rounds."""
    content = timing.load(name, harness.folder(options))
    if options.again or commit.endswith("-dirty") or not content:
        return False
    found = content["environment"]["commit"], content.get("scale"), content.get("device")
    if found != (commit, options.scale, options.device):
        return False
    of_run = {"threads": content.get("threads_asked"), "rounds": content.get("rounds")}
    if any(getattr(options, name) not in (None, value) for name, value in of_run.items()):
        return False
    absent = ", ".join(content["left_out"])
    print(f"== {name}: measured already{f', without {absent}' if absent else ''}", flush=True)
    return True


def arguments(options: argparse.Namespace) -> list[str]:
    """Return the command line of one benchmark."""
    found = ["--scale", options.scale, "--device", options.device]
    for name in ("rounds", "threads", "upstream", "out"):
        if (value := getattr(options, name)) is not None:
            found += [f"--{name}", str(value)]
    return [*found, "--without", *options.without] if options.without else found


def measure(names: list[str], options: argparse.Namespace) -> list[str]:
    """Run these benchmarks in order; return those that failed."""
    failed, start, expected = [], time.perf_counter(), 0.0
    total = sum(MINUTES[name][options.scale] for name in names)
    for name in names:
        elapsed = (time.perf_counter() - start) / 60
        slower = max(1.0, elapsed / expected) if expected else 1.0
        left = (total - expected) * slower
        print(f"== {name}: about {left:.1f} min to the end of all", flush=True)
        command = [sys.executable, "-m", f"benchmarks.bench_{name}", *arguments(options)]
        if subprocess.run(command, cwd=timing.ROOT, check=False).returncode:
            failed.append(name)
        expected += MINUTES[name][options.scale]
    return failed


def main() -> None:
    """Measure what is left to measure, and write pictures and tables of all that there is."""
    options = parser().parse_args()
    harness.check_device(options.device)
    if options.out is not None:
        options.out = options.out.resolve()
    commit = timing.commit()
    if commit.endswith("-dirty"):
        print("the code differs from the commit: everything is measured again", flush=True)
    load = os.getloadavg()[0]
    if load > 0.5:
        print(f"the machine is not idle (load average {load:.2f}): times will be off", flush=True)
    names = [name for name in options.only or MINUTES if not done(name, options, commit)]
    failed = measure(names, options)
    pages = [sys.executable, "-m", "benchmarks.report", "--folder", str(harness.folder(options))]
    subprocess.run(pages, cwd=timing.ROOT, check=True)
    if failed:
        sys.exit(f"failed: {', '.join(failed)}; the same command goes on with them")


if __name__ == "__main__":
    main()
