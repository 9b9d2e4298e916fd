"""Where the target stands among all items, and what that rank is worth.

Ties count against the model, so that one which scores all items alike cannot look good, and a
score that is not a number is a miss.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from transformers4rec_ext._errors import type_error, value_error
from transformers4rec_ext._numbers import is_integer
from transformers4rec_ext.ops.reference import MISSED


def target_rank(
    scores: Tensor,
    targets: Tensor,
    *,
    exclude_ids: Tensor | None = None,
    padding_idx: int | None = None,
) -> Tensor:
    """Rank of the target = number of other items that score at least as much.

    Parameters
    ----------
    scores : Tensor, floating, [N, V]
    targets : Tensor, int64, [N]
    exclude_ids : Tensor, int64, [N, L], optional
        Items that do not compete in a row, such as those already seen; filled up with -1,
        repetitions allowed. The target itself is never excluded.
    padding_idx : int, optional
        An item that competes in no row.

    Returns
    -------
    Tensor, int64, [N]
        0 is best. ``MISSED`` where the target's score or that of a competitor is NaN.

    Raises
    ------
    TypeError
        If ``targets`` or ``exclude_ids`` are not int64.
    ValueError
        If shapes disagree or, on the CPU, an id lies outside of [0, V).

    Examples
    --------
    >>> scores = torch.tensor([[0.9, 0.5, 0.5, 0.1]])
    >>> target_rank(scores, torch.tensor([1])).tolist()
    [2]
    >>> target_rank(scores, torch.tensor([1]), exclude_ids=torch.tensor([[0, -1]])).tolist()
    [1]
    """
    _check_rank_arguments(scores, targets, exclude_ids)
    target_scores = scores.gather(1, targets.unsqueeze(1))
    # The target itself is at least as good as itself, hence - 1. Comparisons with NaN are False.
    rank = (scores >= target_scores).sum(1) - 1
    num_nan = scores.isnan().sum(1)
    excluded = _excluded(scores, targets, exclude_ids, padding_idx)
    if excluded is not None:
        ids, counts = excluded
        excluded_scores = scores.gather(1, ids)
        rank = rank - (counts & (excluded_scores >= target_scores)).sum(1)
        num_nan = num_nan - (counts & excluded_scores.isnan()).sum(1)
    return torch.where(num_nan > 0, MISSED, rank)


def _excluded(
    scores: Tensor, targets: Tensor, exclude_ids: Tensor | None, padding_idx: int | None
) -> tuple[Tensor, Tensor] | None:
    """Return ids [N, L] and bool [N, L]: True once for every item that does not compete."""
    parts = []
    if exclude_ids is not None:
        parts.append(exclude_ids)
    if padding_idx is not None:
        parts.append(targets.new_full((scores.shape[0], 1), padding_idx))
    if not parts:
        return None
    ids = torch.cat(parts, dim=1).sort(dim=1).values
    repeated = torch.nn.functional.pad(ids[:, 1:] == ids[:, :-1], (1, 0))
    return ids.clamp(min=0), (ids >= 0) & ~repeated & (ids != targets.unsqueeze(1))


def _check_rank_arguments(scores: Tensor, targets: Tensor, exclude_ids: Tensor | None) -> None:
    if scores.ndim != 2 or not scores.is_floating_point():
        got = f"{scores.dtype} {list(scores.shape)}"
        raise value_error("target_rank", "scores", "be floating [N, V]", got)
    expected = [("targets", targets, [scores.shape[0]])]
    if exclude_ids is not None:
        length = exclude_ids.shape[-1] if exclude_ids.ndim else 0
        expected.append(("exclude_ids", exclude_ids, [scores.shape[0], length]))
    for name, ids, shape in expected:
        if ids.dtype != torch.int64:
            raise type_error("target_rank", name, "be int64", ids.dtype)
        if list(ids.shape) != shape:
            raise value_error("target_rank", name, f"be {shape}", list(ids.shape))
        # Looking at values waits for a device, so only ids that lie on the host are checked.
        if ids.device.type == "cpu" and ids.numel() and not torch.compiler.is_compiling():
            low, high = int(ids.min()), int(ids.max())
            lowest = 0 if name == "targets" else -1
            if low < lowest or high >= scores.shape[1]:
                raise value_error(
                    "target_rank",
                    name,
                    f"lie from {lowest} to V - 1 = {scores.shape[1] - 1}",
                    f"{low} to {high}",
                )


def _precision(rank: Tensor, k: Tensor) -> Tensor:
    return 1.0 / k


def _recall(rank: Tensor, k: Tensor) -> Tensor:
    return torch.ones_like(rank)


def _reciprocal(rank: Tensor, k: Tensor) -> Tensor:
    return 1.0 / (rank + 1.0)


def _discounted(rank: Tensor, k: Tensor) -> Tensor:
    return 1.0 / torch.log2(rank + 2.0)


#: What a hit at rank r (0-based) is worth at cut-off k; a miss is worth 0. With one relevant item
#: the average precision is the reciprocal rank, and the best possible DCG is 1.
VALUE_OF_HIT: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "ndcg_at": _discounted,
    "dcg_at": _discounted,
    "avg_precision_at": _reciprocal,
    "mrr_at": _reciprocal,
    "precision_at": _precision,
    "recall_at": _recall,
}


def metric_from_rank(name: str, rank: Tensor, ks: Sequence[int]) -> Tensor:
    """Return the metric ``name`` of every row at every cut-off: float32 [N, len(ks)].

    Parameters
    ----------
    name : str
        A key of ``VALUE_OF_HIT``, such as "ndcg_at".
    rank : Tensor, int64, [N]
        0-based, as :func:`target_rank` returns it.
    ks : sequence of int

    Examples
    --------
    >>> metric_from_rank("mrr_at", torch.tensor([0, 3]), [1, 10]).tolist()
    [[1.0, 1.0], [0.0, 0.25]]
    """
    # By fills: a list would be copied to a GPU, which waits for it.
    cutoffs = torch.cat([rank.new_full((1,), k) for k in check_ks(ks)])
    hit = rank.unsqueeze(1) < cutoffs
    value = VALUE_OF_HIT[name](rank.unsqueeze(1).to(torch.float32), cutoffs.to(torch.float32))
    return torch.where(hit, value, 0.0)


def ranking_metrics_from_rank(
    rank: Tensor, ks: Sequence[int], names: Sequence[str] = tuple(VALUE_OF_HIT)
) -> dict[str, Tensor]:
    """Return ``{name: float32 [N, len(ks)]}``, every metric of every row.

    Parameters
    ----------
    rank : Tensor, int64, [N]
    ks : sequence of int
    names : sequence of str
        All metrics when not given.

    Examples
    --------
    >>> ranking_metrics_from_rank(torch.tensor([1]), [1, 5], names=["recall_at"])
    {'recall_at': tensor([[0., 1.]])}
    """
    return {name: metric_from_rank(name, rank, ks) for name in names}


def check_ks(ks: Any) -> list[int]:
    """Return the cut-offs as ints; they may come as a list, a tuple, a range or an array."""
    if isinstance(ks, Tensor | np.ndarray):
        ks = ks.tolist()
    if not isinstance(ks, list | tuple | range) or len(ks) < 1:
        raise ValueError(f"ks should be a list or tuple with at least one element; got {ks!r}.")
    if any(not is_integer(k) or k < 1 for k in ks):
        raise value_error("ranking_metric", "ks", "be positive ints", repr(ks))
    return [int(k) for k in ks]


def check_relevances(scores: Tensor, labels: Tensor) -> None:
    """Raise ValueError unless scores and relevances are both [N, V]."""
    if scores.ndim != 2:
        raise ValueError(f"scores must be a 2-dimensional tensor; got {list(scores.shape)}.")
    if labels.ndim != 2:
        raise ValueError(
            f"labels must be a 2-dimensional tensor; got {list(labels.shape)}. "
            "A metric reads the ids of one item a row with labels_onehot=True."
        )
    if scores.shape != labels.shape:
        raise ValueError(
            f"scores and labels must be the same shape; got {list(scores.shape)} and "
            f"{list(labels.shape)}."
        )


def best_items(scores: Tensor, labels: Tensor, k: int) -> Tensor:
    """Return the ids int64 [N, min(k, V)] of the best scores; of equal ones the irrelevant first.

    Parameters
    ----------
    scores, labels : Tensor, [N, V]
    k : int
    """
    # Two stable sorts: by label upwards, then by score downwards. Among equal scores the
    # irrelevant items stay in front.
    worst_first = labels.argsort(dim=1, stable=True)
    order = scores.gather(1, worst_first).argsort(dim=1, descending=True, stable=True)
    return worst_first.gather(1, order[:, :k])
