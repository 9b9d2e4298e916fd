"""Ranking metrics over held-out items: all items ranked, ties counted against the model."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
import torch
from torch import Tensor

from transformers4rec_ext._errors import value_error
from transformers4rec_ext.data.contexts import Contexts
from transformers4rec_ext.functional import target_rank
from transformers4rec_ext.ranking_metric import MISSED
from transformers4rec_ext.training.network import Query

TOP_KS = (5, 10, 20)
#: How often the training part holds the targets of a group: the last count of each but the last.
COUNT_EDGES = (0, 5, 20, 100)


def held_out_ranks(
    query: Query,
    contexts: Iterable[Contexts],
    *,
    max_length: int,
    batch_size: int = 256,
    exclude_seen: bool = False,
    on_rows: Callable[[int], None] = lambda rows: None,
) -> Tensor:
    """Rank every held-out item among all items, given what came before it.

    Scores are made a tile of items at a time; the [B, V] matrix never exists.

    Parameters
    ----------
    query : callable
        ids [B, T] -> hidden [B, T, D] and item weights [V, D]: the product of hidden[:, t] and the
        weights scores what comes after ids[:, :t + 1]. Row 0 of the weights is the padding item's,
        which is not ranked.
    contexts : iterable of Contexts
        From :func:`transformers4rec_ext.data.held_out`.
    max_length : int
        T, how much of a context the query sees.
    batch_size : int
        Rows that the query sees at once, and targets that are ranked at once.
    exclude_seen : bool
        Leave the items of the whole context (not only of its last T) out of the ranking. A target
        that the context holds already is then a miss: it would never be recommended.
    on_rows : callable
        Called with how many targets have been judged since the last call.

    Returns
    -------
    Tensor, int64, [targets]
        From 1; ``MISSED`` for a miss: a target that is not in the catalogue or has no known item
        before it, or a score that is not a number.
    """
    found: list[Tensor] = []
    for chunk in contexts:
        ranks = torch.full((len(chunk.targets),), MISSED, dtype=torch.int64)
        targets = torch.from_numpy(chunk.targets)
        for ids, rows, at in chunk.batches(batch_size, max_length):
            hidden, weights = query(ids)
            hidden = at_positions(hidden, at)
            for begin in range(0, len(rows), batch_size):
                some = rows[begin : begin + batch_size]
                seen = chunk.seen(some) if exclude_seen else None
                row = torch.from_numpy(some)
                of_rows = hidden[begin : begin + batch_size]
                ranks[row] = _ranks(of_rows, weights, targets[row], seen)
                on_rows(len(some))
        on_rows(int((chunk.lengths == 0).sum()))
        found.append(ranks)
    return torch.cat(found) if found else torch.zeros(0, dtype=torch.int64)


def at_positions(hidden: Tensor, at: tuple[Tensor, Tensor]) -> Tensor:
    """Return ``hidden[at]``, [N, D] of hidden [B, T, D] and N places, of whichever device."""
    row, position = at
    return hidden[row.to(hidden.device), position.to(hidden.device)]


def _ranks(hidden: Tensor, weights: Tensor, targets: Tensor, seen: Tensor | None) -> Tensor:
    """Return the ranks, from 1, of ``targets`` [N] among the items that are not ``seen`` [N, L].

    ``targets``, ``seen`` and what is returned are on the CPU; the ranking is where ``weights`` are.
    """
    excluded = None if seen is None else seen.to(weights.device)
    known = targets.clamp(min=1).to(weights.device)
    rank = target_rank(hidden, weights, known, exclude_ids=excluded, padding_idx=0).cpu()
    # target_rank counts from 0, and is MISSED itself where a score is not a number.
    missed = (targets == 0) | (rank == MISSED)
    if seen is not None:
        missed |= (seen == targets[:, None]).any(dim=1)
    return torch.where(missed, MISSED, rank + 1)


def summarize(ranks: Tensor) -> dict[str, float]:
    """Return NDCG@k, Recall@k, MRR@k (k in 5, 10, 20) and MRR of ranks that count from 1.

    ``ndcg_at_10_se`` is the standard error of NDCG@10, its deviation over the N targets divided by
    sqrt(N): what other targets of the same kind would change. Two models on the same targets can be
    told apart by less, as their errors go together; targets of one session count as independent.

    Parameters
    ----------
    ranks : Tensor, int64, [targets]
        ``MISSED`` is worth 0 in every metric.

    Raises
    ------
    ValueError
        If there are none.

    Examples
    --------
    >>> summarize(torch.tensor([1, 40]))["recall_at_10"]
    0.5
    """
    if ranks.numel() == 0:
        raise value_error(
            "summarize",
            "ranks",
            "hold at least one held-out item",
            "none",
            "Sessions need two items, and three where two of each are left out.",
        )
    place = ranks.double()
    gain, reciprocal = 1 / torch.log2(place + 1), 1 / place
    metrics = {}
    for k in TOP_KS:
        metrics[f"ndcg_at_{k}"] = float(torch.where(ranks <= k, gain, 0.0).mean())
        metrics[f"recall_at_{k}"] = float((ranks <= k).double().mean())
        metrics[f"mrr_at_{k}"] = float(torch.where(ranks <= k, reciprocal, 0.0).mean())
    within = torch.where(ranks <= 10, gain, 0.0)
    metrics["ndcg_at_10_se"] = float(within.std(correction=0)) / len(ranks) ** 0.5
    metrics["mrr"] = float(torch.where(ranks < MISSED, reciprocal, 0.0).mean())
    return metrics


def count_groups(counts: np.ndarray) -> dict[str, np.ndarray]:
    """Tell targets apart by how often the training part holds them; groups of none are left out.

    Parameters
    ----------
    counts : int64 [targets]
        0 for a target that the model does not know.

    Returns
    -------
    dict of bool [targets]
        Which targets are of the group, by what its counts are: "0", "1-5", "6-20", "21-100" and
        "more". Each target is of one group.

    Examples
    --------
    >>> groups = count_groups(np.array([3, 700, 5]))
    >>> {name: of.tolist() for name, of in groups.items()}
    {'1-5': [True, False, True], 'more': [False, True, False]}
    """
    group = np.searchsorted(COUNT_EDGES, counts)
    first = [edge + 1 for edge in COUNT_EDGES]
    names = ["0", *(f"{a}-{b}" for a, b in zip(first, COUNT_EDGES[1:], strict=False)), "more"]
    masks = {name: group == at for at, name in enumerate(names)}
    return {name: mask for name, mask in masks.items() if mask.any()}
