"""Which files a path stands for, and columns that files name twice or disagree about."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from transformers4rec_ext.data import Catalogue, ParquetLoader, ParquetSessions, write_sessions
from transformers4rec_ext.data.files import files_below
from transformers4rec_ext.data.marks import read_marks
from transformers4rec_ext.schema import ColumnSchema, IntDomain, Schema, Tags

Write = Callable[..., Path]
ITEM = (Tags.ITEM_ID, Tags.CATEGORICAL)
SCHEMA = Schema([ColumnSchema("item", ITEM, "int64", True, IntDomain(1, 9))])


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def write(name: str, **columns: object) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.table({"items": [[1, 2, 3], [2, 3]], **columns}), path)
        return path

    return write


def test_what_others_leave_in_a_folder_is_not_read(write: Write, tmp_path: Path) -> None:
    file = write("a.parquet")
    (tmp_path / "._a.parquet").write_bytes(b"\0")
    (tmp_path / "_temporary.parquet").write_bytes(b"")
    for paths in (tmp_path, f"{tmp_path}/*.parquet", f"{tmp_path}/**/*.parquet"):
        assert files_below("f", paths) == [file]
    assert files_below("f", tmp_path / "_temporary.parquet") == [tmp_path / "_temporary.parquet"]


def test_what_is_missing_or_a_folder_is_not_passed_over(write: Write, tmp_path: Path) -> None:
    """As a link to what was not fetched, or what a cluster writes for a file."""
    write("a.parquet")
    (tmp_path / "b.parquet").symlink_to(tmp_path / "not fetched")
    with pytest.raises(FileNotFoundError, match=r"b\.parquet does not"):
        ParquetSessions(tmp_path, "items")
    (tmp_path / "b.parquet").unlink()
    part = write("b.parquet/part-0.parquet")
    with pytest.raises(ValueError, match=r"b\.parquet, which is not a file\. Those in a folder of"):
        ParquetSessions(tmp_path, "items")
    assert files_below("f", f"{tmp_path}/**/*.parquet") == [tmp_path / "a.parquet", part]
    assert files_below("f", tmp_path / "b.parquet") == [part]


def test_a_folders_name_is_no_pattern(tmp_path: Path) -> None:
    for name in ("run[1]", "run1"):
        (tmp_path / name).mkdir()
        pq.write_table(pa.table({"items": [[1]]}), tmp_path / name / f"{name}.parquet")
    assert files_below("f", tmp_path / "run[1]") == [tmp_path / "run[1]" / "run[1].parquet"]


def test_folders_below_a_folder(write: Write, tmp_path: Path) -> None:
    """They are not read unasked; the error says how they are."""
    days = [write(f"year=2026/day={day}/a.parquet") for day in (1, 2)]
    with pytest.raises(ValueError, match=r"which holds none\. .*/\*\*/\*\.parquet") as caught:
        files_below("f", tmp_path)
    pattern = str(caught.value).split("'")[1]
    assert files_below("f", pattern) == days


def test_a_path_without_a_name_is_not_the_current_folder(
    write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write("a.parquet")
    monkeypatch.chdir(tmp_path)
    for paths in ("", ["a.parquet", ""]):
        with pytest.raises(ValueError, match="paths must name files; got ''"):
            files_below("f", paths)
    assert files_below("f", ".") == [Path("a.parquet")]


def test_a_file_is_not_counted_twice(write: Write, tmp_path: Path) -> None:
    file, link = write("a.parquet"), tmp_path / "link.parquet"
    link.symlink_to(file)
    for paths in ([file, file], [file, link], tmp_path):
        with pytest.raises(ValueError, match="paths must name every file once"):
            ParquetSessions(paths, "items")


def test_a_file_that_may_not_be_read_is_not_called_damaged(
    write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Path) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    file = write("a.parquet")
    monkeypatch.setattr(pq, "ParquetFile", refuse)
    with pytest.raises(PermissionError, match="Permission denied"):
        ParquetSessions(file, "items")


@pytest.mark.parametrize("column", ["items", "who", "split"])
def test_two_columns_of_one_name(tmp_path: Path, column: str) -> None:
    file = tmp_path / "a.parquet"
    names = ["items", "who", "split", column]
    marks = ["train", "test"]
    values = {"items": [[1, 2], [3, 4]], "who": [1, 2], "split": marks}
    pq.write_table(pa.Table.from_arrays([pa.array(values[n]) for n in names], names), file)
    with pytest.raises(ValueError, match=rf"column '{column}' must be one; got 2 of them"):
        ParquetSessions(file, "items", "who", split_column="split")


def test_two_columns_of_one_name_for_a_loader(tmp_path: Path) -> None:
    file = tmp_path / "a.parquet"
    pq.write_table(pa.Table.from_arrays([pa.array([[1]]), pa.array([[2]])], ["item", "item"]), file)
    with pytest.raises(ValueError, match="column 'item' must be one; got 2 of them"):
        ParquetLoader(file, batch_size=1, schema=SCHEMA)


def test_columns_are_those_of_all_files(write: Write) -> None:
    files = [write("a.parquet", who=[1, 2]), write("b.parquet"), write("c.parquet", who=[1, 2])]
    assert ParquetSessions(files, "items").columns == ["items"]
    assert ParquetSessions(files[::2], "items").columns == ["items", "who"]


def test_views_of_strings(tmp_path: Path) -> None:
    """What newer writers use for strings."""
    view = getattr(pa, "string_view", None)
    if view is None:
        pytest.skip("this arrow has no views")
    file = tmp_path / "a.parquet"
    items = pa.array([["tea", "cup"], ["cup"]], pa.list_(view()))
    marks = pa.array(["train", "test"], view())
    pq.write_table(pa.table({"items": items, "split": marks}), file)
    (chunk,) = ParquetSessions(file, "items").chunks()
    assert chunk.items.to_pylist() == ["tea", "cup", "cup"]
    assert read_marks([file], "split", None).size == 2


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e300])
def test_numbers_that_no_model_survives(tmp_path: Path, value: float) -> None:
    file = tmp_path / "a.parquet"
    pq.write_table(pa.table({"item": [[1, 2]], "age": [[0.5, value]]}), file)
    schema = Schema([*SCHEMA, ColumnSchema("age", (Tags.CONTINUOUS,), "float32", True)])
    with pytest.raises(ValueError, match="column 'age' must hold finite numbers, as float32"):
        list(ParquetLoader(file, batch_size=1, schema=schema))


def test_integers_of_64_bits_do_not_become_negative(tmp_path: Path) -> None:
    large = np.array([2**63 + 5, 7], np.uint64)
    with pytest.raises(ValueError, match="sessions must fit in 63 bits"):
        write_sessions(tmp_path / "a.parquet", [large])
    with pytest.raises(ValueError, match="counts must fit in 63 bits"):
        Catalogue(pa.array([5, 2]), large)
    with pytest.raises(ValueError, match="ids must fit in 63 bits"):
        Catalogue(pa.array([5, 2]), np.array([2, 1])).decode(large)
    write_sessions(tmp_path / "a.parquet", [large // 2])
    assert pq.read_table(tmp_path / "a.parquet")["item_id"].to_pylist() == [[2**62 + 2, 3]]


def test_sessions_are_numbered_in_a_column_of_their_own(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="items_column must be another"):
        write_sessions(tmp_path / "a.parquet", [np.array([1])], items_column="session_id")
