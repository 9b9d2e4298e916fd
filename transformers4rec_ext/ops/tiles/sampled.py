"""The loops over tiles of rows: two or three GEMMs and one pass over the tile while it is in cache.

One code for all devices: the GEMMs are the BLAS's, the pass dispatches to the native kernel of the
device or to the reference. Extra memory: the gathered rows, O((N + S) D), and one tile; never [N,
S].
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from transformers4rec_ext.ops.reference import accumulate_dtype, outside_autocast, rows_like
from transformers4rec_ext.ops.tiles import new_tile, tile_scale

_ops = torch.ops.transformers4rec_ext
# A tile should be small enough to be in cache still when it is read again, and have rows enough
# that the GEMM that adds to the candidates' gradients [S, D] reads and writes that matrix seldom.
# With many candidates the two disagree; the limit on memory has the last word.
CACHED_ELEMENTS = 512 * 1024
ENOUGH_ROWS = 256
MOST_ELEMENTS = 2 * 1024 * 1024
LEAST_ROWS = 16


def tile_rows(num_rows: int, num_candidates: int, scale: int = 1) -> int:
    """Rows of a tile, all tiles of nearly equal size; the tile has at most `MOST_ELEMENTS`.

    (Unless `LEAST_ROWS` rows are more than that: from 131,072 candidates on.) ``scale``: of the
    device, `tile_scale`, times which the limits are taken.
    """
    wanted = max(ENOUGH_ROWS, scale * CACHED_ELEMENTS // max(num_candidates, 1))
    most = max(LEAST_ROWS, scale * MOST_ELEMENTS // max(num_candidates, 1))
    tiles = max(1, -(-num_rows // min(wanted, most)))
    return max(1, -(-num_rows // tiles))


def _sorted(candidate_ids: Tensor, remove_hits: bool) -> tuple[Tensor | None, Tensor | None]:
    """Sort once, so that a row finds its hits in log S steps instead of S comparisons."""
    if not remove_hits:
        return None, None
    ids, order = candidate_ids.contiguous().sort()
    return ids, order


def _widen(log_q: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    return None if log_q is None else log_q.to(dtype).contiguous()


@outside_autocast
def sampled_loss(
    tile_op: Any,
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    candidate_ids: Tensor,
    target_log_q: Tensor | None,
    candidate_log_q: Tensor | None,
    temperature: float,
    remove_accidental_hits: bool,
    option: bool | Tensor,
    *,
    row_grad: Tensor | None = None,
    with_grad: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Losses [N] and, if asked, gradients of hidden [N, D] and of the touched rows [N+S, D].

    ``tile_op`` is the loss: ``sampled_softmax_tile`` with ``option`` corrected, or
    ``sampled_bce_tile`` with ``option`` beta. The rows are those of the targets, then of the
    candidates.
    All in the accumulation dtype; the gradients are those of ``sum(row_grad * loss)``.
    """
    wide = accumulate_dtype(hidden.dtype)
    num_rows, width = hidden.shape
    num_candidates = candidate_ids.shape[0]
    candidate_rows = rows_like(hidden, weight, candidate_ids)
    target_rows = rows_like(hidden, weight, targets)
    hidden = hidden.to(wide).contiguous()
    targets = targets.contiguous()
    target_scores = torch.linalg.vecdot(hidden, target_rows)
    sorted_ids, order = _sorted(candidate_ids, remove_accidental_hits)
    target_log_q = _widen(target_log_q, wide)
    candidate_log_q = _widen(candidate_log_q, wide)
    row_grad = _widen(row_grad, wide)
    option = option.to(wide) if isinstance(option, Tensor) else option

    loss = hidden.new_empty(num_rows)
    target_grad = hidden.new_empty(num_rows)
    grad_hidden = hidden.new_empty(hidden.shape if with_grad else 0)
    grad_rows = hidden.new_empty((num_rows + num_candidates, width) if with_grad else 0)
    of_candidates = grad_rows[num_rows:]
    if num_rows == 0:
        of_candidates.zero_()
    step = tile_rows(num_rows, num_candidates, tile_scale(hidden.device))
    tile = new_tile(hidden, step, num_candidates)
    for begin in range(0, num_rows, step):
        rows = slice(begin, min(begin + step, num_rows))
        scores = tile[: rows.stop - begin]
        torch.mm(hidden[rows], candidate_rows.T, out=scores)
        tile_op(
            scores,
            target_scores[rows],
            targets[rows],
            sorted_ids,
            order,
            None if target_log_q is None else target_log_q[rows],
            candidate_log_q,
            temperature,
            option,
            None if row_grad is None else row_grad[rows],
            with_grad,
            loss[rows],
            target_grad[rows],
        )
        if with_grad:
            torch.mm(scores, candidate_rows, out=grad_hidden[rows])
            if begin == 0:
                torch.mm(scores.T, hidden[rows], out=of_candidates)
            else:
                of_candidates.addmm_(scores.T, hidden[rows])
    if with_grad:
        grad_hidden.addcmul_(target_grad[:, None], target_rows)
        torch.mul(target_grad[:, None], hidden, out=grad_rows[:num_rows])
    return loss, grad_hidden, grad_rows


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
    """Logits [N, 1+S] in the accumulation dtype: a GEMM writes them, one pass corrects them."""
    wide = accumulate_dtype(hidden.dtype)
    candidate_rows = rows_like(hidden, weight, candidate_ids)
    target_rows = rows_like(hidden, weight, targets)
    hidden = hidden.to(wide).contiguous()
    logits = hidden.new_empty(hidden.shape[0], 1 + candidate_ids.shape[0])
    torch.linalg.vecdot(hidden, target_rows, out=logits[:, 0])
    torch.mm(hidden, candidate_rows.T, out=logits[:, 1:])
    sorted_ids, order = _sorted(candidate_ids, remove_accidental_hits)
    _ops.sampled_logits_tile(
        logits,
        targets.contiguous(),
        sorted_ids,
        order,
        _widen(target_log_q, wide),
        _widen(candidate_log_q, wide),
        temperature,
    )
    return logits


@outside_autocast
def sampled_logits_backward(
    grad: Tensor,
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    candidate_ids: Tensor,
    temperature: float,
    remove_accidental_hits: bool,
) -> tuple[Tensor, Tensor]:
    """Gradients of `sampled_logits`: of hidden [N, D], of the touched rows [N+S, D]."""
    wide = accumulate_dtype(hidden.dtype)
    grad = grad.to(wide) / temperature
    candidates = grad[:, 1:]
    if remove_accidental_hits:
        candidates.masked_fill_(candidate_ids == targets[:, None], 0.0)
    candidate_rows = rows_like(hidden, weight, candidate_ids)
    target_rows = rows_like(hidden, weight, targets)
    grad_hidden = torch.addcmul(candidates @ candidate_rows, grad[:, :1], target_rows)
    hidden = hidden.to(wide)
    grad_rows = torch.cat([grad[:, :1] * hidden, candidates.T @ hidden])
    return grad_hidden, grad_rows
