"""What a batch is before it meets a model: float32, padded, on the model's device."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch

from transformers4rec_ext._errors import type_error
from transformers4rec_ext.tabular.columns import is_dense
from transformers4rec_ext.utils.padding import pad_inputs


def prepare_inputs(
    inputs: Any, max_sequence_length: int | None, heads: Iterable[Any] = ()
) -> dict[str, Any]:
    """Return a copy of ``inputs`` with float32 floats and ragged columns padded on the right.

    Of ragged columns see :func:`~transformers4rec_ext.utils.padding.pad_inputs`. The input modules
    of ``heads`` may look at them before, with ``check_lengths(columns)``.

    Raises
    ------
    TypeError    if ``inputs`` is not a dict of tensors.
    ValueError   if one half of a ragged column is missing, its offsets do not fit, or an input
                 module does not like them.
    """
    if not isinstance(inputs, Mapping):
        raise type_error("Model.forward", "inputs", "be a dict of tensors", type(inputs).__name__)
    columns: dict[str, Any] = {}
    for name, value in inputs.items():
        if not isinstance(value, torch.Tensor):
            raise type_error(
                "Model.forward", f"inputs[{name!r}]", "be a tensor", type(value).__name__
            )
        if not is_dense(value):
            raise type_error(
                "Model.forward",
                f"inputs[{name!r}]",
                "be a dense tensor",
                "a nested one" if value.is_nested else str(value.layout),
                f"Give sessions of several lengths as {name}__values [L] and {name}__offsets "
                "[B+1], or padded with zeros on the right.",
            )
        columns[name] = value.float() if value.is_floating_point() else value
    for head in heads:
        check = getattr(getattr(head.body, "inputs", None), "check_lengths", None)
        if check is not None:
            check(columns)
    return pad_inputs(columns, max_sequence_length, function="Model.forward")


def split_batch(batch: Any) -> tuple[Any, Any]:
    """Return ``(inputs, targets)`` of a loader's batch: a dict, or a pair."""
    if isinstance(batch, Mapping):
        return batch, None
    if isinstance(batch, tuple | list) and len(batch) == 2:
        return batch[0], batch[1]
    raise type_error("Model", "dataloader", "yield a dict or (dict, targets)", type(batch).__name__)


def num_rows(batch: Any) -> int:
    """Return the rows B of a batch of padded or ragged columns."""
    inputs, _ = split_batch(batch)
    for name, column in inputs.items():
        if name.endswith("__offsets"):
            return len(column) - 1
        if not name.endswith("__values"):
            return len(column)
    return 0


def on_device(model: Any, batch: Any, device: torch.device) -> tuple[Any, Any]:
    """Return inputs and targets of a batch on ``device``.

    Raises
    ------
    ValueError
        If the batch is on the CPU, ``device`` is another, and an id has no row in its table: the
        other device would stop at an assertion that names neither column nor id.
    """
    inputs, targets = split_batch(batch)
    if device.type != "cpu":
        check_ids(model, inputs)
    return to_device(inputs, device), to_device(targets, device)


def check_ids(model: Any, inputs: Any) -> None:
    """Let the input blocks of the model's heads look at the ids of a batch on the CPU."""
    # Heads of one body look at it once.
    blocks = dict.fromkeys(
        getattr(head.body, "inputs", None) for head in getattr(model, "heads", ())
    )
    for block in blocks:
        check = getattr(block, "check_ids", None)
        if check is not None and isinstance(inputs, Mapping):
            check(inputs)


def to_device(value: Any, device: torch.device) -> Any:
    """Move a tensor, or the tensors of a mapping, to ``device``."""
    if isinstance(value, torch.Tensor):
        return value.to(device, non_blocking=True)
    if isinstance(value, Mapping):
        return {key: to_device(item, device) for key, item in value.items()}
    return value
