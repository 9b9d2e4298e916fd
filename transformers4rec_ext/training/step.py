"""One step of a run: the loss of a batch, its gradient, and Adam's update of the weights."""

from __future__ import annotations

import math
from functools import partial

import torch
from torch import Tensor, nn

from transformers4rec_ext._errors import value_error
from transformers4rec_ext.model.batch import to_device
from transformers4rec_ext.model.fit import has_row_gradients
from transformers4rec_ext.optim import LazyAdam, clip_grad_norm_
from transformers4rec_ext.training.config import RunConfig


class TrainingStep:
    """What a run does with a batch; it knows the optimizer, and nothing of epochs or files.

    Parameters
    ----------
    model : nn.Module
        ``model(batch, training=True)["loss"]`` is what is minimised, with Adam; in train mode.
    config : RunConfig
        Its ``lr``, ``schedule``, ``epochs`` and ``clip``.
    steps_per_epoch : int
        How many steps the schedule counts as an epoch.

    Attributes
    ----------
    optimizer : torch.optim.Optimizer
        :class:`~transformers4rec_ext.optim.LazyAdam` for a model with row gradients, else torch's.
    """

    def __init__(self, model: nn.Module, config: RunConfig, steps_per_epoch: int) -> None:
        self.model = model
        self.config = config
        self.steps_per_epoch = steps_per_epoch
        self.device = next(model.parameters()).device
        # With dense gradients both are Adam; torch's is kept where it does.
        lazy = has_row_gradients(model)
        make = LazyAdam if lazy else partial(torch.optim.Adam, fused=True)
        self.optimizer: torch.optim.Optimizer = make(model.parameters(), lr=config.lr)

    def __call__(self, batch: dict[str, Tensor], number: int) -> float:
        """Update the weights and return the loss before that.

        Parameters
        ----------
        batch : dict of Tensor
            Of any device; the model's parameters say where it goes.
        number : int
            Counts the steps from 0 over the whole run.

        Raises
        ------
        ValueError
            If the loss is not finite; the weights are unchanged then.
        """
        rate = self.learning_rate(number)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        loss: Tensor = self.model(to_device(batch, self.device), training=True)["loss"]
        self.optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        if self.config.clip:
            clip_grad_norm_(self.model.parameters(), self.config.clip)
        value = float(loss.detach())  # here, so that a GPU is waited for with all its work queued
        if not math.isfinite(value):
            raise value_error(
                "TrainingStep",
                "loss",
                "be finite",
                f"{value} at step {number + 1}",
                "Lower the learning rate, or clip the gradient.",
            )
        self.optimizer.step()
        return value

    def learning_rate(self, number: int) -> float:
        """Return the rate of a step, counted from 0 over the run; a cosine ends at 0 and stays."""
        if self.config.schedule == "constant":
            return self.config.lr
        total = self.config.epochs * self.steps_per_epoch
        return self.config.lr * 0.5 * (1 + math.cos(math.pi * min(number, total) / total))
