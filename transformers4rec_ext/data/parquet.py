"""Sessions streamed from parquet files: one row is a session, one list column holds its items."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from transformers4rec_ext._errors import type_error, value_error
from transformers4rec_ext.data import split
from transformers4rec_ext.data.files import (
    Paths,
    RowGroup,
    check_distinct,
    check_named_once,
    decoded_type,
    files_below,
    is_list,
    is_string,
    list_offsets,
    open_parquet,
    unreadable,
)
from transformers4rec_ext.data.marks import read_marks
from transformers4rec_ext.data.split import Part

#: The largest number of sessions in a chunk, unless told otherwise.
CHUNK_ROWS = 8192


class SessionChunk(NamedTuple):
    """Some sessions of a file, ragged: consecutive ones, but for :meth:`chosen`.

    ``items[offsets[i]:offsets[i + 1]]`` are the items of session ``i`` in time order.
    """

    items: pa.Array
    """The items of all sessions, int64 or string, one after the other."""
    offsets: np.ndarray
    """int64 [sessions + 1], rising from 0 to ``len(items)``."""
    sessions: pa.Array | None
    """The session column, or None where none was asked for."""
    first: int
    """The number of the first session, counted over all files."""
    marks: np.ndarray | None = None
    """What each session is marked as, int8 indices in ``split.MARKS``; None without marks."""

    def training_bounds(self, part: Part) -> tuple[np.ndarray, np.ndarray]:
        """Return ``(start, stop)`` of each session's items of a part that is trained on."""
        return split.training_bounds(self.offsets, part, self.marks)

    def target_bounds(self, part: Part) -> tuple[np.ndarray, np.ndarray]:
        """Return ``(start, stop)`` of each session's targets of a part."""
        return split.target_bounds(self.offsets, part, self.marks)

    def chosen(self, some: np.ndarray) -> SessionChunk:
        """Return the sessions where ``some``, bool [sessions], is True; at least one is."""
        lengths = np.diff(self.offsets)
        items = self.items.filter(pa.array(np.repeat(some, lengths)))
        offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths[some])])
        sessions = None if self.sessions is None else self.sessions.filter(pa.array(some))
        marks = None if self.marks is None else self.marks[some]
        first = self.first + int(some.argmax())
        return SessionChunk(items, offsets, sessions, first, marks)

    @classmethod
    def joined(cls, chunks: Sequence[SessionChunk]) -> SessionChunk:
        """Return the sessions of one or more chunks of the same files, without their column."""
        lengths = np.concatenate([np.diff(chunk.offsets) for chunk in chunks])
        offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)])
        marks = [chunk.marks for chunk in chunks if chunk.marks is not None]
        items = chunks[0].items
        if len(chunks) > 1:
            items = pa.concat_arrays([chunk.items for chunk in chunks])
        return cls(items, offsets, None, chunks[0].first, np.concatenate(marks) if marks else None)


class ParquetSessions:
    """Sessions in parquet files, read as a stream of chunks.

    Parameters
    ----------
    paths : path or sequence of paths
        Parquet files with the same columns, folders of them, or patterns; their sessions follow
        each other, those of a folder in the order of the files' names.
    items_column : str
        A list column of integers >= 0 or of strings: the items of a session in time order. The
        ids are the caller's own.
    session_column : str, optional
        A column carried through to recommendations.
    split_column : str, optional
        A column of strings that marks each session as "train", "validation" or "test". Without it
        two items of each session are held out (:mod:`transformers4rec_ext.data.split`).
    validation_fraction : float, optional
        With ``split_column``, where it marks none as "validation": these are the last ones of the
        training sessions, in file order, as a part of them in (0, 1); by default 0.1.

    Raises
    ------
    FileNotFoundError
        If a path is absent.
    ValueError
        If a file is named twice or not a complete parquet file, has no such column or several,
        there are no rows, a session is marked as something else, or ``validation_fraction`` is out
        of range or has no effect; while reading, if the items hold nulls or negative ids.
    TypeError
        If the items are not a list of integers or strings, the marks are no strings, or files
        disagree on the type of the items.

    Notes
    -----
    Memory is bounded by a row group's compressed pages and one chunk of sessions.
    """

    def __init__(
        self,
        paths: Paths,
        items_column: str,
        session_column: str | None = None,
        *,
        split_column: str | None = None,
        validation_fraction: float | None = None,
    ) -> None:
        self.paths = files_below("ParquetSessions", paths)
        check_distinct("ParquetSessions", self.paths)
        self.items_column = items_column
        self.session_column = session_column
        self.split_column = split_column
        self.row_groups: list[RowGroup] = []
        self.num_sessions = 0
        self.item_type: pa.DataType | None = None
        #: The types of the session column, each once.
        self.session_types: list[pa.DataType] = []
        self._target_counts: dict[str, np.ndarray] = {}
        #: The names of the columns that every file has.
        self.columns: list[str] = []
        for number, path in enumerate(self.paths):
            self._inspect(number, path)
        if self.num_sessions == 0:
            raise value_error(
                "ParquetSessions", "paths", "hold at least one session", f"no rows in {paths!r}"
            )
        #: int8 [sessions], indices in ``split.MARKS``; None without a split column.
        self.marks: np.ndarray | None = None
        if split_column is not None:
            self.marks = read_marks(self.paths, split_column, validation_fraction)
        elif validation_fraction is not None:
            expectation = "be left out without split_column"
            raise value_error(
                "ParquetSessions", "validation_fraction", expectation, validation_fraction
            )

    def _inspect(self, number: int, path: Path) -> None:
        with open_parquet("ParquetSessions", path) as file:
            schema = file.schema_arrow
            known = self.columns if number else schema.names
            self.columns = [name for name in known if name in schema.names]
            columns = (self.items_column, self.session_column, self.split_column)
            for column in filter(None, columns):
                if column not in schema.names:
                    raise value_error(
                        "ParquetSessions",
                        "column",
                        f"be a column of {path}",
                        repr(column),
                        f"Its columns are: {', '.join(schema.names)}.",
                    )
                check_named_once("ParquetSessions", schema, column, path)
            kind = _item_type(schema.field(self.items_column).type, self.items_column, path)
            if self.item_type is not None and kind != self.item_type:
                raise type_error(
                    "ParquetSessions",
                    f"column {self.items_column!r}",
                    f"have one type in all files ({self.item_type})",
                    f"{kind} in {path}",
                )
            self.item_type = kind
            if self.session_column is not None:
                kind = schema.field(self.session_column).type
                if kind not in self.session_types:
                    self.session_types.append(kind)
            for group in range(file.metadata.num_row_groups):
                rows = file.metadata.row_group(group).num_rows
                self.row_groups.append(RowGroup(number, group, self.num_sessions, rows))
                self.num_sessions += rows

    def target_counts(self, part: Part) -> np.ndarray:
        """Return how many targets of a part each session has, [sessions]; read once, then kept.

        Of the smallest unsigned type that holds the largest: a byte where two items are held out.
        """
        if part not in self._target_counts:
            bounds = (chunk.target_bounds(part) for chunk in self.chunks())
            counts = (stop - start for start, stop in bounds)
            small = [of.astype(np.min_scalar_type(of.max(initial=0))) for of in counts]
            self._target_counts[part] = np.concatenate(small)
        return self._target_counts[part]

    def chunks(
        self, order: Sequence[int] | None = None, rows: int = CHUNK_ROWS
    ) -> Iterator[SessionChunk]:
        """Yield the sessions in chunks of at most ``rows``.

        Parameters
        ----------
        order : sequence of int, optional
            Positions in ``row_groups`` in the order to read them; all, in file order, by default.
        rows : int
            The largest number of sessions in a chunk.
        """
        wanted = range(len(self.row_groups)) if order is None else order
        for position in wanted:
            yield from self._row_group(self.row_groups[position], rows)

    def _row_group(self, unit: RowGroup, rows: int) -> Iterator[SessionChunk]:
        path = self.paths[unit.file]
        columns = [c for c in (self.items_column, self.session_column) if c is not None]
        first = unit.first
        with open_parquet("ParquetSessions", path) as file:
            batches = file.iter_batches(rows, row_groups=[unit.group], columns=columns)
            while True:
                try:
                    batch = next(batches, None)
                except (pa.ArrowException, OSError) as error:
                    raise unreadable("ParquetSessions", path, error) from error
                if batch is None:
                    return
                where = f"{path}, sessions from {first - unit.first} of row group {unit.group}"
                items, offsets = _ragged(batch.column(self.items_column), where)
                sessions = (
                    None if self.session_column is None else batch.column(self.session_column)
                )
                last = first + batch.num_rows
                marks = None if self.marks is None else self.marks[first:last]
                yield SessionChunk(items, offsets, sessions, first, marks)
                first = last


def id_type(kind: pa.DataType) -> pa.DataType | None:
    """Return int64 or string, as which ids of this type are read; None if it holds no ids."""
    if pa.types.is_integer(kind):
        return pa.int64()
    if is_string(kind):
        return pa.string()
    return None


def _item_type(kind: pa.DataType, column: str, path: Path) -> pa.DataType:
    """Return int64 or string, the type that items of the column are read as."""
    value = decoded_type(kind.value_type) if is_list(kind) else None
    read_as = None if value is None else id_type(value)
    if read_as is not None:
        return read_as
    hint = "Group the file by session, so that one row is the list of a session's items."
    if value is not None and pa.types.is_floating(value):
        hint = "Floats cannot hold ids exactly; write the ids as integers or strings."
    elif value is not None and not pa.types.is_nested(value):
        hint = "Write the ids as integers or strings (UTF-8)."
    raise type_error(
        "ParquetSessions",
        f"column {column!r}",
        "be a list of integers or of strings",
        f"{kind} in {path}",
        hint,
    )


def _ragged(column: pa.Array, where: str) -> tuple[pa.Array, np.ndarray]:
    """Return the column's values as int64 or string, and the sessions' offsets from 0."""
    if column.null_count:
        row = int(np.flatnonzero(column.is_null().to_numpy(zero_copy_only=False))[0])
        raise value_error(
            "ParquetSessions", "sessions", "not be null", f"a null list in {where}, row {row}"
        )
    offsets = list_offsets(column)
    items = column.flatten()
    if pa.types.is_dictionary(items.type):
        items = items.dictionary_decode()
    if items.null_count:
        position = int(np.flatnonzero(items.is_null().to_numpy(zero_copy_only=False))[0])
        row = int(np.searchsorted(offsets, position, side="right")) - 1
        raise value_error(
            "ParquetSessions", "items", "not be null", f"a null in {where}, row {row}"
        )
    if not pa.types.is_integer(items.type):
        return items.cast(pa.string()), offsets
    try:
        items = items.cast(pa.int64())
    except pa.ArrowInvalid as error:
        raise value_error(
            "ParquetSessions", "items", "fit in 63 bits", f"a larger id in {where}"
        ) from error
    values = items.to_numpy()
    if len(values) and values.min() < 0:
        position = int(np.flatnonzero(values < 0)[0])
        row = int(np.searchsorted(offsets, position, side="right")) - 1
        raise value_error(
            "ParquetSessions", "items", "be >= 0", f"{values[position]} in {where}, row {row}"
        )
    return items, offsets
