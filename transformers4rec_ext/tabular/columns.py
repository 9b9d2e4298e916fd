"""Columns by name: reading them from a batch, and keeping one module for each."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeGuard

import torch
from torch import Tensor, nn

from transformers4rec_ext._errors import type_error, value_error
from transformers4rec_ext.typing import TabularData

_INTEGERS = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)


class ColumnModules(nn.ModuleDict):
    """One module per column, under the column's name.

    Unlike its base it takes every name without a dot: "type" and "values" are columns, too.
    """

    def __setitem__(self, key: str, module: nn.Module) -> None:
        self.add_module(key, module)

    def add_module(self, name: str, module: nn.Module | None) -> None:
        """File ``module`` under ``name``."""
        if not isinstance(name, str) or not name or "." in name:
            raise value_error(
                "ColumnModules",
                "names",
                "be str, not empty and without a dot, which torch uses to separate modules",
                repr(name),
                "Rename the column.",
            )
        self._modules[name] = module  # type: ignore[assignment]  # torch's own signature


def column_names(function: str, argument: str, names: Any) -> list[str]:
    """Return ``names``, several names of columns, as a list."""
    found = list(names) if isinstance(names, Iterable) else [names]
    if isinstance(names, str) or not all(isinstance(name, str) for name in found):
        got = repr(names if isinstance(names, str) or not isinstance(names, Iterable) else found)
        raise type_error(function, argument, "be a list of column names", got)
    return found


def columns_of(function: str, inputs: Any, names: Iterable[str]) -> dict[str, Any]:
    """Return the named columns of a batch; ValueError naming those it lacks and those it has."""
    if not isinstance(inputs, Mapping):
        raise type_error(
            function,
            "inputs",
            "be a dict from column name to tensor",
            type(inputs).__name__,
        )
    names = list(names)
    missing = [name for name in names if name not in inputs]
    if missing:
        expected = f"have the column {missing[0]!r}" if len(missing) == 1 else f"have {missing}"
        raise value_error(function, "inputs", expected, f"columns {sorted(inputs, key=str)}")
    return {name: inputs[name] for name in names}


def holds_ids(column: Any) -> TypeGuard[Tensor]:
    """Return whether a column of a batch is a tensor of integers."""
    return isinstance(column, Tensor) and column.dtype in _INTEGERS


def is_dense(column: Tensor) -> bool:
    """Return whether a tensor is neither sparse nor nested."""
    return column.layout is torch.strided and not column.is_nested


def ids_of(function: str, name: str, column: Any) -> Tensor:
    """Return the column ``name`` of a batch as int64 ids [B, T] or [B]."""
    if not holds_ids(column):
        raise type_error(
            function,
            f"inputs[{name!r}]",
            "be an int64 tensor",
            column.dtype if isinstance(column, Tensor) else type(column).__name__,
            "Ids are looked up in a table; tag real numbers as continuous.",
        )
    if column.ndim not in (1, 2):
        raise value_error(
            function, f"inputs[{name!r}]", "be [B, T], or [B] for the whole row", list(column.shape)
        )
    return column.to(torch.int64)


def numbers_of(function: str, name: str, column: Any, dtype: torch.dtype) -> Tensor:
    """Return the column ``name`` of a batch, real numbers or integers, in ``dtype``."""
    if not isinstance(column, Tensor) or column.is_complex():
        raise type_error(
            function,
            f"inputs[{name!r}]",
            "be a tensor of real numbers",
            column.dtype if isinstance(column, Tensor) else type(column).__name__,
        )
    return column.to(dtype)


def outputs_of(merge_with: Any, inputs: Any) -> list[TabularData]:
    """Return the columns to merge: of a module or dict, or of each in a list."""
    parts = merge_with if isinstance(merge_with, list | tuple) else [merge_with]
    return [part(inputs) if callable(part) else part for part in parts]


def merged(parts: Sequence[TabularData]) -> dict[str, Tensor]:
    """Return the columns of all ``parts`` in order; ValueError if two are of one name."""
    outputs: dict[str, Tensor] = {}
    for part in parts:
        if not isinstance(part, Mapping):
            raise type_error(
                "MergeTabular",
                "modules",
                "return a dict of columns",
                type(part).__name__,
                "Leave out their aggregation, or name their output with AsTabular.",
            )
        for name, column in part.items():
            if outputs.setdefault(name, column) is not column:
                raise value_error(
                    "MergeTabular", "modules", "return different columns", f"{name!r} twice"
                )
    return outputs
