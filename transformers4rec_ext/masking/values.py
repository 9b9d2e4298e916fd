"""The values of a call: what of a batch is seen, and what is asked."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from transformers4rec_ext._errors import type_error, value_error
from transformers4rec_ext._numbers import is_number

Mode = Literal["training", "testing", "inference"]
MODES = ("training", "testing", "inference")


class MaskingInfo(NamedTuple):
    """The positions that stay visible or hold a label, and the labels.

    Attributes
    ----------
    schema : Tensor, bool, [B, T]
        Causal: the positions whose input the model may see. Otherwise: those that hold a label.
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
        As in :class:`MaskingInfo`; [B, T + 1] where inference appends a position to predict.
    targets : Tensor, int64, [B, T]
        As in :class:`MaskingInfo`.
    transformer_arguments : dict, optional
        What the transformer's forward is given for this batch besides the inputs.
    """

    item_ids: Tensor
    schema: Tensor
    targets: Tensor
    transformer_arguments: dict[str, Any] | None = None


def check_item_ids(function: str, item_ids: Tensor) -> None:
    """Raise unless ``item_ids`` is int64 [B, T]."""
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


def check_mode(function: str, mode: str) -> None:
    """Raise unless ``mode`` is one of MODES."""
    if mode not in MODES:
        raise value_error(function, "mode", f"be one of {MODES}", repr(mode))


def check_probability(function: str, name: str, probability: Any) -> None:
    """Raise unless ``probability`` is a number above 0 and at most 1."""
    if not is_number(probability):
        raise type_error(function, name, "be a number", type(probability).__name__)
    if not 0.0 < probability <= 1.0:
        raise value_error(function, name, "be above 0 and at most 1", probability)


def mode_of(training: bool, testing: bool) -> Mode:
    """Return the mode that the flags of a call mean: training wins where both are set."""
    return "training" if training else "testing" if testing else "inference"
