"""What a model must beat: the most popular items, ranked by the same code."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from transformers4rec_ext.data.catalogue import Catalogue
from transformers4rec_ext.data.contexts import Contexts
from transformers4rec_ext.training.evaluation import held_out_ranks
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


def popularity_ranks(
    catalogue: Catalogue, contexts: Iterable[Contexts], *, exclude_seen: bool = False
) -> Tensor:
    """Return the ranks by popularity of held-out items, as ``held_out_ranks`` does by a model.

    Parameters
    ----------
    catalogue : Catalogue
    contexts : iterable of Contexts
    exclude_seen : bool
        As for the model it is compared with.
    """
    query = popularity_query(catalogue)
    return held_out_ranks(query, contexts, max_length=1, exclude_seen=exclude_seen)
