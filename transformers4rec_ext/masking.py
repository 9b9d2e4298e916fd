"""Which items are hidden from the model and which it must predict.

A masking is a function from item ids to ``(mask_schema, targets)``; the modules below add the
learned vector that stands for a hidden item. What a call needs is passed on as a value,
:class:`MaskedItems`. For the sake of bodies written for upstream the modules also remember the
last result in ``mask_schema`` and ``masked_targets``; :func:`read_targets` is the one place that
reads it back.
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from transformers4rec_ext._errors import type_error, value_error
from transformers4rec_ext.registry import Registry

Mode = Literal["training", "testing", "inference"]
MODES = ("training", "testing", "inference")

masking_registry = Registry("masking")


class MaskingInfo(NamedTuple):
    """The positions that stay visible or hold a label, and the labels.

    Attributes
    ----------
    schema : Tensor, bool, [B, T]
        Positions whose input the model may see.
    targets : Tensor, int64, [B, T]
        The item to predict at each position; ``padding_idx`` where there is none.
    """

    schema: Tensor
    targets: Tensor


class MaskedItems(NamedTuple):
    """The items of a batch, what of them is seen and what is asked: the values of one call.

    Made once, by :meth:`MaskSequence.mask`, and used both to mask the inputs and to label the
    outputs, so that a mask that is drawn at random is the same for both.

    Attributes
    ----------
    item_ids : Tensor, int64, [B, T]
    schema : Tensor, bool, [B, T]
        As in :class:`MaskingInfo`.
    targets : Tensor, int64, [B, T]
        As in :class:`MaskingInfo`.
    """

    item_ids: Tensor
    schema: Tensor
    targets: Tensor


def causal_targets(
    item_ids: Tensor, *, padding_idx: int = 0, last_only: bool = False, mode: Mode = "training"
) -> MaskingInfo:
    """Target at t = item at t + 1, where both are items.

    Parameters
    ----------
    item_ids : Tensor, int64, [B, T]
        Sessions, padded on the right with ``padding_idx``.
    padding_idx : int
    last_only : bool
        Keep the last target of every row only. Then every item is visible, not just those with
        a target: under causal attention the last target's position cannot see the item itself.
    mode : {"training", "testing", "inference"}
        "inference" has nothing to predict: the targets are the ids themselves, as upstream's.

    Returns
    -------
    MaskingInfo
        ``schema`` bool [B, T] and ``targets`` int64 [B, T]. A row of fewer than two items has no
        target.

    Notes
    -----
    No host synchronisation; all shapes are those of ``item_ids``.

    Examples
    --------
    >>> causal_targets(torch.tensor([[5, 7, 9, 0]])).targets.tolist()
    [[7, 9, 0, 0]]
    >>> causal_targets(torch.tensor([[5, 7, 9, 0]]), last_only=True).targets.tolist()
    [[0, 9, 0, 0]]
    """
    _check_item_ids("causal_targets", item_ids)
    if mode not in MODES:
        raise value_error("causal_targets", "mode", f"be one of {MODES}", repr(mode))
    is_item = item_ids != padding_idx
    if mode == "inference":
        return MaskingInfo(is_item, item_ids)
    following = torch.nn.functional.pad(item_ids[:, 1:], (0, 1), value=padding_idx)
    has_target = is_item & (following != padding_idx)
    schema = has_target
    if last_only:
        # Counted from the right, the last target of a row is the one that brings the count to 1.
        has_target = has_target & (has_target.flip(1).cumsum(1).flip(1) == 1)
        schema = is_item
    return MaskingInfo(schema, torch.where(has_target, following, padding_idx))


def _check_item_ids(function: str, item_ids: Tensor) -> None:
    # The words are upstream's, which raised AssertionError here.
    if item_ids.ndim != 2:
        raise AssertionError(f"`item_ids` must have 2 dimensions. Got {list(item_ids.shape)}.")
    if item_ids.dtype != torch.int64:
        raise type_error(
            function,
            "item_ids",
            "be int64 [B, T]",
            item_ids.dtype,
            "Keep item ids integers from the file to the model.",
        )


class MaskSequence(nn.Module):
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
        if not isinstance(hidden_size, int) or hidden_size < 1:
            raise value_error(
                type(self).__name__, "hidden_size", "be a positive int", repr(hidden_size)
            )
        if not isinstance(padding_idx, int) or padding_idx < 0:
            raise value_error(
                type(self).__name__, "padding_idx", "be a non-negative int", repr(padding_idx)
            )
        self.hidden_size = hidden_size
        self.padding_idx = padding_idx
        self.eval_on_last_item_seq_only = eval_on_last_item_seq_only
        self.mask_schema = None
        self.masked_targets = None
        self.masked_item_embedding = nn.Parameter(torch.empty(hidden_size))
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
        _check_item_ids("compute_masked_targets", item_ids)
        info = self._compute_masked_targets(item_ids, training=training, testing=testing)
        self.mask_schema, self.masked_targets = info
        return info

    def mask(self, item_ids: Tensor, training: bool = False, testing: bool = False) -> MaskedItems:
        """Return the values of one call for ``item_ids [B, T]``: what is seen and what is asked."""
        info = self.compute_masked_targets(item_ids, training=training, testing=testing)
        return MaskedItems(item_ids, info.schema, info.targets)

    def apply_mask_to_inputs(
        self, inputs: Tensor, mask_schema: Tensor, training: bool = False, testing: bool = False
    ) -> Tensor:
        """Return ``inputs [B, T, D]`` with the learned vector where ``mask_schema [B, T]``."""
        return torch.where(
            mask_schema.unsqueeze(-1), self.masked_item_embedding.to(inputs.dtype), inputs
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

        By ``masked``, or by what :meth:`mask` gives now.
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
        """Return ``input_size``: masking does not change the shape."""
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
            mode="training" if training else "testing" if testing else "inference",
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
