"""How often each item of many chunks occurs, in the memory of the distinct items."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from transformers4rec_ext._errors import value_error

_MERGE_ROWS = 4_000_000
_MERGE_BYTES = 2**28  # of strings
_MOST_BYTES = 2**31 - 1  # of strings that arrow groups and sorts: its offsets have 32 bits
_RADIX = 2**16 - 1  # numpy sorts keys of 16 bits without comparing them


class ItemCounts:
    """Counts of items, added to chunk by chunk.

    Of each chunk the distinct items are kept. When the new ones are millions, and more than those
    that were merged before, all are merged, so that each is merged a few times only; strings also
    when they take a quarter of a GiB, lest arrow's offsets overflow. Integers are sorted by numpy,
    strings are grouped by arrow.
    """

    def __init__(self) -> None:
        self._tables: list[pa.Table] = []
        self._new_rows = self._new_bytes = 0

    def add(self, items: pa.Array, counted: np.ndarray) -> None:
        """Count the items where ``counted`` is True; the others are known, with a count of 0.

        Parameters
        ----------
        items : pyarrow.Array, int64 or string
            Of the same type in all calls.
        counted : bool [items]

        Raises
        ------
        ValueError
            If strings take more than some 1.7 GiB.
        """
        table = _counted(items, counted)
        self._tables.append(table)
        self._new_rows += table.num_rows
        if pa.types.is_string(items.type):
            self._new_bytes += table["item"].nbytes
        many = self._new_rows > max(_MERGE_ROWS, self._tables[0].num_rows)
        if many or self._new_bytes > _MERGE_BYTES:
            self._merge()

    def ranked(self) -> pa.Table:
        """Return (item, count), the most frequent first, ties by the item; once, after all `add`.

        Raises
        ------
        ValueError
            If strings take more than some 1.7 GiB.
        """
        self._merge()
        table = self._tables.pop()  # not held beside what is made of it
        if pa.types.is_string(table["item"].type):
            return table.sort_by([("count", "descending"), ("item", "ascending")])
        return table.take(pa.array(_falling(table["count"].to_numpy())))

    def _merge(self) -> None:
        self._tables = [_merged(self._tables)]
        self._new_rows = self._new_bytes = 0


def item_counts(items: pa.Array, counts: np.ndarray) -> pa.Table:
    """Return the table of items and how often each occurs."""
    return pa.table({"item": items, "count": pa.array(counts, pa.int64())})


def _firsts(values: np.ndarray) -> np.ndarray:
    """Return which of rising ``values`` differ from the one before, bool of their length."""
    first = np.ones(len(values), bool)
    np.not_equal(values[1:], values[:-1], out=first[1:])
    return first


def _counted(items: pa.Array, counted: np.ndarray) -> pa.Table:
    if pa.types.is_string(items.type):
        encoded = items.dictionary_encode()
        size = len(encoded.dictionary)
        counts = np.bincount(encoded.indices.to_numpy()[counted], minlength=size)
        return item_counts(encoded.dictionary, counts)
    values = items.to_numpy()
    every, some = np.sort(values), np.sort(values[counted])
    distinct, first = every[_firsts(every)], np.flatnonzero(_firsts(some))
    counts = np.zeros(len(distinct), np.int64)
    counts[np.searchsorted(distinct, some[first])] = np.diff(np.append(first, len(some)))
    return item_counts(pa.array(distinct), counts)


def _merged(tables: list[pa.Table]) -> pa.Table:
    """Return the sum of counts by item; of integers in their order."""
    strings = pa.types.is_string(tables[0]["item"].type)
    if strings:
        _check_size(tables)
    if len(tables) == 1:
        return tables[0]
    if strings:
        grouped = pa.concat_tables(tables).group_by("item").aggregate([("count", "sum")])
        return item_counts(grouped["item"].combine_chunks(), grouped["count_sum"].to_numpy())
    parts = [(table["item"].to_numpy(), table["count"].to_numpy()) for table in tables]
    joined = np.concatenate([items for items, _ in parts])
    joined.sort()
    distinct = joined[_firsts(joined)]
    counts = np.zeros(len(distinct), np.int64)
    for items, times in parts:
        counts[np.searchsorted(distinct, items)] += times
    return item_counts(pa.array(distinct), counts)


def _check_size(tables: list[pa.Table]) -> None:
    size = sum(table["item"].nbytes for table in tables)
    if size > _MOST_BYTES:
        raise value_error(
            "Catalogue.fit",
            "sessions",
            "hold ids that are strings of less than some 1.7 GiB together, each counted once",
            f"about {size / 2**30:.1f} GiB",
            "Number the items, and write integers.",
        )


def _falling(counts: np.ndarray) -> np.ndarray:
    """Return the stable order in which ``counts``, not negative, fall."""
    order = np.argsort((_RADIX - np.minimum(counts, _RADIX)).astype(np.uint16), kind="stable")
    many = int(np.count_nonzero(counts >= _RADIX))
    head = order[:many]
    order[:many] = head[np.argsort(-counts[head], kind="stable")]
    return order
