"""Losses over {target} + candidates: logits, softmax, binary cross-entropy; a tile of each."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from transformers4rec_ext.ops.reference.common import (
    accumulate_dtype,
    outside_autocast,
    rows_like,
)


@outside_autocast
def sampled_logits(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    candidate_ids: Tensor,
    target_log_q: Tensor | None,
    candidate_log_q: Tensor | None,
    temperature: float,
    remove_accidental_hits: bool,
) -> Tensor:
    """``[s_target - log q_target, s_j - log q_j ...]``, ``s = h . w / T``: [N, 1+S]; hits -inf."""
    wide = hidden.to(accumulate_dtype(hidden.dtype))
    target_rows = rows_like(hidden, weight, targets)
    candidate_rows = rows_like(hidden, weight, candidate_ids)
    target = (wide * target_rows).sum(-1) / temperature
    candidates = wide @ candidate_rows.T / temperature
    if target_log_q is not None:
        target = target - target_log_q.to(target.dtype)
    if candidate_log_q is not None:
        candidates = candidates - candidate_log_q.to(target.dtype)
    if remove_accidental_hits:
        candidates = candidates.masked_fill(candidate_ids == targets[:, None], -math.inf)
    return torch.cat([target[:, None], candidates], dim=1)


@outside_autocast
def sampled_softmax_loss(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    candidate_ids: Tensor,
    target_log_q: Tensor | None,
    candidate_log_q: Tensor | None,
    temperature: float,
    remove_accidental_hits: bool,
    corrected: bool,
) -> Tensor:
    """``logsumexp(l) - l_target`` over {target} + candidates, per row [N]; materialises [N, 1+S].

    corrected (arXiv 2507.09331): ``stopgrad(1 - P) (log Z - s_target)`` with
    ``Z = sum_j e^(l_j)`` over the candidates and ``P = e^(s_target) / (e^(s_target) + Z)``; the
    positive is always present, so it carries no log q. No candidates
    left (Z = 0): the row contributes 0.
    """
    logits = sampled_logits(
        hidden,
        weight,
        targets,
        candidate_ids,
        None if corrected else target_log_q,
        candidate_log_q,
        temperature,
        remove_accidental_hits,
    )
    target, candidates = logits[:, 0], logits[:, 1:]
    if not corrected:
        return torch.logsumexp(logits, dim=1) - target
    empty = (candidates == -math.inf).all(dim=1)
    log_z = torch.logsumexp(candidates.masked_fill(empty[:, None], 0.0), dim=1)
    absent = torch.sigmoid(log_z - target).detach()  # 1 - P
    return torch.where(empty, target * 0.0, absent * (log_z - target))


def sampled_softmax_tile(
    scores: Tensor,
    target_scores: Tensor,
    targets: Tensor,
    sorted_ids: Tensor | None,
    order: Tensor | None,
    target_log_q: Tensor | None,
    candidate_log_q: Tensor | None,
    temperature: float,
    corrected: bool,
    row_grad: Tensor | None,
    with_grad: bool,
    loss: Tensor,
    target_grad: Tensor,
) -> None:
    """One tile of rows: ``scores`` h.w [n, S] become d loss / d (h.w) in place.

    Fills ``loss`` and ``target_grad`` [n]. ``sorted_ids, order = candidate_ids.sort()`` where hits
    are to be excluded, else None. ``row_grad`` [n] is the
    gradient arriving at each row's loss (None: 1). Without ``with_grad`` the content of ``scores``
    is undefined afterwards and ``target_grad`` is not written.
    """
    candidates = scores / temperature
    if candidate_log_q is not None:
        candidates = candidates - candidate_log_q
    if sorted_ids is not None and order is not None:
        candidate_ids = torch.empty_like(sorted_ids).scatter_(0, order, sorted_ids)
        candidates.masked_fill_(candidate_ids == targets[:, None], -math.inf)
    target = target_scores / temperature
    if target_log_q is not None and not corrected:
        target = target - target_log_q
    logits = torch.cat([target[:, None], candidates], dim=1)
    probabilities = torch.softmax(logits, dim=1)
    absent = probabilities[:, 1:].sum(dim=1)  # 1 - P, without the cancellation
    if corrected:
        log_z = torch.logsumexp(candidates, dim=1)
        loss.copy_(torch.where(log_z == -math.inf, 0.0, absent * (log_z - target)))
    else:
        loss.copy_(torch.logsumexp(logits, dim=1) - target)
    if with_grad:
        # corrected or not, the gradient is that of the softmax: see docs/architecture.md
        scale = 1.0 / temperature if row_grad is None else (row_grad / temperature)[:, None]
        scores.copy_(probabilities[:, 1:] * scale)
        target_grad.copy_((absent[:, None] * scale).squeeze(1).neg())


@outside_autocast
def sampled_bce_loss(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    candidate_ids: Tensor,
    target_log_q: Tensor | None,
    candidate_log_q: Tensor | None,
    temperature: float,
    remove_accidental_hits: bool,
    beta: Tensor,
) -> Tensor:
    """``beta softplus(-l_target) + sum_j softplus(l_j)`` per row [N]; materialises [N, 1+S].

    An excluded candidate (l = -inf) adds 0. ``softplus(x) = -log sigmoid(-x)``.
    """
    logits = sampled_logits(
        hidden,
        weight,
        targets,
        candidate_ids,
        target_log_q,
        candidate_log_q,
        temperature,
        remove_accidental_hits,
    )
    log_p = torch.nn.functional.logsigmoid(torch.cat([logits[:, :1], -logits[:, 1:]], dim=1))
    return -beta.to(log_p.dtype) * log_p[:, 0] - log_p[:, 1:].sum(dim=1)


def sampled_bce_tile(
    scores: Tensor,
    target_scores: Tensor,
    targets: Tensor,
    sorted_ids: Tensor | None,
    order: Tensor | None,
    target_log_q: Tensor | None,
    candidate_log_q: Tensor | None,
    temperature: float,
    beta: Tensor,
    row_grad: Tensor | None,
    with_grad: bool,
    loss: Tensor,
    target_grad: Tensor,
) -> None:
    """One tile of rows, as `sampled_softmax_tile`; ``beta`` [] weighs the target's term."""
    candidates = scores / temperature
    if candidate_log_q is not None:
        candidates = candidates - candidate_log_q
    if sorted_ids is not None and order is not None:
        candidate_ids = torch.empty_like(sorted_ids).scatter_(0, order, sorted_ids)
        candidates.masked_fill_(candidate_ids == targets[:, None], -math.inf)
    target = target_scores / temperature
    if target_log_q is not None:
        target = target - target_log_q
    log_p = torch.nn.functional.logsigmoid(torch.cat([target[:, None], -candidates], dim=1))
    loss.copy_(-beta * log_p[:, 0] - log_p[:, 1:].sum(dim=1))
    if with_grad:
        scale = torch.ones_like(target) if row_grad is None else row_grad
        scale = scale / temperature
        scores.copy_(torch.sigmoid(candidates) * scale[:, None])
        target_grad.copy_(-beta * torch.sigmoid(-target) * scale)


def sampled_logits_tile(
    logits: Tensor,
    targets: Tensor,
    sorted_ids: Tensor | None,
    order: Tensor | None,
    target_log_q: Tensor | None,
    candidate_log_q: Tensor | None,
    temperature: float,
) -> None:
    """Turn h.w [n, 1+S] (target in column 0) into logits in place: / T, - log q, hits -inf."""
    logits.div_(temperature)
    if target_log_q is not None:
        logits[:, 0].sub_(target_log_q)
    candidates = logits[:, 1:]
    if candidate_log_q is not None:
        candidates.sub_(candidate_log_q)
    if sorted_ids is not None and order is not None:
        candidate_ids = torch.empty_like(sorted_ids).scatter_(0, order, sorted_ids)
        candidates.masked_fill_(candidate_ids == targets[:, None], -math.inf)
