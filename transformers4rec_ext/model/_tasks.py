"""What a head asks of its tasks, and a model of its heads."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch

from transformers4rec_ext import _checks
from transformers4rec_ext._errors import type_error, value_error


def tasks_by_name(tasks: list[Any]) -> dict[str, torch.nn.Module]:
    """Return the tasks by their names, which must differ."""
    if not tasks:
        raise value_error("Head", "prediction_tasks", "hold at least one task", tasks)
    named: dict[str, torch.nn.Module] = {}
    for task in tasks:
        if not isinstance(task, torch.nn.Module) or not hasattr(task, "task_name"):
            raise type_error(
                "Head", "prediction_tasks", "be PredictionTask objects", type(task).__name__
            )
        name = str(task.task_name)
        if name in named:
            raise value_error(
                "Head",
                "prediction_tasks",
                "have different names",
                f"two named {name!r}",
                "Give one of them a task_name.",
            )
        named[name] = task
    return named


def own_metrics(tasks: list[Any]) -> None:
    """Give a task its own copy of a metric that a task before it has; metrics gather state."""
    seen: set[int] = set()
    for task in tasks:
        metrics = list(getattr(task, "metrics", None) or [])
        if any(id(metric) in seen for metric in metrics):
            task.set_metrics([copy.deepcopy(m) if id(m) in seen else m for m in metrics])
        seen.update(id(metric) for metric in metrics)


def check_heads(heads: Sequence[Any]) -> None:
    """Raise unless ``heads`` are heads of a model whose task names all differ."""
    if not heads:
        raise value_error("Model", "head", "be at least one Head", "none")
    names: list[str] = []
    for head in heads:
        if not hasattr(head, "prediction_task_dict"):
            raise type_error("Model", "head", "be a Head", type(head).__name__)
        names += list(head.prediction_task_dict)
    own_metrics([task for head in heads for task in head.prediction_task_dict.values()])
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise value_error(
            "Model",
            "head",
            "have different task names",
            f"two named {repeated[0]!r}",
            "Give one of the tasks a task_name.",
        )


def checked_weights(function: str, argument: str, weights: Any, of: list[str]) -> list[float]:
    """Return the weights as floats, one for each name in ``of``."""
    if not isinstance(weights, Sequence) or isinstance(weights, str):
        raise type_error(function, argument, "be a list of numbers", type(weights).__name__)
    if len(weights) != len(of):
        raise value_error(function, argument, f"have one weight per task ({len(of)})", weights)
    return [
        _checks.finite(function, f"{argument} of {n!r}", w)
        for n, w in zip(of, weights, strict=True)
    ]
