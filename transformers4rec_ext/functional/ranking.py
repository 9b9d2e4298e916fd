"""The target's rank and the best k items among all V, without the score matrix.

Letters: N rows, D width, V items (rows of the table, padding included), L excluded ids of a row.
"""

from __future__ import annotations

import torch
from torch import Tensor

from transformers4rec_ext import _backend, _checks
from transformers4rec_ext._errors import value_error
from transformers4rec_ext.ops import reference
from transformers4rec_ext.ops.schemas import operators as _ops


@torch.no_grad()
def target_rank(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    *,
    bias: Tensor | None = None,
    exclude_ids: Tensor | None = None,
    padding_idx: int | None = None,
    backend: str | None = None,
) -> Tensor:
    """``#{v : s_v > s_target} + #{v != target : s_v = s_target}``, ``s_v = hidden . w_v + b_v``.

    0 is best. Ties count against the target, so that a model which scores all items alike does not
    look good. Scores are made a tile of items at a time; the [N, V] matrix never exists.

    Parameters
    ----------
    hidden : Tensor, floating, [N, D]
    weight : Tensor, floating, [V, D]
    targets : Tensor, int64, [N]
    bias : Tensor, floating, [V], optional
    exclude_ids : Tensor, int64, [N, L], optional
        Items that do not compete in a row, such as those seen already; padded with -1, repetitions
        allowed. The target itself is never excluded.
    padding_idx : int, optional
        An item that competes in no row.
    backend : str, optional
        ``auto``, ``fused`` or ``reference`` (which does build [N, V]).

    Returns
    -------
    Tensor, int64, [N]
        2^62, beyond every cut-off, where the target's score or a competitor's is NaN.

    Raises
    ------
    TypeError
        if a dtype is wrong.
    ValueError
        if shapes or devices disagree, or (on the CPU) an id is outside ``[0, V)`` (-1 in
        ``exclude_ids`` apart).

    Notes
    -----
    Scores that the rounding of a GEMM cannot tell apart are decided by sums in float64, the same
    for target and competitor: equal items tie, and the result does not depend on tiles or threads.
    A model whose scores are all alike is therefore slow to rank. Extra memory: one tile and
    O(N + N L). No gradient. No host synchronisation on CUDA.

    Examples
    --------
    >>> weight = torch.tensor([[0.9], [0.5], [0.5], [0.1]])
    >>> target_rank(torch.ones(1, 1), weight, torch.tensor([1]))
    tensor([2])
    >>> target_rank(torch.ones(1, 1), weight, torch.tensor([1]), exclude_ids=torch.tensor([[0]]))
    tensor([1])
    """
    name = "target_rank"
    hidden = _checks.full_arguments(name, hidden, weight, bias)
    _checks.targets(name, hidden, targets, weight.shape[0], None)
    padding_idx = _exclusions(name, hidden, weight, exclude_ids, padding_idx)
    arguments = (hidden, weight, targets, bias, exclude_ids, padding_idx)
    if _backend.use_reference(backend, name, "rank_tile", hidden.device.type):
        return reference.target_rank(*arguments)
    rank: Tensor = _ops.target_rank(*arguments)
    return rank


@torch.no_grad()
def topk_items(
    hidden: Tensor,
    weight: Tensor,
    k: int,
    *,
    bias: Tensor | None = None,
    exclude_ids: Tensor | None = None,
    padding_idx: int | None = None,
    backend: str | None = None,
) -> tuple[Tensor, Tensor]:
    """Find the k items of largest ``s_v = hidden . w_v + b_v``, best first, ties to the lower id.

    Scores are made a tile of items at a time, and a running threshold rejects nearly all of them
    without sorting; the [N, V] matrix never exists.

    Parameters
    ----------
    hidden, weight, bias, exclude_ids, padding_idx
        As in `target_rank`; excluded items are not recommended.
    k : int
        From 1 to V.
    backend : str, optional
        ``auto``, ``fused`` or ``reference`` (which does build [N, V]).

    Returns
    -------
    scores : Tensor, float32 (float64 for float64), [N, k]
    ids : Tensor, int64, [N, k]
        Where fewer than k items are left: -inf and -1. A score that is NaN or -inf is no score.

    Raises
    ------
    TypeError
        if a dtype is wrong.
    ValueError
        if shapes or devices disagree, k is not in [1, V], or (on the CPU) an id is outside
        ``[0, V)`` (-1 in ``exclude_ids`` apart).

    Notes
    -----
    Deterministic. Extra memory: one tile and O(N k + N L). No gradient. No host synchronisation on
    CUDA.

    Examples
    --------
    >>> weight = torch.tensor([[0.1], [0.5], [0.9], [0.5]])
    >>> topk_items(torch.ones(1, 1), weight, 3)[1]
    tensor([[2, 1, 3]])
    >>> topk_items(torch.ones(1, 1), weight, 3, exclude_ids=torch.tensor([[2, 1]]))[1]
    tensor([[ 3,  0, -1]])
    """
    name = "topk_items"
    hidden = _checks.full_arguments(name, hidden, weight, bias)
    k = _checks.integer(name, "k", k, minimum=1)
    num_items = weight.shape[0]
    if k > num_items:
        raise value_error(name, "k", f"be at most V={num_items}", k)
    padding_idx = _exclusions(name, hidden, weight, exclude_ids, padding_idx)
    arguments = (hidden, weight, k, bias, exclude_ids, padding_idx)
    if _backend.use_reference(backend, name, "topk_tile", hidden.device.type):
        return reference.topk_items(*arguments)
    scores, ids = _ops.topk_items(*arguments)
    return scores, ids


def _exclusions(
    name: str, hidden: Tensor, weight: Tensor, exclude_ids: Tensor | None, padding_idx: int | None
) -> int | None:
    num_items = weight.shape[0]
    if exclude_ids is not None:
        _checks.int64(name, "exclude_ids", exclude_ids)
        if exclude_ids.dim() != 2 or exclude_ids.shape[0] != hidden.shape[0]:
            got = _checks.describe(exclude_ids)
            raise value_error(name, "exclude_ids", f"be int64 [N={hidden.shape[0]}, L]", got)
        _checks.same_device(name, "exclude_ids", exclude_ids, hidden)
        _checks.ids_within(name, "exclude_ids", exclude_ids, -1, num_items)
    return (
        None if padding_idx is None else _checks.item(name, "padding_idx", padding_idx, num_items)
    )
