"""Rows of length one, so that a product of two is the cosine of the angle between them."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F

from transformers4rec_ext.model.positions import IGNORED


class ScoredRows(NamedTuple):
    """What sampled scores read: item rows ``weight`` [*, D], and where in it the items are."""

    weight: torch.Tensor
    targets: torch.Tensor
    candidate_ids: torch.Tensor


def unit_rows(rows: torch.Tensor) -> torch.Tensor:
    """Return ``rows`` [..., D] divided by their lengths; rows of zeros stay, without gradient.

    In float32 at least, and of lengths that have a square there: 1e-19 to 1e19.
    """
    dtype = torch.promote_types(rows.dtype, torch.float32)
    length = torch.linalg.vector_norm(rows, dim=-1, keepdim=True, dtype=dtype)
    # infinite, and not a small number, whose inverse the gradient would be multiplied by
    length = length.masked_fill(length == 0, torch.inf)
    return (rows / length).to(rows.dtype)


def cosine_hidden(
    hidden: torch.Tensor, scale: float, labels: torch.Tensor | None = None
) -> torch.Tensor:
    """Return the hidden rows as scores read them: of length ``scale``, or as they are if it is 0.

    Rows with the label ``IGNORED`` become zeros: a NaN in one is to reach no gradient.
    """
    if not scale:
        return hidden
    if labels is not None:
        hidden = hidden.masked_fill((labels == IGNORED).unsqueeze(-1), 0)
    return unit_rows(hidden) * scale


def unit_rows_of(
    weight: torch.Tensor,
    targets: torch.Tensor,
    candidate_ids: torch.Tensor,
    *,
    sparse_grad: bool = False,
) -> ScoredRows:
    """Return the S + N rows that sampled scores read, of length one: nothing of size V is made.

    Equal ids have one place: a candidate that is a row's target is still found, and the gradients
    of an item that is the target of many rows meet before they are rounded to the weight's dtype.

    Parameters
    ----------
    weight : Tensor, floating, [V, D]
    targets : Tensor, int64, [N], in [0, V)
    candidate_ids : Tensor, int64, [S], in [0, V)
    sparse_grad : bool
        Whether the gradient of ``weight`` is a sparse COO tensor.
    """
    ids = torch.cat([candidate_ids, targets])
    ordered, order = ids.sort()
    places = order[torch.searchsorted(ordered, ids)]
    rows = unit_rows(F.embedding(ids, weight, sparse=sparse_grad))
    size = candidate_ids.shape[0]
    return ScoredRows(rows, places[size:], places[:size])
