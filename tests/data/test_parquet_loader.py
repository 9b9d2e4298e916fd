"""Batches by a schema: whole, shuffled by (seed, epoch), the same for any number of processes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from accelerate import skip_first_batches

from transformers4rec_ext.data import ParquetLoader
from transformers4rec_ext.schema import ColumnSchema, IntDomain, Schema, Tags

ROWS, V = 103, 60
SCHEMA = Schema(
    [
        ColumnSchema("item", (Tags.ITEM_ID, Tags.CATEGORICAL), "int64", True, IntDomain(1, V)),
        ColumnSchema("country", (Tags.CATEGORICAL,), int_domain=IntDomain(0, 9)),
        ColumnSchema("age", (Tags.CONTINUOUS,), "float32", True),
        ColumnSchema("click", (Tags.TARGET, Tags.BINARY_CLASSIFICATION)),
        ColumnSchema("session_id"),
    ]
)


def _table(rows: int = ROWS) -> pa.Table:
    rng = np.random.default_rng(1)
    lengths = rng.integers(0, 9, rows)
    return pa.table(
        {
            "item": [rng.integers(1, V + 1, n).tolist() for n in lengths],
            "country": rng.integers(0, 10, rows).astype(np.int32),
            "age": [rng.random(n).tolist() for n in lengths],
            "click": rng.integers(0, 2, rows).astype(bool),
            "session_id": np.arange(rows),
            "name": ["x"] * rows,
        }
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    table = _table()
    pq.write_table(table.slice(0, 40), tmp_path / "a.parquet", row_group_size=7)
    pq.write_table(table.slice(40), tmp_path / "b.parquet", row_group_size=11)
    (tmp_path / "_SUCCESS").touch()
    return tmp_path


def _rows(batches: Any) -> list[tuple[Any, ...]]:
    """Return the rows of the batches as plain values without padding."""
    rows = []
    for x, y in batches:
        assert x["item"].dtype == x["country"].dtype == y["click"].dtype == torch.int64
        assert x["age"].dtype == torch.float32
        assert x["item"].shape == x["age"].shape
        for item, country, age, click in zip(
            x["item"], x["country"], x["age"], y["click"], strict=True
        ):
            n = int((item > 0).sum())
            assert not age[n:].any()
            rows.append((*item[:n].tolist(), int(country), *age[:n].tolist(), int(click)))
    return rows


def test_rows_are_those_of_the_files(folder: Path) -> None:
    loader = ParquetLoader(folder, SCHEMA, 8)
    table = _table().to_pydict()
    expected = [
        (*item, country, *np.float32(age).tolist(), int(click))
        for item, country, age, click in zip(
            table["item"], table["country"], table["age"], table["click"], strict=True
        )
    ]
    assert _rows(loader) == expected
    assert len(loader) == 13
    assert loader.batch_size == 8
    assert len(loader.dataset) == ROWS
    x, _ = next(iter(loader))
    assert set(x) == {"item", "country", "age"}
    assert x["item"].shape[1] == int((x["item"] > 0).sum(1).max())


@pytest.mark.parametrize("as_paths", [str, lambda f: [f / "a.parquet", f / "b.parquet"]])
def test_paths_are_folders_files_or_patterns(folder: Path, as_paths: Any) -> None:
    expected = _rows(ParquetLoader(folder, SCHEMA, 8))
    assert _rows(ParquetLoader(as_paths(folder), SCHEMA, 8)) == expected
    assert _rows(ParquetLoader(f"{folder}/*.parquet", SCHEMA, 8)) == expected


def test_width_is_given_or_that_of_the_longest_row(folder: Path) -> None:
    fixed = [x["item"] for x, _ in ParquetLoader(folder, SCHEMA, 8, max_sequence_length=5)]
    free = [x["item"] for x, _ in ParquetLoader(folder, SCHEMA, 8)]
    for cut, whole in zip(fixed, free, strict=True):
        assert cut.shape[1] == 5
        wide = torch.nn.functional.pad(whole, (0, 5))
        assert torch.equal(cut, wide[:, :5])


def test_a_batch_of_several_row_groups_has_one_width(folder: Path) -> None:
    options = {"shuffle": True, "shuffle_buffer_size": 1, "seed": 5}  # a block is a row group
    for width in (5, 12):
        for x, _ in ParquetLoader(folder, SCHEMA, 32, max_sequence_length=width, **options):
            assert x["item"].shape[1] == x["age"].shape[1] == width
    for x, _ in ParquetLoader(folder, SCHEMA, 32, **options):
        assert x["item"].shape[1] == int((x["item"] > 0).sum(1).max())


def test_what_was_read_of_other_files_is_forgotten(folder: Path) -> None:
    loader = ParquetLoader(folder / "a.parquet", SCHEMA, 8)
    next(iter(loader))
    loader.dataset.read_from(folder / "b.parquet")
    assert _rows([next(iter(loader))]) == _rows(ParquetLoader(folder / "b.parquet", SCHEMA, 8))[:8]


@pytest.mark.parametrize("buffer", [1, 20, 65_536])
def test_shuffling_is_a_function_of_seed_and_epoch(folder: Path, buffer: int) -> None:
    options = {"shuffle": True, "shuffle_buffer_size": buffer}
    plain = _rows(ParquetLoader(folder, SCHEMA, 8))
    loader = ParquetLoader(folder, SCHEMA, 8, seed=3, **options)
    first, second = _rows(loader), _rows(loader)
    assert sorted(first) == sorted(second) == sorted(plain)
    assert len({tuple(rows) for rows in (first, second, plain)}) == 3
    other = ParquetLoader(folder, SCHEMA, 5, seed=3, **options)
    other.set_epoch(1)
    assert _rows(other) == second
    assert _rows(ParquetLoader(folder, SCHEMA, 8, seed=4, **options)) != first


PLACES = Schema([ColumnSchema("place", (Tags.CONTINUOUS,), "float32")])


@pytest.fixture
def places(tmp_path: Path) -> Path:
    """Write where each row stands, in row groups of 10."""
    table = pa.table({"place": np.arange(ROWS, dtype=float)})
    pq.write_table(table, tmp_path / "places.parquet", row_group_size=10)
    return tmp_path / "places.parquet"


def test_epochs_order_the_row_groups_anew(places: Path) -> None:
    loader = ParquetLoader(places, PLACES, 10, shuffle=True, shuffle_buffer_size=1, seed=3)
    firsts = {int(next(iter(loader))[0]["place"][0]) // 10 for _ in range(10)}
    assert len(firsts) > 2


def test_a_large_buffer_mixes_rows_of_all_files(places: Path) -> None:
    (x, _), *_ = ParquetLoader(places, PLACES, ROWS, shuffle=True)
    place = x["place"].numpy()
    # of a random order two neighbours follow each other in the file with probability 1 / ROWS
    assert (np.diff(place) == 1).sum() < 8
    # and place and value are uncorrelated: |r| has a standard deviation of 0.1
    assert abs(np.corrcoef(place, np.arange(ROWS))[0, 1]) < 0.5


@pytest.mark.parametrize("shuffle", [False, True])
@pytest.mark.parametrize("drop_last", [False, True])
def test_processes_share_the_batches_of_one(folder: Path, shuffle: bool, drop_last: bool) -> None:
    options: dict[str, Any] = {"shuffle": shuffle, "drop_last": drop_last}
    options["max_sequence_length"] = 9
    alone = list(ParquetLoader(folder, SCHEMA, 12, **options))
    shares = [
        list(ParquetLoader(folder, SCHEMA, 4, rank=rank, world_size=3, **options))
        for rank in range(3)
    ]
    assert [len(share) for share in shares] == [len(alone)] * 3
    for whole, *parts in zip(alone, *shares, strict=True):
        for side in (0, 1):
            for name, column in whole[side].items():
                assert torch.equal(column, torch.cat([part[side][name] for part in parts]))


def test_a_process_without_rows_gets_an_empty_batch(tmp_path: Path) -> None:
    pq.write_table(_table(9), tmp_path / "a.parquet")
    *_, (x, y) = ParquetLoader(tmp_path, SCHEMA, 4, world_size=2, max_sequence_length=6)
    assert x["item"].shape == x["age"].shape == (0, 6)
    assert x["item"].dtype == torch.int64
    assert x["age"].dtype == torch.float32
    assert y["click"].shape == (0,)


def test_whoever_starts_in_the_middle_reads_only_the_rest(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loader = ParquetLoader(folder, SCHEMA, 8, shuffle=True, shuffle_buffer_size=10)
    expected = _rows(list(loader)[9:])
    loader.set_epoch(0)
    read: list[int] = []
    columns = loader.dataset.columns
    inner = columns.read
    monkeypatch.setattr(columns, "read", lambda groups: read.extend(groups) or inner(groups))
    assert _rows(skip_first_batches(loader, 9)) == expected
    assert sum(group.rows for group in read) < ROWS / 2


def test_workers_give_the_same_batches(folder: Path) -> None:
    expected = _rows(ParquetLoader(folder, SCHEMA, 8, shuffle=True))
    assert _rows(ParquetLoader(folder, SCHEMA, 8, shuffle=True, num_workers=2)) == expected


def test_the_global_generator_is_left_alone(folder: Path) -> None:
    before = torch.random.get_rng_state()
    list(ParquetLoader(folder, SCHEMA, 8, shuffle=True))
    assert torch.equal(torch.random.get_rng_state(), before)


def _written(folder: Path, **columns: Any) -> Path:
    table = _table()
    for name, values in columns.items():
        table = table.drop([name]) if values is None else table
        if values is not None:
            table = table.set_column(table.schema.get_field_index(name), name, pa.array(values))
    path = folder / "bad.parquet"
    pq.write_table(table, path)
    return path


@pytest.mark.parametrize(
    ("columns", "error", "text"),
    [
        ({"age": None}, ValueError, "schema must name columns of .*bad.parquet; got 'age'. Its"),
        ({"country": ["de"] * ROWS}, TypeError, "'country' must hold numbers .* got string"),
        ({"country": [1, None] + [2] * (ROWS - 2)}, ValueError, "'country' must hold no nulls"),
        ({"item": [[1, None]] * ROWS}, ValueError, "'item' must hold no nulls"),
        ({"item": [[1, 2]] * 5 + [None] * (ROWS - 5)}, ValueError, "'item' must hold no nulls"),
        ({"item": [[1, 61]] * ROWS}, ValueError, "'item' must hold ids from 0 to 60.*; got 61"),
        ({"item": [[1, -1]] * ROWS}, ValueError, "'item' must hold ids from 0 to 60.*; got -1"),
        ({"item": [[[1.0]]] * ROWS}, TypeError, "'item' must hold numbers or lists of numbers"),
        (
            {"click": pa.array([2**64 - 1] * ROWS, pa.uint64())},
            ValueError,
            "'click' must fit in 63 bits",
        ),
    ],
)
def test_bad_columns(tmp_path: Path, columns: Any, error: type[Exception], text: str) -> None:
    path = _written(tmp_path, **columns)
    with pytest.raises(error, match=f"ParquetLoader: .*{text}"):
        list(ParquetLoader(path, SCHEMA, 8))


def test_bad_files(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"paths must exist; .*none.parquet does not"):
        ParquetLoader(tmp_path / "none.parquet", SCHEMA, 8)
    with pytest.raises(FileNotFoundError, match=r"paths must exist; .*\*.parquet does not"):
        ParquetLoader(f"{tmp_path}/*.parquet", SCHEMA, 8)
    with pytest.raises(ValueError, match=r"folders that hold \*.parquet files; got .* none"):
        ParquetLoader(tmp_path, SCHEMA, 8)
    with pytest.raises(ValueError, match="paths must name at least one file; got none"):
        ParquetLoader([], SCHEMA, 8)
    (tmp_path / "text.parquet").write_text("no parquet")
    with pytest.raises(ValueError, match="paths must be complete parquet files"):
        ParquetLoader(tmp_path, SCHEMA, 8)
    pq.write_table(_table(0), tmp_path / "text.parquet")
    with pytest.raises(TypeError, match="numbers or lists of numbers; got null"):
        ParquetLoader(tmp_path, SCHEMA, 8)
    pq.write_table(_table().slice(0, 0), tmp_path / "text.parquet")
    with pytest.raises(ValueError, match="paths must hold at least one row; got none"):
        ParquetLoader(tmp_path, SCHEMA, 8)


def test_files_that_disagree(folder: Path) -> None:
    _written(folder, age=[[1]] * ROWS)
    with pytest.raises(TypeError, match="'age' must hold lists of floats in all files; got lists"):
        ParquetLoader(folder, SCHEMA, 8)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"batch_size": 0}, "batch_size must be at least 1; got 0"),
        ({"max_sequence_length": 0}, "max_sequence_length must be at least 1; got 0"),
        ({"shuffle_buffer_size": 0}, "shuffle_buffer_size must be at least 1; got 0"),
        ({"seed": -1}, "seed must be at least 0; got -1"),
        ({"rank": -1}, "rank must be at least 0; got -1"),
        ({"world_size": 2, "rank": 2}, r"rank must lie in \[0, world_size=2\); got 2"),
        ({"schema": SCHEMA.select_by_name("session_id")}, "schema must tag at least one column"),
    ],
)
def test_bad_arguments(folder: Path, options: dict[str, Any], text: str) -> None:
    arguments = {"schema": SCHEMA, "batch_size": 8, **options}
    with pytest.raises(ValueError, match=f"ParquetLoader: {text}"):
        ParquetLoader(folder, **arguments)


@pytest.mark.parametrize("option", ["batch_size", "max_sequence_length", "shuffle_buffer_size"])
def test_numbers_are_integers(folder: Path, option: str) -> None:
    with pytest.raises(TypeError, match=f"ParquetLoader: {option} must be an int; got float"):
        ParquetLoader(folder, **{"schema": SCHEMA, "batch_size": 8, option: 2.5})
