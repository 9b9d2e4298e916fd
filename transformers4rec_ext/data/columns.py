"""Columns of numbers in parquet files, flat or ragged, read a few row groups at a time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from transformers4rec_ext._errors import type_error, value_error
from transformers4rec_ext.data.files import (
    Paths,
    RowGroup,
    check_named_once,
    decoded_type,
    files_below,
    is_list,
    is_string,
    list_offsets,
    open_parquet,
    unreadable,
)
from transformers4rec_ext.data.split import padded

_NAME = "ParquetLoader"


class Column(NamedTuple):
    """The values of some rows, int64 or float32."""

    values: np.ndarray
    offsets: np.ndarray | None
    """Row ``i`` is ``values[offsets[i]:offsets[i + 1]]``; None where a row is one value."""

    def take(self, rows: np.ndarray, width: int | None) -> np.ndarray:
        """Return the rows, [B], or [B, width] with the first values of each and zeros after them.

        Parameters
        ----------
        rows : int64 [B]
        width : int, optional
            That of the longest of the rows by default, and at least 1.
        """
        if self.offsets is None:
            return self.values[rows]
        start, stop = self.offsets[rows], self.offsets[rows + 1]
        if width is None:
            width = max(1, int((stop - start).max(initial=0)))
        return padded(self.values, start, np.minimum(stop, start + width), width)


class _Kind(NamedTuple):
    """What a column holds: a list or a single value a row, of one type of number."""

    is_list: bool
    number: type[np.int64] | type[np.float32]

    def __str__(self) -> str:
        number = "integers" if self.number is np.int64 else "floats"
        return f"lists of {number}" if self.is_list else number


class ParquetColumns:
    """Some columns of parquet files, all numbers or lists of numbers.

    Parameters
    ----------
    paths : path or sequence of paths
        Files, folders of ``*.parquet`` files, or patterns. Their rows follow each other.
    names : sequence of str
        The columns.
    largest : dict from str to int
        The largest id of a column, checked when it is read.

    Raises
    ------
    FileNotFoundError   if a path is absent.
    ValueError          if a folder holds no parquet file, a file is no parquet file, lacks a column
                        or has two of its name, or there are no rows; while reading, if there is a
                        null, a number that is not finite, a negative id or one that is too large.
    TypeError           if a column holds something else, or different things in different files.
    """

    def __init__(self, paths: Paths, names: Sequence[str], largest: Mapping[str, int]) -> None:
        self.names = list(names)
        self.largest = dict(largest)
        self.files = files_below(_NAME, paths)
        self.row_groups: list[RowGroup] = []
        self.num_rows = 0
        self._kinds: dict[str, _Kind] = {}
        for number, path in enumerate(self.files):
            self._inspect(number, path)
        if self.num_rows == 0:
            raise value_error(_NAME, "paths", "hold at least one row", f"none in {paths!r}")

    def _inspect(self, number: int, path: Path) -> None:
        with open_parquet(_NAME, path) as file:
            schema = file.schema_arrow
            for name in self.names:
                check_named_once(_NAME, schema, name, path)
            missing = [name for name in self.names if name not in schema.names]
            if missing:
                raise value_error(
                    _NAME,
                    "schema",
                    f"name columns of {path}",
                    ", ".join(map(repr, missing)),
                    f"Its columns are: {', '.join(schema.names)}.",
                )
            for name in self.names:
                kind = _kind(schema.field(name).type, name, path)
                known = self._kinds.setdefault(name, kind)
                if kind != known:
                    expectation = f"hold {known} in all files"
                    raise type_error(_NAME, f"column {name!r}", expectation, f"{kind} in {path}")
            for group in range(file.metadata.num_row_groups):
                rows = file.metadata.row_group(group).num_rows
                self.row_groups.append(RowGroup(number, group, self.num_rows, rows))
                self.num_rows += rows

    def read(self, groups: Sequence[RowGroup]) -> dict[str, Column]:
        """Return the columns of the row groups, one after the other."""
        parts = [self._read_group(group) for group in groups]
        return {name: _joined([part[name] for part in parts]) for name in self.names}

    def empty(self) -> dict[str, Column]:
        """Return the columns without a row."""
        return {
            name: Column(np.zeros(0, kind.number), np.zeros(1, np.int64) if kind.is_list else None)
            for name, kind in self._kinds.items()
        }

    def _read_group(self, unit: RowGroup) -> dict[str, Column]:
        path = self.files[unit.file]
        with open_parquet(_NAME, path) as file:
            try:
                table = file.read_row_group(unit.group, columns=self.names)
            except (pa.ArrowException, OSError) as error:
                raise unreadable(_NAME, path, error) from error
        where = f"{path}, row group {unit.group}"
        return {name: self._column(name, table.column(name), where) for name in self.names}

    def _column(self, name: str, column: pa.ChunkedArray, where: str) -> Column:
        kind = self._kinds[name]
        array = column.combine_chunks()
        if array.null_count:
            raise value_error(_NAME, f"column {name!r}", "hold no nulls", f"one in {where}")
        offsets = None
        if kind.is_list:
            offsets = list_offsets(array)
            array = array.flatten()
        if array.null_count:
            raise value_error(_NAME, f"column {name!r}", "hold no nulls", f"one in {where}")
        values = _numbers(array, kind, name, where)
        self._check_ids(name, values, where)
        return Column(values, offsets)

    def _check_ids(self, name: str, values: np.ndarray, where: str) -> None:
        largest = self.largest.get(name)
        if largest is None or values.dtype != np.int64 or not len(values):
            return
        low, high = int(values.min()), int(values.max())
        if low < 0 or high > largest:
            raise value_error(
                _NAME,
                f"column {name!r}",
                f"hold ids from 0 to {largest}, the largest of the schema",
                f"{low if low < 0 else high} in {where}",
                "Give the column a larger IntDomain, or encode its ids again.",
            )


def _kind(type_: pa.DataType, name: str, path: Path) -> _Kind:
    of_lists = is_list(type_)
    value = decoded_type(type_.value_type if of_lists else type_)
    if pa.types.is_integer(value) or pa.types.is_boolean(value):
        return _Kind(of_lists, np.int64)
    if pa.types.is_floating(value):
        return _Kind(of_lists, np.float32)
    hint = "Encode strings as ids from 1 on." if is_string(value) else ""
    expectation = "hold numbers or lists of numbers"
    raise type_error(_NAME, f"column {name!r}", expectation, f"{type_} in {path}", hint)


def _numbers(array: pa.Array, kind: _Kind, name: str, where: str) -> np.ndarray:
    if pa.types.is_dictionary(array.type):
        array = array.dictionary_decode()
    given = array
    wanted = pa.int64() if kind.number is np.int64 else pa.float32()
    try:
        # a float64 that float32 cannot hold exactly is rounded; an integer beyond int64 raises
        array = pc.cast(array, wanted, safe=kind.number is np.int64)
    except pa.ArrowInvalid as error:
        raise value_error(
            _NAME, f"column {name!r}", "fit in 63 bits", f"a larger integer in {where}"
        ) from error
    values: np.ndarray = array.to_numpy(zero_copy_only=False)
    if kind.number is np.float32 and not np.isfinite(values).all():
        odd = float(given.to_numpy(zero_copy_only=False)[~np.isfinite(values)][0])
        hint = "One of them makes every weight of a model NaN; fill in what is missing before."
        expectation = "hold finite numbers, as float32 has them"
        raise value_error(_NAME, f"column {name!r}", expectation, f"{odd} in {where}", hint)
    return values


def _joined(parts: Sequence[Column]) -> Column:
    if len(parts) == 1:
        return parts[0]
    values = np.concatenate([part.values for part in parts])
    ends = [part.offsets[1:] for part in parts if part.offsets is not None]
    if not ends:
        return Column(values, None)
    before = np.cumsum([0, *(len(part.values) for part in parts[:-1])])
    shifted = [end + first for end, first in zip(ends, before, strict=True)]
    return Column(values, np.concatenate([np.zeros(1, np.int64), *shifted]))
