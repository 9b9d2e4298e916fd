"""Counts of many chunks against a Counter over all of them."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from transformers4rec_ext.data import counting
from transformers4rec_ext.data.counting import ItemCounts

numbers = st.integers(-3, 9) | st.sampled_from([-(2**63), 2**63 - 1])
names = st.text(alphabet=st.sampled_from("abé"), max_size=3)
Chunks = list[list[tuple[Any, bool]]]


def chunks_of(items: Any) -> Any:
    return st.lists(st.lists(st.tuples(items, st.booleans()), max_size=20), min_size=1, max_size=6)


def counted(chunks: Chunks, kind: pa.DataType) -> pa.Table:
    counts = ItemCounts()
    for chunk in chunks:
        items = pa.array([item for item, _ in chunk], kind)
        counts.add(items, np.array([some for _, some in chunk], bool))
    return counts.ranked()


@pytest.mark.parametrize("radix", [2, 2**16 - 1])  # counts above it are compared, others are not
@pytest.mark.parametrize("merge", [1, 10**6])
@given(
    chosen=st.tuples(st.just(pa.int64()), chunks_of(numbers))
    | st.tuples(st.just(pa.string()), chunks_of(names))
)
def test_as_a_counter_counts(chosen: tuple[pa.DataType, Chunks], merge: int, radix: int) -> None:
    kind, chunks = chosen
    expected = Counter({item: 0 for chunk in chunks for item, _ in chunk})
    expected.update(item for chunk in chunks for item, some in chunk if some)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(counting, "_MERGE_ROWS", merge)
        patch.setattr(counting, "_RADIX", radix)
        table = counted(chunks, kind)
    assert table["item"].type == kind
    assert list(zip(table["item"].to_pylist(), table["count"].to_pylist(), strict=True)) == sorted(
        expected.items(), key=lambda pair: (-pair[1], _bytes(pair[0]))
    )


def _bytes(item: Any) -> Any:
    """Return what arrow orders strings by."""
    return item.encode() if isinstance(item, str) else item


def test_counts_beyond_sixteen_bits_are_in_order() -> None:
    times = {7: 2**16, 3: 2**16 - 1, 5: 2**16 + 1, 4: 2**16 - 2, 9: 2**16 + 1}
    items = np.repeat(np.array(list(times)), list(times.values()))
    counts = ItemCounts()
    counts.add(pa.array(items), np.ones(len(items), bool))
    assert counts.ranked()["item"].to_pylist() == [5, 9, 7, 3, 4]


def test_what_is_held_grows_with_the_distinct_items(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(counting, "_MERGE_ROWS", 300)
    counts = ItemCounts()
    for _ in range(50):
        counts.add(pa.array(np.arange(100)), np.ones(100, bool))
        assert sum(table.num_rows for table in counts._tables) <= 400
    assert counts.ranked()["count"].to_pylist() == [50] * 100


@pytest.fixture
def merged(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return a list that receives how many rows each merge reads."""
    real, rows = counting._merged, []

    def spy(tables: list[pa.Table]) -> pa.Table:
        rows.append(sum(table.num_rows for table in tables))
        return real(tables)

    monkeypatch.setattr(counting, "_merged", spy)
    monkeypatch.setattr(counting, "_MERGE_ROWS", 300)
    return rows


@pytest.mark.parametrize("kind", [pa.int64(), pa.string()])
def test_new_items_are_merged_a_few_times_only(merged: list[int], kind: pa.DataType) -> None:
    counts = ItemCounts()
    for first in range(0, 20_000, 100):
        items = pa.array(np.arange(first, first + 100)).cast(kind)
        counts.add(items, np.ones(100, bool))
    assert counts.ranked().num_rows == 20_000
    assert sum(merged) < 4 * 20_000


def test_strings_are_merged_before_arrows_offsets_overflow(
    merged: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(counting, "_MERGE_BYTES", 2000)
    counts = ItemCounts()
    for _ in range(30):
        counts.add(pa.array(["x" * 900, "y"]), np.ones(2, bool))
        assert sum(table.nbytes for table in counts._tables) < 4000
    assert counts.ranked()["count"].to_pylist() == [30, 30]
    assert len(merged) > 5
