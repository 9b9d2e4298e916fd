"""XLNet's attention in two streams, of any dtype. Imports transformers: import it late."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from transformers.models.xlnet.modeling_xlnet import XLNetRelativeAttention


class TypedXLNetRelativeAttention(XLNetRelativeAttention):
    """Attention that takes its positions in the dtype of its weights.

    They come in float32. With one stream transformers converts them; with the second one, which
    ``target_mapping`` asks for, it does not, and no other dtype can be used.
    """

    def forward(
        self,
        h: Tensor,
        g: Tensor | None,
        attn_mask_h: Tensor | None,
        attn_mask_g: Tensor | None,
        r: Tensor,
        *args: Any,
        **kwargs: Any,
    ) -> Any:
        """Attend as the base does, with the positions ``r`` in the dtype of the weights."""
        positions = r.to(self.r.dtype)
        return super().forward(h, g, attn_mask_h, attn_mask_g, positions, *args, **kwargs)


PARTS = {XLNetRelativeAttention: TypedXLNetRelativeAttention}
