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
from transformers4rec_ext.data.counting import ItemCounts, item_counts
from transformers4rec_ext.data.integers import IntegerIndex
from transformers4rec_ext.data.parquet import ParquetSessions, id_type
from transformers4rec_ext.data.split import Part
from transformers4rec_ext.data.strings import StringIndex


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
        if counts.shape != (len(items),) or counts[-1] < 0 or np.any(np.diff(counts) > 0):
            raise value_error(
                "Catalogue", "counts", f"be [{len(items)}], >= 0 and not rising", counts.shape
            )
        self._strings: StringIndex | None = None
        self._integers: IntegerIndex | None = None
        distinct = items.null_count == 0
        if distinct and pa.types.is_int64(items.type):
            self._integers = IntegerIndex(items.to_numpy())
            distinct = self._integers.distinct
        elif distinct:
            distinct = len(pc.unique(items)) == len(items)
        if not distinct:
            raise value_error("Catalogue", "items", "be distinct and not null", "repeated or null")
        self.items = items
        self.counts = counts

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
        counts = ItemCounts()
        for chunk in sessions.chunks():
            start, stop = chunk.training_bounds(part)
            size = len(chunk.items) + 1
            change = np.bincount(start, minlength=size) - np.bincount(stop, minlength=size)
            counts.add(chunk.items, np.cumsum(change[:-1]) > 0)
            on_sessions(len(start))
        ranked = counts.ranked()
        if ranked.num_rows == 0:
            raise value_error(
                "Catalogue.fit", "sessions", "hold at least one item", "only empty lists"
            )
        return cls(ranked["item"].combine_chunks(), ranked["count"].to_numpy())

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
        if self._integers is not None:
            return self._integers.find(items.to_numpy()) + 1
        if self._strings is None:
            self._strings = StringIndex(self.items)
        encoded = items.dictionary_encode()
        ranks = self._strings.find(encoded.dictionary) + 1
        known: np.ndarray = ranks[encoded.indices.to_numpy()]
        return known

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
            pq.write_table(item_counts(self.items, self.counts), temporary, compression="zstd")

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
