"""The prediction tasks: next item, binary classification, regression."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torchmetrics import Metric
from torchmetrics.classification import BinaryAccuracy, BinaryPrecision, BinaryRecall
from torchmetrics.regression import MeanSquaredError

from transformers4rec_ext import _checks
from transformers4rec_ext._errors import value_error
from transformers4rec_ext.block.base import BuildableBlock, SequentialBlock
from transformers4rec_ext.model._next_item import NextItemPredictionTask
from transformers4rec_ext.model._summary import in_float32
from transformers4rec_ext.model.base import PredictionTask
from transformers4rec_ext.model.output import (
    NextItemPredictionPrepareBlock,
    _NextItemPredictionTask,
)
from transformers4rec_ext.samplers import LogUniformSampler

__all__ = [
    "BinaryClassificationPrepareBlock",
    "BinaryClassificationTask",
    "LogUniformSampler",
    "NextItemPredictionPrepareBlock",
    "NextItemPredictionTask",
    "RegressionPrepareBlock",
    "RegressionTask",
    "_NextItemPredictionTask",
]


class _Squeeze(torch.nn.Module):
    """``[..., 1] -> [...]``."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.squeeze(-1)


def _round_to_int(predictions: torch.Tensor) -> torch.Tensor:
    """Return probabilities as classes 0 and 1."""
    return torch.round(predictions).int()


def _rounds_itself(metric: Metric) -> bool:
    """Tell whether ``metric`` is one of torchmetrics for two classes, which take probabilities.

    Or a wrapper of such or a sum of them. A subclass with an ``update`` of its own expects classes.
    """
    updates = next(kind for kind in type(metric).__mro__ if "update" in vars(kind))
    if not updates.__module__.startswith("torchmetrics."):
        return False
    inner = [m for m in metric.modules() if isinstance(m, Metric) and m is not metric]
    if inner:
        return all(_rounds_itself(each) for each in inner)
    return any(kind.__name__.startswith("Binary") for kind in type(metric).__mro__)


class _Sigmoid(torch.nn.Sigmoid):
    """Probabilities in at least float32: in bfloat16 that of a score of 7 would be 1."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.sigmoid(in_float32(x))


class BinaryClassificationPrepareBlock(BuildableBlock):
    """Output layer of a binary task: ``sigmoid(x @ w)``, [..., D] -> [...]."""

    def build(self, input_size: Any) -> SequentialBlock:
        """Return Linear(D, 1, no bias), sigmoid, squeeze for ``input_size[-1] = D``."""
        return SequentialBlock(
            torch.nn.Linear(input_size[-1], 1, bias=False),
            _Sigmoid(),
            _Squeeze(),
            output_size=[-1],
        )


class RegressionPrepareBlock(BuildableBlock):
    """Output layer of a regression: ``x @ w + b``, [..., D] -> [...]."""

    def build(self, input_size: Any) -> SequentialBlock:
        """Return Linear(D, 1), squeeze for ``input_size[-1] = D``."""
        return SequentialBlock(torch.nn.Linear(input_size[-1], 1), _Squeeze(), output_size=[-1])


class _ScalarTask(PredictionTask):
    """A task that predicts one number per session (or per position)."""

    target_dim = 1

    def _check_targets(self, x: torch.Tensor, targets: object) -> torch.Tensor:
        checked = super()._check_targets(x, targets)
        if checked.shape != x.shape:
            raise value_error(
                f"{type(self).__name__}.forward",
                "targets",
                f"have the predictions' shape {list(x.shape)}",
                list(checked.shape),
            )
        return checked


class BinaryClassificationTask(_ScalarTask):
    """Predict a probability per session; with ``summary_type=None`` one per position.

    Parameters
    ----------
    target_name, task_name, task_block, loss, metrics, summary_type
        As for :class:`PredictionTask`. Targets are 0 or 1, of any dtype. torchmetrics' binary
        metrics get the probabilities, others the classes 0 and 1 (above 0.5).

    Notes
    -----
    Where the inputs are masked, testing hides the last item of a session from every task of the
    head, as in upstream: metrics of ``evaluate`` are of sessions without it, ``predict`` reads all.

    Raises
    ------
    ValueError
        In ``forward``, on the CPU, if a target lies outside [0, 1] and the loss is a ``BCELoss``.

    Examples
    --------
    >>> task = BinaryClassificationTask("click")
    >>> task.build(None, [-1, 7, 16])
    >>> task(torch.zeros(3, 7, 16))
    tensor([0.5000, 0.5000, 0.5000], grad_fn=<SqueezeBackward1>)
    """

    DEFAULT_LOSS = torch.nn.BCELoss()
    DEFAULT_METRICS = (BinaryPrecision(), BinaryRecall(), BinaryAccuracy())

    def __init__(
        self,
        target_name: str | None = None,
        task_name: str | None = None,
        task_block: Any = None,
        loss: torch.nn.Module = DEFAULT_LOSS,
        metrics: Iterable[Metric] | None = DEFAULT_METRICS,
        summary_type: str | None = "first",
    ) -> None:
        super().__init__(
            loss=loss,
            metrics=metrics,
            target_name=target_name,
            task_name=task_name,
            forward_to_prediction_fn=_round_to_int,
            task_block=task_block,
            pre=BinaryClassificationPrepareBlock(),
            summary_type=summary_type,
        )

    def _check_targets(self, x: torch.Tensor, targets: object) -> torch.Tensor:
        checked = super()._check_targets(x, targets)
        if isinstance(self.loss, torch.nn.BCELoss):
            function = f"{type(self).__name__}.forward"
            argument = "targets" if self.target_name is None else f"targets {self.target_name!r}"
            _checks.values_within(function, argument, checked, 0, 1)
        return checked

    def _reads_predictions(self, metric: Metric) -> bool:
        # Of classes the area under a curve would be that of a single point.
        return self.forward_to_prediction_fn is _round_to_int and _rounds_itself(metric)

    def _metric_targets(self, targets: torch.Tensor) -> torch.Tensor:
        return targets.int()

    def _loss(self, x: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        try:
            return super()._loss(x, targets)
        except RuntimeError as error:  # torch's words for it do not name what is wrong
            if not x.isnan().any():
                raise
            raise value_error(
                f"{type(self).__name__}.forward",
                "predictions",
                "be numbers",
                "NaN",
                "A column of the batch holds NaN, or the weights do: training diverged.",
            ) from error


class RegressionTask(_ScalarTask):
    """Predict a number per session; with ``summary_type=None`` one per position.

    Parameters
    ----------
    target_name, task_name, task_block, loss, metrics, summary_type
        As for :class:`PredictionTask`.
    """

    DEFAULT_LOSS = torch.nn.MSELoss()
    DEFAULT_METRICS = (MeanSquaredError(),)

    def __init__(
        self,
        target_name: str | None = None,
        task_name: str | None = None,
        task_block: Any = None,
        loss: torch.nn.Module = DEFAULT_LOSS,
        metrics: Iterable[Metric] | None = DEFAULT_METRICS,
        summary_type: str | None = "first",
    ) -> None:
        super().__init__(
            loss=loss,
            metrics=metrics,
            target_name=target_name,
            task_name=task_name,
            task_block=task_block,
            pre=RegressionPrepareBlock(),
            summary_type=summary_type,
        )
