"""Ranking metrics at k: everything with one relevant item follows from its rank alone.

Ties count against the model, so that one which scores all items alike cannot look good, and a
score that is not a number is a miss.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torchmetrics
from torch import Tensor
from torchmetrics.utilities.data import dim_zero_cat

from transformers4rec_ext._errors import value_error
from transformers4rec_ext._numbers import is_integer
from transformers4rec_ext._recipe import Recorded
from transformers4rec_ext.ranks import (
    MISSED,
    VALUE_OF_HIT,
    best_items,
    check_ks,
    check_relevances,
    metric_from_rank,
    ranking_metrics_from_rank,
    target_rank,
)
from transformers4rec_ext.registry import Registry

__all__ = [
    "MISSED",
    "VALUE_OF_HIT",
    "AvgPrecisionAt",
    "DCGAt",
    "MeanReciprocalRankAt",
    "NDCGAt",
    "PrecisionAt",
    "RankingMetric",
    "RecallAt",
    "metric_from_rank",
    "ranking_metrics_from_rank",
    "ranking_metrics_registry",
    "target_rank",
]

ranking_metrics_registry = Registry("ranking metric", instantiate=True)


def _labels_by_rank(ks: Any, scores: Tensor, labels: Tensor) -> tuple[list[int], Tensor]:
    """Return the cut-offs and the labels [N, max k] of the best items, ties pessimistic."""
    cutoffs = check_ks(ks)
    check_relevances(scores, labels)
    labels = labels.to(torch.float32)
    best = labels.gather(1, best_items(scores, labels, max(cutoffs)))
    return cutoffs, torch.where(scores.isnan().any(1, keepdim=True), 0.0, best)


def _discounts(length: int, device: torch.device) -> Tensor:
    return 1.0 / torch.log2(torch.arange(length, device=device, dtype=torch.float32) + 2.0)


def _per_cutoff(cutoffs: list[int], value: Callable[[int], Tensor]) -> Tensor:
    return torch.stack([value(k) for k in cutoffs], dim=1)


class RankingMetric(Recorded, torchmetrics.Metric):
    """Mean over rows of a ranking metric at several cut-offs.

    Parameters
    ----------
    top_ks : int or sequence of int, optional
        The cut-offs, [2, 5] when not given; numpy's integers too.
    labels_onehot : bool
        Whether targets are ids [N], to be understood as one relevant item per row, instead of
        relevances [N, V]. Then only the rank of the target is computed; nothing is one-hot.

    Notes
    -----
    A subclass defines ``_metric(ks, scores, labels)``, returning [N, len(ks)] for scores and
    relevances [N, V]. State: ``metric_mean``, a list of [N, len(ks)], one per update, and
    ``identity``, by which a ``MetricCollection`` tells metrics of other classes and cut-offs apart
    that are equal so far (a subclass with arguments of its own adds a state for them). Of no
    rows the means are NaN; a process without any takes part in the mean over all processes.

    Examples
    --------
    >>> metric = RecallAt(top_ks=[1, 2], labels_onehot=True)
    >>> metric(torch.tensor([[0.1, 0.9, 0.5]]), torch.tensor([2]))
    tensor([0., 1.])
    """

    is_differentiable = False
    higher_is_better = True
    # The value of a batch comes from the same single pass that updates the state.
    full_state_update = False

    #: Key of VALUE_OF_HIT, for the classes whose metric follows from the rank.
    rank_name: str | None = None

    metric_mean: list[Tensor]
    identity: Tensor

    def __init__(
        self, top_ks: int | Sequence[int] | None = None, labels_onehot: bool = False, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        ks: Any = [2, 5] if top_ks is None else top_ks
        self.top_ks = check_ks([ks] if is_integer(ks) else ks)
        self.labels_onehot = labels_onehot
        self.add_state("metric_mean", default=[], dist_reduce_fx="cat")
        # A collection merges metrics whose states are equal after a batch, as after one of misses.
        own = f"{type(self).__qualname__} {self.top_ks} {labels_onehot}"
        self.add_state("identity", default=torch.tensor([*own.encode()]), dist_reduce_fx="max")

    @property
    def follows_from_rank(self) -> bool:
        """Whether the rank of one target determines the metric, so that ``rank`` may be given."""
        # A subclass that defines its own _metric means that one.
        for cls in type(self).__mro__:
            if vars(cls).get("rank_name") is not None:
                return True
            if "_metric" in vars(cls):
                return False
        return False

    def update(
        self,
        preds: Tensor | None = None,
        target: Tensor | None = None,
        *,
        rank: Tensor | None = None,
        **kwargs: Any,
    ) -> None:
        """Add rows, by scores and targets or by the rank of their targets.

        Parameters
        ----------
        preds : Tensor, floating, [N, V] or [B, T, V]
        target : Tensor
            Ids int64 [N] or [B, T] with ``labels_onehot``, else relevances like ``preds``.
        rank : Tensor, int64, [N], optional
            Instead of both, as :func:`target_rank` returns it: several metrics of one batch
            then share one pass over the scores.
        """
        if rank is None:
            if preds is None or target is None:
                raise value_error(
                    type(self).__name__, "preds and target", "be given, or rank", "none of them"
                )
            scores = preds.reshape(-1, preds.shape[-1])
            if self.labels_onehot and self.follows_from_rank:
                rank = target_rank(scores, target.reshape(-1))
            else:
                if self.labels_onehot:
                    target = torch.zeros_like(scores).scatter_(1, target.reshape(-1, 1), 1.0)
                elif target.ndim > 2:
                    target = target.reshape(-1, target.shape[-1])
                self.metric_mean.append(self._metric(torch.tensor(self.top_ks), scores, target))
                return
        if self.rank_name is None or not self.follows_from_rank:
            raise value_error(
                type(self).__name__,
                "rank",
                "be given to a metric that follows from the rank alone only",
                "one that defines its own _metric",
                "Call update(preds, target).",
            )
        self.metric_mean.append(metric_from_rank(self.rank_name, rank, self.top_ks))

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Add a batch, as :meth:`update`, and return the means over its own rows.

        torchmetrics' own would copy the rows of all batches before at every call.
        """
        own = type(self).update, type(self).compute
        if self.dist_sync_on_step or own != (RankingMetric.update, RankingMetric.compute):
            return super().forward(*args, **kwargs)
        self.update(*args, **kwargs)
        value = self.metric_mean[-1].mean(0)
        value = value.squeeze() if value.numel() == 1 else value
        self._forward_cache: Any = value
        return value

    def update_from_rank(self, rank: Tensor) -> None:
        """Add rows whose target's rank int64 [N] is known: ``update(rank=rank)``."""
        self.update(rank=rank)

    def compute(self) -> Tensor:
        """Return the means over all rows, [len(ks)]; 0-dimensional for one cut-off."""
        self._have_rows()
        return dim_zero_cat(self.metric_mean).mean(0)

    def sync(self, *args: Any, **kwargs: Any) -> None:
        """Gather the rows of all processes, as ``torchmetrics.Metric.sync``."""
        self._have_rows()  # [0, len(ks)]: torchmetrics' own stand-in for none is no matrix
        super().sync(*args, **kwargs)

    def _have_rows(self) -> None:
        if isinstance(self.metric_mean, list) and not self.metric_mean:
            self.metric_mean.append(torch.empty(0, len(self.top_ks), device=self.device))

    def _metric(self, ks: Any, scores: Tensor, labels: Tensor) -> Tensor:
        raise NotImplementedError(f"{type(self).__name__} must define _metric(ks, scores, labels)")


@ranking_metrics_registry.register_with_multiple_names("precision_at", "precision")
class PrecisionAt(RankingMetric):
    """Relevant items among the best k, divided by k."""

    rank_name = "precision_at"

    def _metric(self, ks: Any, scores: Tensor, labels: Tensor) -> Tensor:
        cutoffs, best = _labels_by_rank(ks, scores, labels)
        return _per_cutoff(cutoffs, lambda k: best[:, :k].sum(1) / k)


@ranking_metrics_registry.register_with_multiple_names("recall_at", "recall")
class RecallAt(RankingMetric):
    """Relevant items among the best k, divided by all relevant items."""

    rank_name = "recall_at"

    def _metric(self, ks: Any, scores: Tensor, labels: Tensor) -> Tensor:
        cutoffs, best = _labels_by_rank(ks, scores, labels)
        # A row without relevant items has none among the best either: 0 / 1.
        num_relevant = labels.to(torch.float32).sum(1)
        num_relevant = torch.where(num_relevant == 0, 1.0, num_relevant)
        return _per_cutoff(cutoffs, lambda k: best[:, :k].sum(1) / num_relevant)


@ranking_metrics_registry.register_with_multiple_names("avg_precision_at", "avg_precision", "map")
class AvgPrecisionAt(RankingMetric):
    """Precision at the rank of each relevant item among the best k, averaged."""

    rank_name = "avg_precision_at"

    def _metric(self, ks: Any, scores: Tensor, labels: Tensor) -> Tensor:
        cutoffs, best = _labels_by_rank(ks, scores, labels)
        ranks = torch.arange(1, best.shape[1] + 1, device=best.device)
        precisions = best.cumsum(1) / ranks * best
        num_relevant = labels.to(torch.float32).sum(1)
        return _per_cutoff(
            cutoffs, lambda k: precisions[:, :k].sum(1) / num_relevant.clamp(min=1, max=k)
        )


@ranking_metrics_registry.register_with_multiple_names("dcg_at", "dcg")
class DCGAt(RankingMetric):
    """Relevance over log2(rank + 1), ranks from 1, summed over the best k."""

    rank_name = "dcg_at"

    def _metric(self, ks: Any, scores: Tensor, labels: Tensor) -> Tensor:
        cutoffs, best = _labels_by_rank(ks, scores, labels)
        gains = best * _discounts(best.shape[1], best.device)
        return _per_cutoff(cutoffs, lambda k: gains[:, :k].sum(1))


@ranking_metrics_registry.register_with_multiple_names("ndcg_at", "ndcg")
class NDCGAt(RankingMetric):
    """DCG divided by that of the best order of the items found among the best ``max(top_ks)``.

    With one relevant item per row this is the usual NDCG. With several, those not found at the
    largest cut-off do not count in the denominator, as upstream.
    """

    rank_name = "ndcg_at"

    def _metric(self, ks: Any, scores: Tensor, labels: Tensor) -> Tensor:
        cutoffs, best = _labels_by_rank(ks, scores, labels)
        discounts = _discounts(best.shape[1], best.device)
        gains = best * discounts
        ideal = best.sort(dim=1, descending=True).values * discounts

        def ratio(k: int) -> Tensor:
            norm = ideal[:, :k].sum(1)
            return torch.where(norm == 0, 0.0, gains[:, :k].sum(1) / norm)

        return _per_cutoff(cutoffs, ratio)


@ranking_metrics_registry.register_with_multiple_names("mrr_at", "mrr")
class MeanReciprocalRankAt(RankingMetric):
    """One over the rank of the first relevant item, if it is among the best k."""

    rank_name = "mrr_at"

    def _metric(self, ks: Any, scores: Tensor, labels: Tensor) -> Tensor:
        cutoffs, best = _labels_by_rank(ks, scores, labels)
        reciprocal = best / torch.arange(1, best.shape[1] + 1, device=best.device)
        return _per_cutoff(cutoffs, lambda k: reciprocal[:, :k].amax(1))
