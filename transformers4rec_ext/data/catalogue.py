"""The map between the caller's own item ids and the ids 1, 2, ... that a model trains on."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from transformers4rec_ext import _checks
from transformers4rec_ext._errors import type_error, value_error
from transformers4rec_ext._files import atomic_path
from transformers4rec_ext.data.parquet import ParquetSessions, id_type
from transformers4rec_ext.data.split import Part
from transformers4rec_ext.data.strings import StringIndex

_MERGE_ROWS = 4_000_000
_MERGE_BYTES = 2**28
_MOST_BYTES = 2**31 - 1  # of strings that arrow groups and sorts: its offsets have 32 bits


class Catalogue:
    """Items ranked by popularity: item 1 is the most popular, 0 is padding.

    The log-uniform law of the negative sampler assumes ids in this order.

    Parameters
    ----------
    items : pyarrow.Array, integer or string, [V - 1]
        The caller's own ids, the most popular first.
    counts : int64 [V - 1]
        How often each occurs in the training part, not rising.

    Raises
    ------
    TypeError
        If ``items`` are neither integers nor strings, or the counts no integers.
    ValueError
        If there are none, an item occurs twice, or the counts rise, are negative or too few.

    Examples
    --------
    >>> catalogue = Catalogue(pa.array(["tea", "cup"]), np.array([5, 2]))
    >>> catalogue.encode(pa.array(["cup", "tea", "unknown"]))
    array([2, 1, 0])
    >>> catalogue.decode(np.array([1, 2])).to_pylist()
    ['tea', 'cup']
    """

    def __init__(self, items: pa.Array, counts: np.ndarray) -> None:
        items = _as_ids("Catalogue", items)
        counts = _checks.integers("Catalogue", "counts", counts)
        if len(items) == 0:
            raise value_error("Catalogue", "items", "hold at least one item", "none")
        self._sorted: tuple[np.ndarray, np.ndarray] | None = None
        if items.null_count or self._repeats(items):
            raise value_error("Catalogue", "items", "be distinct and not null", "repeated or null")
        if counts.shape != (len(items),) or counts[-1] < 0 or np.any(np.diff(counts) > 0):
            raise value_error(
                "Catalogue", "counts", f"be [{len(items)}], >= 0 and not rising", counts.shape
            )
        self.items = items
        self.counts = counts
        self._strings: StringIndex | None = None

    def _repeats(self, items: pa.Array) -> bool:
        """Whether an item occurs twice; of integers the order is kept, for :meth:`encode`."""
        if not pa.types.is_int64(items.type):
            return len(pc.unique(items)) != len(items)
        own = items.to_numpy()
        order = np.argsort(own)
        values = own[order]
        self._sorted = values, order + 1
        return bool((values[1:] == values[:-1]).any())

    @property
    def num_items(self) -> int:
        """V, the rows of an embedding table: every item and the padding row."""
        return len(self.items) + 1

    @property
    def popularity(self) -> np.ndarray:
        """Training counts by id, int64 [V]; 0 for padding."""
        return np.concatenate([np.zeros(1, np.int64), self.counts])

    @classmethod
    def fit(
        cls,
        sessions: ParquetSessions,
        part: Part = "train",
        *,
        on_sessions: Callable[[int], None] = lambda sessions: None,
    ) -> Catalogue:
        """Rank all items of the files by how often they occur in the training part.

        Items that occur only in the held-out part come last, with a count of 0. Ties are ordered
        by the caller's id, so the result does not depend on the order of the sessions.

        Parameters
        ----------
        sessions : ParquetSessions
        part : "train", "train+validation" or "all"
            What is counted (see :func:`transformers4rec_ext.data.split.training_bounds`).
        on_sessions : callable
            Called with how many sessions have been read since the last call.

        Raises
        ------
        ValueError
            If every session is empty, or ids that are strings take more than some 1.7 GiB.
        """
        tables: list[pa.Table] = []
        rows = size_of_new = 0
        for chunk in sessions.chunks():
            start, stop = chunk.training_bounds(part)
            size = len(chunk.items) + 1
            change = np.bincount(start, minlength=size) - np.bincount(stop, minlength=size)
            encoded = chunk.items.dictionary_encode()
            counted = np.bincount(
                encoded.indices.to_numpy(),
                weights=np.cumsum(change[:-1]),
                minlength=len(encoded.dictionary),
            )
            tables.append(_table(encoded.dictionary, counted.astype(np.int64)))
            rows += len(encoded.dictionary)
            size_of_new += encoded.dictionary.nbytes
            # not before they are as many as those that were merged, which are read again
            many = rows > max(_MERGE_ROWS, tables[0].num_rows) or size_of_new > _MERGE_BYTES
            if many and len(tables) > 1:
                tables = [_merge(tables)]
                rows = size_of_new = 0
            on_sessions(len(start))
        merged = _merge(tables)
        if merged.num_rows == 0:
            raise value_error(
                "Catalogue.fit", "sessions", "hold at least one item", "only empty lists"
            )
        merged = merged.sort_by([("count", "descending"), ("item", "ascending")])
        return cls(merged["item"].combine_chunks(), merged["count"].to_numpy())

    def encode(self, items: pa.Array) -> np.ndarray:
        """Return the ids (1 .. V - 1) of the caller's items, 0 for one that is not known.

        Parameters
        ----------
        items : pyarrow.Array, integer or string
            As the items of the catalogue are.

        Raises
        ------
        TypeError
            If the types differ.
        ValueError
            If an item is null.
        """
        items = _as_ids("Catalogue.encode", items)
        if items.null_count:
            raise value_error("Catalogue.encode", "items", "hold no null", items.null_count)
        if items.type != self.items.type:
            raise type_error(
                "Catalogue.encode", "items", f"be {self.items.type} as in training", items.type
            )
        if pa.types.is_int64(items.type):
            return self._encode_integers(items.to_numpy())
        if self._strings is None:
            self._strings = StringIndex(self.items)
        encoded = items.dictionary_encode()
        ranks = self._strings.find(encoded.dictionary) + 1
        known: np.ndarray = ranks[encoded.indices.to_numpy()]
        return known

    def _encode_integers(self, items: np.ndarray) -> np.ndarray:
        assert self._sorted is not None
        values, ranks = self._sorted
        distinct, place = np.unique(items, return_inverse=True)  # found faster in their order
        found = np.minimum(np.searchsorted(values, distinct), len(values) - 1)
        known = np.where(values[found] == distinct, ranks[found], 0).astype(np.int64)
        return known[place]

    def decode(self, ids: np.ndarray) -> pa.Array:
        """Return the caller's own ids of ``ids``.

        Raises
        ------
        TypeError
            If ``ids`` are no integers.
        ValueError
            If an id is outside [1, V).
        """
        ids = _checks.integers("Catalogue.decode", "ids", ids)
        if ids.size and (ids.min() < 1 or ids.max() >= self.num_items):
            raise value_error(
                "Catalogue.decode",
                "ids",
                f"lie in [1, {self.num_items})",
                f"[{ids.min()}, {ids.max()}]",
            )
        return self.items.take(pa.array(ids - 1))

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the catalogue as parquet (item, count); row ``i`` is id ``i + 1``."""
        with atomic_path(path) as temporary:
            pq.write_table(_table(self.items, self.counts), temporary, compression="zstd")

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Catalogue:
        """Read what :meth:`save` wrote.

        Raises
        ------
        FileNotFoundError
            If ``path`` is absent.
        ValueError
            If it is not a catalogue.
        """
        if not Path(path).is_file():
            raise FileNotFoundError(f"Catalogue.load: path must exist; {path} does not.")
        try:
            table = pq.read_table(path, columns=["item", "count"])
            return cls(table["item"].combine_chunks(), table["count"].to_numpy())
        except (pa.ArrowException, OSError, KeyError) as error:
            raise value_error(
                "Catalogue.load", "path", "be a catalogue written by Catalogue.save", path
            ) from error


def _as_ids(function: str, items: Any) -> pa.Array:
    """Return an array of integers as int64 and one of strings as string, as files are read."""
    if isinstance(items, pa.ChunkedArray):
        items = items.combine_chunks()
    kind = id_type(items.type) if isinstance(items, pa.Array) else None
    if kind is None:
        got = getattr(items, "type", type(items).__name__)
        raise type_error(function, "items", "be a pyarrow.Array of integers or strings", got)
    return items.cast(kind)


def _table(items: Any, counts: np.ndarray) -> pa.Table:
    return pa.table({"item": items, "count": pa.array(counts, pa.int64())})


def _merge(tables: list[pa.Table]) -> pa.Table:
    """Return the sum of counts by item."""
    if pa.types.is_string(tables[0]["item"].type):
        size = sum(table["item"].nbytes for table in tables)
        if size > _MOST_BYTES:
            raise value_error(
                "Catalogue.fit",
                "sessions",
                "hold ids that are strings of less than some 1.7 GiB together, each counted once",
                f"about {size / 2**30:.1f} GiB",
                "Number the items, and write integers.",
            )
    grouped = pa.concat_tables(tables).group_by("item").aggregate([("count", "sum")])
    return grouped.rename_columns(
        ["count" if name == "count_sum" else name for name in grouped.column_names]
    ).select(["item", "count"])
