"""What a next-item task computes of scores and over all items, and how it is asked for it."""

from __future__ import annotations

from typing import Any

import torch

from transformers4rec_ext import _checks, functional
from transformers4rec_ext._errors import value_error
from transformers4rec_ext.losses import CandidateLoss, smoothed_cross_entropy
from transformers4rec_ext.model._ranking import Ranks
from transformers4rec_ext.model._sampling import check_half_rows, is_plain
from transformers4rec_ext.model._summary import in_float32
from transformers4rec_ext.model.positions import IGNORED
from transformers4rec_ext.model.upstream import is_causal
from transformers4rec_ext.ranking_metric import target_rank
from transformers4rec_ext.ranks import MISSED

#: What the task's ``returns=`` may be: with a training or testing flag, and without one.
WITH_FLAG = ("predictions", "ranks", "loss")
AT_INFERENCE = ("scores", "hidden", "all_hidden")
_TASK = "NextItemPredictionTask"
#: How many scores a loss that wants them gets at once: 64 MiB of float32.
_SCORES = 2**24


def check_returns(returns: str | None, with_flag: bool, top_k: Any, masking: Any) -> None:
    """Raise unless ``returns`` is None or what can be asked for, alone, with this masking."""
    if returns is not None and top_k is not None:
        raise value_error(_TASK, "returns", f"be None with top_k={top_k}", repr(returns))
    allowed = WITH_FLAG if with_flag else AT_INFERENCE
    if returns is not None and returns not in allowed:
        raise value_error(_TASK, "returns", f"be one of {allowed}", repr(returns))
    if returns == "all_hidden" and masking is not None and not is_causal(masking):
        hint = "Otherwise a position sees the items that come after it."
        raise value_error(
            _TASK, "returns", "be another with a masking that is not causal", repr(returns), hint
        )


def wanted(task: Any, returns: str | None, training: bool) -> str:
    """Return which of WITH_FLAG a next-item task computes where ``returns`` is asked of it."""
    if returns is None:
        return "predictions" if task.return_predictions or not training else "loss"
    if returns == "ranks":
        sampled = training and task.sampled_softmax  # whose logits have no ranks
        if task.return_predictions or (task.needs_scores and not sampled):
            return "predictions"
        return "loss" if sampled else "ranks"
    return returns


def needs_no_scores(loss: Any) -> bool:
    """Whether :func:`full_loss` takes a loss."""
    if isinstance(loss, CandidateLoss):
        return not torch.compiler.is_compiling()  # which does not know how many rows there are
    return is_plain(loss, or_smoothed=True)


def full_loss(
    layer: Any,
    hidden: torch.Tensor,
    labels: torch.Tensor,
    loss: Any,
    padding_idx: int,
    with_ranks: bool,
    seen: torch.Tensor | None,
) -> tuple[torch.Tensor, Ranks | None]:
    """Return a loss over all items and, if asked for, the ranks of the labels.

    Of a cross-entropy by one walk over the item weights for both, by two where items that are
    ``seen`` [N, L] do not compete; the [N, V] scores never exist.
    """
    if isinstance(loss, CandidateLoss):
        return _by_rows(layer, hidden, labels, loss, padding_idx, with_ranks, seen)
    options = {
        "temperature": layer.temperature,
        "label_smoothing": loss.label_smoothing,
        "reduction": loss.reduction,
    }
    weights = layer.checked_weights(hidden)
    if not with_ranks or seen is not None:
        value = functional.linear_cross_entropy(hidden, weights, labels, **options)
        if not with_ranks:
            return value, None
        rank = functional.target_rank(
            hidden, weights, labels, exclude_ids=seen, padding_idx=padding_idx
        )
        return value, Ranks(_unseen(rank, labels, seen))
    value, rank = functional.linear_cross_entropy(
        hidden, weights, labels, return_rank=True, padding_idx=padding_idx, **options
    )
    return value, Ranks(rank)


def _by_rows(
    layer: Any,
    hidden: torch.Tensor,
    labels: torch.Tensor,
    loss: CandidateLoss,
    padding_idx: int,
    with_ranks: bool,
    seen: torch.Tensor | None,
) -> tuple[torch.Tensor, Ranks | None]:
    """Return the same of a loss that wants scores: of some rows at a time, a constant amount."""
    losses, ranks = [], []
    size = max(1, _SCORES // layer.target_dim)
    parts = hidden.split(size)
    of_rows = [None] * len(parts) if seen is None else seen.split(size)
    for rows, targets, held in zip(parts, labels.split(size), of_rows, strict=True):
        scores, _ = layer(rows, targets)
        losses.append(loss_of_scores(loss, scores, targets, sampled=False))
        if loss.reduction == "mean" and len(labels):
            losses[-1] = losses[-1] * (len(targets) / len(labels))
        if with_ranks:
            rank = target_rank(scores, targets, exclude_ids=held, padding_idx=padding_idx)
            ranks.append(_unseen(rank, targets, held))
    value = torch.cat(losses) if losses[0].dim() else torch.stack(losses).sum()
    return value, Ranks(torch.cat(ranks)) if with_ranks else None


def _unseen(rank: torch.Tensor, labels: torch.Tensor, seen: torch.Tensor | None) -> torch.Tensor:
    """Return ``rank`` [N], beyond every cut-off where the label itself was seen."""
    if seen is None:
        return rank
    return torch.where((seen == labels.unsqueeze(1)).any(1), MISSED, rank)


def outputs_at_labels(
    task: Any,
    hidden: torch.Tensor,
    labels: torch.Tensor,
    seen: torch.Tensor | None,
    *,
    training: bool,
    testing: bool,
    returns: str,
) -> dict[str, Any]:
    """Return loss, labels and predictions of a next-item task for its labelled rows.

    Parameters
    ----------
    task : NextItemPredictionTask
    hidden, labels : Tensor, [N, D] and int64 [N]
    seen : Tensor, int64, [N, L], optional
        Items that do not compete in ranks and predictions; -1 for none.
    training, testing, returns
        As in the task's ``forward``; ``returns`` is one of WITH_FLAG.

    Returns
    -------
    dict
        As the task's ``forward`` with a flag.
    """
    layer, sampled = task._layer(), training and task.sampled_softmax
    if training:
        check_half_rows(task)
    if training and isinstance(task.loss, CandidateLoss):
        loss = task.loss(hidden, layer.checked_weights(hidden), labels)
        return {"loss": loss, "labels": torch.zeros_like(labels), "predictions": None}
    if sampled and layer is not None and is_plain(task.loss):
        ignored = IGNORED if task.static_shapes else None
        loss, logits = layer.sampled_loss(
            hidden, labels, task.loss.reduction, returns == "predictions", ignored
        )
        # The target is in column 0; what is ignored stays so.
        return {"loss": loss, "labels": labels.clamp(max=0), "predictions": logits}
    fused = returns != "predictions" and needs_no_scores(task.loss)
    if fused and layer is not None and not sampled:
        loss, ranks = full_loss(
            layer, hidden, labels, task.loss, task.padding_idx, returns == "ranks", seen
        )
        return {"loss": loss, "labels": labels, "predictions": ranks}
    logits, labels = task.pre(hidden, targets=labels, training=training, testing=testing)
    loss = task._loss(logits, labels)
    if seen is not None:
        logits = _without(logits, seen, task.padding_idx)
    return {"loss": loss, "labels": labels, "predictions": logits}


def _without(scores: torch.Tensor, ids: torch.Tensor, padding_idx: int) -> torch.Tensor:
    """Return ``scores`` [N, V] with -inf for ``ids`` [N, L] (-1 for none) and the padding item."""
    barred = torch.nn.functional.pad(ids, (0, 1), value=padding_idx)
    return scores.scatter(1, torch.where(barred < 0, padding_idx, barred), -torch.inf)


def loss_of_scores(
    loss: Any, scores: torch.Tensor, labels: torch.Tensor, sampled: bool
) -> torch.Tensor:
    """Return any loss of ``scores`` [N, C], in at least float32; 0 with gradient of no rows.

    Parameters
    ----------
    sampled : bool
        Whether the task samples, so that a score may be that of an excluded candidate, -inf.
    """
    compiling = torch.compiler.is_compiling()  # then N is not known here
    if not compiling and labels.numel() == 0:
        return scores.float().sum()  # a mean over nothing would be NaN
    scores = in_float32(scores)
    value: torch.Tensor
    with torch.autocast(device_type=scores.device.type, enabled=False):
        if isinstance(loss, CandidateLoss):
            value = loss.over_all_items(scores, labels)
        elif sampled and is_plain(loss, smoothed=True):
            # An excluded candidate would make torch's smoothed loss infinite.
            value = smoothed_cross_entropy(scores, labels, loss.label_smoothing, loss.reduction)
        else:
            value = loss(scores, labels)
    return torch.where(torch.ones_like(labels).any(), value, scores.sum()) if compiling else value


def best_items(
    layer: Any,
    hidden: torch.Tensor,
    top_k: Any,
    padding_idx: int,
    exclude_ids: torch.Tensor | None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return scores [B, k] and ids [B, k] of the best items for ``hidden`` [B, D]."""
    weights = layer.checked_weights(hidden)
    top_k = _checked_top_k(top_k, weights.shape[0])
    scores, ids = functional.topk_items(
        hidden, weights, top_k, exclude_ids=exclude_ids, padding_idx=padding_idx
    )
    return (scores / layer.temperature).float(), ids


def best_of_scores(
    scores: torch.Tensor, top_k: Any, padding_idx: int, exclude_ids: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the same of the scores [B, V] of an output layer that is not ours."""
    top_k = _checked_top_k(top_k, scores.shape[1])
    if exclude_ids is None:
        exclude_ids = scores.new_empty((scores.shape[0], 0), dtype=torch.int64)
    values, ids = _without(scores.float(), exclude_ids, padding_idx).topk(top_k, dim=1)
    return values, torch.where(values == -torch.inf, -1, ids)


def _checked_top_k(top_k: Any, num_items: int) -> int:
    top_k = _checks.integer(_TASK, "top_k", top_k, minimum=1)
    if top_k > num_items - 1:
        raise value_error(
            _TASK,
            "top_k",
            f"be at most {num_items - 1}, the items of V={num_items} rows without padding",
            top_k,
        )
    return top_k
