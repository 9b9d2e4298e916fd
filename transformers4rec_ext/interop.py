"""Speed up a model that an installed Transformers4Rec has built."""

from __future__ import annotations

from typing import Any

import torch

from transformers4rec_ext import ranking_metric
from transformers4rec_ext._errors import type_error, value_error
from transformers4rec_ext.model.output import _NextItemPredictionTask
from transformers4rec_ext.model.prediction_task import NextItemPredictionTask
from transformers4rec_ext.model.upstream import both, is_upstreams, upstream_tasks
from transformers4rec_ext.samplers import LogUniformSampler


def accelerate(model: torch.nn.Module) -> int:
    """Swap the inner modules of a model that Transformers4Rec built for this package's, in place.

    Of each next-item task: the task itself, its output layer, the sampler of its candidates and
    its ranking metrics. Body, heads, parameters (the same tensors, so an optimizer that has them
    goes on) and the keys of ``state_dict()`` stay. What changes is what docs/differences.md says:
    candidates and corrections are exact, in training ``predictions`` is None where the loss needs
    no scores, evaluation reads ranks, and ``top_k`` is streamed and leaves padding out. Metrics
    start anew.

    A task of one's own, derived from Transformers4Rec's, keeps its class; its output layer and
    metrics are swapped. A metric of one's own is left as it is.

    Parameters
    ----------
    model : Module
        A ``transformers4rec.torch.Model``, ``Head`` or task that is built, or a module that holds
        some.

    Returns
    -------
    int
        How many modules were swapped.

    Raises
    ------
    TypeError    if ``model`` is not a module.
    ValueError   if there is nothing to swap.
    """
    if not isinstance(model, torch.nn.Module):
        raise type_error("accelerate", "model", "be a torch.nn.Module", type(model).__name__)
    upstream = upstream_tasks()
    tasks = [
        module
        for module in model.modules()
        if upstream is not None
        and isinstance(module, upstream.NextItemPredictionTask)
        and not isinstance(module, NextItemPredictionTask)
    ]
    swapped = sum(_swap_in(task, upstream) for task in tasks)
    if not swapped:
        raise value_error(
            "accelerate",
            "model",
            "hold a NextItemPredictionTask that Transformers4Rec built",
            _in_words(model, tasks),
            "Tasks are built when they are given to a Head.",
        )
    return swapped


def _swap_in(task: Any, upstream: Any) -> int:
    """Swap what there is to swap in one of upstream's tasks; return how many modules."""
    if task.pre is None or task.masking is None:
        return 0
    swapped = 0
    for index, metric in enumerate(task.metrics):
        ours = _metric_like(metric)
        if ours is not None:
            task.metrics[index] = ours
            swapped += 1
    layer: Any = getattr(task.pre, "module", None)
    if type(layer) is upstream._NextItemPredictionTask:
        if type(getattr(layer, "sampler", None)) is upstream.LogUniformSampler:
            layer.sampler = _sampler_like(layer.sampler, min_id=task.padding_idx + 1)
            swapped += 1
        _become(layer, _NextItemPredictionTask, sparse_grad=False, corrected=False, cosine=False)
        swapped += 1
    if type(task) is upstream.NextItemPredictionTask:
        _become(
            task,
            both(NextItemPredictionTask),
            return_predictions=False,
            static_shapes=False,
            sparse_grad=False,
            corrected=False,
            cosine_scale=0.0,
            exclude_seen=False,
            sampler=None,
            _padding_idx=task.padding_idx,
            _told_no_predictions=False,
        )
        swapped += 1
    return swapped


def _become(module: Any, cls: type, **attributes: Any) -> None:
    """Make ``module`` one of ``cls``: the object, its parameters and its hooks stay."""
    module.__class__ = cls
    for name, value in attributes.items():
        setattr(module, name, value)


def _metric_like(metric: Any) -> Any:
    """Return ours for one of upstream's ranking metrics, None for any other."""
    name = type(metric).__name__
    if type(metric).__module__ != "transformers4rec.torch.ranking_metric":
        return None
    ours: Any = getattr(ranking_metric, name, None)
    if ours is None:
        return None
    return ours(top_ks=list(metric.top_ks), labels_onehot=metric.labels_onehot).to(metric.device)


class _SamplerWithTables(LogUniformSampler):
    """Carries the two tables of upstream's sampler along, so that saved keys stay the same."""

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        torch.nn.Module._load_from_state_dict(self, *args, **kwargs)


def _sampler_like(sampler: Any, min_id: int) -> LogUniformSampler:
    ours = _SamplerWithTables(
        sampler.max_n_samples,
        sampler.max_id,
        min_id,
        sampler.unique_sampling,
        sampler.n_sample / sampler.max_n_samples,
    )
    # Not by register_buffer: here the names are properties, which compute the tables.
    ours._buffers.update(sampler._buffers)
    return ours.train(sampler.training)


def _in_words(model: torch.nn.Module, tasks: list[Any]) -> str:
    if tasks:
        return "a task that is not built, or all of it one's own"
    if any(isinstance(module, NextItemPredictionTask) for module in model.modules()):
        return f"{type(model).__name__} whose task is this package's already"
    kind = "Transformers4Rec's" if is_upstreams(model) else "not Transformers4Rec's"
    return f"{type(model).__name__}, {kind}, without one"
