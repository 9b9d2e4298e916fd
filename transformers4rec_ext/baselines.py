"""What a model must beat: the most popular items."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor

from transformers4rec_ext.data.catalogue import Catalogue
from transformers4rec_ext.data.contexts import Contexts
from transformers4rec_ext.ranking_metric import MISSED

_ROWS = 256


def popularity_ranks(
    catalogue: Catalogue, contexts: Iterable[Contexts], *, exclude_seen: bool = False
) -> Tensor:
    """Return the ranks of held-out items where every item scores its count in the training part.

    They are those that ``held_out_ranks`` would find: items of one count tie, ties count against
    the target, and so does what it calls a miss. Since counts do not rise with the id, the rank is
    how many items have at least the target's count, by bisection: O(log V) a target.

    Parameters
    ----------
    catalogue : Catalogue
    contexts : iterable of Contexts
    exclude_seen : bool
        As for the model it is compared with.

    Returns
    -------
    Tensor, int64, [targets]
        From 1; ``MISSED`` for a miss.
    """
    rising = -catalogue.counts
    found = []
    for chunk in contexts:
        ranks = np.full(len(chunk.targets), MISSED, np.int64)
        ranked = np.flatnonzero((chunk.targets > 0) & (chunk.lengths > 0))
        own = rising[chunk.targets[ranked] - 1]
        ranks[ranked] = np.searchsorted(rising, own, side="right")
        if exclude_seen:
            for _, rows, _ in chunk.batches(_ROWS, 1):
                _leave_out(ranks, rows, chunk, rising)
        found.append(ranks)
    return torch.from_numpy(np.concatenate(found) if found else np.zeros(0, np.int64))


def _leave_out(ranks: np.ndarray, rows: np.ndarray, chunk: Contexts, rising: np.ndarray) -> None:
    """Take the items that the contexts ``rows`` hold out of the ranking."""
    seen = np.sort(chunk.seen(rows).numpy(), axis=1)
    targets = chunk.targets[rows, None]
    distinct = seen > 0
    distinct[:, 1:] &= seen[:, 1:] != seen[:, :-1]
    own = rising[np.maximum(targets, 1) - 1]
    above = (distinct & (rising[np.maximum(seen, 1) - 1] <= own)).sum(axis=1)
    missed = (ranks[rows] == MISSED) | (seen == targets).any(axis=1)
    ranks[rows] = np.where(missed, MISSED, ranks[rows] - above)
