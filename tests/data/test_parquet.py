"""The parquet reader: what it accepts, what it refuses, and how it streams."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from transformers4rec_ext.data import ParquetSessions

Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Return ``write(lists, type, name, **columns) -> path``."""

    def write(
        lists: Any,
        kind: pa.DataType | None = None,
        name: str = "s.parquet",
        rows: int | None = None,
        **columns: Any,
    ) -> Path:
        path = tmp_path / name
        table = pa.table({"items": pa.array(lists, kind), **columns})
        pq.write_table(table, path, row_group_size=rows)
        return path

    return write


def _lists(sessions: ParquetSessions, **options: Any) -> list[list[Any]]:
    found = []
    for chunk in sessions.chunks(**options):
        items = chunk.items.to_pylist()
        found += [items[a:b] for a, b in zip(chunk.offsets[:-1], chunk.offsets[1:], strict=True)]
    return found


INTEGERS = [pa.int8(), pa.int16(), pa.int32(), pa.int64(), pa.uint8(), pa.uint32(), pa.uint64()]


@pytest.mark.parametrize("item", INTEGERS, ids=str)
@pytest.mark.parametrize("make", [pa.list_, pa.large_list], ids=["list", "large_list"])
def test_reads_every_integer_list(write: Write, item: pa.DataType, make: Any) -> None:
    lists = [[1, 2], [], [7]]
    sessions = ParquetSessions(write(lists, make(item)), "items")
    assert sessions.item_type == pa.int64()
    assert _lists(sessions) == lists


@pytest.mark.parametrize(
    "item", [pa.string(), pa.large_string(), pa.dictionary(pa.int32(), pa.string())], ids=str
)
def test_reads_string_lists(write: Write, item: pa.DataType) -> None:
    lists = [["a", "bc"], ["a"]]
    sessions = ParquetSessions(write(lists, pa.list_(item)), "items")
    assert sessions.item_type == pa.string()
    assert _lists(sessions) == lists


def test_fixed_size_lists(write: Write) -> None:
    path = write([[1, 2], [3, 4]], pa.list_(pa.int32(), 2))
    assert _lists(ParquetSessions(path, "items")) == [[1, 2], [3, 4]]


def test_large_ids_survive(write: Write) -> None:
    ids = [2**24 + 1, 2**53 + 1, 2**63 - 1, 0]
    assert _lists(ParquetSessions(write([ids], pa.list_(pa.int64())), "items")) == [ids]


@pytest.mark.parametrize("rows", [1, 3, 100])
def test_chunks_stream_in_order(write: Write, rows: int) -> None:
    lists = [[i] * (i % 4) for i in range(20)]
    path = write(lists, pa.list_(pa.int64()), rows=6)
    sessions = ParquetSessions(path, "items")
    chunks = list(sessions.chunks(rows=rows))
    assert max(len(chunk.offsets) - 1 for chunk in chunks) <= rows
    assert chunks[-1].first + len(chunks[-1].offsets) - 1 == 20
    assert _lists(sessions, rows=rows) == lists


def test_order_of_row_groups_and_several_files(write: Write) -> None:
    first = write([[1], [2], [3]], pa.list_(pa.int32()), "a.parquet", rows=2)
    second = write([[4]], pa.list_(pa.int64()), "b.parquet")
    sessions = ParquetSessions([first, second], "items")
    assert [unit.first for unit in sessions.row_groups] == [0, 2, 3]
    assert _lists(sessions, order=[2, 0, 1]) == [[4], [1], [2], [3]]


def test_session_column(write: Write) -> None:
    path = write([[1], [2]], pa.list_(pa.int32()), session=pa.array(["x", "y"]))
    (chunk,) = ParquetSessions(path, "items", "session").chunks()
    assert chunk.sessions is not None
    assert chunk.sessions.to_pylist() == ["x", "y"]


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"paths must exist; .*gone\.parquet does not"):
        ParquetSessions(tmp_path / "gone.parquet", "items")


def test_folder_and_nothing(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"folders that hold \*\.parquet files"):
        ParquetSessions(tmp_path, "items")
    for name, item in (("b", 2), ("a", 1)):
        pq.write_table(pa.table({"items": [[item]]}), tmp_path / f"{name}.parquet")
    sessions = ParquetSessions(tmp_path, "items")
    assert [chunk.items.to_pylist() for chunk in sessions.chunks()] == [[1], [2]]
    with pytest.raises(ValueError, match="name at least one file"):
        ParquetSessions([], "items")


def test_not_parquet_and_empty(tmp_path: Path) -> None:
    for name, content in (("a", b"session,items\n1,2\n" * 10), ("b", b"")):
        path = tmp_path / name
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"complete parquet files; got .*truncated"):
            ParquetSessions(path, "items")


def test_truncated_file(write: Write) -> None:
    path = write([[i, i + 1] for i in range(1000)], pa.list_(pa.int64()))
    content = path.read_bytes()
    path.write_bytes(content[: len(content) * 2 // 3])
    with pytest.raises(ValueError, match="complete parquet files"):
        ParquetSessions(path, "items")


def test_damaged_pages_with_a_good_footer(write: Write) -> None:
    path = write([[i, i + 1] for i in range(1000)], pa.list_(pa.int64()))
    content = bytearray(path.read_bytes())
    content[4:3000] = bytes(2996)
    path.write_bytes(bytes(content))
    with pytest.raises(ValueError, match="complete parquet files"):
        list(ParquetSessions(path, "items").chunks())


def test_missing_column_names_the_others(write: Write) -> None:
    path = write([[1]], pa.list_(pa.int32()), day=pa.array([1]))
    with pytest.raises(ValueError, match=r"got 'item_id'. Its columns are: items, day\."):
        ParquetSessions(path, "item_id")
    with pytest.raises(ValueError, match="got 'user'"):
        ParquetSessions(path, "items", "user")


@pytest.mark.parametrize(
    ("lists", "kind", "hint"),
    [
        ([1, 2], pa.int64(), "Group the file by session"),
        (["1 2"], pa.string(), "Group the file by session"),
        ([[1.0]], pa.list_(pa.float64()), "Floats cannot hold ids exactly"),
        ([[[1]]], pa.list_(pa.list_(pa.int64())), "Group the file"),
        ([[True]], pa.list_(pa.bool_()), "Write the ids as"),
    ],
)
def test_wrong_column_type(write: Write, lists: Any, kind: pa.DataType, hint: str) -> None:
    with pytest.raises(TypeError, match=f"list of integers or of strings; got .*{hint}"):
        ParquetSessions(write(lists, kind), "items")


def test_files_of_different_types(write: Write) -> None:
    first = write([[1]], pa.list_(pa.int32()), "a.parquet")
    second = write([["x"]], pa.list_(pa.string()), "b.parquet")
    with pytest.raises(TypeError, match=r"one type in all files \(int64\); got string"):
        ParquetSessions([first, second], "items")


@pytest.mark.parametrize(
    ("lists", "kind", "text"),
    [
        ([[1], None], pa.list_(pa.int64()), "sessions must not be null; got a null list .* row 1"),
        ([[1, 2], [], [3, None]], pa.list_(pa.int64()), "items must not be null; .* row 2"),
        ([["a"], [None]], pa.list_(pa.string()), "items must not be null; .* row 1"),
        ([[1], [], [2, -5]], pa.list_(pa.int32()), "items must be >= 0; got -5 in .* row 2"),
        ([[2**63]], pa.list_(pa.uint64()), "fit in 63 bits"),
    ],
)
def test_bad_values(write: Write, lists: Any, kind: pa.DataType, text: str) -> None:
    sessions = ParquetSessions(write(lists, kind), "items")
    with pytest.raises(ValueError, match=text):
        list(sessions.chunks())


def test_bad_value_is_found_in_a_later_chunk(write: Write) -> None:
    sessions = ParquetSessions(write([[1]] * 9 + [[-1]], pa.list_(pa.int64())), "items")
    with pytest.raises(ValueError, match="sessions from 8 of row group 0, row 1"):
        list(sessions.chunks(rows=4))


def test_file_without_rows(write: Write) -> None:
    with pytest.raises(ValueError, match="hold at least one session; got no rows"):
        ParquetSessions(write([], pa.list_(pa.int64())), "items")


def test_offsets_of_a_sliced_batch_start_at_zero(write: Write) -> None:
    sessions = ParquetSessions(write([[1, 2, 3]] * 5, pa.list_(pa.int64())), "items")
    for chunk in sessions.chunks(rows=2):
        assert chunk.offsets[0] == 0
        assert chunk.offsets.dtype == np.int64
        assert chunk.offsets[-1] == len(chunk.items)
