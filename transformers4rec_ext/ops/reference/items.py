"""Full softmax, rank and top-k over all V items, and one tile of consecutive items of each.

A tile holds the scores ``h . w`` [n, m] of the items ``begin .. begin + m``; logits are
``(h . w + b) / T``. What decides a rank is `pair_score`: the same sum of float64 products for the
target and for whatever competes with it, so that equal items tie, however a GEMM rounds them.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from transformers4rec_ext.ops.reference.common import accumulate_dtype, outside_autocast

_LANES = 8
_LINE = 16  # kLine of csrc/core/item_row.h
#: Rank of a target that cannot be found: beyond every cut-off.
MISSED = 2**62


def _wide(hidden: Tensor, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """Hidden rows, table and bias in the dtype of sums; the table rounded to hidden's first."""
    dtype = accumulate_dtype(hidden.dtype)
    none = hidden.new_zeros((), dtype=dtype)
    table = weight.to(hidden.dtype).to(dtype)
    return hidden.to(dtype), table, none if bias is None else bias.to(dtype)


def pair_score(hidden: Tensor, rows: Tensor, bias: Tensor | None) -> Tensor:
    """``h . w + b`` in float64 of hidden [..., D] and rows [..., D], each added up in one order.

    A GEMM, and torch's sum, add in an order that depends on the place and on the shape. This is the
    kernels' order: eight partial sums, what is over goes to the first.
    """
    products = hidden.to(torch.float64) * rows.to(torch.float64)
    whole = products.shape[-1] // _LANES * _LANES
    sums = products.new_zeros((*products.shape[:-1], _LANES))
    for first in range(0, whole, _LANES):
        sums = sums + products[..., first : first + _LANES]
    lanes = list(sums.unbind(-1))
    for over in products[..., whole:].unbind(-1):
        lanes[0] = lanes[0] + over
    score: Tensor = sum(lanes[1:], lanes[0])
    return score if bias is None else score + bias.to(torch.float64)


def row_norms(rows: Tensor) -> Tensor:
    """Lengths of rows, float64, no smaller than they are where their squares underflow."""
    norms: Tensor = torch.linalg.vector_norm(rows, dim=1, dtype=torch.float64)
    return norms + math.sqrt(rows.shape[1] * torch.finfo(torch.float64).tiny)


def _scores_beside(
    target_scores: Tensor,
    hidden: Tensor,
    hidden_norms: Tensor,
    weight: Tensor,
    bias: Tensor | None,
) -> Tensor:
    """``h . w + b`` [n, m] in float64, to be compared with the target's [n], a `pair_score`.

    A product of matrices, and where that is as near to the target's score as it may be off, the
    target's score itself. So the target ties with itself, and equal items tie. (The kernels look
    again instead, which takes shapes that depend on values: of two items that differ by some 1e-14
    of the largest score that vectors of their lengths can have, they tell which is better.)
    """
    scores = hidden.to(torch.float64) @ weight.to(torch.float64).T
    largest = hidden_norms[:, None] * row_norms(weight)
    if bias is not None:
        scores = scores + bias.to(torch.float64)
        largest = largest + bias.to(torch.float64).abs()
    width, float64 = hidden.shape[1], torch.finfo(torch.float64)
    error = 2 * (width + 4) * float64.eps * largest + width * float64.tiny
    target = target_scores[:, None]
    near = ((scores - target).abs() <= error) & error.isfinite()
    return torch.where(near, target, scores)


@outside_autocast
def linear_cross_entropy(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    targets: Tensor,
    temperature: float,
    ignore_index: int,
    label_smoothing: float,
) -> Tensor:
    """``(1 - e) (lse - l_target) + e mean_v (lse - l_v)``, per row [N]; 0 where ignored.

    ``l = (h . w + b) / T``, ``lse = logsumexp_v l_v``; materialises [N, V].
    """
    hidden, weight, bias = _wide(hidden, weight, bias)
    counted = targets != ignore_index
    hidden = hidden.masked_fill(~counted[:, None], 0.0)  # a NaN there is to reach no gradient
    logits = (hidden @ weight.T + bias) / temperature
    target = logits.gather(1, torch.where(counted, targets, 0)[:, None])[:, 0]
    lse = torch.logsumexp(logits, dim=1)
    loss = lse - target
    if label_smoothing:  # a bias of -inf has no mean
        loss = (1 - label_smoothing) * loss + label_smoothing * (lse - logits.mean(1))
    return torch.where(counted, loss, torch.zeros_like(loss))


@outside_autocast
def target_rank(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    bias: Tensor | None,
    exclude_ids: Tensor | None,
    padding_idx: int | None,
) -> Tensor:
    """``#{v != target, not excluded: s_v >= s_target}``, int64 [N]; materialises [N, V].

    ``MISSED`` where the target's score or a competitor's is NaN.
    """
    hidden, weight, wide_bias = _wide(hidden, weight, bias)
    bias = None if bias is None else wide_bias
    target = pair_score(hidden, weight[targets], None if bias is None else bias[targets])
    scores = _scores_beside(target, hidden, row_norms(hidden), weight, bias)
    competes = torch.ones_like(scores, dtype=torch.bool)
    if exclude_ids is not None:
        hidden_ids = torch.where(exclude_ids < 0, weight.shape[0], exclude_ids)
        competes = torch.nn.functional.pad(competes, (0, 1)).scatter(1, hidden_ids, False)[:, :-1]
    if padding_idx is not None:
        competes = competes.index_fill(1, torch.tensor([padding_idx], device=hidden.device), False)
    competes = competes.scatter(1, targets[:, None], False)
    rank = (competes & (scores >= target[:, None])).sum(1)
    lost = (competes & scores.isnan()).any(1) | target.isnan()
    return torch.where(lost, MISSED, rank)


@outside_autocast
def topk_items(
    hidden: Tensor,
    weight: Tensor,
    k: int,
    bias: Tensor | None,
    exclude_ids: Tensor | None,
    padding_idx: int | None,
) -> tuple[Tensor, Tensor]:
    """Find the k best items of each row, ties to the lower id: scores [N, k], ids int64 [N, k].

    Padded with -inf and -1 where fewer than k are left. NaN is no score. Materialises [N, V].
    """
    hidden, weight, bias = _wide(hidden, weight, bias)
    scores = hidden @ weight.T + bias
    scores = torch.where(scores.isnan(), -math.inf, scores)
    if exclude_ids is not None:
        hidden_ids = torch.where(exclude_ids < 0, weight.shape[0], exclude_ids)
        padded = torch.nn.functional.pad(scores, (0, 1))
        scores = padded.scatter(1, hidden_ids, -math.inf)[:, :-1]
    if padding_idx is not None:
        padding = torch.tensor([padding_idx], device=hidden.device)
        scores = scores.index_fill(1, padding, -math.inf)
    values, ids = scores.sort(dim=1, descending=True, stable=True)
    values, ids = values[:, :k], ids[:, :k]
    return values, torch.where(values == -math.inf, -1, ids)


def logsumexp_tile(
    scores: Tensor, bias: Tensor | None, temperature: float, maximum: Tensor, total: Tensor
) -> None:
    """Add a tile [n, m] to running sums: ``lse = (maximum + log2(total)) ln 2``.

    ``maximum`` [n] (base 2, -inf at the start) is any number near the largest logit so far,
    ``total`` float64 [n] the sum of ``2^(y - maximum)``, ``y = l log2(e)``.
    """
    shifted = scores if bias is None else scores + bias
    logits = shifted * (math.log2(math.e) / temperature)
    larger = torch.maximum(maximum, torch.where(logits.isnan(), -math.inf, logits).amax(1))
    finite = torch.where(larger == -math.inf, 0.0, larger)
    before = torch.where(maximum == -math.inf, 0.0, torch.exp2(maximum - finite))
    added = torch.exp2((logits - finite[:, None]).clamp(max=64.0)).to(torch.float64).sum(1)
    total.mul_(before).add_(added)
    maximum.copy_(larger)


def softmax_grad_tile(
    scores: Tensor,
    bias: Tensor | None,
    targets: Tensor,
    begin: int,
    temperature: float,
    smoothing: float,
    target_weight: float,
    maximum: Tensor,
    total: Tensor,
    row_grad: Tensor,
    grad: Tensor,
) -> None:
    """Fill ``grad`` [n, m] with ``g (p - smoothing - target_weight [v = target])`` of a tile.

    ``p = 2^(y - maximum) / total``. ``g`` [n] is the gradient of the row's loss over T, 0 where a
    row is ignored: it then adds nothing, whatever its scores are.
    """
    shifted = scores if bias is None else scores + bias
    logits = shifted * (math.log2(math.e) / temperature)
    # scores made again may exceed the maximum where an ulp of theirs is large
    p = torch.exp2((logits - maximum[:, None]).clamp(max=64.0)) / total.to(scores.dtype)[:, None]
    items = torch.arange(begin, begin + scores.shape[1], device=scores.device)
    is_target = (items == targets[:, None]).to(scores.dtype)
    of_scores = row_grad[:, None] * (p - smoothing - target_weight * is_target)
    grad.copy_(torch.where(row_grad[:, None] == 0, 0.0, of_scores))


def pair_scores(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, ids: Tensor, out: Tensor
) -> None:
    """Fill ``out`` float64 [n, L] with `pair_score` of hidden [n, D] and items [n, L].

    Of a negative item it is -inf, of one beyond the table NaN.
    """
    at = ids.clamp(min=0, max=weight.shape[0] - 1)
    for column in range(ids.shape[1]):
        b = None if bias is None else bias[at[:, column]]
        out[:, column] = pair_score(hidden, weight[at[:, column]], b)
    out.masked_fill_(ids < 0, -math.inf)
    out.masked_fill_(ids >= weight.shape[0], math.nan)


def rank_tile(
    scores: Tensor,
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    target_scores: Tensor,
    hidden_norms: Tensor,
    above: Tensor,
    not_a_number: Tensor,
) -> None:
    """Add to ``above`` [n] the items of a tile with `pair_score` >= the target's, and the NaNs.

    ``hidden`` [n, D] and ``weight`` [m, D] are what ``scores`` was made of; ``hidden_norms`` [n]
    tells how far a product of matrices may be off. A row whose target is NaN counts one NaN a tile.
    """
    exact = _scores_beside(target_scores, hidden, hidden_norms, weight, bias)
    lost = target_scores.isnan()
    above.add_((exact >= target_scores[:, None]).sum(1))
    not_a_number.add_(torch.where(lost, 1, exact.isnan().sum(1)))


def topk_tile(
    scores: Tensor,
    bias: Tensor | None,
    begin: int,
    excluded: Tensor | None,
    k: int,
    best: Tensor,
    ids: Tensor,
    fill: Tensor,
    threshold: Tensor,
) -> None:
    """Merge a tile into the best so far: ``best, ids`` [n P, capacity], the first ``fill`` valid.

    The items of a tile are cut into P pieces of whole lines, and each has a buffer of its own.
    ``excluded`` int64 [n, L] sorted, -1 for none. Only scores above ``threshold`` [n P] can still
    be among the k best.
    """
    values = scores if bias is None else scores + bias
    items = torch.arange(begin, begin + scores.shape[1], device=scores.device)
    values = torch.where(values.isnan(), -math.inf, values)
    if excluded is not None:
        for column in excluded.unbind(1):
            values = values.masked_fill(items == column[:, None], -math.inf)
    pieces = max(1, best.shape[0] // max(1, scores.shape[0]))
    size = -(-scores.shape[1] // (pieces * _LINE)) * _LINE
    padding = (0, size * pieces - scores.shape[1])
    values = torch.nn.functional.pad(values, padding, value=-math.inf).view(len(best), size)
    of_pieces = torch.nn.functional.pad(items, padding).view(pieces, size)
    all_values = torch.cat([best, values], dim=1)
    all_ids = torch.cat([ids, of_pieces.repeat(len(scores), 1)], dim=1)
    all_values, order = all_values.sort(dim=1, descending=True, stable=True)
    all_ids = torch.where(all_values == -math.inf, -1, all_ids.gather(1, order))
    best.fill_(-math.inf)[:, :k] = torch.nn.functional.pad(
        all_values[:, :k], (0, max(0, k - all_values.shape[1])), value=-math.inf
    )
    ids.fill_(-1)[:, :k] = torch.nn.functional.pad(
        all_ids[:, :k], (0, max(0, k - all_ids.shape[1])), value=-1
    )
    fill.copy_((ids >= 0).sum(1))
    threshold.copy_(best[:, k - 1])
