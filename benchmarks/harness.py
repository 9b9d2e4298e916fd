"""What all benchmarks have in common: options, peers that may be absent, rounds, results."""

from __future__ import annotations

import argparse
import gc
import importlib
import importlib.util
import os
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import torch

from benchmarks import cases, inputs, tables, timing
from benchmarks.peers.remote import Remote, Worker, WorkerError

Provider = Callable[[], Any]
UPSTREAM = "benchmarks.peers.transformers4rec_peer"
#: Peers by the names that ``--without`` takes, and the module (of this environment) of each.
PEERS = {
    "tensorflow": "tensorflow",
    "cut-cross-entropy": "cut_cross_entropy",
    "faiss": "faiss",
    "fbgemm": "fbgemm_gpu",
    "transformers4rec": "",
}
#: The part of the free memory that one provider may ask for.
SHARE = 0.8


class Benchmark(NamedTuple):
    """One file of results.

    Attributes
    ----------
    name : str
        Of the file.
    groups : dict of scale -> list of lists of cases
        Those of a group are timed in the same rounds.
    providers : callable (case, session) -> dict of name -> provider
    rounds : dict of scale -> int
    floor : str
        The provider whose time the others' are divided by on the screen.
    threads : int, optional
        All cores if it is left out.
    memory : bool
        Whether peak memory is measured too.
    no_memory : tuple of str
        Providers that take their memory beforehand, or not from torch.
    """

    name: str
    groups: cases.Groups
    providers: Callable[[Any, Session], dict[str, Provider]]
    rounds: dict[str, int]
    floor: str
    threads: int | None = None
    memory: bool = True
    no_memory: tuple[str, ...] = ()


class Session:
    """One run of a benchmark: what was asked for, and who takes part.

    Parameters
    ----------
    options : argparse.Namespace
        As `parser` makes it.
    threads : int
    """

    def __init__(self, options: argparse.Namespace, threads: int) -> None:
        self.device: str = options.device
        self.scale: str = options.scale
        self.without: list[str] = options.without
        self.threads = threads
        self.versions: dict[str, Any] = {}
        self.left_out: dict[str, str] = {}
        self._worker = self._start(options.upstream)

    def leave_out(self, what: str, why: str) -> None:
        """Say once, and remember for the results, that something is not measured, and why."""
        if what not in self.left_out:
            self.left_out[what] = why
            print(f"left out: {what}: {why}", file=sys.stderr, flush=True)

    def peer(self, name: str, load: Callable[[], Any] | None = None) -> Any:
        """Return the module of a peer on the CPU, or None (and say so) where it takes no part.

        ``load`` imports it, where a plain import is not enough.
        """
        module = PEERS[name]
        if name in self.without:
            self.leave_out(name, "--without")
        elif self.device != "cpu":
            self.leave_out(name, f"it is measured on the CPU only, not on {self.device}")
        elif importlib.util.find_spec(module) is None:
            self.leave_out(name, f"no module {module} in this environment (make bench has it)")
        else:
            try:
                found = load() if load else importlib.import_module(module)
            except (ImportError, OSError) as error:  # built for another torch
                self.leave_out(name, f"it does not load: {error}")
            else:
                self.versions[name] = _version(found)
                return found
        return None

    def fits(self, name: str, case: Any, needed: float) -> bool:
        """Tell whether a provider's bytes can be had; say where they cannot."""
        free = timing.available_bytes(self.device)
        if needed <= SHARE * free:
            return True
        why = f"it needs {needed / 2**30:.1f} GiB, {free / 2**30:.1f} GiB are free"
        self.leave_out(f"{name} at {describe(case)}", why)
        return False

    def upstream(self, kind: str, case: Any, needed: float) -> dict[str, Remote]:
        """Return Transformers4Rec's provider of a case; nothing where it is absent or fails."""
        name = "transformers4rec"
        if self._worker is None or not self.fits(name, case, needed):
            return {}
        try:
            made = self._worker.build(kind, case, self.device)
            try:
                made()
            except WorkerError:
                made.close()
                raise
        except WorkerError as error:
            self.leave_out(f"{name} at {describe(case)}", str(error))
            return {}
        return {name: made}

    def close(self) -> None:
        """End what was started."""
        if self._worker is not None:
            self._worker.close()

    def _start(self, python: str | None) -> Worker | None:
        name = "transformers4rec"
        if name in self.without:
            self.leave_out(name, "--without")
        elif python is None:
            self.leave_out(name, "no --upstream PYTHON, its environment (make bench has it)")
        else:
            try:
                worker = Worker(python, UPSTREAM, self.threads)
            except WorkerError as error:
                self.leave_out(name, f"{error} (make .venv-upstream/installed makes it)")
            else:
                self.versions[name] = worker.versions
                return worker
        return None


def _version(module: ModuleType) -> str:
    found = getattr(module, "__version__", None)
    distributions = {"cut_cross_entropy": "cut-cross-entropy", "fbgemm_gpu": "fbgemm-gpu-cpu"}
    package = module.__name__.partition(".")[0]
    return str(found or version(distributions.get(package, package)))


def describe(case: Any) -> str:
    """Return a case in the letters of the project."""
    return tables.shape(case._asdict())


def parser(description: str | None) -> argparse.ArgumentParser:
    """Return the options of every benchmark."""
    made = argparse.ArgumentParser(description=description)
    made.add_argument(
        "--scale",
        choices=cases.SCALES,
        default="full",
        help="tiny: try it, the numbers mean nothing; quick: minutes; full (default)",
    )
    made.add_argument("--rounds", type=int, help="rounds of each case (default: by the scale)")
    made.add_argument(
        "--threads",
        type=int,
        help="for torch and all peers (default: all cores); the sampler has one",
    )
    made.add_argument("--device", default="cpu", help="cpu (default) or cuda")
    made.add_argument(
        "--upstream",
        metavar="PYTHON",
        help="the interpreter of the environment that holds Transformers4Rec",
    )
    made.add_argument(
        "--without", nargs="+", choices=PEERS, default=[], metavar="PEER", help=" ".join(PEERS)
    )
    made.add_argument("--out", type=Path, help="folder of the results (default: by the scale)")
    return made


def folder(options: argparse.Namespace) -> Path:
    """Return where results go: those of the documents are full ones of the CPU, and only those."""
    if options.out is not None:
        return Path(options.out)
    parts = [part for part in (options.scale, options.device) if part not in ("full", "cpu")]
    return timing.RESULTS.joinpath("-".join(parts)) if parts else timing.RESULTS


def main(benchmark: Benchmark, description: str | None) -> None:
    """Measure every case of the scale asked for and write the results."""
    options = parser(description).parse_args()
    check_device(options.device)
    timing.keep_memory()
    threads = benchmark.threads or options.threads or os.cpu_count() or 1
    torch.set_num_threads(threads)
    rounds = options.rounds or benchmark.rounds[options.scale]
    session = Session(options, threads)
    start = time.perf_counter()
    try:
        rows = _measure(benchmark, session, rounds)
    finally:
        session.close()
    save(benchmark.name, options, session, rows, start, rounds)


def data_folder() -> Path:
    """Return where the data sets are: beside the repository, or in T4R_EXT_SHARED."""
    shared = Path(os.environ.get("T4R_EXT_SHARED", timing.ROOT.parent / "shared"))
    return shared / "data"


def check_device(device: str) -> None:
    """Exit, and say why, where the device asked for is not there."""
    if device.partition(":")[0] not in ("cpu", "cuda"):
        sys.exit(f"--device must be cpu or cuda; got {device}")
    if device != "cpu" and not torch.cuda.is_available():
        sys.exit(f"--device {device}: torch {torch.__version__} finds no CUDA device here")


def save(
    name: str,
    options: argparse.Namespace,
    session: Session,
    rows: list[dict[str, Any]],
    start: float,
    rounds: int,
) -> None:
    """Write the results with what was asked for, who took part and how long it took."""
    gpu = {} if options.device == "cpu" else {"gpu": torch.cuda.get_device_name(options.device)}
    timing.save(
        name,
        session.threads,
        rows,
        folder(options),
        scale=options.scale,
        device=options.device,
        **gpu,
        seed=inputs.SEED,
        rounds=rounds,
        threads_asked=options.threads,
        peers=session.versions,
        left_out=session.left_out,
        minutes=round((time.perf_counter() - start) / 60, 1),
    )


def _measure(benchmark: Benchmark, session: Session, rounds: int) -> list[dict[str, Any]]:
    groups = benchmark.groups[session.scale]
    rows: list[dict[str, Any]] = []
    start = time.perf_counter()
    for number, group in enumerate(groups):
        label = f"{benchmark.name} {number + 1}/{len(groups)}"
        if number:
            left = (time.perf_counter() - start) / number * (len(groups) - number)
            label += f", about {left / 60:.1f} min left"
        for row in _group(benchmark, session, group, rounds, label):
            rows.append(row)
            floor = row["seconds"][benchmark.floor]["median"]
            times = (f"{name} {t['median'] / floor:.2f}" for name, t in row["seconds"].items())
            print(f"  x {benchmark.floor} ({floor * 1e3:.3g} ms): {', '.join(times)}", flush=True)
    return rows


def _group(
    benchmark: Benchmark, session: Session, group: list[Any], rounds: int, label: str
) -> list[dict[str, Any]]:
    """Return the rows of one group, timed round after round."""
    # a compiler that has seen the shapes of other cases makes code for any shape, which is slower,
    # and after some gives up; and what it keeps holds their tensors
    torch.compiler.reset()
    gc.collect()
    made = []
    for case in group:
        print(f"[{label}] {describe(case)}: prepares", flush=True)
        made.append(benchmark.providers(case, session))
    peaks = [
        {
            name: timing.peak_mebibytes(run, session.device)
            for name, run in found.items()
            if benchmark.memory and name not in benchmark.no_memory
        }
        for found in made
    ]

    def progress(turn: int, elapsed: float) -> None:
        left = (rounds + 1 - turn) * elapsed
        print(f"[{label}] round {turn} of {rounds + 1}, {left:.0f} s to go", flush=True)

    times = timing.interleaved(
        {(at, name): run for at, found in enumerate(made) for name, run in found.items()},
        rounds=rounds,
        device=session.device,
        progress=progress,
    )
    rows = []
    for at, (case, found) in enumerate(zip(group, made, strict=True)):
        memory = {"peak_mebibytes": peaks[at]} if benchmark.memory else {}
        rows.append({**case._asdict(), "seconds": {n: times[at, n] for n in found}, **memory})
        for run in found.values():
            if isinstance(run, Remote):
                run.close()
    return rows
