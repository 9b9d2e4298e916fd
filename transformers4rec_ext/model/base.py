"""The base of all prediction tasks; ``Head`` and ``Model`` are reachable here as in upstream."""

from __future__ import annotations

import copy
import importlib
import inspect
import logging
import re
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torchmetrics import Metric

from transformers4rec_ext._errors import type_error, value_error
from transformers4rec_ext._recipe import Recorded, recorded
from transformers4rec_ext.masking import MaskedItems
from transformers4rec_ext.model._summary import (
    SequenceSummary,
    in_float32,
    positions_of_items,
    say_first_sees_one_item,
    sees_one_item,
)
from transformers4rec_ext.utils.torch_utils import LossMixin, MetricsMixin

if TYPE_CHECKING:
    from .head import Head
    from .model import Model

LOG = logging.getLogger("transformers4rec_ext")


def __getattr__(name: str) -> Any:
    # `model.base.Head` and `model.base.Model` are upstream's import paths. Both build on this
    # module, so they are looked up when asked for.
    if name in ("Head", "Model"):
        return getattr(importlib.import_module(f".{name.lower()}", __package__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def name_fn(name: str | None, inp: str) -> str | None:
    """Return ``name/inp``, or None without a name."""
    return f"{name}/{inp}" if name else None


def snake_case(name: str) -> str:
    """Return ``NDCGAt`` as ``ndcg_at``."""
    name = re.sub(r"(.)([A-Z][a-z]+)", r"\1_\2", name)
    return re.sub(r"([a-z0-9])([A-Z])", r"\1_\2", name).lower()


def forward_to_prediction_fn(predictions: torch.Tensor) -> torch.Tensor:
    """Return ``predictions`` unchanged: metrics read what the loss reads."""
    return predictions


def is_block(value: object) -> bool:
    """Tell whether ``value`` is a module or something that builds one from an input size."""
    return isinstance(value, torch.nn.Module) or callable(getattr(value, "build", None))


class PredictionTask(LossMixin, MetricsMixin, Recorded, torch.nn.Module):
    """One prediction of a model: summary, task block, output layer, loss and metrics.

    Parameters
    ----------
    loss : Module
        Called as ``loss(x, target=targets)``.
    metrics : iterable of torchmetrics.Metric, optional
    target_name : str, optional
        Key of this task's targets where targets are a dictionary.
    task_name : str, optional
        Default ``{target_name}/{snake_case_class}``, or only the latter.
    forward_to_prediction_fn : callable
        Maps predictions to what the metrics read.
    task_block : Module or buildable block, optional
        Applied before ``pre``. A module is copied when the task is built.
    pre : Module or buildable block, optional
        The output layer.
    summary_type : {"last", "first", "mean", "cls_index", "attn", None}
        How [B, T, D] becomes [B, D]; None keeps every position (targets are then [B, T]). "attn"
        learns where to look: ``sum_t a_t x_t``, ``a = softmax_t(u . tanh(W x_t + b))``, over the
        positions that hold an item, where the input module tells them. The others read padding,
        too, as upstream's do: serve at the width that was trained. Under a masking that hides later
        items the first position has seen one item only.

    Raises
    ------
    TypeError    if a module, name or metric is of the wrong type.
    ValueError   if ``summary_type`` is unknown.
    """

    DEFAULT_LOSS: torch.nn.Module | None = None
    DEFAULT_METRICS: tuple[Metric, ...] = ()
    # A head passes `top_k` only to tasks that can use it.
    supports_top_k = False
    # Whether inputs must be [B, T, D].
    needs_time = False
    # Width of one prediction; a task that knows it sets it.
    target_dim: int | None = None

    def __init__(
        self,
        loss: torch.nn.Module,
        metrics: Iterable[Metric] | None = None,
        target_name: str | None = None,
        task_name: str | None = None,
        forward_to_prediction_fn: Callable[[torch.Tensor], torch.Tensor] = forward_to_prediction_fn,
        task_block: Any = None,
        pre: Any = None,
        summary_type: str | None = "last",
    ) -> None:
        super().__init__()
        function = type(self).__name__
        if not isinstance(loss, torch.nn.Module):
            raise type_error(function, "loss", "be a torch.nn.Module", type(loss).__name__)
        for argument, name in (("target_name", target_name), ("task_name", task_name)):
            if name is not None and not isinstance(name, str):
                raise type_error(function, argument, "be a str or None", type(name).__name__)
        if not callable(forward_to_prediction_fn):
            raise type_error(
                function,
                "forward_to_prediction_fn",
                "be callable",
                type(forward_to_prediction_fn).__name__,
            )
        self._check_block(function, "task_block", task_block)
        self._check_block(function, "pre", pre)
        self.summary_type = summary_type
        self.sequence_summary = SequenceSummary(summary_type)
        self.target_name = target_name
        self.forward_to_prediction_fn = forward_to_prediction_fn
        self.set_metrics(metrics)
        # The default loss hangs on the class; a task owns its own.
        self.loss: Any = copy.deepcopy(loss) if loss is self.DEFAULT_LOSS else loss
        self.pre: Any = pre
        self.task_block: Any = task_block
        self._task_name = task_name
        self._padding_idx = 0
        self.built = False

    def build(
        self,
        body: Any,
        input_size: Any,
        inputs: Any = None,
        device: Any = None,
        task_block: Any = None,
        pre: Any = None,
    ) -> None:
        """Make the layers for an input of ``input_size``; a head calls this.

        Parameters
        ----------
        body : block of the model (read by tasks that need its inputs), or None
        input_size : sequence of int, the last is the width
        inputs : input module, optional
        device : torch device, optional
        task_block, pre : Module or buildable block, optional
            Take the place of the constructor's.

        Raises
        ------
        TypeError    if a block is neither.
        ValueError   if the task is built already and its layers would be made anew.
        """
        function = f"{type(self).__name__}.build"
        self._check_block(function, "task_block", task_block)
        self._check_block(function, "pre", pre)
        made_anew = [block for block in (task_block, pre) if block is not None]
        if self.built and not all(isinstance(block, torch.nn.Module) for block in made_anew):
            # Its layers would be exchanged under the head that has them.
            hint = "Make a new task for each Head."
            raise value_error(
                function, "task", "be built once", f"{self.task_name!r}, which a Head has", hint
            )
        if task_block is not None:
            self.task_block = task_block
        if pre is not None:
            self.pre = pre
        self.sequence_summary.build(input_size[-1])
        masking = getattr(inputs or getattr(body, "inputs", None), "masking", None)
        self._padding_idx = getattr(masking, "padding_idx", 0)
        summarises = len(input_size) == 3 and not self.needs_time
        if summarises and self.summary_type == "first" and sees_one_item(masking):
            say_first_sees_one_item(type(self).__name__, type(masking).__name__)
        if self.task_block is not None:
            self.task_block = self._own(self.task_block, input_size)
            output_size = getattr(self.task_block, "output_size", None)
            input_size = output_size() if callable(output_size) else input_size
        if self.pre is not None:
            self.pre = self._own(self.pre, input_size)
        if device is not None:
            self.to(device)
        self.built = True

    def forward(
        self,
        inputs: torch.Tensor,
        targets: torch.Tensor | None = None,
        training: bool = False,
        testing: bool = False,
        *,
        cls_index: torch.Tensor | None = None,
        masked: MaskedItems | None = None,
    ) -> Any:
        """Predict; with ``training`` or ``testing`` also give the loss.

        Parameters
        ----------
        inputs : Tensor, floating, [B, D] or [B, T, D]
        targets : Tensor, as the loss wants it; needed with a flag
        training, testing : bool
        cls_index : Tensor, int64, [B], optional
            Positions to read with ``summary_type="cls_index"``; the last one by default.
        masked : MaskedItems, optional
            The batch's item ids, of which ``summary_type="attn"`` leaves the padding out.

        Returns
        -------
        dict with loss, labels, predictions if a flag is set; else the predictions
        """
        x = inputs[0] if isinstance(inputs, tuple | list) else inputs
        self._check_hidden(x)
        if x.dim() == 3 and self.summary_type is not None:
            ids = None if masked is None else masked.item_ids
            valid = None if ids is None else positions_of_items(x, ids, self._padding_idx)
            x = self.sequence_summary(x, cls_index, valid)
        if self.task_block is not None:
            x = self.task_block(x)
        if self.pre is not None:
            x = self.pre(x)
        if not (training or testing):
            return x
        targets = self._check_targets(x, targets)
        return {"loss": self._loss(x, targets), "labels": targets, "predictions": x}

    @property
    def task_name(self) -> str:
        """The task's key in a head and the prefix of its metrics."""
        if self._task_name:
            return self._task_name
        base_name = snake_case(type(self).__name__)
        return name_fn(self.target_name, base_name) or base_name

    def child_name(self, name: str) -> str:
        """Return ``{task_name}/{name}``."""
        return f"{self.task_name}/{name}"

    def metric_name(self, metric: Metric) -> str:
        """Return ``{task_name}/{snake_case_metric_class}``."""
        return self.child_name(snake_case(type(metric).__name__))

    @recorded
    def set_metrics(self, metrics: Iterable[Metric] | None) -> None:
        """Use ``metrics`` from now on. Instances of ``DEFAULT_METRICS`` are copied."""
        function = f"{type(self).__name__}.set_metrics"
        if isinstance(metrics, Metric):
            raise type_error(
                function, "metrics", "be a list of metrics", type(metrics).__name__, "Put it in []."
            )
        given = list(metrics) if metrics is not None else []
        for metric in given:
            if not isinstance(metric, Metric):
                raise type_error(
                    function, "metrics", "hold torchmetrics.Metric only", type(metric).__name__
                )
        shared = {id(metric) for metric in self.DEFAULT_METRICS}
        self.metrics = torch.nn.ModuleList(
            copy.deepcopy(metric) if id(metric) in shared else metric for metric in given
        )

    def calculate_metrics(
        self, predictions: torch.Tensor, targets: torch.Tensor
    ) -> dict[str, torch.Tensor]:
        """Update every metric with a batch and return its values, keyed by metric name."""
        if targets.numel() == 0:
            return {}
        read = self.forward_to_prediction_fn(predictions)
        return {
            self.metric_name(metric): metric(
                predictions if self._reads_predictions(metric) else read,
                self._metric_targets(targets),
            )
            for metric in self._metrics()
        }

    def compute_metrics(self, **kwargs: Any) -> dict[str, torch.Tensor]:
        """Return the metrics since the last reset; those never updated are left out."""
        return {
            self.metric_name(metric): metric.compute()
            for metric in self._metrics()
            if metric.update_called
        }

    def reset_metrics(self) -> None:
        """Forget what the metrics have seen."""
        for metric in self._metrics():
            metric.reset()

    def to_head(
        self, body: Any, inputs: Any = None, others: Sequence[PredictionTask] = (), **kwargs: Any
    ) -> Head:
        """Return ``Head(body, [self, *others], inputs=inputs, **kwargs)``."""
        from .head import Head

        return Head(body, [self, *others], inputs=inputs, **kwargs)

    def to_model(self, body: Any, inputs: Any = None, **kwargs: Any) -> Model:
        """Return a model of this task; ``kwargs`` go to ``Head`` or ``Model`` by their names."""
        from .head import Head
        from .model import Model

        of_head = set(inspect.signature(Head.__init__).parameters)
        head = {key: kwargs.pop(key) for key in list(kwargs) if key in of_head}
        return Model(self.to_head(body, inputs=inputs, **head), **kwargs)

    def _metrics(self) -> list[Any]:
        # ModuleList is typed as holding plain modules; set_metrics let only metrics in.
        return list(self.metrics)

    def _reads_predictions(self, metric: Metric) -> bool:
        """Tell whether a metric is given what ``forward_to_prediction_fn`` is."""
        return False

    def _metric_targets(self, targets: torch.Tensor) -> torch.Tensor:
        return targets

    def _own(self, block: Any, input_size: Any) -> torch.nn.Module:
        if isinstance(block, torch.nn.Module):
            return copy.deepcopy(block)
        built: torch.nn.Module = block.build(input_size)
        return built

    def _check_hidden(self, x: object) -> None:
        function = f"{type(self).__name__}.forward"
        if not isinstance(x, torch.Tensor):
            raise type_error(function, "inputs", "be a torch.Tensor", type(x).__name__)
        if not x.is_floating_point():
            raise type_error(function, "inputs", "be floating", x.dtype)
        if x.dim() != 3 and (x.dim() != 2 or self.needs_time):
            expected = "be [B, T, D]" if self.needs_time else "be [B, D] or [B, T, D]"
            raise value_error(function, "inputs", expected, list(x.shape))

    def _check_targets(self, x: torch.Tensor, targets: object) -> torch.Tensor:
        function = f"{type(self).__name__}.forward"
        if targets is None:
            hint = "Give targets=..., or let the loader yield (inputs, targets)."
            if self.target_name:
                hint = f"The call has none named {self.target_name!r}. {hint}"
            raise value_error(function, "targets", "be given when training or testing", None, hint)
        if not isinstance(targets, torch.Tensor):
            raise type_error(function, "targets", "be a torch.Tensor", type(targets).__name__)
        if self.summary_type is None and targets.dim() != 2:
            raise ValueError(
                "If `summary_type==None`, targets are expected to be a 2D tensor, "
                f"but got a tensor with shape {targets.shape}"
            )
        return targets

    def _loss(self, x: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Call the loss in at least float32; autocast refuses some losses in half precision."""
        if x.numel() == 0:
            return x.float().sum()  # a mean over nothing would be NaN
        x = in_float32(x)
        # Class indices keep their type; they have another shape than the scores.
        if targets.is_floating_point() or targets.shape == x.shape:
            targets = targets.to(x.dtype)
        with torch.autocast(device_type=x.device.type, enabled=False):
            result: torch.Tensor = self.loss(x, target=targets)
            return result

    @staticmethod
    def _check_block(function: str, argument: str, value: object) -> None:
        if value is not None and not is_block(value):
            raise type_error(
                function,
                argument,
                "be a torch.nn.Module or have a method build(input_size)",
                type(value).__name__,
            )
