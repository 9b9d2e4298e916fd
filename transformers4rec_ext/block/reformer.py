"""Reformer's positions, looked up in one step. Imports transformers: import it late."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers.models.reformer.modeling_reformer import AxialPositionEmbeddings


class TableAxialPositionEmbeddings(AxialPositionEmbeddings):
    """Positions as sums of axes, looked up at inference without a loop over the sessions.

    Transformers takes session after session, so that no other number of them fits what
    torch.export traced.
    """

    def forward(self, position_ids: Tensor) -> Any:
        """Return the vectors [B, T, D] of ``position_ids`` [B, T]."""
        if self.training:
            return super().forward(position_ids)
        axes = [weight.expand(*self.axial_pos_shape, -1) for weight in self.weights]
        return torch.cat(axes, dim=-1).flatten(end_dim=-2)[position_ids]


PARTS = {AxialPositionEmbeddings: TableAxialPositionEmbeddings}
