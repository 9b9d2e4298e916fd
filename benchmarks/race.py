"""Contenders that train in turns, an epoch each, every one by a clock of its own.

A turn sees the same machine as the turns beside it. The clock of a contender counts its training
alone: making batches, drawing negatives, forward, backward and update. Evaluation, which one code
does for all alike, is not on it. A turn ends with a checkpoint, and the random state is a
contender's own, so that it learns the same whoever else takes part and however often it is killed.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import nn

from transformers4rec_ext._errors import value_error
from transformers4rec_ext._files import remove_leftovers
from transformers4rec_ext.data.catalogue import Catalogue
from transformers4rec_ext.data.contexts import held_out
from transformers4rec_ext.data.parquet import ParquetSessions
from transformers4rec_ext.training import (
    WeightAverage,
    evaluating,
    held_out_ranks,
    open_state,
    save_state,
    summarize,
)
from transformers4rec_ext.training.network import Query


class Step(Protocol):
    """What trains on a batch, given how many steps there were before."""

    optimizer: torch.optim.Optimizer

    def __call__(self, batch: Any, number: int) -> float:
        """Return the loss."""


class Batches(Protocol):
    """What has the batches of every epoch, the same for the same epoch."""

    def __len__(self) -> int:
        """Return their number in an epoch."""

    def batches(self, epoch: int) -> Iterator[Any]:
        """Yield them."""


@dataclass
class Contender:
    """A model that trains by turns.

    Parameters
    ----------
    key, name : str
        For files and options, and for people.
    settings : dict
        What decides its numbers, ready for JSON; a checkpoint of other settings is refused.
    model, step, loader
        Made just now: torch's random state of this moment is the contender's.
    query : callable
        Ids [B, T], padded on the right, to hidden [B, T, D] and item weights [V, D].
    max_length : int
        T.
    average : WeightAverage
        Of the model, and by the clock as well; ``query`` is of its module.
    """

    key: str
    name: str
    settings: dict[str, Any]
    model: nn.Module
    step: Step
    loader: Batches
    query: Query
    max_length: int
    average: WeightAverage[Any]
    seconds: float = 0.0
    curve: list[dict[str, Any]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.random = torch.get_rng_state()

    @property
    def epoch(self) -> int:
        """How many epochs it has trained."""
        return len(self.curve)

    def reached(self, target: float) -> dict[str, Any] | None:
        """Return the first point of the curve at or above ``target``, if there is one."""
        return next((point for point in self.curve if point["ndcg_at_10"] >= target), None)

    def running(self, target: float, budget_seconds: float) -> bool:
        """Tell whether it has another turn: below the target, and with time left."""
        return self.reached(target) is None and self.seconds < budget_seconds

    def turn(self, sessions: ParquetSessions, catalogue: Catalogue) -> None:
        """Train for an epoch, by the clock; evaluate on the test items, off it."""
        torch.set_rng_state(self.random)
        self.model.train()
        total, number = 0.0, self.epoch * len(self.loader)
        started = time.perf_counter()
        for batch in self.loader.batches(self.epoch):
            total += self.step(batch, number)
            number += 1
            self.average(self.model, number)
        self.seconds += time.perf_counter() - started
        self.random = torch.get_rng_state()
        with evaluating(self.average.module):
            ranks = held_out_ranks(
                self.query,
                held_out(sessions, catalogue, "test"),
                max_length=self.max_length,
                exclude_seen=True,
            )
        metrics = summarize(ranks)
        self.curve.append(
            {
                "epoch": self.epoch + 1,
                "seconds": round(self.seconds, 2),
                "loss": total / len(self.loader),
                "ndcg_at_10": metrics["ndcg_at_10"],
                "recall_at_10": metrics["recall_at_10"],
            }
        )

    def save(self, folder: Path) -> None:
        """Write the checkpoint: all or nothing."""
        state = {
            "settings": self.settings,
            "model": self.model.state_dict(),
            "average": self.average.state_dict(),
            "optimizer": self.step.optimizer.state_dict(),
            "random": self.random,
            "seconds": self.seconds,
            "curve": self.curve,
        }
        save_state(self._file(folder), state)

    def restore(self, folder: Path) -> bool:
        """Take up the checkpoint of the folder, if there is one; return whether there was.

        Raises
        ------
        ValueError
            If it is damaged, or of other settings.
        """
        path = self._file(folder)
        remove_leftovers(path)
        if not path.exists():
            return False
        with open_state(path) as file:
            settings = file.read("settings")
            if settings != self.settings:
                names = sorted(settings.keys() | self.settings.keys())
                odd = [name for name in names if settings.get(name) != self.settings.get(name)]
                expected = "hold checkpoints of the same settings"
                hint = "Choose another folder, or remove this one."
                raise value_error("Contender.restore", "folder", expected, f"{path}: {odd}", hint)
            file.fill(self.model.state_dict(), "model")
            if average := self.average.state_dict():
                file.fill(average, "average")
            self.step.optimizer.load_state_dict(file.read("optimizer"))
            self.random = file.read("random")
            self.seconds, self.curve = file.read("seconds"), file.read("curve")
        return True

    def _file(self, folder: Path) -> Path:
        return folder / f"{self.key}.safetensors"


def race(
    contenders: list[Contender],
    sessions: ParquetSessions,
    catalogue: Catalogue,
    folder: Path,
    *,
    target: float,
    budget_seconds: float,
    say: Callable[[str], None],
) -> None:
    """Give turns until every contender has reached the target or spent its budget.

    The next turn is that of who had the fewest, so that a race goes on after a kill as it began.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for contender in contenders:
        if contender.restore(folder):
            say(f"{contender.name}: resumed after epoch {contender.epoch}")
    while running := [c for c in contenders if c.running(target, budget_seconds)]:
        contender = min(running, key=lambda c: c.epoch)
        contender.turn(sessions, catalogue)
        contender.save(folder)
        point = contender.curve[-1]
        ended = ""
        if not contender.running(target, budget_seconds):
            met = contender.reached(target) is not None
            ended = f"; {'reached' if met else 'out of time before'} {target}"
        say(
            f"{contender.name}: epoch {contender.epoch}, {contender.seconds / 60:.1f} min, "
            f"loss {point['loss']:.3f}, test NDCG@10 {point['ndcg_at_10']:.4f}{ended}"
        )
