"""Lazy optimizers: the update of the rows that a sparse gradient touches, each by its own count.

Letters: N rows of the gradient (repetitions included), V items, D width. Everything is computed in
float32 (float64 for float64) and rounded once where the weight is narrower.
"""

from __future__ import annotations

import torch
from torch import Tensor

from transformers4rec_ext.ops.reference.common import accumulate_dtype

_PART = 32  # kPart of csrc/core/row_update.h


def sum_rows(ids: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
    """Return the distinct ids, ascending, and for each the sum of its rows.

    The rows of an id are summed by parts of 32, in the order in which they came, then the parts in
    theirs; ``coalesce`` gives no such order. The sums are formed and returned in the accumulation
    dtype. How many there are is known here, so only long runs are summed twice: `padded_sums`,
    which does not ask, takes 1.3 to 2.6 times as long on a CPU.
    """
    ordered, order = ids.sort(stable=True)
    rows, counts = torch.unique_consecutive(ordered, return_counts=True)
    wide = values.to(accumulate_dtype(values.dtype))[order]
    if not (counts > _PART).any():
        return rows, _sums_of(wide, counts)
    parts = (counts + (_PART - 1)) // _PART
    last = parts.cumsum(0) - 1
    lengths = torch.full_like(counts, _PART).repeat_interleave(parts)
    lengths[last] = counts - _PART * (parts - 1)
    of_parts = _sums_of(wide, lengths)
    sums, several = of_parts[last], parts > 1
    sums[several] = _sums_of(of_parts[several.repeat_interleave(parts)], parts[several])
    return rows, sums


def _sums_of(rows: Tensor, lengths: Tensor) -> Tensor:
    return torch.segment_reduce(rows, "sum", lengths=lengths, axis=0, unsafe=True)


def padded_sums(ids: Tensor, values: Tensor) -> Tensor:
    """Return the sums of `sum_rows`, then zeros up to as many rows as ``values`` has.

    Their number is not asked for, which would wait for a GPU.
    """
    ordered, order = ids.sort(stable=True)
    return _sums_of_runs(_begins(ordered), order, values)


def dense_sums(ids: Tensor, values: Tensor, like: Tensor) -> Tensor:
    """Return the sums of `sum_rows` in rows ``ids`` of a tensor of zeros: [V, D], as ``like``.

    They are rounded to its dtype once, and on a GPU have the same bits each time: atomics of
    `index_add_` would add in any order, and in that dtype.
    """
    ordered, order = ids.sort(stable=True)
    begins = _begins(ordered)
    sums = _sums_of_runs(begins, order, values).to(like.dtype)
    return torch.zeros_like(like).index_copy_(0, ordered, sums[begins.cumsum(0) - 1])


def _begins(ordered: Tensor) -> Tensor:
    """Tell where a run of equal ids begins, bool [N]."""
    begins = torch.ones_like(ordered, dtype=torch.bool)
    begins[1:] = ordered[1:] != ordered[:-1]
    return begins


def _sums_of_runs(begins: Tensor, order: Tensor, values: Tensor) -> Tensor:
    """Sum the runs of ``values[order]``, wide, by their parts; then come zeros, up to [N, D].

    On a GPU a sum takes one load after the other: an item that much of a batch touches would be
    what all others wait for.
    """
    numbers = begins.cumsum(0)
    places = torch.arange(order.numel(), device=order.device)
    into_run = places - torch.searchsorted(numbers, numbers)  # the first place of that number
    wide = values.to(accumulate_dtype(values.dtype))[order]
    is_part = into_run % _PART == 0
    places = _places(is_part)
    parts = _sums_between(places, wide)
    of_runs = torch.cat([begins, begins.new_zeros(1)])[places[:-1]]
    # the last run ends with the parts; the zeros behind them are nobody's
    return _sums_between(torch.minimum(_places(of_runs), is_part.sum()), parts)


def _places(begins: Tensor) -> Tensor:
    """Return where ``begins`` [N] is true, ascending, then N, up to [N + 1]."""
    numbers = torch.arange(1, begins.numel() + 2, device=begins.device)
    return torch.searchsorted(begins.cumsum(0), numbers)


def _sums_between(places: Tensor, rows: Tensor) -> Tensor:
    """Sum ``rows`` from each place to the next; zeros where that is the same."""
    return torch.segment_reduce(rows, "sum", offsets=places, axis=0, unsafe=True)


def _over_rows(values: Tensor) -> Tensor:
    """One number a row [n] as [n, 1]; numbers of every element [n, D] as they are."""
    return values if values.dim() == 2 else values[:, None]


def adam_rows(
    weight: Tensor,
    exp_avg: Tensor,
    exp_avg_sq: Tensor,
    steps: Tensor,
    ids: Tensor,
    values: Tensor,
    lr: float,
    beta1: float,
    beta2: float,
    eps: float,
    weight_decay: float,
) -> None:
    """AdamW of the touched rows, in place: ``t`` counts the updates of the row.

    ``m += (1 - b1)(g - m)``, ``v = b2 v + (1 - b2) g^2`` (row-wise, with ``exp_avg_sq`` [V]: the
    mean of ``g^2`` over the row),
    ``w = (1 - lr wd) w - lr / (1 - b1^t) m / (sqrt(v) / sqrt(1 - b2^t) + eps)``.
    """
    rows, g = sum_rows(ids, values)
    t = steps[rows] + 1
    step_size = (lr / (1.0 - beta1 ** t.to(torch.float64))).to(g.dtype)
    root = torch.sqrt(1.0 - beta2 ** t.to(torch.float64)).to(g.dtype)
    square = g * g if exp_avg_sq.dim() == 2 else (g * g).mean(1)
    m = exp_avg[rows] + (g - exp_avg[rows]) * (1.0 - beta1)
    v = exp_avg_sq[rows] * beta2 + square * (1.0 - beta2)
    denominator = _over_rows(v.sqrt()) / _over_rows(root) + eps
    w = weight[rows].to(g.dtype) * (1.0 - lr * weight_decay)
    w = w - _over_rows(step_size) * (m / denominator)
    steps[rows], exp_avg[rows], exp_avg_sq[rows] = t, m, v
    weight[rows] = w.to(weight.dtype)


def adagrad_rows(
    weight: Tensor,
    square_sum: Tensor,
    ids: Tensor,
    values: Tensor,
    lr: float,
    eps: float,
    weight_decay: float,
) -> None:
    """Adagrad of the touched rows, in place.

    ``g += wd w``, ``s += g^2`` (row-wise, with ``square_sum`` [V]: the mean of ``g^2`` over the
    row), ``w -= lr g / (sqrt(s) + eps)``.
    """
    rows, g = sum_rows(ids, values)
    w = weight[rows].to(g.dtype)
    g = g + weight_decay * w if weight_decay else g
    square = g * g if square_sum.dim() == 2 else (g * g).mean(1)
    s = square_sum[rows] + square
    square_sum[rows] = s
    weight[rows] = (w - lr * (g / (_over_rows(s.sqrt()) + eps))).to(weight.dtype)
