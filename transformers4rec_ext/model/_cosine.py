"""Rows of length one, so that a product of two is the cosine of the angle between them."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F


class UnitRows(NamedTuple):
    """Item rows of one batch: ``weight`` [S + N, D], and where in it items are."""

    weight: torch.Tensor
    targets: torch.Tensor
    candidate_ids: torch.Tensor


def unit_rows(rows: torch.Tensor) -> torch.Tensor:
    """Return ``rows`` [..., D] divided by their lengths; rows of zeros stay, without gradient.

    The lengths are float32 at least.
    """
    dtype = torch.promote_types(rows.dtype, torch.float32)
    length = torch.linalg.vector_norm(rows, dim=-1, keepdim=True, dtype=dtype)
    # infinite, and not a small number, whose inverse the gradient would be multiplied by
    length = length.masked_fill(length == 0, torch.inf)
    return (rows / length).to(rows.dtype)


def unit_rows_of(
    weight: torch.Tensor,
    targets: torch.Tensor,
    candidate_ids: torch.Tensor,
    *,
    sparse_grad: bool = False,
) -> UnitRows:
    """Return the rows that sampled scores read, of length one: nothing of size V is made.

    Equal ids have equal places, so that a candidate that is a row's target is still found.

    Parameters
    ----------
    weight : Tensor, floating, [V, D]
    targets : Tensor, int64, [N], in [0, V)
    candidate_ids : Tensor, int64, [S], in [0, V)
    sparse_grad : bool
        Whether the gradient of ``weight`` is a sparse COO tensor.
    """
    last = candidate_ids.shape[0] - 1
    ordered, order = candidate_ids.sort()

    def places(ids: torch.Tensor, otherwise: torch.Tensor) -> torch.Tensor:
        first = torch.searchsorted(ordered, ids).clamp(max=last)
        return torch.where(ordered[first] == ids, order[first], otherwise)

    beyond = torch.arange(targets.shape[0], device=targets.device) + last + 1
    rows = F.embedding(torch.cat([candidate_ids, targets]), weight, sparse=sparse_grad)
    return UnitRows(unit_rows(rows), places(targets, beyond), places(candidate_ids, order))
