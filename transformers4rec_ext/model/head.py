"""A head: one body and the tasks that read what it returns."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch

from transformers4rec_ext._errors import type_error, value_error
from transformers4rec_ext._recipe import Recorded, builder
from transformers4rec_ext.block.base import named_arguments
from transformers4rec_ext.masking import MaskedItems
from transformers4rec_ext.model._tasks import checked_weights, own_metrics, tasks_by_name
from transformers4rec_ext.schema import Schema, Tags, as_schema
from transformers4rec_ext.utils.torch_utils import LossMixin, MetricsMixin

if TYPE_CHECKING:
    from transformers4rec_ext.model.model import Model

LOSS_REDUCTIONS = ("mean", "sum", "max", "min")


class Head(LossMixin, MetricsMixin, Recorded, torch.nn.Module):
    """Prediction tasks on the output of one body, with the weighted sum of their losses.

    Parameters
    ----------
    body : block with ``output_size()``
    prediction_tasks : PredictionTask or list of them
        Their names must differ. They are built here.
    task_blocks : block, or dict from task name to block, optional
        Applied before a task's output layer; one block for all is copied for each.
    task_weights : list of float, optional
        One per task; default 1.
    loss_reduction : {"mean", "sum", "max", "min"}
        How the weighted losses of the tasks become one.
    inputs : input module, optional
        Where the body does not begin with it.

    Raises
    ------
    TypeError    if a task is not a module with ``task_name`` and ``build``.
    ValueError   if the body's output size is unknown, two tasks have one name, the weights do not
                 match the tasks, ``task_blocks`` names no task, or the reduction is unknown.
    """

    def __init__(
        self,
        body: Any,
        prediction_tasks: Any,
        task_blocks: Any = None,
        task_weights: Sequence[float] | None = None,
        loss_reduction: str = "mean",
        inputs: Any = None,
    ) -> None:
        super().__init__()
        if not isinstance(body, torch.nn.Module):
            raise type_error("Head", "body", "be a torch.nn.Module", type(body).__name__)
        if loss_reduction not in LOSS_REDUCTIONS:
            raise value_error(
                "Head", "loss_reduction", f"be one of {LOSS_REDUCTIONS}", repr(loss_reduction)
            )
        tasks = list(prediction_tasks) if isinstance(prediction_tasks, list | tuple) else None
        tasks = [prediction_tasks] if tasks is None else tasks
        own_metrics(tasks)
        self.body = body
        self.loss_reduction = loss_reduction
        self.prediction_task_dict = torch.nn.ModuleDict(tasks_by_name(tasks))
        self._task_weights = self._weights_by_name(task_weights)
        self._body_accepts = _accepted_arguments(body)
        self._body_reads_masked = "masked" in named_arguments(body)
        self._arguments_of_tasks = {
            name: named_arguments(task) for name, task in self.prediction_task_dict.items()
        }
        self.build(inputs=inputs, task_blocks=task_blocks)

    def build(self, inputs: Any = None, device: Any = None, task_blocks: Any = None) -> None:
        """Build every task for the size of the body's output.

        Parameters
        ----------
        inputs : input module, optional
        device : torch device, optional
        task_blocks : block, or dict from task name to block, optional
        """
        output_size = getattr(self.body, "output_size", None)
        input_size = output_size() if callable(output_size) else None
        if not input_size:
            raise ValueError(
                "Can't infer output-size of the body, please provide  a `Block` with a "
                "output-size. You can wrap any torch.Module in a Block."
            )
        if device is not None:
            self.to(device)
        by_name = task_blocks if isinstance(task_blocks, Mapping) else None
        unknown = sorted(set(by_name or ()) - set(self.prediction_task_dict))
        if unknown:
            raise value_error(
                "Head",
                "task_blocks",
                f"name tasks among {list(self.prediction_task_dict)}",
                unknown,
            )
        for name, task in self.prediction_task_dict.items():
            block = task_blocks if by_name is None else by_name.get(name)
            _task(task).build(self.body, input_size, inputs=inputs, device=device, task_block=block)
        self.input_size = input_size

    @classmethod
    @builder
    def from_schema(
        cls,
        schema: Schema,
        body: Any,
        task_blocks: Any = None,
        task_weight_dict: Mapping[str, float] | None = None,
        loss_reduction: str = "mean",
        inputs: Any = None,
    ) -> Head:
        """Make a task for every target that ``schema`` tags.

        Binary classification for the tags binary, classification and binary_classification;
        regression for regression.

        Parameters
        ----------
        schema : Schema
        body, task_blocks, loss_reduction, inputs
            As for :class:`Head`.
        task_weight_dict : dict, optional
            From target name to weight; default 1.

        Raises
        ------
        ValueError   if no column has one of the tags, or a weight is of no target.
        """
        from transformers4rec_ext.model.prediction_task import (
            BinaryClassificationTask,
            RegressionTask,
        )

        schema = as_schema(schema, "Head.from_schema")
        if not isinstance(task_weight_dict, Mapping | None):
            raise type_error(
                "Head.from_schema",
                "task_weight_dict",
                "be a dict from target name to weight",
                type(task_weight_dict).__name__,
            )
        weights = dict(task_weight_dict or {})
        binary = schema.select_by_tag(
            [Tags.BINARY, Tags.BINARY_CLASSIFICATION, Tags.CLASSIFICATION], pred_fn=any
        ).column_names
        regression = schema.select_by_tag(Tags.REGRESSION).column_names
        targets = [*binary, *regression]
        if not targets:
            raise value_error(
                "Head.from_schema",
                "schema",
                "tag a column as binary_classification or regression",
                schema.column_names,
            )
        unknown = sorted(set(weights) - set(targets))
        if unknown:
            raise value_error(
                "Head.from_schema", "task_weight_dict", f"name targets among {targets}", unknown
            )
        tasks: list[Any] = [BinaryClassificationTask(name) for name in binary]
        tasks += [RegressionTask(name) for name in regression]
        return cls(
            body,
            tasks,
            task_blocks=task_blocks,
            task_weights=[weights.get(name, 1.0) for name in targets],
            loss_reduction=loss_reduction,
            inputs=inputs,
        )

    def pop_labels(self, inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Take the targets of this head's tasks out of ``inputs``.

        Returns
        -------
        dict from target name to tensor, as :meth:`forward` wants ``targets``

        Raises
        ------
        ValueError   if a target is missing; ``inputs`` is then unchanged.
        """
        names = [task.target_name for task in map(_task, self.prediction_task_dict.values())]
        names = [name for name in dict.fromkeys(names) if name is not None]
        missing = [name for name in names if name not in inputs]
        if missing:
            raise value_error(
                "Head.pop_labels", "inputs", f"hold the targets {names}", f"no {missing}"
            )
        return {name: inputs.pop(name) for name in names}

    def forward(
        self,
        body_outputs: Any,
        training: bool = False,
        testing: bool = False,
        targets: Any = None,
        call_body: bool = False,
        top_k: int | None = None,
        *,
        masked: MaskedItems | None = None,
        returns: str | None = None,
        exclude_ids: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> dict[str, Any]:
        """Run the tasks on the body's output.

        Parameters
        ----------
        body_outputs : Tensor [B, D] or [B, T, D]; the body's input with ``call_body``
        training, testing : bool
            With either, losses are computed.
        targets : Tensor, or dict from target name to tensor, optional
        call_body : bool
        top_k : int, optional
            For tasks that recommend items.
        masked : MaskedItems, optional
            What ``body.masked_items`` gave for this batch; made here with ``call_body``. Goes to
            the body and to the tasks that name it; the others read what the masking remembers.
        returns, exclude_ids : optional
            To the tasks that name them; see :class:`NextItemPredictionTask`.
        **kwargs
            To the body, those that its forward names.

        Returns
        -------
        dict with a flag
            ``loss`` [], ``labels`` and ``predictions``, dictionaries by task name.
        dict from task name to output without
        """
        flags = {"training": training, "testing": testing}
        if call_body:
            if masked is None:
                masked = self._masked_items(body_outputs, flags)
            body_outputs = self._call_body(body_outputs, {**flags, **kwargs}, masked)
        given: dict[str, Any] = {"masked": masked, "returns": returns}
        if not (training or testing):
            given["exclude_ids"] = exclude_ids
            return {
                name: task(body_outputs, **_top_k_argument(task, top_k), **self._named(name, given))
                for name, task in self.prediction_task_dict.items()
            }
        losses, labels, predictions = [], {}, {}
        for name, task in self.prediction_task_dict.items():
            target = self._target_of(_task(task), targets)
            output = task(body_outputs, targets=target, **flags, **self._named(name, given))
            labels[name] = output["labels"]
            predictions[name] = output["predictions"]
            losses.append(self._scalar(output["loss"]) * self._task_weights[name])
        loss = getattr(torch.stack(losses), self.loss_reduction)()
        return {"loss": loss, "labels": labels, "predictions": predictions}

    def _scalar(self, loss: torch.Tensor) -> torch.Tensor:
        """Reduce the losses of a task's rows as those of the tasks are; of none it is 0."""
        reduced: torch.Tensor = getattr(loss, self.loss_reduction)() if loss.numel() else loss.sum()
        return reduced

    def calculate_metrics(self, predictions: Any, targets: Any) -> dict[str, Any]:
        """Update the metrics of every task with a batch and return its values.

        Parameters
        ----------
        predictions, targets : Tensor, or dict by task name
            What :meth:`forward` returned as ``predictions`` and ``labels``.
        """
        metrics: dict[str, Any] = {}
        for name, task in self.prediction_task_dict.items():
            prediction = predictions[name] if isinstance(predictions, Mapping) else predictions
            label = targets[name] if isinstance(targets, Mapping) else targets
            metrics.update(_task(task).calculate_metrics(predictions=prediction, targets=label))
        return metrics

    def compute_metrics(self, mode: str | None = None) -> dict[str, Any]:
        """Return the metrics since the last reset: flat for one task, else by mode_task."""
        metrics = {
            f"{mode}_{name}" if mode else name: _task(task).compute_metrics()
            for name, task in self.prediction_task_dict.items()
        }
        return next(iter(metrics.values())) if len(metrics) == 1 else metrics

    def reset_metrics(self) -> None:
        """Forget what the metrics have seen."""
        for task in self.prediction_task_dict.values():
            _task(task).reset_metrics()

    @property
    def task_blocks(self) -> dict[str, Any]:
        """The task block of each task, by task name."""
        return {name: task.task_block for name, task in self.prediction_task_dict.items()}

    def to_model(self, **kwargs: Any) -> Model:
        """Return ``Model(self, **kwargs)``."""
        from transformers4rec_ext.model.model import Model

        return Model(self, **kwargs)

    def _masked_items(self, inputs: Any, flags: dict[str, bool]) -> Any:
        make = getattr(self.body, "masked_items", None)
        return make(inputs, **flags) if make is not None and self._body_reads_masked else None

    def _call_body(self, inputs: Any, arguments: dict[str, Any], masked: Any) -> Any:
        accepts = self._body_accepts
        taken = {k: v for k, v in arguments.items() if accepts is None or k in accepts}
        if masked is not None and self._body_reads_masked:
            taken["masked"] = masked
        return self.body(inputs, **taken)

    def _named(self, task_name: str, arguments: dict[str, Any]) -> dict[str, Any]:
        # Only to a task that names it: one written for upstream may hand on what it does not know.
        known = self._arguments_of_tasks[task_name]
        return {k: v for k, v in arguments.items() if v is not None and k in known}

    def _target_of(self, task: Any, targets: Any) -> Any:
        if not isinstance(targets, Mapping):
            return targets
        if task.target_name is not None and task.target_name not in targets:
            raise value_error(
                "Head.forward",
                "targets",
                f"hold {task.target_name!r} for the task {task.task_name!r}",
                list(targets),
            )
        return targets.get(task.target_name)

    def _weights_by_name(self, task_weights: Sequence[float] | None) -> dict[str, float]:
        names = list(self.prediction_task_dict)
        if task_weights is None:
            return dict.fromkeys(names, 1.0)
        weights = checked_weights("Head", "task_weights", task_weights, names)
        return dict(zip(names, weights, strict=True))


def _task(task: torch.nn.Module) -> Any:
    # ModuleDict is typed as holding plain modules; tasks_by_name let only tasks in.
    return task


def _top_k_argument(task: torch.nn.Module, top_k: int | None) -> dict[str, int]:
    takes_it = top_k is not None and getattr(task, "supports_top_k", False)
    return {"top_k": top_k} if takes_it and top_k is not None else {}


def _accepted_arguments(body: torch.nn.Module) -> frozenset[str] | None:
    """Return the names that the body's forward takes, None for any."""
    wrapped = getattr(body, "module", body)
    parameters = inspect.signature(wrapped.forward).parameters
    if any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values()):
        return None
    return frozenset(parameters)
