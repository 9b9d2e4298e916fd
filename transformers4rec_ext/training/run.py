"""A run: begun in a folder, trained, resumed after a kill, tested."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from transformers4rec_ext._errors import value_error
from transformers4rec_ext._files import write_text
from transformers4rec_ext._modes import weights_to_come
from transformers4rec_ext.baselines import popularity_ranks
from transformers4rec_ext.data.catalogue import Catalogue
from transformers4rec_ext.data.contexts import held_out, num_held_out
from transformers4rec_ext.data.loader import SessionLoader
from transformers4rec_ext.data.parquet import ParquetSessions
from transformers4rec_ext.data.split import MARKS, TRAIN_MINIMUM, Part
from transformers4rec_ext.model.model import Model
from transformers4rec_ext.training.config import RunConfig
from transformers4rec_ext.training.evaluation import held_out_ranks, summarize
from transformers4rec_ext.training.folder import RunFolder
from transformers4rec_ext.training.log import plot_curves, read_log
from transformers4rec_ext.training.loop import Position, Stopped, TrainingLoop
from transformers4rec_ext.training.network import build_model, evaluating, model_query
from transformers4rec_ext.training.objective import make_sampler


class Judgement(NamedTuple):
    """How held-out items were ranked; in the order of the sessions."""

    model: Tensor
    """By the model, from 1, int64 [targets]."""
    popularity: Tensor
    """By how often training holds them, int64 [targets]; empty where it was not asked for."""
    targets: np.ndarray
    """The items, int64 [targets]; 0 for one that the catalogue does not hold."""

    def chosen(self, some: np.ndarray) -> Judgement:
        """Return those of some targets, by their numbers."""
        return Judgement(self.model[some], self.popularity[some], self.targets[some])

    def metrics(self) -> dict[str, dict[str, float]]:
        """Return the metrics of both rankings; ValueError if there is no target."""
        ranks = {"model": self.model, "popularity": self.popularity}
        return {name: summarize(of) for name, of in ranks.items()}


def judge(
    model: Model,
    sessions: ParquetSessions,
    catalogue: Catalogue,
    config: RunConfig,
    part: Part,
    *,
    limit: int | None = None,
    baseline: bool = True,
    progress: bool = False,
    on_rows: Callable[[int], None] = lambda rows: None,
) -> Judgement:
    """Rank the items of a held-out part, in one reading of the sessions.

    Parameters
    ----------
    model : Model
    sessions, catalogue, config
        As of the run; ``config.exclude_seen`` says what is ranked.
    part : "validation", "test", "last" or "every"
    limit : int, optional
        At most this many sessions, a random sample.
    baseline : bool
        Rank by popularity as well.
    progress : bool
        Show a progress bar where stderr is a terminal.
    on_rows : callable
        See :func:`held_out_ranks`.
    """
    from tqdm import tqdm

    seed = config.seed
    bar = tqdm(
        desc=part if part in MARKS else "ranked",
        unit="target",
        leave=part != "validation",
        disable=None if progress else True,  # None: where nobody looks
    )

    if not bar.disable:
        bar.total = num_held_out(sessions, part, limit=limit, seed=seed)

    def count(rows: int) -> None:
        bar.update(rows)
        on_rows(rows)

    unseen = config.exclude_seen
    none = torch.zeros(0, dtype=torch.int64)
    of_model, popularity, targets = [none], [none], [none.numpy()]
    with bar, evaluating(model):
        query = model_query(model)
        for chunk in held_out(sessions, catalogue, part, limit=limit, seed=seed):
            ranks = held_out_ranks(
                query,
                [chunk],
                max_length=config.max_length,
                batch_size=config.eval_batch_size,
                exclude_seen=unseen,
                on_rows=count,
            )
            of_model.append(ranks)
            if baseline:
                popularity.append(popularity_ranks(catalogue, [chunk], exclude_seen=unseen))
            targets.append(chunk.targets)
    return Judgement(torch.cat(of_model), torch.cat(popularity), np.concatenate(targets))


def begin_run(
    folder: RunFolder, config: RunConfig, sessions: ParquetSessions, *, progress: bool = False
) -> None:
    """Check the data and write ``catalogue.parquet`` and ``run.json``, in place of an earlier run.

    Every row is read first: where the data are refused, nothing is written and nothing removed.

    Parameters
    ----------
    folder : RunFolder
    config : RunConfig
    sessions : ParquetSessions
    progress : bool
        Show a progress bar where stderr is a terminal.

    Raises
    ------
    TypeError, ValueError
        If the sessions are damaged, or among the files that the run would replace; there is nothing
        to train, to validate or to test on; ``config.num_negatives`` are more than popularity can
        find.
    OSError
        If the folder cannot be written.
    """
    folder.check_files_are_not_read(sessions.paths)
    with _reading("reading", sessions, progress) as bar:
        catalogue = Catalogue.fit(sessions, config.parts.trained, on_sessions=bar.update)
    _check_parts(sessions, config)
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
    device: torch.device | str = "cpu",
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
    device : torch.device or str
        Where the model is trained, validated and tested.
    progress : bool
        Show progress bars.
    say : callable
        Receives one line at a time.
    on_step, should_stop : callable
        See :class:`TrainingLoop`.

    Returns
    -------
    dict or None
        What ``metrics.json`` holds: how many epochs there were, which was kept, and where a test
        is held out its metrics, of the model and of the popularity baseline. None if it was asked
        to stop before the end.
    """
    recorded, _ = folder.read()
    config = recorded if config is None else config
    folder.tidy()
    torch.manual_seed(config.seed)
    sessions = folder.sessions()
    catalogue = Catalogue.load(folder.path / "catalogue.parquet")
    with _reading("counting windows", sessions, progress) as bar:
        loader = SessionLoader(
            sessions,
            catalogue,
            max_length=config.max_length,
            batch_size=config.batch_size,
            part=config.parts.trained,
            seed=config.seed,
            on_sessions=bar.update,
        )
    begun = (folder.path / "checkpoint.safetensors").exists()
    with weights_to_come() if begun else nullcontext():
        # On the CPU first: the initial weights are the same on every device.
        model = build_model(config, catalogue.num_items, catalogue.popularity).to(device)
    say(
        f"{sessions.num_sessions:,} sessions{_parts(sessions, config)}, "
        f"{len(catalogue.items):,} items, "
        f"{int(catalogue.counts.sum()):,} training interactions, {len(loader):,} steps an epoch, "
        f"{sum(p.numel() for p in model.parameters()):,} parameters"
    )

    def stop_if_asked(rows: int) -> None:
        if should_stop():
            raise Stopped

    shown: dict[str, Any] = {"progress": progress, "on_rows": stop_if_asked}

    def validate(of: Model) -> dict[str, float]:
        sample: dict[str, Any] = {"limit": config.validation_sessions, "baseline": False}
        found = judge(of, sessions, catalogue, config, "validation", **sample, **shown)
        return summarize(found.model)

    loop = TrainingLoop(
        model,
        loader,
        validate if config.validates else None,
        folder.path,
        config,
        progress,
        on_step,
        should_stop,
        say,
    )
    if loop.restore():
        say(f"resumed after epoch {loop.position.epoch}, step {loop.position.step}")
    if config != recorded:
        folder.describe(config, sessions.paths)
    (folder.path / "metrics.json").unlink(missing_ok=True)  # unfinished from here on
    if not loop.run():
        return None
    if not config.tests:
        return _finish(folder.path, loop.position, {})
    model.load_weights(loop.best)
    try:
        limit = config.test_sessions
        found = judge(model, sessions, catalogue, config, "test", limit=limit, **shown)
    except Stopped:
        return None
    return _finish(folder.path, loop.position, found.metrics())


def _reading(what: str, sessions: ParquetSessions, progress: bool) -> Any:
    """Return a progress bar over all sessions, gone when they are read."""
    from tqdm import tqdm

    disable = None if progress else True  # None: where nobody looks
    return tqdm(
        total=sessions.num_sessions, desc=what, unit="session", leave=False, disable=disable
    )


def _parts(sessions: ParquetSessions, config: RunConfig) -> str:
    """Return how many marked sessions are for what, as `` (3 train, ...)``; "" without marks."""
    if sessions.marks is None:
        return ""
    counts = dict(
        zip(MARKS, np.bincount(sessions.marks, minlength=len(MARKS)).tolist(), strict=True)
    )
    judged = config.parts.judged
    train = sum(number for mark, number in counts.items() if mark not in judged)
    numbers = [f"{train:,} train", *(f"{counts[part]:,} {part}" for part in judged)]
    return f" ({', '.join(numbers)})"


def _check_parts(sessions: ParquetSessions, config: RunConfig) -> None:
    """Raise before the training, not after it, if there is nothing for one of the parts."""
    trained, judged = config.parts
    missing = [trained, *judged]
    longest = 0
    for chunk in sessions.chunks():
        for part in tuple(missing):
            least = 2 if part == trained else 1
            find = chunk.training_bounds if part == trained else chunk.target_bounds
            start, stop = find(part)
            if (stop - start >= least).any():
                missing.remove(part)
        if not missing:
            return
        longest = max(longest, int((chunk.offsets[1:] - chunk.offsets[:-1]).max(initial=0)))
    if sessions.marks is not None and judged:
        hint = {
            "train": "Where none is marked 'validation', the last of these are not trained on.",
            "train+validation": "Those marked 'validation' are trained on as well.",
            "validation": "Where none is marked so, the last ones marked 'train' validate.",
            "test": "Without one there is nothing to test on: then --hold-out none.",
        }
        raise value_error(
            "train",
            f"column {sessions.split_column!r}",
            f"mark a session of two items or more as {missing[0].partition('+')[0]!r}",
            "none",
            hint[missing[0]],
        )
    raise value_error(
        "train",
        "sessions",
        f"hold one with at least {TRAIN_MINIMUM[trained]} items",
        f"sessions of at most {longest}",
        f"It takes two to learn from, and {len(judged)} held out to judge by."
        if judged
        else "It takes two to learn from.",
    )


def _finish(path: Path, position: Position, metrics: dict[str, dict[str, float]]) -> dict[str, Any]:
    result = {
        **metrics,
        "best_epoch": position.best_epoch,
        "epochs": position.epoch,
        "training_seconds": round(position.seconds, 1),
    }
    popularity = metrics.get("popularity", {}).get("ndcg_at_10")
    plot_curves(path / "curves.png", read_log(path / "log.jsonl"), popularity)
    # Last: a folder with metrics.json is a finished run.
    write_text(path / "metrics.json", json.dumps(result, indent=2) + "\n")
    return result
