"""Longformer's attention, kept from later positions. Imports transformers: import it late."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers.models.longformer.modeling_longformer import LongformerSelfAttention


class CausalLongformerSelfAttention(LongformerSelfAttention):
    """Attention to a window of earlier positions, and to the position itself."""

    def _sliding_chunks_query_key_matmul(
        self, query: Tensor, key: Tensor, window_overlap: int
    ) -> Tensor:
        # Scores are [B, T, heads, 2 w + 1], by the distance -w, ..., w of the key from the query.
        scores = super()._sliding_chunks_query_key_matmul(query, key, window_overlap)
        distance = torch.arange(scores.shape[-1], device=scores.device) - window_overlap
        return scores.masked_fill(distance > 0, -torch.inf)


def set_causal(transformer: Any, causal: bool) -> None:
    """Make every attention of a Longformer causal, or no more so."""
    classes = (LongformerSelfAttention, CausalLongformerSelfAttention)
    for module in transformer.modules():
        if type(module) in classes:
            module.__class__ = classes[causal]
