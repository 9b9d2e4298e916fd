"""What a batch is before it meets a model: float32, padded, on the model's device."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from transformers4rec_ext._errors import type_error, value_error

_VALUES, _OFFSETS = "__values", "__offsets"


def prepare_inputs(inputs: Any, max_sequence_length: int | None) -> dict[str, Any]:
    """Return a copy of ``inputs`` with float32 floats and ragged columns padded on the right.

    A ragged column ``name`` is a pair ``name__values`` [L] and ``name__offsets`` [B+1]. All are
    padded to the longest row of the batch, cut at ``max_sequence_length``; where all rows are
    empty, or there are none, to one position of padding.

    Raises
    ------
    TypeError    if ``inputs`` is not a dict of tensors.
    ValueError   if one half of a ragged column is missing or its offsets do not fit.
    """
    if not isinstance(inputs, Mapping):
        raise type_error("Model.forward", "inputs", "be a dict of tensors", type(inputs).__name__)
    columns: dict[str, Any] = {}
    for name, value in inputs.items():
        if not isinstance(value, torch.Tensor):
            raise type_error(
                "Model.forward", f"inputs[{name!r}]", "be a tensor", type(value).__name__
            )
        columns[name] = value.float() if value.is_floating_point() else value
    ragged = [name.removesuffix(_OFFSETS) for name in columns if name.endswith(_OFFSETS)]
    halves = {name.removesuffix(_VALUES) for name in columns if name.endswith(_VALUES)}
    if halves != set(ragged):
        raise value_error(
            "Model.forward",
            "inputs",
            "hold name__values and name__offsets together",
            sorted(halves ^ set(ragged)),
        )
    if not ragged:
        return columns
    length = max(1, *(_longest_row(name, columns[name + _OFFSETS]) for name in ragged))
    if max_sequence_length is not None:
        length = min(length, max_sequence_length)
    for name in ragged:
        values, offsets = columns.pop(name + _VALUES), columns.pop(name + _OFFSETS)
        columns[name] = _pad(name, values, offsets, length)
    return columns


def _longest_row(name: str, offsets: torch.Tensor) -> int:
    if offsets.is_floating_point() or offsets.dim() != 1 or offsets.numel() == 0:
        raise value_error(
            "Model.forward",
            f"inputs['{name}{_OFFSETS}']",
            "be ints [B+1]",
            f"{offsets.dtype} {list(offsets.shape)}",
        )
    return int(offsets.diff().max()) if offsets.numel() > 1 else 0


def _pad(name: str, values: torch.Tensor, offsets: torch.Tensor, length: int) -> torch.Tensor:
    """Return ``values`` [L, ...] as [B, length, ...], zeros on the right."""
    lengths = offsets.diff()
    falls = bool((lengths < 0).any())
    if falls or int(offsets[0]) != 0 or int(offsets[-1]) != values.shape[0]:
        raise value_error(
            "Model.forward",
            f"inputs['{name}{_OFFSETS}']",
            f"rise from 0 to the number of values ({values.shape[0]})",
            f"{int(offsets[0])} to {int(offsets[-1])}",
        )
    positions = torch.arange(length, device=values.device)
    within = positions < lengths.unsqueeze(1)
    index = torch.where(within, offsets[:-1].unsqueeze(1) + positions, 0)
    padded = values.new_zeros((lengths.shape[0], length, *values.shape[1:]))
    padded[within] = values[index[within]]
    return padded


def split_batch(batch: Any) -> tuple[Any, Any]:
    """Return ``(inputs, targets)`` of a loader's batch: a dict, or a pair."""
    if isinstance(batch, Mapping):
        return batch, None
    if isinstance(batch, tuple | list) and len(batch) == 2:
        return batch[0], batch[1]
    raise type_error("Model", "dataloader", "yield a dict or (dict, targets)", type(batch).__name__)


def to_device(value: Any, device: torch.device) -> Any:
    """Move a tensor, or the tensors of a mapping, to ``device``."""
    if isinstance(value, torch.Tensor):
        return value.to(device, non_blocking=True)
    if isinstance(value, Mapping):
        return {key: to_device(item, device) for key, item in value.items()}
    return value
