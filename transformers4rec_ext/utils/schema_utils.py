"""Random batches of a schema, for tests and first steps."""

from __future__ import annotations

import torch
from torch import Tensor

from transformers4rec_ext import _checks
from transformers4rec_ext._errors import value_error
from transformers4rec_ext.schema import ColumnSchema, Schema, Tags, as_schema

_NAME = "random_data_from_schema"
_BINARY = (Tags.BINARY, Tags.BINARY_CLASSIFICATION)


def random_data_from_schema(
    schema: Schema,
    num_rows: int,
    max_session_length: int | None = None,
    min_session_length: int = 5,
    device: torch.device | str | None = None,
    ragged: bool = False,
    seed: int = 0,
) -> dict[str, Tensor]:
    """Return a batch of random values of every column of ``schema``.

    Integers are uniform over their domain without its largest (as upstream's, unless it is the only
    one), ids also without the padding id 0; real numbers over theirs, [0, 1) where it is unknown;
    targets of binary classification are 0 or 1. All list columns of a row have one length, uniform
    over the two bounds.

    Parameters
    ----------
    schema : Schema
    num_rows : int
        B.
    max_session_length : int, optional
        T. Without it every row is as long as the ``max_length`` of its column.
    min_session_length : int
    device : device, optional
    ragged : bool
        Give list columns as ``name__values`` [L, *shape] and ``name__offsets`` int64 [B+1].
    seed : int
        The same arguments give the same batch; torch's own generator is left alone.

    Returns
    -------
    dict of tensors
        int64 or float32: [B], of list columns [B, T] padded on the right with 0; of columns with a
        shape [B, *shape] and [B, T, *shape].

    Raises
    ------
    ValueError   if a number is out of range, or a length or an integer domain is unknown.

    Examples
    --------
    >>> schema = Schema.from_item_column("item_id", num_items=9)
    >>> random_data_from_schema(schema, 4, max_session_length=6)["item_id"].shape
    torch.Size([4, 6])
    """
    schema = as_schema(schema, _NAME)
    _checks.integer(_NAME, "num_rows", num_rows, minimum=1)
    generator = torch.Generator().manual_seed(seed)
    lengths = None
    if max_session_length is not None:
        _checks.integer(_NAME, "min_session_length", min_session_length, minimum=1)
        _checks.integer(_NAME, "max_session_length", max_session_length, minimum=min_session_length)
        bounds = (min_session_length, max_session_length + 1)
        lengths = torch.randint(*bounds, (num_rows,), generator=generator)
    batch: dict[str, Tensor] = {}
    for column in schema:
        of_value = column.shape or ()
        if not column.is_list:
            batch[column.name] = _values(column, (num_rows, *of_value), generator).to(device)
            continue
        width, filled = _list_shape(column, max_session_length, lengths, num_rows)
        values = _values(column, (num_rows, width, *of_value), generator)
        if ragged:
            batch[f"{column.name}__values"] = values[filled].to(device)
            ends = filled.sum(dim=1).cumsum(dim=0)
            batch[f"{column.name}__offsets"] = torch.nn.functional.pad(ends, (1, 0)).to(device)
        else:
            within = filled.reshape(num_rows, width, *(1 for _ in of_value))
            batch[column.name] = torch.where(within, values, 0).to(device)
    return batch


def _list_shape(
    column: ColumnSchema, width: int | None, lengths: Tensor | None, num_rows: int
) -> tuple[int, Tensor]:
    """Return T and which of the [B, T] positions hold a value."""
    width = column.max_length if width is None else width
    if width is None:
        raise value_error(
            _NAME, "max_session_length", "be given", "None", f"{column.name!r} has no max_length."
        )
    if lengths is None:
        lengths = torch.full((num_rows,), width)
    return width, torch.arange(width) < lengths.unsqueeze(1)


def _values(column: ColumnSchema, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    if any(column.has_tag(tag) for tag in _BINARY):
        return torch.randint(0, 2, shape, generator=generator).float()
    if column.int_domain is not None:
        low = max(1, column.int_domain.min) if column.is_categorical else column.int_domain.min
        high = column.int_domain.max
        if high < low:
            raise value_error(
                _NAME, f"int_domain of column {column.name!r}", "hold an id above 0", f"max {high}"
            )
        return torch.randint(low, max(high, low + 1), shape, generator=generator)
    if column.dtype == "int64":
        return torch.randint(0, 2**31, shape, generator=generator)
    unit = torch.rand(shape, generator=generator)
    if column.float_domain is None:
        return unit
    return column.float_domain.min + (column.float_domain.max - column.float_domain.min) * unit
