"""The catalogue: popularity order, both ways, on disk."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from transformers4rec_ext.data import Catalogue, ParquetSessions, catalogue, counting


def _sessions(path: Path, lists: Any, kind: pa.DataType) -> ParquetSessions:
    pq.write_table(pa.table({"items": pa.array(lists, pa.list_(kind))}), path, row_group_size=2)
    return ParquetSessions(path, "items")


# Training parts: [30, 30, 10], [10, 30], [] and the short [20]; 40, 50 are held out only.
LISTS = [[30, 30, 10, 50, 20], [10, 30, 40, 40], [], [20], [10, 10, 10]]


def test_counts_the_training_part_only(tmp_path: Path) -> None:
    fitted = Catalogue.fit(_sessions(tmp_path / "s", LISTS, pa.int32()))
    # 10: twice above and once in [10, 10, 10][:-2]; ties (10, 30), (40, 50) by the caller's id.
    assert fitted.items.to_pylist() == [10, 30, 20, 40, 50]
    assert fitted.counts.tolist() == [3, 3, 1, 0, 0]
    assert fitted.popularity.tolist() == [0, 3, 3, 1, 0, 0]
    assert fitted.num_items == 6


def test_counts_everything_on_request(tmp_path: Path) -> None:
    fitted = Catalogue.fit(_sessions(tmp_path / "s", LISTS, pa.int64()), "all")
    assert dict(zip(fitted.items.to_pylist(), fitted.counts.tolist(), strict=True)) == {
        10: 5,
        30: 3,
        20: 2,
        40: 2,
        50: 1,
    }


def test_order_of_sessions_does_not_matter(tmp_path: Path) -> None:
    one = Catalogue.fit(_sessions(tmp_path / "a", LISTS, pa.int64()))
    other = Catalogue.fit(_sessions(tmp_path / "b", LISTS[::-1], pa.int64()))
    assert one.items.equals(other.items)
    assert one.counts.tolist() == other.counts.tolist()


def test_merging_of_partial_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    lists = [rng.integers(0, 50, 9).tolist() for _ in range(40)]
    whole = Catalogue.fit(_sessions(tmp_path / "a", lists, pa.int64()))
    monkeypatch.setattr(counting, "_MERGE_ROWS", 10)
    merged = Catalogue.fit(_sessions(tmp_path / "b", lists, pa.int64()))
    flat = np.concatenate([row[:-2] for row in lists])
    assert merged.counts.sum() == len(flat)
    assert merged.items.equals(whole.items)
    assert merged.popularity.tolist() == whole.popularity.tolist()
    for item, count in zip(merged.items.to_pylist(), merged.counts, strict=True):
        assert count == (flat == item).sum()


@pytest.mark.parametrize("names", [[7, 0, 2**40], ["b", "", "é"]], ids=["int", "string"])
def test_both_ways_and_saved(tmp_path: Path, names: list[Any]) -> None:
    made = Catalogue(pa.array(names), np.array([5, 5, 0]))
    made.save(tmp_path / "c.parquet")
    read = Catalogue.load(tmp_path / "c.parquet")
    unknown = "nothing" if isinstance(names[0], str) else 8
    items = pa.array([names[2], unknown, names[0], names[0]])
    assert read.encode(items).tolist() == [3, 0, 1, 1]
    assert read.encode(items).dtype == np.int64
    assert read.decode(np.array([3, 1])).to_pylist() == [names[2], names[0]]
    assert read.counts.tolist() == [5, 5, 0]
    assert read.encode(items.slice(0, 0)).tolist() == []


def test_strings_beyond_what_arrow_can_sort(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beyond 2 GiB its offsets wrap, and the process ends by a segmentation fault."""
    path = tmp_path / "s.parquet"
    pq.write_table(pa.table({"items": [["a" * 50, "b" * 50, "c", "d"]]}), path)
    assert Catalogue.fit(ParquetSessions(path, "items")).num_items == 5
    monkeypatch.setattr(counting, "_MOST_BYTES", 100)
    with pytest.raises(ValueError, match=r"less than some 1\.7 GiB together.*Number the items"):
        Catalogue.fit(ParquetSessions(path, "items"))


def test_decode_range() -> None:
    made = Catalogue(pa.array([7, 8]), np.array([1, 1]))
    for bad in (0, 3):
        with pytest.raises(ValueError, match=r"ids must lie in \[1, 3\)"):
            made.decode(np.array([bad]))


def test_encode_wants_the_type_of_training() -> None:
    made = Catalogue(pa.array([7, 8]), np.array([1, 1]))
    with pytest.raises(TypeError, match="items must be int64 as in training; got string"):
        made.encode(pa.array(["7"]))
    for wrong in ([7, 8], np.array([7]), pa.array([7.0])):
        with pytest.raises(TypeError, match=r"items must be a pyarrow\.Array of integers or str"):
            made.encode(wrong)
    with pytest.raises(ValueError, match="items must hold no null; got 1"):
        made.encode(pa.array([7, None]))


def test_other_widths_of_integers_and_strings_are_the_same_ids() -> None:
    numbers = Catalogue(pa.array([7, 8], pa.uint16()), [2, 1])
    assert numbers.encode(pa.chunked_array([pa.array([8], pa.int32())])).tolist() == [2]
    names = Catalogue(pa.array(["a", "b"], pa.large_string()), np.array([2, 1], np.uint8))
    assert names.encode(pa.array(["b", "c"], pa.large_string())).tolist() == [2, 0]
    assert names.items.type == pa.string()


def test_numbers_that_are_no_integers_are_refused() -> None:
    with pytest.raises(TypeError, match="counts must be integers; got float64"):
        Catalogue(pa.array([10, 20]), np.array([2.9, 2.1]))
    with pytest.raises(TypeError, match="ids must be integers; got float64"):
        Catalogue(pa.array([7, 8]), np.array([1, 1])).decode(np.array([1.9]))


@pytest.mark.parametrize(
    ("items", "counts", "error", "text"),
    [
        (pa.array([1.5]), [1], TypeError, "integers or strings"),
        (pa.array([], pa.int64()), [], ValueError, "at least one item"),
        (pa.array([1, 1]), [1, 1], ValueError, "distinct"),
        (pa.array([1, None]), [1, 1], ValueError, "not null"),
        (pa.array([1, 2]), [1, 2], ValueError, "not rising"),
        (pa.array([1, 2]), [1, -1], ValueError, ">= 0"),
        (pa.array([1, 2]), [1], ValueError, r"be \[2\]"),
    ],
)
def test_constructor_checks(items: Any, counts: Any, error: Any, text: str) -> None:
    with pytest.raises(error, match=text):
        Catalogue(items, np.array(counts, np.int64))


def test_only_empty_lists(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="only empty lists"):
        Catalogue.fit(_sessions(tmp_path / "s", [[], []], pa.int64()))


def test_load_of_something_else(tmp_path: Path) -> None:
    path = tmp_path / "c.parquet"
    with pytest.raises(FileNotFoundError, match=r"Catalogue\.load: path must exist"):
        Catalogue.load(path)
    path.write_bytes(b"PAR1 no")
    with pytest.raises(ValueError, match="catalogue written by"):
        Catalogue.load(path)
    pq.write_table(pa.table({"x": [1]}), path)
    with pytest.raises(ValueError, match="catalogue written by"):
        Catalogue.load(path)


def test_full_disk_keeps_the_old_catalogue(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "c.parquet"
    Catalogue(pa.array([1]), np.array([1])).save(path)
    before = path.read_bytes()

    def full(table: pa.Table, where: Path, **options: Any) -> None:
        Path(where).write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(catalogue.pq, "write_table", full)
    with pytest.raises(OSError, match="No space left"):
        Catalogue(pa.array([2]), np.array([1])).save(path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]
