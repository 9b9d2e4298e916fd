"""A model: one or more heads, with training, evaluation and saving."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch

from transformers4rec_ext import _checks
from transformers4rec_ext._errors import type_error, value_error
from transformers4rec_ext._modes import in_mode
from transformers4rec_ext.model._saving import Saving
from transformers4rec_ext.model._schemas import input_schema, output_schema
from transformers4rec_ext.model._tasks import check_heads
from transformers4rec_ext.model.base import LOG
from transformers4rec_ext.model.batch import prepare_inputs
from transformers4rec_ext.model.fit import (
    check_loader,
    in_words,
    make_optimizer,
    mean_loss,
    no_batch,
    progress,
    run_batch,
    step,
)
from transformers4rec_ext.model.head import LOSS_REDUCTIONS, Head
from transformers4rec_ext.samplers.base import Sampler
from transformers4rec_ext.schema import Schema
from transformers4rec_ext.utils.torch_utils import LossMixin, MetricsMixin, nested_detach


class Model(LossMixin, MetricsMixin, Saving):
    """Heads whose weighted losses are one loss.

    Parameters
    ----------
    *head : Head
        At least one. Task names must differ over all heads.
    head_weights : list of float, optional
        One per head; default 1.
    head_reduction : {"mean", "sum", "max", "min"}
    optimizer : optimizer class
        Used by :meth:`to_lightning`.
    name : str, optional
        Shown by ``repr``.
    max_sequence_length : int, optional
        Ragged inputs are cut to it: of a longer session the first items stay.
    top_k : int, optional
        At inference return the best k items ``(scores, ids)`` instead of all scores.

    Raises
    ------
    TypeError, ValueError   for an argument of the wrong type or out of range.

    Notes
    -----
    Several threads may call one model at once: what a call knows of its batch it passes on as
    values. Not so :meth:`fit`, :meth:`evaluate` and the metrics, which gather state, nor a body
    or masking of your own whose ``forward`` does not take ``masked`` (docs/architecture.md).
    """

    settings = ("top_k", "max_sequence_length", "name")

    def __init__(
        self,
        *head: Head,
        head_weights: list[float] | None = None,
        head_reduction: str = "mean",
        optimizer: type[torch.optim.Optimizer] = torch.optim.Adam,
        name: str | None = None,
        max_sequence_length: int | None = None,
        top_k: int | None = None,
    ) -> None:
        if head_weights is not None:
            if not isinstance(head_weights, list):
                raise ValueError("`head_weights` must be a list")
            if len(head_weights) != len(head):
                raise ValueError(
                    "`head_weights` needs to have the same length as the number of heads"
                )
        super().__init__()
        check_heads(head)
        for number, weight in enumerate(head_weights or []):
            _checks.finite("Model", f"head_weights[{number}]", weight)
        if head_reduction not in LOSS_REDUCTIONS:
            raise value_error(
                "Model", "head_reduction", f"be one of {LOSS_REDUCTIONS}", repr(head_reduction)
            )
        if not callable(optimizer):
            got = type(optimizer).__name__
            raise type_error("Model", "optimizer", "be a class that makes one of parameters", got)
        _checks.positive_or_none("Model", "max_sequence_length", max_sequence_length)
        _checks.positive_or_none("Model", "top_k", top_k)
        self.name = name
        self.heads = torch.nn.ModuleList(head)
        self.head_weights = head_weights or [1.0] * len(head)
        self.head_reduction = head_reduction
        self.optimizer = optimizer
        self.max_sequence_length = max_sequence_length
        self.top_k = top_k

    def forward(
        self,
        inputs: Mapping[str, torch.Tensor],
        targets: Any = None,
        training: bool = False,
        testing: bool = False,
        **kwargs: Any,
    ) -> Any:
        """Run a batch.

        Parameters
        ----------
        inputs : dict of tensors
            Columns [B, T] or [B]; ragged ones as ``name__values`` [L], ``name__offsets`` [B+1].
            Not changed.
        targets : Tensor, or dict from target name to tensor, optional
        training, testing : bool
            With either, a loss is computed. They do not switch dropout; ``.train()`` does.
        **kwargs
            ``top_k`` replaces the model's for this call; ``exclude_ids`` int64 [B, L] are items not
            to recommend with it; ``returns`` says what next-item tasks compute (see
            :class:`NextItemPredictionTask`) and takes precedence over the model's ``top_k``.
            Others are ignored.

        Returns
        -------
        dict with a flag
            ``loss`` [], ``labels``, ``predictions``: by task name, or the task's own with one task.
        dict from task name to output without, or the task's own output with one task
        """
        columns = prepare_inputs(inputs, self.max_sequence_length, self.heads)
        if isinstance(targets, Mapping) and not targets:
            targets = None
        returns, exclude_ids = kwargs.get("returns"), kwargs.get("exclude_ids")
        top_k = kwargs.get("top_k", None if returns else self.top_k)
        if exclude_ids is not None and (training or testing or top_k is None):
            expectation = "be given with top_k, at inference"
            raise value_error("Model.forward", "exclude_ids", expectation, f"top_k={top_k}")
        outputs = [
            head(
                columns,
                training=training,
                testing=testing,
                targets=targets,
                call_body=True,
                top_k=top_k,
                returns=returns,
                exclude_ids=exclude_ids,
            )
            for head in self.heads
        ]
        if not (training or testing):
            return _single({name: y for output in outputs for name, y in output.items()})
        losses = [
            output["loss"] * weight
            for output, weight in zip(outputs, self.head_weights, strict=True)
        ]
        merged = {
            key: _single({name: y for output in outputs for name, y in output[key].items()})
            for key in ("labels", "predictions")
        }
        return {"loss": getattr(torch.stack(losses), self.head_reduction)(), **merged}

    def calculate_metrics(self, predictions: Any, targets: Any) -> dict[str, Any]:
        """Update the metrics of every task with a batch and return its values.

        Parameters
        ----------
        predictions, targets : Tensor, or dict by task name
            What :meth:`forward` returned as ``predictions`` and ``labels``.
        """
        metrics: dict[str, Any] = {}
        for head in self._heads():
            metrics.update(head.calculate_metrics(predictions, targets))
        return metrics

    def compute_metrics(self, mode: str | None = None) -> dict[str, Any]:
        """Return the metrics since the last reset: flat for one task, else by mode_task."""
        metrics: dict[str, Any] = {}
        for head in self._heads():
            metrics.update(head.compute_metrics(mode=mode))
        return metrics

    def reset_metrics(self) -> None:
        """Forget what the metrics have seen."""
        for head in self._heads():
            head.reset_metrics()

    def fit(
        self,
        dataloader: Iterable[Any],
        optimizer: Any = torch.optim.Adam,
        eval_dataloader: Iterable[Any] | None = None,
        num_epochs: int = 1,
        amp: bool = False,
        train: bool = True,
        verbose: bool = True,
        compute_metric: bool = True,
    ) -> np.ndarray:
        """Train for ``num_epochs`` passes over ``dataloader``.

        Parameters
        ----------
        dataloader : iterable of dicts of tensors, or of (dict, targets)
            Iterated once per epoch; batches are moved to the model's device.
        optimizer : optimizer, or a class or function that makes one from parameters
            The default stands for :class:`~transformers4rec_ext.optim.LazyAdam` where a parameter
            has row gradients (``sparse_grad=True``), which torch's Adam does not take.
        eval_dataloader : iterable, optional
            Evaluated after each epoch; the result is logged, and printed with ``verbose``.
        num_epochs : int
        amp : bool
            Autocast: float16 with a GradScaler on CUDA, bfloat16 elsewhere.
        train : bool
            Without it nothing is learned: losses and metrics only.
        verbose : bool
            Show a progress bar and print metrics.
        compute_metric : bool
            Compute the metrics of each epoch: from the ranks of the targets, where they follow from
            them, which full softmax counts on the way.

        Returns
        -------
        ndarray, float64, [num_epochs]
            Mean loss over the batches of each epoch.

        Raises
        ------
        TypeError    if the optimizer or a batch is of the wrong type.
        ValueError   if ``num_epochs`` is not positive or an epoch has no batch.
        """
        _checks.integer("Model.fit", "num_epochs", num_epochs, minimum=1)
        check_loader("Model.fit", dataloader)
        optimizer = make_optimizer(optimizer, self) if train else None
        device = self._device()
        scaler = torch.amp.GradScaler(device.type) if amp and device.type == "cuda" else None
        flags = {"training": True, "returns": "ranks" if compute_metric else "loss"}
        losses = []
        with in_mode(self, training=train), torch.set_grad_enabled(train):
            for epoch in range(num_epochs):
                self.reset_metrics()
                bar = progress(dataloader, verbose, f"epoch {epoch + 1}/{num_epochs}")
                batch_losses = []
                for batch in bar:
                    output = run_batch(self, batch, device, amp, flags)
                    batch_losses.append(output["loss"].detach())
                    if optimizer is not None:
                        step(output["loss"], optimizer, scaler)
                    if compute_metric:
                        predictions = nested_detach(output["predictions"])
                        self.calculate_metrics(predictions, output["labels"])
                losses.append(mean_loss(batch_losses, "Model.fit", epoch))
                report = f"epoch {epoch + 1}/{num_epochs} loss {losses[-1]:.4f}"
                if compute_metric:
                    report += in_words(self.compute_metrics(mode="train"))
                if eval_dataloader is not None:
                    report += in_words(self.evaluate(eval_dataloader, verbose=False))
                LOG.info(report)
                if verbose:
                    print(report)
        return np.array(losses)

    def evaluate(
        self,
        dataloader: Iterable[Any],
        targets: Any = None,
        training: bool = False,
        testing: bool = True,
        verbose: bool = True,
        mode: str = "eval",
    ) -> dict[str, Any]:
        """Return the metrics over ``dataloader``, without dropout and gradients.

        Metrics that follow from the rank of the target are computed from it; scores of all items
        exist only if a metric of one's own wants them.

        Parameters
        ----------
        dataloader : iterable of dicts of tensors, or of (dict, targets)
        targets : optional
            For batches that carry none.
        training, testing : bool
            Flags of :meth:`forward`.
        verbose : bool
            Show a progress bar.
        mode : str
            Prefix of the keys where there are several tasks.

        Returns
        -------
        dict
            As :meth:`compute_metrics`. The model's mode is what it was before.

        Raises
        ------
        TypeError    if the loader or a batch is of the wrong type.
        ValueError   if there is no batch, or neither ``training`` nor ``testing`` is set.
        """
        if not (training or testing):
            raise value_error("Model.evaluate", "training or testing", "be True", "both False")
        check_loader("Model.evaluate", dataloader)
        device = self._device()
        with in_mode(self, training=False), torch.no_grad():
            self.reset_metrics()
            flags = {"training": training, "testing": testing, "returns": "ranks"}
            output = None
            for batch in progress(dataloader, verbose, mode):
                output = run_batch(self, batch, device, False, flags, targets)
                self.calculate_metrics(output["predictions"], output["labels"])
            if output is None:
                raise no_batch("Model.evaluate", "", "none")
            return self.compute_metrics(mode=mode)

    @property
    def input_schema(self) -> Schema:
        """The columns that the heads' input modules read."""
        return input_schema(self._heads())

    @property
    def output_schema(self) -> Schema:
        """The columns of inference; with ``top_k`` ``item_id_scores`` and ``item_ids``."""
        return output_schema(self.prediction_tasks, self.top_k)

    @property
    def prediction_tasks(self) -> list[Any]:
        """The tasks of all heads."""
        return [task for head in self._heads() for task in head.prediction_task_dict.values()]

    @property
    def _ddp_params_and_buffers_to_ignore(self) -> list[str]:
        """The tables of our samplers: alike in all processes, not to be sent at every step."""
        modules = dict(self.named_modules(remove_duplicate=False))
        paths = [path for path, module in modules.items() if isinstance(module, Sampler)]
        given = self.__dict__.get("_ignored_by_ddp", [])
        return given + [
            f"{path}.{name}" for path in paths for name, _ in modules[path].named_buffers()
        ]

    @_ddp_params_and_buffers_to_ignore.setter
    def _ddp_params_and_buffers_to_ignore(self, names: Iterable[str]) -> None:
        self.__dict__["_ignored_by_ddp"] = list(names)  # as torch sets it, on request

    def to_lightning(self) -> Any:
        """Return a LightningModule of this model, for Lightning 2 (``pip install lightning``).

        It trains with the model's ``optimizer`` class at a learning rate of 1e-3 and logs
        ``train_loss``; validates and tests with ``val_loss``, ``val_/next-item/ndcg_at_10``, ...;
        and predicts what :meth:`forward` returns without a flag. It takes any DataLoader of
        dictionaries, or of ``(dict, targets)``, and what was imported of ``lightning.pytorch`` and
        ``pytorch_lightning``.

        Raises
        ------
        ImportError   if neither is installed.
        """
        from transformers4rec_ext.model._lightning import as_lightning

        return as_lightning(self)

    def _heads(self) -> list[Any]:
        # ModuleList is typed as holding plain modules; the constructor let only heads in.
        return list(self.heads)

    def _device(self) -> torch.device:
        first = next(self.parameters(), None)
        return torch.device("cpu") if first is None else first.device

    def _get_name(self) -> str:
        return self.name or super()._get_name()


def _single(by_name: dict[str, Any]) -> Any:
    """Return the only value of a dictionary of one, else the dictionary."""
    return next(iter(by_name.values())) if len(by_name) == 1 else by_name
