"""A training loop that continues after a kill as if nothing had happened."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from transformers4rec_ext._checkpoint import StateFile, open_state, save_state
from transformers4rec_ext._errors import value_error
from transformers4rec_ext._memory import give_back, ran_out
from transformers4rec_ext.data.loader import SessionLoader
from transformers4rec_ext.model.model import Model
from transformers4rec_ext.training.average import WeightAverage
from transformers4rec_ext.training.config import RunConfig
from transformers4rec_ext.training.log import RunLog
from transformers4rec_ext.training.step import TrainingStep

_LOG_STEPS = 10
_CHECKPOINT_PART = 20
_GIVE_BACK_STEPS = 200
SELECTION_METRIC = "ndcg_at_10"


class Stopped(Exception):
    """Raised within a validation or a test when asked to stop; it is made anew on resume."""


@dataclass
class Position:
    """Where a run stands; saved with every checkpoint."""

    epoch: int = 0
    step: int = 0
    best_epoch: int = 0
    best_metric: float = -1.0
    loss_sum: float = 0.0
    loss_count: int = 0
    seconds: float = 0.0
    log_bytes: int = 0

    def ended(self, config: RunConfig) -> bool:
        """Whether all epochs are done, or validation has not improved for ``patience`` of them."""
        patience = config.patience or math.inf
        stale = self.epoch - self.best_epoch >= patience
        return stale or self.epoch >= config.epochs


@dataclass
class TrainingLoop:
    """Train ``model`` on a loader's batches, keep the best weights, leave checkpoints.

    Without a validation the weights of the latest epoch are kept.

    Parameters
    ----------
    model : Model
        ``model(batch, training=True)["loss"]`` is what is minimised, with Adam, on the device that
        its parameters are on.
    loader : SessionLoader
    validate : callable, optional
        Takes the model, or with ``config.average`` the copy that holds the mean of its weights, and
        returns metrics with the key ``"ndcg_at_10"``; runs after every epoch.
    folder : path
        Receives ``checkpoint.safetensors`` (where the run stands), ``model.safetensors`` (the
        weights that are kept) and ``log.jsonl``.
    config : RunConfig
    progress : bool
        Show a progress bar.
    on_step : callable, optional
        Called with the number of steps done after each step (and its checkpoint).
    should_stop : callable
        Asked after each step; True leaves a checkpoint and returns.
    say : callable
        Receives a line for each epoch.

    Notes
    -----
    A checkpoint holds the weights, their mean, the optimizer, torch's random state and the
    position. With the loader's batches a pure function of (seed, epoch, step), a resumed run
    repeats the remaining steps bit by bit (same machine, same number of threads; on a GPU as far as
    torch's own kernels repeat themselves). It may go on on another device, not bit by bit.
    """

    model: Model
    loader: SessionLoader
    validate: Callable[[Model], dict[str, float]] | None
    folder: str | os.PathLike[str]
    config: RunConfig
    progress: bool = True
    on_step: Callable[[int], None] = lambda step: None
    should_stop: Callable[[], bool] = lambda: False
    say: Callable[[str], None] = print
    position: Position = field(default_factory=Position)

    def __post_init__(self) -> None:
        self.folder = Path(self.folder)
        self.checkpoint = self.folder / "checkpoint.safetensors"
        self.best = self.folder / "model.safetensors"
        self.train_step = TrainingStep(self.model, self.config, len(self.loader))
        self.average = WeightAverage(self.model, self.config.average, len(self.loader))
        self._saved = time.monotonic()
        self._seconds_to_save = 0.0

    @property
    def global_step(self) -> int:
        """Steps done since the beginning."""
        return self.position.epoch * len(self.loader) + self.position.step

    def restore(self) -> bool:
        """Take up the checkpoint of the folder, if there is one; return whether there was.

        Raises
        ------
        ValueError
            If the checkpoint is damaged or of another model.
        """
        if not self.checkpoint.exists():
            return False
        with open_state(self.checkpoint) as file:
            try:
                file.fill(self.model.state_dict(), "model")
                if average := self.average.state_dict():
                    file.fill(average, "average")
                self.train_step.optimizer.load_state_dict(file.read("optimizer"))
                self.position = Position(**file.read("position"))
                _set_rng_states(file, self.train_step.device)
            except (KeyError, TypeError, RuntimeError, ValueError) as error:
                if ran_out(error):
                    raise
                raise value_error(
                    "TrainingLoop.restore",
                    "checkpoint",
                    "belong to this model",
                    f"{self.checkpoint} ({' '.join(str(error).split())[:200]})",
                ) from error
        return True

    def run(self) -> bool:
        """Train to the end (or to the early stop); return False if asked to stop before it."""
        log = RunLog(Path(self.folder) / "log.jsonl", self.position.log_bytes)
        started = time.monotonic() - self.position.seconds
        try:
            while not self.position.ended(self.config):
                if not self._train_epoch(log, started):
                    return False
                self._end_epoch(log, started)
        except Stopped:
            self._save(log, started)
            return False
        finally:
            log.close()
        return True

    def _train_epoch(self, log: RunLog, started: float) -> bool:
        from tqdm import tqdm

        position = self.position
        self.model.train()
        bar = tqdm(
            total=len(self.loader),
            initial=position.step,
            desc=f"epoch {position.epoch + 1}/{self.config.epochs}",
            unit="step",
            disable=None if self.progress else True,  # None: where nobody looks
            mininterval=0.5,
        )
        with bar:
            for batch in self.loader.batches(position.epoch, position.step):
                loss = self.train_step(batch, self.global_step)
                position.step += 1
                position.loss_sum += loss
                position.loss_count += 1
                done = self.global_step
                self.average(self.model, done)
                if done % _LOG_STEPS == 0:
                    bar.set_postfix(loss=f"{self._log_loss(log):.4f}", refresh=False)
                if done % _GIVE_BACK_STEPS == 0:
                    give_back()  # batches differ in shape
                every = self.config.checkpoint_every
                if every and position.step % every == 0 and self._may_save():
                    self._save_within(log, started)
                bar.update()
                self.on_step(done)
                if self.should_stop():
                    self._save_within(log, started)
                    return False
        return True

    def _log_loss(self, log: RunLog) -> float:
        position = self.position
        mean = position.loss_sum / position.loss_count
        log.write("train", epoch=position.epoch + 1, step=self.global_step, loss=mean)
        position.loss_sum, position.loss_count = 0.0, 0
        return mean

    def _end_epoch(self, log: RunLog, started: float) -> None:
        position = self.position
        _check_finite(self.model, position.epoch + 1)  # before they are in a checkpoint
        if not self.checkpoint.exists():
            self._save(log, started)  # before the weights to keep: without it they are a lost run
        metrics = None if self.validate is None else self.validate(self.average.module)
        position.epoch, position.step = position.epoch + 1, 0
        better, found = True, ""
        if metrics is not None:
            log.write("validation", epoch=position.epoch, step=self.global_step, **metrics)
            better = metrics[SELECTION_METRIC] > position.best_metric
            position.best_metric = max(position.best_metric, metrics[SELECTION_METRIC])
            found = (
                f"validation NDCG@10 {metrics[SELECTION_METRIC]:.4f}, "
                f"Recall@10 {metrics['recall_at_10']:.4f}{' (best)' if better else ''}, "
            )
        if better:
            position.best_epoch = position.epoch
            save_state(self.best, self.average.module.state_dict())
        self._save(log, started)
        self.say(f"epoch {position.epoch}: {found}{position.seconds:.0f} s")

    def _save_within(self, log: RunLog, started: float) -> None:
        """Save in the middle of an epoch, unless its last step spoilt the weights."""
        _check_finite(self.model, self.position.epoch + 1)
        self._save(log, started)

    def _may_save(self) -> bool:
        """Whether a checkpoint would cost little of the time: of a large table it takes minutes."""
        took = self._seconds_to_save
        return took < 1 or time.monotonic() - self._saved >= _CHECKPOINT_PART * took

    def _save(self, log: RunLog, started: float) -> None:
        position, began = self.position, time.monotonic()
        position.seconds = time.monotonic() - started
        position.log_bytes = log.sync()
        state: dict[str, Any] = {
            "model": self.model.state_dict(),
            "average": self.average.state_dict(),
            "optimizer": self.train_step.optimizer.state_dict(),
            "position": vars(position).copy(),
            **_rng_states(self.train_step.device),
        }
        save_state(self.checkpoint, state)
        self._saved = time.monotonic()
        self._seconds_to_save = self._saved - began


def _check_finite(model: nn.Module, epoch: int) -> None:
    """Raise ValueError for weights that are not finite, as the last step of an epoch may leave."""
    for name, weight in model.named_parameters():
        if not weight.numel():
            continue
        low, high = torch.aminmax(weight.detach())  # both NaN if one is
        if not (math.isfinite(low) and math.isfinite(high)):
            hint = "Train anew (--overwrite) with a lower learning rate."
            got = f"{float(low)} to {float(high)} in {name}, in epoch {epoch}"
            raise value_error("TrainingLoop", "weights", "be finite", got, hint)


def _rng_states(device: torch.device) -> dict[str, Tensor]:
    """Return the states of torch's generators that a run on the device draws from, by name."""
    states = {"torch_rng": torch.get_rng_state()}
    if device.type != "cpu":
        states[f"{device.type}_rng"] = torch.get_device_module(device).get_rng_state(device)
    return states


def _set_rng_states(file: StateFile, device: torch.device) -> None:
    """Undo :func:`_rng_states`; a run that was elsewhere leaves the device's generator as it is."""
    torch.set_rng_state(file.read("torch_rng"))
    if device.type != "cpu" and f"{device.type}_rng" in file.state:
        state = file.read(f"{device.type}_rng")
        torch.get_device_module(device).set_rng_state(state, device)
