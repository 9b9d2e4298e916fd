"""Ragged columns as rectangles: values and offsets to [B, T], zeros on the right."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from transformers4rec_ext._errors import value_error

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
    ValueError   if one half of a ragged column is missing or its offsets do not fit.

    Examples
    --------
    >>> ragged = {"a__values": torch.tensor([1, 2, 3]), "a__offsets": torch.tensor([0, 2, 3])}
    >>> pad_inputs(ragged)
    {'a': tensor([[1, 2], [3, 0]])}
    """
    offsets = ragged_columns(inputs, function)
    length = max([1, *(_longest_row(function, name, offsets[name]) for name in offsets)])
    if max_sequence_length is not None:
        length = min(length, max_sequence_length)
    halves = {name + half for name in offsets for half in (VALUES, OFFSETS)}
    padded = {name: value for name, value in inputs.items() if name not in halves}
    for name, ends in offsets.items():
        padded[name] = pad_ragged(function, name, inputs[name + VALUES], ends, length)
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
    ValueError   if a ragged column has no length, one of its halves is missing or does not fit.
    """
    padded: dict[str, Tensor] = {}
    offsets = ragged_columns(batch, "pad_batch")
    for name, ends in offsets.items():
        if name not in padding_lengths:
            raise ValueError(
                f"Found ragged column '{name}' with unspecified padding length. "
                "Please provide a padding length for this feature to be converted to a dense "
                "tensor."
            )
        _longest_row("pad_batch", name, ends)
        length = padding_lengths[name]
        padded[name] = pad_ragged("pad_batch", name, batch[name + VALUES], ends, length)
    for name, value in batch.items():
        if name.removesuffix(VALUES).removesuffix(OFFSETS) in offsets:
            continue
        length = padding_lengths.get(name, 0)
        padded[name] = pad_dense(value, length) if name in padding_lengths else value
    return padded


def pad_dense(value: Tensor, length: int) -> Tensor:
    """Return ``value`` [B, T, ...] as [B, length, ...]: zeros on the right, or cut."""
    if value.dim() < 2:
        return value
    missing = length - value.shape[1]
    if missing <= 0:
        return value[:, :length]
    return torch.cat([value, value.new_zeros((value.shape[0], missing, *value.shape[2:]))], dim=1)


def ragged_columns(inputs: Mapping[str, Tensor], function: str) -> dict[str, Tensor]:
    """Return the offsets of the ragged columns, by name; both halves must be there."""
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


def _longest_row(function: str, name: str, offsets: Tensor) -> int:
    if offsets.is_floating_point() or offsets.dim() != 1 or offsets.numel() == 0:
        raise value_error(
            function,
            f"inputs['{name}{OFFSETS}']",
            "be ints [B+1]",
            f"{offsets.dtype} {list(offsets.shape)}",
        )
    return int(offsets.diff().max()) if offsets.numel() > 1 else 0


def pad_ragged(function: str, name: str, values: Tensor, offsets: Tensor, length: int) -> Tensor:
    """Return ``values`` [L, ...] as [B, length, ...], zeros on the right."""
    lengths = offsets.diff()
    falls = bool((lengths < 0).any())
    if falls or int(offsets[0]) != 0 or int(offsets[-1]) != values.shape[0]:
        raise value_error(
            function,
            f"inputs['{name}{OFFSETS}']",
            f"rise from 0 to the number of values ({values.shape[0]})",
            f"{int(offsets[0])} to {int(offsets[-1])}",
        )
    positions = torch.arange(length, device=values.device)
    within = positions < lengths.unsqueeze(1)
    index = torch.where(within, offsets[:-1].unsqueeze(1) + positions, 0)
    padded = values.new_zeros((lengths.shape[0], length, *values.shape[1:]))
    padded[within] = values[index[within]]
    return padded
