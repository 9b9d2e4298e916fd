"""Masking modules: the learned vector that stands for a hidden item, and the targets."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from transformers4rec_ext._errors import value_error
from transformers4rec_ext._numbers import is_integer
from transformers4rec_ext._recipe import Recorded
from transformers4rec_ext.masking.targets import causal_targets
from transformers4rec_ext.masking.values import MaskedItems, MaskingInfo, check_item_ids
from transformers4rec_ext.registry import Registry

masking_registry = Registry("masking")


class MaskSequence(Recorded, nn.Module):
    """Base of all maskings: a learned vector for hidden items, and the targets.

    Parameters
    ----------
    hidden_size : int
        Width D of the vectors that are masked.
    padding_idx : int
        The id that marks padding.
    eval_on_last_item_seq_only : bool
        Whether testing asks for the last item of each session only.
    """

    #: Whether a position may look at earlier positions only. TransformerBlock enforces it.
    causal = False

    mask_schema: Tensor | None
    masked_targets: Tensor | None

    def __init__(
        self,
        hidden_size: int,
        padding_idx: int = 0,
        eval_on_last_item_seq_only: bool = True,
    ) -> None:
        super().__init__()
        if not is_integer(hidden_size) or hidden_size < 1:
            raise value_error(
                type(self).__name__, "hidden_size", "be a positive int", repr(hidden_size)
            )
        if not is_integer(padding_idx) or padding_idx < 0:
            raise value_error(
                type(self).__name__, "padding_idx", "be a non-negative int", repr(padding_idx)
            )
        self.hidden_size = int(hidden_size)
        self.padding_idx = int(padding_idx)
        self.eval_on_last_item_seq_only = eval_on_last_item_seq_only
        self.mask_schema = None
        self.masked_targets = None
        self.masked_item_embedding = nn.Parameter(torch.empty(self.hidden_size))
        nn.init.normal_(self.masked_item_embedding, mean=0.0, std=0.001)

    def _compute_masked_targets(
        self, item_ids: Tensor, training: bool = False, testing: bool = False
    ) -> MaskingInfo:
        raise NotImplementedError(
            f"{type(self).__name__} must define "
            "_compute_masked_targets(item_ids, training, testing)"
        )

    def compute_masked_targets(
        self, item_ids: Tensor, training: bool = False, testing: bool = False
    ) -> MaskingInfo:
        """Return ``(schema, targets)`` of ``item_ids [B, T]`` and remember them.

        Raises
        ------
        AssertionError
            If ``item_ids`` is not two-dimensional.
        """
        check_item_ids("compute_masked_targets", item_ids)
        info = self._compute_masked_targets(item_ids, training=training, testing=testing)
        self.mask_schema, self.masked_targets = info
        return info

    def mask(self, item_ids: Tensor, training: bool = False, testing: bool = False) -> MaskedItems:
        """Return the values of one call for ``item_ids [B, T]``: what is seen and what is asked."""
        info = self.compute_masked_targets(item_ids, training=training, testing=testing)
        return MaskedItems(item_ids, info.schema, info.targets, self.transformer_arguments or None)

    def apply_mask_to_inputs(
        self, inputs: Tensor, schema: Tensor, training: bool = False, testing: bool = False
    ) -> Tensor:
        """Return ``inputs [B, T, D]`` with the learned vector where ``schema [B, T]``.

        Of a schema [B, T + 1] the result is [B, T + 1, D]: the last column is there twice. In a
        session that ends before it that is padding once more.
        """
        if schema.shape[1] > inputs.shape[1]:
            last = (
                inputs[:, -1:]
                if inputs.shape[1]
                else inputs.new_zeros(len(inputs), 1, self.hidden_size)
            )
            inputs = torch.cat([inputs, last], dim=1)
        return torch.where(
            schema.unsqueeze(-1), self.masked_item_embedding.to(inputs.dtype), inputs
        )

    def predict_all(self, item_ids: Tensor) -> MaskingInfo:
        """Return the targets of every position: the next item."""
        return causal_targets(item_ids, padding_idx=self.padding_idx)

    def forward(
        self,
        inputs: Tensor,
        item_ids: Tensor,
        training: bool = False,
        testing: bool = False,
        masked: MaskedItems | None = None,
    ) -> Tensor:
        """Return the masked ``inputs [B, T, D]`` of ``item_ids [B, T]``.

        By ``masked``, or by what :meth:`mask` gives now; [B, T + 1, D] where that appends a
        position.
        """
        if inputs.shape[:2] != item_ids.shape or inputs.shape[-1] != self.hidden_size:
            raise value_error(
                type(self).__name__,
                "inputs",
                f"be [B={item_ids.shape[0]}, T={item_ids.shape[-1]}, D={self.hidden_size}]",
                list(inputs.shape),
            )
        if masked is None:
            masked = self.mask(item_ids, training=training, testing=testing)
        return self.apply_mask_to_inputs(inputs, masked.schema, training=training, testing=testing)

    def forward_output_size(self, input_size: Any) -> Any:
        """Return ``input_size``; inference of some maskings appends one position."""
        return input_size

    def transformer_required_arguments(self) -> dict[str, Any]:
        """Return what the transformer's forward must accept for this masking."""
        return {}

    def transformer_optional_arguments(self) -> dict[str, Any]:
        """Return what the transformer's forward is given if it accepts it."""
        return {}

    @property
    def transformer_arguments(self) -> dict[str, Any]:
        """All extra arguments of the transformer's forward."""
        return {**self.transformer_required_arguments(), **self.transformer_optional_arguments()}


def read_targets(masking: MaskSequence) -> Tensor:
    """Return the targets int64 [B, T] of the batch that ``masking`` saw last.

    Raises
    ------
    ValueError
        If it has seen none.
    """
    if masking.masked_targets is None:
        raise ValueError(
            "`mask_schema must be set.` The masking has not seen a batch yet: "
            "call the input module before the task."
        )
    return masking.masked_targets
