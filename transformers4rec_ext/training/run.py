"""A run in a folder: started, resumed after a kill, finished, read again."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from transformers4rec_ext._checkpoint import open_state
from transformers4rec_ext._errors import value_error
from transformers4rec_ext._files import remove_leftovers, write_text
from transformers4rec_ext.baselines import popularity_ranks
from transformers4rec_ext.data.catalogue import Catalogue
from transformers4rec_ext.data.contexts import held_out
from transformers4rec_ext.data.files import Paths
from transformers4rec_ext.data.loader import SessionLoader
from transformers4rec_ext.data.parquet import ParquetSessions
from transformers4rec_ext.data.split import MARKS, TRAIN_MINIMUM, Part
from transformers4rec_ext.model.model import Model
from transformers4rec_ext.training.config import RunConfig
from transformers4rec_ext.training.evaluation import held_out_ranks, summarize
from transformers4rec_ext.training.log import plot_curves, read_log
from transformers4rec_ext.training.loop import Position, TrainingLoop
from transformers4rec_ext.training.network import build_model, evaluating, model_query
from transformers4rec_ext.training.objective import make_sampler

_FOOTER_BYTES = 1 << 16
_FILES = (
    "run.json",
    "metrics.json",
    "catalogue.parquet",
    "checkpoint.safetensors",
    "model.safetensors",
    "log.jsonl",
    "curves.png",
)


@dataclass(frozen=True)
class RunFolder:
    """The files of a run.

    ``run.json`` (options and the fingerprints of the data files), ``catalogue.parquet`` (the
    caller's ids by rank), ``checkpoint.safetensors`` (to resume from), ``model.safetensors`` (what
    validated best), ``log.jsonl``, and at the end ``metrics.json`` and ``curves.png``.
    """

    path: Path

    @property
    def files(self) -> list[Path]:
        """The files of a run, those that are not there as well."""
        return [self.path / name for name in _FILES]

    def status(self) -> str:
        """Return "new" (nothing to lose yet), "unfinished" or "finished"."""
        if (self.path / "metrics.json").exists():
            return "finished"
        return "unfinished" if (self.path / "checkpoint.safetensors").exists() else "new"

    def clear(self) -> None:
        """Remove the files of a run, and nothing else."""
        for path in self.files:
            path.unlink(missing_ok=True)
        self.tidy()

    def tidy(self) -> None:
        """Remove what a killed run had half written: up to the size of a checkpoint."""
        for path in self.files:
            remove_leftovers(path)

    def describe(self, config: RunConfig, files: list[Path]) -> None:
        """Write ``run.json``."""
        known = {"config": config.as_dict(), "files": [_fingerprint(path) for path in files]}
        write_text(self.path / "run.json", json.dumps(known, indent=2) + "\n")

    def read(self) -> tuple[RunConfig, list[dict[str, Any]]]:
        """Return the config and the data files' fingerprints of ``run.json``.

        Raises
        ------
        FileNotFoundError
            If there is no run in the folder.
        ValueError
            If ``run.json`` is damaged.
        """
        path = self.path / "run.json"
        if not path.is_file():
            raise FileNotFoundError(f"RunFolder: path must hold a run; {path} does not exist.")
        with _written_by_train(path):
            known = json.loads(path.read_text(encoding="utf-8"))
            return RunConfig.from_dict(known["config"]), known["files"]

    def end(self) -> Position:
        """Return where a finished run ended: the epochs of ``metrics.json``.

        Raises
        ------
        ValueError
            If ``metrics.json`` is damaged.
        """
        path = self.path / "metrics.json"
        with _written_by_train(path):
            result = json.loads(path.read_text(encoding="utf-8"))
            return Position(epoch=int(result["epochs"]), best_epoch=int(result["best_epoch"]))

    def sessions(self) -> ParquetSessions:
        """Open the data files of the run, after checking that they are still the same.

        Raises
        ------
        ValueError
            If a file is not what it was.
        """
        config, files = self.read()
        for known in files:
            path = Path(known["path"])
            if path.is_file() and _fingerprint(path) != known:
                raise value_error(
                    "RunFolder", "data", "be what the run began with", f"another {path}"
                )
        return open_sessions(config, [known["path"] for known in files])

    def load(self) -> tuple[RunConfig, Catalogue, Model]:
        """Return the config, the catalogue and the model with its best weights.

        Raises
        ------
        FileNotFoundError, ValueError
            If a file is absent or damaged.
        """
        config, _ = self.read()
        catalogue = Catalogue.load(self.path / "catalogue.parquet")
        weights = self.path / "model.safetensors"
        if not weights.is_file():
            raise FileNotFoundError(
                f"RunFolder: path must hold a trained model; {weights} does not exist. The first "
                f"epoch writes it: continue the run with `train --resume --out {self.path}`."
            )
        with open_state(weights) as file:
            model = build_model(config, catalogue.num_items, catalogue.popularity)
            file.fill(model.state_dict())
        model.eval()
        return config, catalogue, model


@contextmanager
def _written_by_train(path: Path) -> Iterator[None]:
    """Say of an error which file of a run is not as it should be."""
    try:
        yield
    except (KeyError, TypeError, ValueError) as error:
        raise value_error(
            "RunFolder", path.name, "be as `train` wrote it", f"{path} ({error})"
        ) from error


def open_sessions(config: RunConfig, files: Paths) -> ParquetSessions:
    """Return the sessions of parquet files, split as ``config`` says.

    Raises
    ------
    FileNotFoundError, TypeError, ValueError
        As :class:`ParquetSessions`.
    """
    return ParquetSessions(
        files,
        config.items_column,
        config.session_column,
        split_column=config.split_column,
        validation_fraction=config.validation_fraction,
    )


def _fingerprint(path: Path) -> dict[str, Any]:
    """Return path, size and a hash of the end, where a parquet file keeps its statistics."""
    size = path.stat().st_size
    with open(path, "rb") as file:
        file.seek(max(0, size - _FOOTER_BYTES))
        digest = hashlib.sha256(file.read()).hexdigest()
    return {"path": str(path.resolve()), "bytes": size, "sha256_of_last_64_KiB": digest}


def model_ranks(
    model: Model,
    sessions: ParquetSessions,
    catalogue: Catalogue,
    config: RunConfig,
    part: Part,
    *,
    limit: int | None = None,
) -> Tensor:
    """Return the ranks that a model gives the items of a held-out part, int64 [targets].

    Parameters
    ----------
    model : Model
    sessions, catalogue, config
        As of the run; ``config.exclude_seen`` says what is ranked.
    part : "validation", "test", "last" or "every"
    limit : int, optional
        At most this many sessions.
    """
    with evaluating(model):
        return held_out_ranks(
            model_query(model),
            held_out(sessions, catalogue, part, limit=limit, seed=config.seed),
            max_length=config.max_length,
            batch_size=config.eval_batch_size,
            exclude_seen=config.exclude_seen,
        )


def begin_run(folder: RunFolder, config: RunConfig, sessions: ParquetSessions) -> None:
    """Check the data and write ``catalogue.parquet`` and ``run.json``, in place of an earlier run.

    Every row is read first: where the data are refused, nothing is written and nothing removed.

    Parameters
    ----------
    folder : RunFolder
    config : RunConfig
    sessions : ParquetSessions

    Raises
    ------
    TypeError, ValueError
        If the sessions are damaged, there is nothing to train, to validate or to test on, or
        ``config.num_negatives`` are more than popularity can find.
    OSError
        If the folder cannot be written.
    """
    catalogue = Catalogue.fit(sessions)
    _check_parts(sessions)
    if config.sampler == "popularity":
        make_sampler(config, catalogue.num_items, catalogue.popularity)
    folder.path.mkdir(parents=True, exist_ok=True)
    folder.clear()
    catalogue.save(folder.path / "catalogue.parquet")
    # Last: a folder with run.json is a run.
    folder.describe(config, sessions.paths)


def train_run(
    folder: RunFolder,
    config: RunConfig | None = None,
    *,
    progress: bool = True,
    say: Callable[[str], None] = print,
    on_step: Callable[[int], None] = lambda step: None,
    should_stop: Callable[[], bool] = lambda: False,
) -> dict[str, Any] | None:
    """Begin or continue the run that ``run.json`` of the folder describes.

    Parameters
    ----------
    folder : RunFolder
        After :func:`begin_run`.
    config : RunConfig, optional
        Another to go on with, which takes the place of that of ``run.json`` as soon as the data and
        the checkpoint are read; where they are refused, the folder stays as it is.
    progress : bool
        Show progress bars.
    say : callable
        Receives one line at a time.
    on_step, should_stop : callable
        See :class:`TrainingLoop`.

    Returns
    -------
    dict or None
        What ``metrics.json`` holds: test metrics of the best epoch and of the popularity
        baseline. None if it was asked to stop before the end.
    """
    recorded, _ = folder.read()
    config = recorded if config is None else config
    folder.tidy()
    torch.manual_seed(config.seed)
    sessions = folder.sessions()
    catalogue = Catalogue.load(folder.path / "catalogue.parquet")
    loader = SessionLoader(
        sessions,
        catalogue,
        max_length=config.max_length,
        batch_size=config.batch_size,
        seed=config.seed,
    )
    model = build_model(config, catalogue.num_items, catalogue.popularity)
    say(
        f"{sessions.num_sessions:,} sessions{_parts(sessions)}, {len(catalogue.items):,} items, "
        f"{int(catalogue.counts.sum()):,} training interactions, {len(loader):,} steps an epoch, "
        f"{sum(p.numel() for p in model.parameters()):,} parameters"
    )

    def validate(of: Model) -> dict[str, float]:
        limit = config.validation_sessions
        return summarize(model_ranks(of, sessions, catalogue, config, "validation", limit=limit))

    loop = TrainingLoop(
        model,
        loader,
        validate,
        folder.path,
        config,
        progress,
        on_step,
        should_stop,
    )
    if loop.restore():
        say(f"resumed after epoch {loop.position.epoch}, step {loop.position.step}")
    if config != recorded:
        folder.describe(config, sessions.paths)
    (folder.path / "metrics.json").unlink(missing_ok=True)  # unfinished from here on
    if not loop.run():
        return None
    return _finish(folder.path, model, loop, sessions, catalogue, config)


def _parts(sessions: ParquetSessions) -> str:
    """Return how many sessions are marked as what, as `` (3 train, ...)``; "" without marks."""
    if sessions.marks is None:
        return ""
    counts = np.bincount(sessions.marks, minlength=len(MARKS)).tolist()
    return f" ({', '.join(f'{n:,} {mark}' for n, mark in zip(counts, MARKS, strict=True))})"


def _check_parts(sessions: ParquetSessions) -> None:
    """Raise before the training, not after it, if there is nothing for one of the three parts."""
    missing: list[Part] = ["train", "validation", "test"]
    longest = 0
    for chunk in sessions.chunks():
        for part in tuple(missing):
            least = 2 if part == "train" else 1
            find = chunk.training_bounds if part == "train" else chunk.target_bounds
            start, stop = find(part)
            if (stop - start >= least).any():
                missing.remove(part)
        if not missing:
            return
        longest = max(longest, int((chunk.offsets[1:] - chunk.offsets[:-1]).max(initial=0)))
    if sessions.marks is not None:
        raise value_error(
            "train",
            f"column {sessions.split_column!r}",
            f"mark a session of two items or more as {missing[0]!r}",
            "none",
            "Where none is marked 'validation', the last ones marked 'train' are.",
        )
    raise value_error(
        "train",
        "sessions",
        f"hold one with at least {TRAIN_MINIMUM} items",
        f"sessions of at most {longest}",
        "Two of its items are held out for validation and test, and two are the fewest to learn "
        "from.",
    )


def _finish(
    path: Path,
    model: Model,
    loop: TrainingLoop,
    sessions: ParquetSessions,
    catalogue: Catalogue,
    config: RunConfig,
) -> dict[str, Any]:
    model.load_weights(loop.best)
    contexts = held_out(sessions, catalogue, "test")
    popularity = summarize(popularity_ranks(catalogue, contexts, exclude_seen=config.exclude_seen))
    result = {
        "model": summarize(model_ranks(model, sessions, catalogue, config, "test")),
        "popularity": popularity,
        "best_epoch": loop.position.best_epoch,
        "epochs": loop.position.epoch,
        "training_seconds": round(loop.position.seconds, 1),
    }
    plot_curves(path / "curves.png", read_log(path / "log.jsonl"), popularity["ndcg_at_10"])
    # Last: a folder with metrics.json is a finished run.
    write_text(path / "metrics.json", json.dumps(result, indent=2) + "\n")
    return result
