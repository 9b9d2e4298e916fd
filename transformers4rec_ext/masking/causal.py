"""Causal language modeling: the next item, from the items before it."""

from __future__ import annotations

import torch
from torch import Tensor

from transformers4rec_ext.masking.base import MaskSequence, masking_registry
from transformers4rec_ext.masking.targets import causal_targets
from transformers4rec_ext.masking.values import MaskingInfo, mode_of


@masking_registry.register_with_multiple_names("clm", "causal")
class CausalLanguageModeling(MaskSequence):
    """Predict the next item from the items before it.

    Parameters
    ----------
    hidden_size : int
    padding_idx : int
    eval_on_last_item_seq_only : bool
        Whether testing asks for the last item of each session only.
    train_on_last_item_seq_only : bool
        Whether training asks for the last item of each session only.

    Notes
    -----
    Alone it hides nothing but padding and, where every position has a target, the last item:
    that position t does not see the item at t + 1 is the transformer's part, and
    :class:`~transformers4rec_ext.TransformerBlock` refuses one that does.
    """

    causal = True

    def __init__(
        self,
        hidden_size: int,
        padding_idx: int = 0,
        eval_on_last_item_seq_only: bool = True,
        train_on_last_item_seq_only: bool = False,
    ) -> None:
        super().__init__(hidden_size, padding_idx, eval_on_last_item_seq_only)
        self.train_on_last_item_seq_only = train_on_last_item_seq_only

    def _last_only(self, training: bool) -> bool:
        return self.train_on_last_item_seq_only if training else self.eval_on_last_item_seq_only

    def _compute_masked_targets(
        self, item_ids: Tensor, training: bool = False, testing: bool = False
    ) -> MaskingInfo:
        return causal_targets(
            item_ids,
            padding_idx=self.padding_idx,
            last_only=self._last_only(training),
            mode=mode_of(training, testing),
        )

    def apply_mask_to_inputs(
        self, inputs: Tensor, mask_schema: Tensor, training: bool = False, testing: bool = False
    ) -> Tensor:
        """Return ``inputs [B, T, D]`` with the learned vector where ``mask_schema`` is False.

        With labels, the last column never precedes one; it is zeroed where it is not masked, so
        that a full-length session hides its last item as upstream does.
        """
        visible = inputs
        if (training or testing) and self._last_only(training):
            visible = torch.nn.functional.pad(inputs[:, :-1], (0, 0, 0, 1))
        return torch.where(
            mask_schema.unsqueeze(-1), visible, self.masked_item_embedding.to(inputs.dtype)
        )
