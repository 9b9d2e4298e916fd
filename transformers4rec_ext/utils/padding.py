"""Ragged columns as rectangles: values and offsets to [B, T], zeros on the right."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from transformers4rec_ext import _checks
from transformers4rec_ext._errors import type_error, value_error

VALUES, OFFSETS = "__values", "__offsets"


def pad_inputs(
    inputs: Mapping[str, Tensor],
    max_sequence_length: int | None = None,
    *,
    function: str = "pad_inputs",
) -> dict[str, Tensor]:
    """Return a copy of ``inputs`` with its ragged columns padded to one length.

    A ragged column ``name`` is a pair ``name__values`` [L] and ``name__offsets`` [B+1]. All are
    padded with zeros to the longest row of the batch, cut at ``max_sequence_length``; where all
    rows are empty, or there are none, to one position of padding. Other columns are passed on.

    Parameters
    ----------
    inputs : mapping from name to tensor
    max_sequence_length : int, optional
    function : str
        Who asks, for the errors.

    Raises
    ------
    ValueError   if one half of a ragged column is missing or its offsets do not fit, or
                 ``max_sequence_length`` is below 1.
    TypeError    if a name is no str.

    Examples
    --------
    >>> ragged = {"a__values": torch.tensor([1, 2, 3]), "a__offsets": torch.tensor([0, 2, 3])}
    >>> pad_inputs(ragged)
    {'a': tensor([[1, 2], [3, 0]])}
    """
    _checks.positive_or_none(function, "max_sequence_length", max_sequence_length)
    offsets = ragged_columns(inputs, function)
    halves = {name + half for name in offsets for half in (VALUES, OFFSETS)}
    padded = {name: value for name, value in inputs.items() if name not in halves}
    if not offsets:
        return padded
    length: Any
    if torch.jit.is_tracing():  # where a number would be that of the batch that is traced
        longest = torch.stack([ends.diff().max() for ends in offsets.values()])
        length = longest.max().clamp(min=1, max=max_sequence_length)
    else:
        length = max(1, *_longest_rows(function, inputs, offsets))
        length = length if max_sequence_length is None else min(length, max_sequence_length)
    for name, ends in offsets.items():
        padded[name] = pad_ragged(inputs[name + VALUES], ends, length)
    return padded


def pad_batch(batch: Mapping[str, Tensor], padding_lengths: Mapping[str, int]) -> dict[str, Tensor]:
    """Return a copy of ``batch`` whose columns are as long as ``padding_lengths`` says.

    Ragged columns become [B, T], and columns [B, T, ...] are padded with zeros or cut; columns [B],
    and those that are dense and not named, are passed on.

    Parameters
    ----------
    batch : mapping from name to tensor
    padding_lengths : mapping from name to int

    Raises
    ------
    ValueError   if a ragged column has no length, one of its halves is missing or does not fit,
                 or a length is below 1.
    TypeError    if a name is no str.
    """
    for name, length in padding_lengths.items():
        _checks.integer("pad_batch", f"padding_lengths[{name!r}]", length, minimum=1)
    padded: dict[str, Tensor] = {}
    offsets = ragged_columns(batch, "pad_batch")
    for name in offsets:
        if name not in padding_lengths:
            raise ValueError(
                f"Found ragged column '{name}' with unspecified padding length. "
                "Please provide a padding length for this feature to be converted to a dense "
                "tensor."
            )
    _longest_rows("pad_batch", batch, offsets)
    for name, ends in offsets.items():
        padded[name] = pad_ragged(batch[name + VALUES], ends, padding_lengths[name])
    for name, value in batch.items():
        if name.removesuffix(VALUES).removesuffix(OFFSETS) in offsets:
            continue
        length = padding_lengths.get(name, 0)
        padded[name] = pad_dense(value, length) if name in padding_lengths else value
    return padded


def pad_dense(value: Tensor, length: int, fill: int = 0) -> Tensor:
    """Return ``value`` [B, T, ...] as [B, length, ...]: ``fill`` on the right, or cut."""
    if value.dim() < 2:
        return value
    missing = length - value.shape[1]
    if missing <= 0:
        return value[:, :length]
    shape = (value.shape[0], missing, *value.shape[2:])
    return torch.cat([value, value.new_full(shape, fill)], dim=1)


def ragged_columns(inputs: Mapping[str, Tensor], function: str) -> dict[str, Tensor]:
    """Return the offsets of the ragged columns, by name; both halves must be there."""
    if not all(isinstance(name, str) for name in inputs):
        others = [name for name in inputs if not isinstance(name, str)]
        raise type_error(function, "inputs", "have column names that are str", others)
    offsets = {
        name.removesuffix(OFFSETS): value
        for name, value in inputs.items()
        if name.endswith(OFFSETS)
    }
    halves = {name.removesuffix(VALUES) for name in inputs if name.endswith(VALUES)}
    if halves != set(offsets):
        raise value_error(
            function,
            "inputs",
            "hold name__values and name__offsets together",
            sorted(halves ^ set(offsets)),
        )
    return offsets


def check_same_lengths(function: str, inputs: Mapping[str, Tensor], names: Iterable[str]) -> None:
    """Raise ValueError unless the ragged ones of the columns ``names`` have the same row lengths.

    Of tensors on the CPU only, where a look waits for nothing.
    """
    offsets = {name: inputs[name + OFFSETS] for name in names if name + OFFSETS in inputs}
    if len(offsets) < 2 or torch.compiler.is_compiling() or torch.jit.is_tracing():
        return
    if any(ends.device.type != "cpu" for ends in offsets.values()):
        return
    if any(ends.dim() != 1 for ends in offsets.values()):
        return  # padding them says so
    (first, expected), *others = offsets.items()
    for name, ends in others:
        if ends.shape != expected.shape:
            counts = {first: expected.numel() - 1, name: ends.numel() - 1}
            raise value_error(function, "inputs", "have sequences for the same rows", counts)
        if (ends != expected).any():
            differ = ends.diff() != expected.diff()
            row = int(differ.nonzero()[0]) if differ.any() else 0
            lengths = {n: int(e.diff()[row]) for n, e in ((first, expected), (name, ends))}
            raise value_error(
                function,
                "inputs",
                "have sequences of one length in each row",
                f"{lengths} in row {row}",
                "Position t of every sequence column must be of the item at t.",
            )


def _longest_rows(
    function: str, inputs: Mapping[str, Tensor], offsets: Mapping[str, Tensor]
) -> list[int]:
    """Return the length of the longest row of each column; ValueError if offsets do not fit.

    Values are looked at once for all columns: on a GPU that waits.
    """
    if not offsets:
        return []
    for name, ends in offsets.items():
        if ends.is_floating_point() or ends.dim() != 1 or ends.numel() == 0:
            raise value_error(
                function,
                f"inputs['{name}{OFFSETS}']",
                "be ints [B+1]",
                f"{ends.dtype} {list(ends.shape)}",
            )
    # The end counts as a row of no length, so that there is a smallest where there are no rows.
    lengths = {name: torch.cat([ends.diff(), ends[:1] * 0]) for name, ends in offsets.items()}
    facts = [
        torch.stack([lengths[name].max(), lengths[name].min(), ends[0], ends[-1]]).long()
        for name, ends in offsets.items()
    ]
    longest = []
    for name, (most, least, first, last) in zip(offsets, torch.stack(facts).tolist(), strict=True):
        count = inputs[name + VALUES].shape[0]
        if least < 0 or first != 0 or last != count:
            raise value_error(
                function,
                f"inputs['{name}{OFFSETS}']",
                f"rise from 0 to the number of values ({count})",
                f"{first} to {last}" + (", falling in between" if least < 0 else ""),
            )
        longest.append(most)
    return longest


def pad_ragged(values: Tensor, offsets: Tensor, length: Any) -> Tensor:
    """Return ``values`` [L, ...] as [B, length, ...], zeros on the right; of valid offsets."""
    positions = torch.arange(length, device=values.device)
    within = positions < offsets.diff().unsqueeze(1)
    # Padding is looked up in a row of zeros behind the values.
    index = torch.where(within, offsets[:-1].unsqueeze(1) + positions, values.shape[0])
    behind = values.new_zeros((1, *values.shape[1:]))
    return torch.cat([values, behind])[index]
