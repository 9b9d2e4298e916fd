"""Metrics of next-item prediction: one rank per row feeds every ranking metric."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import torch

from transformers4rec_ext.ranking_metric import MISSED, RankingMetric, target_rank


class Ranks(NamedTuple):
    """Stands for predictions where only the rank of each target was computed: int64 [N]."""

    rank: torch.Tensor


def update_metrics(
    metrics: Iterable[Any],
    scores: torch.Tensor | Ranks,
    targets: torch.Tensor,
    padding_idx: int | None,
) -> list[torch.Tensor]:
    """Update ``metrics`` with scores [N, V] and targets int64 [N]; return the batch's values.

    The rank of the target is computed once, without a one-hot copy of the targets, for all
    metrics that follow from it; a target of score -inf, which nothing would recommend, is a miss.
    The others are called with what they were given.

    Parameters
    ----------
    metrics : iterable of torchmetrics.Metric
    scores : Tensor, floating, [N, V], or Ranks
    targets : Tensor, int64, [N]
    padding_idx : int, optional
        An item that competes in no row.
    """
    if isinstance(scores, Ranks):
        return [metric(rank=scores.rank) for metric in metrics]
    rank: torch.Tensor | None = None
    values = []
    for metric in metrics:
        if not (reads_rank(metric) and scores.dim() == 2 and targets.dim() == 1):
            values.append(metric(scores, targets))
            continue
        if rank is None:
            rank = target_rank(scores, targets, padding_idx=padding_idx)
            barred = scores.gather(1, targets.unsqueeze(1)).squeeze(1) == -torch.inf
            rank = torch.where(barred, MISSED, rank)
        values.append(metric(rank=rank))
    return values


def reads_rank(metric: Any) -> bool:
    """Tell whether the rank of each row's one target determines the metric."""
    return isinstance(metric, RankingMetric) and metric.labels_onehot and metric.follows_from_rank


def exploded(name: str, metric: Any) -> dict[str, torch.Tensor]:
    """Return ``{name_k: value}`` per cut-off of a ranking metric; ``{name: value}`` of another."""
    value = metric.compute()
    top_ks = getattr(metric, "top_ks", None)
    if not top_ks:
        return {name: value}
    per_cutoff = value.reshape(-1)
    return {f"{name}_{k}": per_cutoff[i] for i, k in enumerate(top_ks)}
