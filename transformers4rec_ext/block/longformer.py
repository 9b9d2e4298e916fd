"""Longformer's attention, without global positions or later ones.

Imports transformers: import it late.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers.models.longformer.modeling_longformer import LongformerSelfAttention


class LocalLongformerSelfAttention(LongformerSelfAttention):
    """Attention that torch.export can trace: to a window of positions, none of them global.

    Transformers looks in the mask whether there is a global position, which no mask of a block
    asks for. While that is not known, because the values are not, there is none; an exported
    program checks it.
    """

    def forward(
        self,
        hidden_states: Tensor,
        attention_mask: Tensor | None = None,
        is_index_masked: Tensor | None = None,
        is_index_global_attn: Tensor | None = None,
        is_global_attn: Any = None,
        output_attentions: bool = False,
    ) -> Any:
        """Attend as the base does."""
        if torch.compiler.is_compiling():
            torch._check(
                torch.sym_not(is_global_attn), lambda: "compiled, it has no global positions"
            )
        return super().forward(
            hidden_states,
            attention_mask=attention_mask,
            is_index_masked=is_index_masked,
            is_index_global_attn=is_index_global_attn,
            is_global_attn=is_global_attn,
            output_attentions=output_attentions,
        )


class CausalLongformerSelfAttention(LocalLongformerSelfAttention):
    """Attention to a window of earlier positions, and to the position itself."""

    def _sliding_chunks_query_key_matmul(
        self, query: Tensor, key: Tensor, window_overlap: int
    ) -> Tensor:
        # Scores are [B, T, heads, 2 w + 1], by the distance -w, ..., w of the key from the query.
        scores = super()._sliding_chunks_query_key_matmul(query, key, window_overlap)
        distance = torch.arange(scores.shape[-1], device=scores.device) - window_overlap
        return scores.masked_fill(distance > 0, -torch.inf)


PARTS: dict[type, type] = {LongformerSelfAttention: LocalLongformerSelfAttention}
CAUSAL: dict[type, type] = {LocalLongformerSelfAttention: CausalLongformerSelfAttention}
