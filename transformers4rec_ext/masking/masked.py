"""Masked language modeling: the hidden items, from what stands on both sides of them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from transformers4rec_ext._errors import type_error
from transformers4rec_ext.masking.base import MaskSequence, masking_registry
from transformers4rec_ext.masking.targets import masked_targets
from transformers4rec_ext.masking.values import (
    MaskedItems,
    MaskingInfo,
    check_probability,
    mode_of,
)


@masking_registry.register_with_multiple_names("mlm", "masked")
class MaskedLanguageModeling(MaskSequence):
    """Predict hidden items from the others (BERT4Rec's Cloze task).

    Parameters
    ----------
    hidden_size : int
    padding_idx : int
    eval_on_last_item_seq_only : bool
        Whether testing hides the last item of each session. Otherwise it hides items at random as
        training does, and so measures the training objective on other sessions: its metrics are
        not those of predicting what comes next.
    mlm_probability : float
        Chance of an item to be hidden in training, besides the one hidden in every session.
    attend_to_padding : bool
        Whether the transformer looks at padded positions like at any other, as upstream's does:
        then the scores of a session depend on how far its batch is padded. Without, its forward
        is given an ``attention_mask`` of items and hidden positions. Weights are trained with one
        or with the other.

    Notes
    -----
    See :func:`masked_targets`. At inference a hidden position is appended to each session, so that
    outputs are [B, T + 1, D]. After a session of the full length T that is a position which was
    never trained: serve the last T - 1 items of longer sessions. In training, sessions of one
    item have no target; in testing, such an item is predicted from nothing, as upstream does.
    """

    attention_mask: Tensor | None

    def __init__(
        self,
        hidden_size: int,
        padding_idx: int = 0,
        eval_on_last_item_seq_only: bool = True,
        mlm_probability: float = 0.15,
        attend_to_padding: bool = True,
    ) -> None:
        super().__init__(hidden_size, padding_idx, eval_on_last_item_seq_only)
        name = type(self).__name__
        check_probability(name, "mlm_probability", mlm_probability)
        if not isinstance(attend_to_padding, bool):
            got = type(attend_to_padding).__name__
            raise type_error(name, "attend_to_padding", "be a bool", got)
        self.mlm_probability = mlm_probability
        self.attend_to_padding = attend_to_padding
        self.attention_mask = None

    def _compute_masked_targets(
        self, item_ids: Tensor, training: bool = False, testing: bool = False
    ) -> MaskingInfo:
        info = masked_targets(
            item_ids,
            padding_idx=self.padding_idx,
            mode=mode_of(training, testing),
            last_only=self.eval_on_last_item_seq_only,
            probability=self.mlm_probability,
        )
        if not self.attend_to_padding:
            self.attention_mask = self._attended(item_ids, info.schema)
        return info

    def mask(self, item_ids: Tensor, training: bool = False, testing: bool = False) -> MaskedItems:
        """Return the values of one call, what is attended to among them."""
        info = self.compute_masked_targets(item_ids, training=training, testing=testing)
        arguments = None
        if not self.attend_to_padding:  # anew: another thread may have masked since
            arguments = {"attention_mask": self._attended(item_ids, info.schema)}
        return MaskedItems(item_ids, info.schema, info.targets, arguments)

    def _attended(self, item_ids: Tensor, schema: Tensor) -> Tensor:
        """Return 1 where attention may look, float32 of the shape of ``schema``: no padding.

        These are the items and what is hidden; of a session without items its first position, since
        an average over nothing is not a number.
        """
        attended = schema.clone()
        attended[:, : item_ids.shape[1]] |= item_ids != self.padding_idx
        attended[:, :1] |= ~attended.any(1, keepdim=True)
        return attended.to(torch.float32)

    def transformer_required_arguments(self) -> dict[str, Any]:
        """Return the ``attention_mask`` of the batch that was masked last, if padding is hidden."""
        return {} if self.attend_to_padding else {"attention_mask": self.attention_mask}
