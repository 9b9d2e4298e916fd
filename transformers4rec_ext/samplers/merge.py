"""Sets of candidates whose size depends on the draw: valid ones first, static shapes."""

from __future__ import annotations

import torch

from transformers4rec_ext.ops.reference import INT64_MAX


def distinct_first(ids: torch.Tensor, valid: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Reorder ``ids`` [S]: the distinct ids among the ``valid`` ones, ascending, then the rest.

    Returns the ids and the number of the former, int64 []. Two sorts, no host synchronisation.
    """
    keys, order = torch.where(valid, ids, INT64_MAX).sort()
    keep = keys != INT64_MAX
    keep[1:] &= keys[1:] != keys[:-1]
    return valid_first(ids[order], keep)


def valid_first(ids: torch.Tensor, valid: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Reorder ``ids`` [S]: those that are ``valid`` in their order, then the rest; and count."""
    front = (~valid).to(torch.int8).argsort(stable=True)
    return ids[front], valid.sum()


def padded(log_q: torch.Tensor, count: torch.Tensor) -> torch.Tensor:
    """``log_q`` [S] with +inf from position ``count`` on, which excludes these candidates."""
    position = torch.arange(log_q.numel(), device=log_q.device)
    return torch.where(position < count, log_q, torch.inf)
