"""What the Trainer does at the beginnings and ends of training and its epochs."""

from __future__ import annotations

import os
from typing import Any

from transformers import TrainerCallback

from transformers4rec_ext.trainer.loaders import start_epoch


class StartEpoch(TrainerCallback):
    """Tells the loader which epoch begins, so that a resumed run sees the data of that epoch."""

    def __init__(self) -> None:
        self.epoch = 0

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Begin with the epoch in which a checkpoint was written, or the first."""
        self.epoch = int(state.epoch or 0)

    def on_epoch_begin(
        self, args: Any, state: Any, control: Any, train_dataloader: Any = None, **kwargs: Any
    ) -> None:
        """Set the loader's epoch; epochs are counted, since one that was cut short is one too."""
        start_epoch(train_dataloader, self.epoch, args)
        self.epoch += 1


class IncrementalLoggingCallback(TrainerCallback):
    """Lets the steps of several ``train()`` calls count on, in what is logged.

    Parameters
    ----------
    trainer : Trainer
    """

    def __init__(self, trainer: Any) -> None:
        self.trainer = trainer

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Count the steps of this ``train()`` from now on."""
        self.trainer.counts_steps = True

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Keep the steps of this ``train()``."""
        self.trainer.counts_steps = False
        self.trainer.past_global_steps += state.global_step


def name_group(report_to: list[str], group: str) -> None:
    """Tell Weights & Biases the group of the run, unless the environment does."""
    if "wandb" in report_to and group != "default":
        os.environ.setdefault("WANDB_RUN_GROUP", group)
