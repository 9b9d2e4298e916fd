"""What a model must beat: the most popular items, ranked by the same code."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from transformers4rec_ext.data.catalogue import Catalogue
from transformers4rec_ext.data.contexts import Contexts
from transformers4rec_ext.training.evaluation import held_out_ranks, summarize
from transformers4rec_ext.training.network import Query


def popularity_query(catalogue: Catalogue) -> Query:
    """Return a query that gives every item its count in the training part as its score.

    In float64, so that the scores are the counts: items of one count tie, and ties count against
    the baseline as they do against a model.
    """
    counts = torch.from_numpy(catalogue.popularity).double()[:, None]

    def query(ids: Tensor) -> tuple[Tensor, Tensor]:
        return torch.ones(*ids.shape, 1, dtype=torch.float64), counts

    return query


def popularity_metrics(
    catalogue: Catalogue, contexts: Iterable[Contexts], *, exclude_seen: bool = False
) -> dict[str, float]:
    """Return the ranking metrics of the popularity baseline.

    Parameters
    ----------
    catalogue : Catalogue
    contexts : iterable of Contexts
    exclude_seen : bool
        As for the model it is compared with.
    """
    ranks = held_out_ranks(
        popularity_query(catalogue),
        contexts,
        max_length=1,
        exclude_seen=exclude_seen,
    )
    return summarize(ranks)
