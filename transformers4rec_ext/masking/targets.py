"""Causal and masked targets: pure functions of ids, mode and generator."""

from __future__ import annotations

import torch
from torch import Tensor

from transformers4rec_ext.masking.values import (
    MaskingInfo,
    Mode,
    check_item_ids,
    check_mode,
    check_probability,
)


def causal_targets(
    item_ids: Tensor, *, padding_idx: int = 0, last_only: bool = False, mode: Mode = "training"
) -> MaskingInfo:
    """Target at t = item at t + 1, where both are items.

    Parameters
    ----------
    item_ids : Tensor, int64, [B, T]
        Sessions, padded with ``padding_idx``.
    padding_idx : int
    last_only : bool
        Keep the last target of every row only. Then every item is visible, not just those with
        a target: under causal attention the last target's position cannot see the item itself.
    mode : {"training", "testing", "inference"}
        "inference" has nothing to predict: the targets are the ids themselves, as upstream's.

    Returns
    -------
    MaskingInfo
        ``schema`` bool [B, T], True at visible positions, and ``targets`` int64 [B, T]. A row of
        fewer than two items has no target.

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
    check_item_ids("causal_targets", item_ids)
    check_mode("causal_targets", mode)
    is_item = item_ids != padding_idx
    if mode == "inference":
        return MaskingInfo(is_item, item_ids)
    following = torch.nn.functional.pad(item_ids[:, 1:], (0, 1), value=padding_idx)
    has_target = is_item & (following != padding_idx)
    schema = has_target
    if last_only:
        has_target = last_of(has_target)
        schema = is_item
    return MaskingInfo(schema, torch.where(has_target, following, padding_idx))


def masked_targets(
    item_ids: Tensor,
    *,
    padding_idx: int = 0,
    mode: Mode = "training",
    last_only: bool = True,
    probability: float = 0.15,
    generator: torch.Generator | None = None,
) -> MaskingInfo:
    """Target at t = item at t, at the positions that are hidden.

    Parameters
    ----------
    item_ids : Tensor, int64, [B, T]
        Sessions, padded with ``padding_idx``.
    padding_idx : int
    mode : {"training", "testing", "inference"}
        "training": one position of each session, drawn uniformly, and every other one with
        ``probability``, but never all. A session of L items so has ``1 + (L - 1) probability``
        hidden ones on average, one of a single item none.
        "testing": the last item of each session; with ``last_only=False`` as in training.
        "inference": the position after the last item, of T + 1.
    last_only : bool
    probability : float
    generator : torch.Generator, optional
        Of the device of ``item_ids``; torch's own when not given.

    Returns
    -------
    MaskingInfo
        ``schema`` bool [B, T], True at hidden positions, and ``targets`` int64 [B, T]. In
        "inference" [B, T + 1], with the last item as a stand-in for the target, as upstream's.

    Notes
    -----
    No host synchronisation; the shapes depend on those of ``item_ids`` only.

    Examples
    --------
    >>> masked_targets(torch.tensor([[5, 7, 9, 0]]), mode="testing").targets.tolist()
    [[0, 0, 9, 0]]
    >>> masked_targets(torch.tensor([[5, 7, 9, 0]]), mode="inference").schema.int().tolist()
    [[0, 0, 0, 1, 0]]
    """
    check_item_ids("masked_targets", item_ids)
    check_mode("masked_targets", mode)
    check_probability("masked_targets", "probability", probability)
    is_item = item_ids != padding_idx
    if mode == "inference":
        return _appended(item_ids, is_item, padding_idx)
    if mode == "testing" and last_only:
        schema = last_of(is_item)
    else:
        noise = torch.rand(3, *item_ids.shape, generator=generator, device=item_ids.device)
        drawn = is_item & ((noise[0] < probability) | one_of(is_item, noise[1]))
        schema = leave_one(drawn, is_item, noise[2])
    return MaskingInfo(schema, torch.where(schema, item_ids, padding_idx))


def _appended(item_ids: Tensor, is_item: Tensor, padding_idx: int) -> MaskingInfo:
    """Return the position after the last item of each row as the one hidden, [B, T + 1]."""
    places = torch.arange(item_ids.shape[1] + 1, device=item_ids.device)
    schema = places == end_of(is_item).unsqueeze(1)
    # Shifted by one, the last item stands where the next one is asked for.
    shifted = torch.nn.functional.pad(item_ids, (1, 0), value=padding_idx)
    return MaskingInfo(schema, torch.where(schema, shifted, padding_idx))


def last_of(chosen: Tensor) -> Tensor:
    """Return the last True of each row of ``chosen``, bool [B, T]."""
    # Counted from the right, it is the one that brings the count to 1.
    return chosen & (chosen.flip(1).cumsum(1).flip(1) == 1)


def end_of(chosen: Tensor) -> Tensor:
    """Return the position after the last True of each row of ``chosen``, int64 [B]; 0 of none."""
    return (chosen.flip(1).cumsum(1) > 0).sum(1)


def one_of(chosen: Tensor, noise: Tensor) -> Tensor:
    """Return one True of each row of ``chosen`` [B, T], by the largest ``noise`` in [0, 1)."""
    if chosen.shape[1] == 0:
        return chosen
    best = torch.where(chosen, noise, -1.0).argmax(1, keepdim=True)
    return chosen & (torch.arange(chosen.shape[1], device=chosen.device) == best)


def leave_one(hidden: Tensor, is_item: Tensor, noise: Tensor) -> Tensor:
    """Return ``hidden`` [B, T], without one position in rows where every item is hidden."""
    all_hidden = (hidden == is_item).all(1, keepdim=True)
    return hidden & ~(all_hidden & one_of(hidden, noise))
