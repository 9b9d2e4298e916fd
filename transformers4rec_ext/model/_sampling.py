"""Which of a next-item task's options go together: losses, samplers, what they leave out."""

from __future__ import annotations

from typing import Any

import torch

from transformers4rec_ext._errors import type_error, value_error
from transformers4rec_ext.losses import CandidateLoss
from transformers4rec_ext.model.base import LOG
from transformers4rec_ext.samplers import CandidateSampler, InBatchSampler, MixedSampler


def is_plain(loss: Any, *, smoothed: bool = False, or_smoothed: bool = False) -> bool:
    """Tell whether the fused loss equals ``loss`` (or would, but for its label smoothing)."""
    return (
        type(loss) is torch.nn.CrossEntropyLoss
        and loss.weight is None
        and loss.ignore_index < 0
        and (or_smoothed or (loss.label_smoothing > 0 if smoothed else loss.label_smoothing == 0))
    )


def check_flags(function: str, **flags: object) -> None:
    """Raise unless all ``flags`` are bools."""
    for argument, flag in flags.items():
        if not isinstance(flag, bool):
            raise type_error(function, argument, "be a bool", type(flag).__name__)


def check_sampling(
    function: str,
    loss: torch.nn.Module,
    sampled_softmax: bool,
    sparse_grad: bool,
    corrected: bool,
    sampler: object,
) -> None:
    """Raise if an option of sampled softmax is given where no sampled softmax is computed."""
    for argument, flag in (("sparse_grad", sparse_grad), ("corrected", corrected)):
        if flag and not (sampled_softmax and is_plain(loss)):
            raise value_error(
                function,
                argument,
                "be used with sampled_softmax=True and a plain CrossEntropyLoss",
                f"sampled_softmax={sampled_softmax}, {loss}",
                "Other losses read the sampled logits, which know nothing of it.",
            )
    if sampler is not None and not isinstance(sampler, CandidateSampler):
        raise type_error(function, "sampler", "have a method draw(targets)", type(sampler).__name__)
    if sampler is not None and not sampled_softmax:
        expectation = "be used with sampled_softmax=True"
        raise value_error(function, "sampler", expectation, f"sampled_softmax={sampled_softmax}")
    if sampled_softmax and isinstance(loss, CandidateLoss):
        hint = "The loss has a sampler of its own."
        raise value_error(function, "sampled_softmax", "be False with such a loss", loss, hint)


def check_half_rows(task: Any) -> None:
    """Raise if row gradients of a float16 table would have to be added on the CPU."""
    table = task.item_embedding_table
    if table is None or not (task.sparse_grad and torch.is_grad_enabled()):
        return
    weight = table.weight
    if weight.requires_grad and weight.dtype == torch.float16 and weight.device.type == "cpu":
        raise value_error(
            "NextItemPredictionTask",
            "sparse_grad",
            "be False with a tied table of float16 on the CPU",
            True,
            "torch adds no sparse gradients of float16 there, as the look-up's and the loss's; "
            "bfloat16 works.",
        )


def check_static(
    function: str,
    loss: torch.nn.Module,
    sampled: bool,
    return_predictions: bool,
    sampler: object,
) -> None:
    """Raise if ``static_shapes`` is asked for where rows without a label would count."""
    hint = "Rows without a label are kept, and only the fused losses leave them out."
    if not is_plain(loss, or_smoothed=not sampled):
        expectation = "be a plain CrossEntropyLoss with static_shapes=True"
        raise value_error(function, "loss", expectation, loss, hint)
    if loss.reduction == "none":
        expectation = 'have the reduction "mean" or "sum" with static_shapes=True'
        raise value_error(function, "loss", expectation, repr(loss.reduction), hint)
    if return_predictions:
        expectation = "be False with static_shapes=True"
        raise value_error(function, "return_predictions", expectation, True, hint)
    sources = sampler.samplers if isinstance(sampler, MixedSampler) else (sampler,)
    if any(isinstance(source, InBatchSampler) for source in sources):
        expectation = "draw without looking at the targets with static_shapes=True"
        raise value_error(function, "sampler", expectation, type(sampler).__name__, hint)


def check_foreign_layer(loss: torch.nn.Module, static_shapes: bool, cosine_scale: float) -> None:
    """Raise if the task relies on its own output layer, and is given another."""
    name, expectation = "NextItemPredictionTask.build", "be None with such a loss"
    if isinstance(loss, CandidateLoss):
        hint = "A loss that samples reads the item weights of the task's own output layer."
        raise value_error(name, "pre", expectation, loss, hint)
    if static_shapes:
        hint = "Only the task's own output layer leaves rows without a label out."
        raise value_error(name, "pre", "be None with static_shapes=True", "another layer", hint)
    if cosine_scale:
        hint = "It would not know that items' rows are to have length one."
        expectation = f"be None with cosine_scale={cosine_scale:g}"
        raise value_error(name, "pre", expectation, "another layer", hint)


def masking_of(inputs: Any) -> Any:
    """Return the masking of an input module with item ids; ValueError in upstream's words."""
    if not getattr(inputs, "item_id", None):
        raise ValueError(
            "For Item Prediction task a categorical_module including an item_id column is required."
        )
    masking = getattr(inputs, "masking", None)
    if masking is None:
        raise ValueError(
            "The input block should contain a masking schema for training and evaluation"
        )
    return masking


def say_no_predictions(task_name: str, sampled: bool) -> None:
    """Log why training has no metrics."""
    how = 'call the model with returns="ranks"'
    if sampled:
        how = "use CrossEntropyLoss and return_predictions=True"
    LOG.info(
        "%s: %straining returns no predictions, so it has no metrics. If you need them, %s.",
        task_name,
        "sampled " if sampled else "",
        how,
    )


def check_candidate_loss(
    function: str,
    loss: CandidateLoss,
    temperature: float,
    return_predictions: bool,
    cosine_scale: float,
) -> None:
    """Raise if an argument asks for what a loss that samples by itself does not do."""
    if temperature not in (0, 1):
        hint = "Give the temperature to the loss."
        raise value_error(function, "softmax_temperature", f"be 1 with {loss}", temperature, hint)
    if return_predictions:
        hint = "It makes no logits."
        raise value_error(function, "return_predictions", f"be False with {loss}", True, hint)
    if cosine_scale:
        hint = "The loss reads the item vectors as they are."
        raise value_error(function, "cosine_scale", f"be 0 with {loss}", cosine_scale, hint)
