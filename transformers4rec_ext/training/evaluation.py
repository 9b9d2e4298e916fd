"""Ranking metrics over held-out items: all items ranked, ties counted against the model."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from transformers4rec_ext._errors import value_error
from transformers4rec_ext.data.contexts import Contexts
from transformers4rec_ext.functional import target_rank
from transformers4rec_ext.ranking_metric import MISSED
from transformers4rec_ext.training.network import Query

TOP_KS = (5, 10, 20)


def held_out_ranks(
    query: Query,
    contexts: Iterable[Contexts],
    *,
    max_length: int,
    batch_size: int = 256,
    exclude_seen: bool = False,
) -> Tensor:
    """Rank every held-out item among all items, given what came before it.

    Scores are made a tile of items at a time; the [B, V] matrix never exists.

    Parameters
    ----------
    query : callable
        ids [B, T] -> hidden [B, D] and item weights [V, D]; an item's score is their product. Row 0
        of the weights is the padding item's, which is not ranked.
    contexts : iterable of Contexts
        From :func:`transformers4rec_ext.data.held_out`.
    max_length : int
        T, how much of a context the query sees.
    batch_size : int
    exclude_seen : bool
        Leave the items of the whole context (not only of its last T) out of the ranking. A target
        that the context holds already is then a miss: it would never be recommended.

    Returns
    -------
    Tensor, int64, [sessions]
        From 1; ``MISSED`` for a miss: a target that is not in the catalogue or has no known item
        before it, or a score that is not a number.
    """
    found: list[Tensor] = []
    for chunk in contexts:
        ranks = torch.full((len(chunk.targets),), MISSED, dtype=torch.int64)
        targets = torch.from_numpy(chunk.targets)
        for rows, ids, seen in chunk.batches(batch_size, max_length):
            at = torch.from_numpy(rows)
            target = targets[at]
            repeated = (seen == target[:, None]).any(dim=1)
            known = target > 0
            rank = target_rank(
                *query(ids),
                target.clamp(min=1),
                exclude_ids=seen if exclude_seen else None,
                padding_idx=0,
            )
            missed = ~known | repeated if exclude_seen else ~known
            # target_rank counts from 0, and is MISSED itself where a score is not a number.
            ranks[at] = torch.where(missed | (rank == MISSED), MISSED, rank + 1)
        found.append(ranks)
    return torch.cat(found) if found else torch.zeros(0, dtype=torch.int64)


def summarize(ranks: Tensor) -> dict[str, float]:
    """Return NDCG@k, Recall@k (k in 5, 10, 20) and MRR of ranks that count from 1.

    Parameters
    ----------
    ranks : Tensor, int64, [sessions]
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
            "Sessions need three items to leave two out, or two items for `evaluate FILE`.",
        )
    place = ranks.double()
    gain = 1 / torch.log2(place + 1)
    metrics = {}
    for k in TOP_KS:
        metrics[f"ndcg_at_{k}"] = float(torch.where(ranks <= k, gain, 0.0).mean())
        metrics[f"recall_at_{k}"] = float((ranks <= k).double().mean())
    metrics["mrr"] = float(torch.where(ranks < MISSED, 1 / place, 0.0).mean())
    return metrics
