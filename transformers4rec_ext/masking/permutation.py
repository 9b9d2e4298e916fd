"""Permutation language modeling: hidden items, one after the other in a random order."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from transformers4rec_ext._errors import type_error, value_error
from transformers4rec_ext._numbers import is_integer
from transformers4rec_ext.masking.base import MaskSequence, masking_registry
from transformers4rec_ext.masking.targets import last_of, leave_one, masked_targets, one_of
from transformers4rec_ext.masking.values import (
    MaskedItems,
    MaskingInfo,
    Mode,
    check_item_ids,
    check_mode,
    check_probability,
    mode_of,
)


class PermutationInfo(NamedTuple):
    """What :func:`permutation_targets` returns; T is T + 1 at inference.

    Attributes
    ----------
    schema : Tensor, bool, [B, T]
        Positions that hold a label.
    targets : Tensor, int64, [B, T]
        The item at each of these positions; ``padding_idx`` elsewhere.
    target_mapping : Tensor, float32, [B, T, T]
        The identity: output t of the transformer is about position t.
    perm_mask : Tensor, float32, [B, T, T]
        1 where the query (row) may not look at the key (column).
    """

    schema: Tensor
    targets: Tensor
    target_mapping: Tensor
    perm_mask: Tensor


def permutation_targets(
    item_ids: Tensor,
    *,
    padding_idx: int = 0,
    mode: Mode = "training",
    last_only: bool = True,
    probability: float = 1 / 6,
    max_span_length: int = 5,
    permute_all: bool = False,
    generator: torch.Generator | None = None,
) -> PermutationInfo:
    """Target at t = item at t, at positions that look at others in a random order.

    Parameters
    ----------
    item_ids : Tensor, int64, [B, T]
        Sessions, padded with ``padding_idx``.
    padding_idx : int
    mode : {"training", "testing", "inference"}
        "training": spans of items (or all, with ``permute_all``), at least one of a session of two
        items and never all; they see the items that have no label, and those before them in the
        order drawn. "testing": the last item, from those before it; with ``last_only=False``
        every item but the first, each from those before it. "inference": the position after
        the last item, from all items.
    last_only : bool
    probability : float
        A span of s items lies within a stretch of ``int(s / probability)`` items.
    max_span_length : int
        Spans have a uniformly drawn length from 1 to this.
    permute_all : bool
        All items but one, drawn uniformly, have a label.
    generator : torch.Generator, optional
        Of the device of ``item_ids``; torch's own when not given.

    Notes
    -----
    XLNet (arXiv:1906.08237), section 2.6. No host synchronisation, no loop over rows.

    Examples
    --------
    >>> info = permutation_targets(torch.tensor([[5, 7, 9]]), mode="testing")
    >>> info.targets.tolist(), info.perm_mask[0].int().tolist()
    ([[0, 0, 9]], [[0, 1, 1], [0, 0, 1], [0, 0, 1]])
    """
    check_item_ids("permutation_targets", item_ids)
    check_mode("permutation_targets", mode)
    check_probability("permutation_targets", "probability", probability)
    is_item = item_ids != padding_idx
    if mode == "inference":
        schema, targets = masked_targets(item_ids, padding_idx=padding_idx, mode=mode)
        blocked = _later(schema) | schema.unsqueeze(1)
        return _info(schema, targets, blocked)
    if mode == "testing" and last_only:
        schema = last_of(is_item)
        blocked = _later(schema) | schema.unsqueeze(1)
    elif mode == "testing":
        schema = is_item & (is_item.cumsum(1) > 1)
        blocked = (_later(schema) | _itself(schema)).expand(schema.shape[0], -1, -1)
    else:
        noise = torch.rand(3, *item_ids.shape, generator=generator, device=item_ids.device)
        hidden = is_item
        if not permute_all:
            hidden = is_item & _spans(is_item, probability, max_span_length, generator)
            hidden = hidden | (~hidden.any(1, keepdim=True) & one_of(is_item, noise[0]))
        schema = leave_one(hidden, is_item, noise[1])
        # What has no label comes first in the order, and is seen by all.
        order = torch.where(schema, noise[2], -1.0)
        blocked = schema.unsqueeze(1) & (order.unsqueeze(2) <= order.unsqueeze(1))
    return _info(schema, torch.where(schema, item_ids, padding_idx), blocked)


def _info(schema: Tensor, targets: Tensor, blocked: Tensor) -> PermutationInfo:
    mapping = _itself(schema).to(torch.float32).expand(schema.shape[0], -1, -1)
    return PermutationInfo(schema, targets, mapping, blocked.to(torch.float32))


def _itself(schema: Tensor) -> Tensor:
    places = torch.arange(schema.shape[1], device=schema.device)
    return (places == places.unsqueeze(1)).unsqueeze(0)


def _later(schema: Tensor) -> Tensor:
    """Return bool [1, T, T], True where the key (column) comes after the query (row)."""
    places = torch.arange(schema.shape[1], device=schema.device)
    return (places > places.unsqueeze(1)).unsqueeze(0)


def _spans(
    is_item: Tensor, probability: float, max_span_length: int, generator: torch.Generator | None
) -> Tensor:
    """Return bool [B, T]: one span in each of the stretches that tile a row."""
    batch, length = is_item.shape
    device = is_item.device
    stretches = -(-length // int(1 / probability))  # the shortest ones would fill the row
    span = torch.randint(
        1, max_span_length + 1, (batch, stretches), generator=generator, device=device
    )
    stretch = (span.to(torch.float64) / probability).to(torch.int64)
    noise = torch.rand(batch, stretches, generator=generator, device=device, dtype=torch.float64)
    begin = stretch.cumsum(1) - stretch + (noise * (stretch - span + 1)).to(torch.int64)
    places = torch.arange(length, device=device)
    inside = (places >= begin.unsqueeze(2)) & (places < (begin + span).unsqueeze(2))
    return inside.any(1)


@masking_registry.register_with_multiple_names("plm", "permutation")
class PermutationLanguageModeling(MaskSequence):
    """Predict hidden items in a random order (XLNet); see :func:`permutation_targets`.

    Parameters
    ----------
    hidden_size : int
    padding_idx : int
    eval_on_last_item_seq_only : bool
        Whether testing asks for the last item of each session only; otherwise for every item but
        the first, each from those before it.
    plm_probability : float
        The part of a session that is predicted, on average.
    max_span_length : int
        The longest run of hidden items.
    permute_all : bool
        Predict all items but one instead of spans.

    Notes
    -----
    The transformer must have XLNet's two streams: its forward takes ``target_mapping`` and
    ``perm_mask``. At inference a hidden position is appended to each session, as
    :class:`MaskedLanguageModeling` does (see there), so that the last item is seen.
    """

    target_mapping: Tensor | None
    perm_mask: Tensor | None

    def __init__(
        self,
        hidden_size: int,
        padding_idx: int = 0,
        eval_on_last_item_seq_only: bool = True,
        plm_probability: float = 1 / 6,
        max_span_length: int = 5,
        permute_all: bool = False,
    ) -> None:
        super().__init__(hidden_size, padding_idx, eval_on_last_item_seq_only)
        name = type(self).__name__
        check_probability(name, "plm_probability", plm_probability)
        if not is_integer(max_span_length) or max_span_length < 1:
            raise value_error(name, "max_span_length", "be a positive int", repr(max_span_length))
        if not isinstance(permute_all, bool):
            raise type_error(name, "permute_all", "be a bool", type(permute_all).__name__)
        self.plm_probability = plm_probability
        self.max_span_length = int(max_span_length)
        self.permute_all = permute_all
        self.target_mapping = None
        self.perm_mask = None

    def _draw(self, item_ids: Tensor, training: bool, testing: bool) -> PermutationInfo:
        info = permutation_targets(
            item_ids,
            padding_idx=self.padding_idx,
            mode=mode_of(training, testing),
            last_only=self.eval_on_last_item_seq_only,
            probability=self.plm_probability,
            max_span_length=self.max_span_length,
            permute_all=self.permute_all,
        )
        self.mask_schema, self.masked_targets, self.target_mapping, self.perm_mask = info
        return info

    def compute_masked_targets(
        self, item_ids: Tensor, training: bool = False, testing: bool = False
    ) -> MaskingInfo:
        """Return ``(schema, targets)`` of ``item_ids [B, T]``; remember them and the order drawn.

        Raises
        ------
        AssertionError
            If ``item_ids`` is not two-dimensional.
        """
        info = self._draw(item_ids, training, testing)
        return MaskingInfo(info.schema, info.targets)

    def mask(self, item_ids: Tensor, training: bool = False, testing: bool = False) -> MaskedItems:
        """Return the values of one call, the order drawn among them."""
        info = self._draw(item_ids, training, testing)
        arguments = {"target_mapping": info.target_mapping, "perm_mask": info.perm_mask}
        return MaskedItems(item_ids, info.schema, info.targets, arguments)

    def apply_mask_to_inputs(
        self, inputs: Tensor, schema: Tensor, training: bool = False, testing: bool = False
    ) -> Tensor:
        """Return ``inputs [B, T, D]`` with the learned vector where ``schema [B, T]``.

        Where testing asks for every item they stay as they are: ``perm_mask`` alone keeps each
        from what is asked, and what is asked of one position is known to those after it.
        """
        if testing and not training and not self.eval_on_last_item_seq_only:
            return inputs
        return super().apply_mask_to_inputs(inputs, schema, training=training, testing=testing)

    def transformer_required_arguments(self) -> dict[str, Any]:
        """Return ``target_mapping`` and ``perm_mask`` of the batch that was masked last."""
        return {"target_mapping": self.target_mapping, "perm_mask": self.perm_mask}
