"""Train every objective on every data set and keep the results; what was interrupted goes on."""

from __future__ import annotations

import argparse
import fcntl
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks import harness, report, timing
from benchmarks.quality import overview, records
from benchmarks.quality.matrix import DATASETS, OBJECTIVES, SEEDS, Run, plan
from benchmarks.quality.report import draw
from transformers4rec_ext.training.folder import RunFolder
from transformers4rec_ext.training.log import read_log

_EPILOG = """\
Runs are folders of the command line's `train` below --runs: one that was killed goes on where its
last checkpoint stands, one that is finished is not run again. Several of these commands share the
work: a run that another one holds is passed over. Records go to benchmarks/results/quality, the
tables and pictures of benchmarks/quality.md are made of them.

examples:
  python -m benchmarks.quality --list
  python -m benchmarks.quality --sets ml-1m --objectives full log-uniform-3000 --seeds 0 1 2
  nice python -m benchmarks.quality --threads 1
"""


def main() -> int:
    """Run what the options choose, in the order of the plan."""
    options = _parser().parse_args()
    if options.list:
        for run in chosen(options):
            print(f"{run.name:50} {_state(run, options.runs)}")
        return 0
    visited: set[Run] = set()
    # anew after every run: the last sampled one of a set tells which of them has more seeds
    while left := [run for run in chosen(options) if run not in visited]:
        run = left[0]
        print(f"== {run.name}: {_state(run, options.runs)}; {len(left) - 1} after it", flush=True)
        if records.read(run) is None and not train(run, options):
            return 1
        visited.add(run)
    return 0


def chosen(options: argparse.Namespace) -> list[Run]:
    """Return the runs of the plan that the options choose, as far as the records tell them."""
    headline = {data.name: name for data in DATASETS if (name := records.best_sampled(data))}
    return [
        run
        for run in plan(headline, everything=options.seeds is not None)
        if run.dataset.name in (options.sets or [run.dataset.name])
        and run.objective.name in (options.objectives or [run.objective.name])
        and run.seed in (options.seeds or [run.seed])
    ]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.quality",
        description=__doc__,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    names = [data.name for data in DATASETS]
    parser.add_argument("--list", action="store_true", help="only tell what is done and what not")
    parser.add_argument("--sets", nargs="+", choices=names, metavar="SET", help=", ".join(names))
    names = [objective.name for objective in OBJECTIVES]
    parser.add_argument(
        "--objectives", nargs="+", choices=names, metavar="NAME", help=", ".join(names)
    )
    parser.add_argument(
        "--seeds",
        nargs="+",
        type=int,
        choices=SEEDS,
        metavar="N",
        help="of all chosen objectives (default: 0, and all three of the two headline rows)",
    )
    parser.add_argument(
        "--runs", type=Path, default=Path("runs/quality"), metavar="DIR",
        help="folder of the runs (default: runs/quality)",
    )  # fmt: skip
    parser.add_argument(
        "--data", type=Path, metavar="DIR",
        default=harness.data_folder(),
        help="folder of the data sets (default: data in $T4R_EXT_SHARED, or in ../shared)",
    )  # fmt: skip
    parser.add_argument(
        "--threads",
        type=int,
        default=os.cpu_count(),
        metavar="N",
        help="CPU threads of a run (default: all cores)",
    )
    return parser


def _state(run: Run, runs: Path) -> str:
    record = records.read(run)
    if record is not None:
        return f"done, test NDCG@10 {record['model']['ndcg_at_10']:.4f}"
    log = runs / run.name / "log.jsonl"
    epochs = (
        [line for line in read_log(log) if line["event"] == "validation"] if log.exists() else []
    )
    if not epochs:
        return "not begun"
    best = max(line["ndcg_at_10"] for line in epochs)
    return f"{len(epochs)} epochs, validation NDCG@10 {best:.4f}"


def train(run: Run, options: argparse.Namespace) -> bool:
    """Bring a run to its end and keep its record; return False if it was stopped."""
    folder: Path = options.runs / run.name
    folder.mkdir(parents=True, exist_ok=True)
    with _held(folder) as mine:
        if not mine:
            print("   another process is at it")
            return True
        file = options.data / run.dataset.name / "interactions.parquet"
        command = [sys.executable, "-m", "transformers4rec_ext", "train", str(file)]
        command += [*run.arguments(), "--out", str(folder), "--threads", str(options.threads)]
        status = RunFolder(folder).status()
        if status == "foreign":
            command.append("--overwrite")  # killed before it was a run
        elif status != "new":
            command.append("--resume")  # it refuses a folder that was begun with other options
        if not sys.stderr.isatty():
            command.append("--no-progress")
        if subprocess.run(command, check=False).returncode:
            print(f"   stopped; the same command goes on with it; its files: {folder}")
            return False
        records.write(run, folder, timing.environment(options.threads))
        draw(run.dataset)
        overview.draw()
        report.write()
    return True


@contextmanager
def _held(folder: Path) -> Iterator[bool]:
    """Hold a lock on a run for as long as it goes on; yield False where another process has it."""
    with open(folder / "lock", "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        yield True


if __name__ == "__main__":
    sys.exit(main())
