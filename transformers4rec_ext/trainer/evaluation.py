"""Evaluation and prediction a batch at a time: what is kept does not grow with the catalogue."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import trainer_utils

from transformers4rec_ext._errors import value_error
from transformers4rec_ext._modes import in_mode
from transformers4rec_ext.model.all_items import best_of_scores
from transformers4rec_ext.model.batch import num_rows
from transformers4rec_ext.model.fit import process_metrics
from transformers4rec_ext.model.prediction_task import NextItemPredictionTask
from transformers4rec_ext.ranking_metric import RankingMetric
from transformers4rec_ext.utils.torch_utils import as_array

EvalLoopOutput: Any = trainer_utils.EvalLoopOutput


@dataclass
class Mean:
    """A weighted mean that waits for no device."""

    total: Any = 0.0
    weight: Any = 0.0

    def add(self, value: Tensor, weight: int) -> None:
        """Add a value; one of weight 0 does not count, whatever it is."""
        if weight:
            self.total = self.total + value.detach().double() * weight
            self.weight += weight

    def over_processes(self, accelerator: Any) -> float | None:
        """Return the mean of all processes; None of nothing."""
        sums = torch.as_tensor([float(self.total), float(self.weight)], dtype=torch.float64)
        sums = accelerator.reduce(sums.to(accelerator.device), "sum")
        return float(sums[0] / sums[1]) if float(sums[1]) else None


def evaluate(trainer: Any, loader: Iterable[Any], prefix: str, prediction_loss_only: bool) -> Any:
    """Return loss and metrics of ``loader``; see ``Trainer.evaluation_loop``."""
    args, model = trainer.args, trainer.model
    with_metrics = trainer.compute_metrics is not None and not prediction_loss_only
    logs = args.log_predictions and trainer.log_predictions_callback is not None
    limit = args.eval_steps_on_train_set if prefix == "train" else 0
    loss, rows = Mean(), 0
    model.reset_metrics()
    with in_mode(model, training=False):
        for step, batch in enumerate(itertools.islice(loader, limit or None)):
            measures = with_metrics and step % args.compute_metrics_each_n_steps == 0
            only_loss = not (measures or logs)
            value, predictions, labels, _ = trainer.prediction_step(model, batch, only_loss)
            size = num_rows(batch)
            loss.add(value, size if isinstance(labels, Mapping) else labels.numel())
            rows += size
            metrics = model.calculate_metrics(predictions, labels) if measures else None
            if logs:
                log_predictions(trainer, predictions, labels, metrics, prefix)
            trainer.after_prediction_step()
    mean = loss.over_processes(trainer.accelerator)
    everywhere = _over_processes(trainer, rows)
    if not everywhere:
        raise _no_batch("evaluate", args)
    if mean is None:
        raise value_error(
            "Trainer.evaluate",
            "data",
            "hold something to predict",
            f"{everywhere} rows without a label",
            "A next-item task needs sessions of at least two items.",
        )
    results = {f"{prefix}_/loss": mean}
    if with_metrics:
        _join_every_process(trainer, model)
        results |= process_metrics(model.compute_metrics(mode=prefix), f"{prefix}_/")
    return EvalLoopOutput(None, None, results, everywhere)


def predict(trainer: Any, loader: Iterable[Any]) -> Any:
    """Return what the model predicts for all rows of ``loader``, on the CPU."""
    parts, rows = [], 0
    with in_mode(trainer.model, training=False):
        for batch in loader:
            _, predictions, _, _ = trainer.prediction_step(
                trainer.model, batch, False, testing=False
            )
            parts.append(_apply(as_array, predictions))
            rows += num_rows(batch)
            trainer.after_prediction_step()
    parts = _interleaved(trainer, parts)
    if not parts:
        raise _no_batch("predict", trainer.args)
    return EvalLoopOutput(_joined(parts), None, {}, _over_processes(trainer, rows))


def _no_batch(method: str, args: Any) -> ValueError:
    hint = "A generator is spent after one pass: give a list of batches, or a DataLoader."
    if args.dataloader_drop_last:
        hint = "dataloader_drop_last=True leaves out a batch that is not full."
    return value_error(f"Trainer.{method}", "data", "hold at least one batch", "none", hint)


def log_predictions(
    trainer: Any, predictions: Any, labels: Any, metrics: Any, dataset_type: str
) -> None:
    """Give the best items of a batch to ``log_predictions_callback``, as upstream does."""
    task = next_item_task(trainer.model)
    if task is None:
        return
    if isinstance(predictions, Mapping):
        predictions, labels = predictions[task.task_name], labels[task.task_name]
    top_k = recommended(trainer) or predictions.shape[1] - 1
    scores, ids = best_of_scores(predictions, top_k, task.padding_idx, None)
    trainer.log_predictions_callback(
        labels=as_array(labels),
        pred_item_ids=as_array(ids),
        pred_item_scores=as_array(scores),
        metrics=metrics,
        dataset_type=dataset_type,
    )


def next_item_task(model: Any) -> Any:
    """Return the model's task that recommends items, or None."""
    tasks = (task for task in model.prediction_tasks if isinstance(task, NextItemPredictionTask))
    return next(tasks, None)


def recommended(trainer: Any) -> int | None:
    """Return how many items are recommended a row; None where no task does, or for all scores.

    Raises
    ------
    ValueError   if there are not so many items, or the model recommends fewer.
    """
    task = next_item_task(trainer.model)
    if task is None:
        return None
    top_k, models = trainer.args.predict_top_k, trainer.model.top_k
    if top_k and models is not None and top_k > models:
        raise ValueError(
            "The args.predict_top_k should not be larger than model.top_k. "
            f"Got {top_k} and {models}: reduce the one or increase the other."
        )
    top_k = top_k or models
    if top_k and top_k > task.target_dim - 1:
        raise value_error(
            "Trainer",
            "predict_top_k",
            f"be at most {task.target_dim - 1}, the items of V={task.target_dim} rows without "
            "padding",
            top_k,
            "Give T4RecTrainingArguments a smaller one.",
        )
    return top_k or None


def recommend(trainer: Any, model: Any, inputs: Mapping[str, Tensor], targets: Any = None) -> Any:
    """Return the outputs of inference; of a next-item task ``(ids, scores)`` of the best items."""
    top_k = recommended(trainer)
    outputs = model(inputs, targets=targets, top_k=top_k)
    if top_k is None:
        return outputs
    if not isinstance(outputs, Mapping):
        scores, ids = outputs
        return ids, scores
    name = next_item_task(trainer.model).task_name
    scores, ids = outputs[name]
    return {**outputs, name: (ids, scores)}


def _apply(function: Callable[..., Any], *trees: Any) -> Any:
    """Return ``function`` of the leaves of tuples and dictionaries of the same shape."""
    first = trees[0]
    if isinstance(first, Mapping):
        return {name: _apply(function, *(tree[name] for tree in trees)) for name in first}
    if isinstance(first, tuple):
        return tuple(_apply(function, *leaves) for leaves in zip(*trees, strict=True))
    return function(*trees)


def _joined(parts: list[Any]) -> Any:
    return _apply(lambda *arrays: np.concatenate(arrays), *parts)


def _interleaved(trainer: Any, parts: list[Any]) -> list[Any]:
    """Return the parts of all processes in the order of their batches."""
    if trainer.args.world_size == 1:
        return parts
    everyone: list[Any] = [None] * trainer.args.world_size
    torch.distributed.all_gather_object(everyone, parts)
    steps = itertools.zip_longest(*everyone)
    return [part for step in steps for part in step if part is not None]


def _over_processes(trainer: Any, count: int) -> int:
    sums = torch.tensor(count, device=trainer.accelerator.device)
    return int(trainer.accelerator.reduce(sums, "sum"))


def _join_every_process(trainer: Any, model: Any) -> None:
    """Let a process without a label for a metric join in gathering it, with no rows.

    Raises
    ------
    ValueError   if it is a metric that cannot be updated with none.
    """
    metrics = [m for task in model.prediction_tasks for m in getattr(task, "metrics", None) or []]
    if not metrics or trainer.args.world_size == 1:
        return
    device = trainer.accelerator.device
    own = torch.tensor([[m.update_called for m in metrics]], device=device)
    everyone = trainer.accelerator.gather(own).cpu().tolist()
    missing = set()
    for metric, has_labels in zip(metrics, zip(*everyone, strict=True), strict=True):
        if not any(has_labels):
            continue
        if not (isinstance(metric, RankingMetric) and metric.follows_from_rank):
            missing |= {rank for rank, has in enumerate(has_labels) if not has}
        elif not metric.update_called:
            metric.update(rank=torch.empty(0, dtype=torch.int64, device=device))
    if missing:
        got = f"none in {len(missing)} of {len(everyone)}"
        raise value_error("Trainer.evaluate", "data", "have a label in every process", got)
