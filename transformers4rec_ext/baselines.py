"""What a model must beat: the most popular items, ranked by the same code."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from transformers4rec_ext.data.catalogue import Catalogue
from transformers4rec_ext.data.contexts import Contexts
from transformers4rec_ext.training.evaluation import held_out_ranks, summarize
from transformers4rec_ext.training.network import Scorer


def popularity_scorer(catalogue: Catalogue) -> Scorer:
    """Return a scorer that gives every item its count in the training part.

    The scores are the counts themselves, float64: items of one count tie, and ties count against
    the baseline as they do against a model.
    """
    counts = torch.from_numpy(catalogue.popularity).double()

    def score(ids: Tensor) -> Tensor:
        return counts.expand(len(ids), -1)

    return score


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
        popularity_scorer(catalogue),
        contexts,
        num_items=catalogue.num_items,
        max_length=1,
        exclude_seen=exclude_seen,
    )
    return summarize(ranks)
