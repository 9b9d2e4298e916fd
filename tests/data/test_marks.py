"""Whole sessions for training, validation and test, by a column: every one where it says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from transformers4rec_ext.data import Catalogue, ParquetSessions, SessionLoader, held_out
from transformers4rec_ext.data.split import MARKS, Part

TRAIN, VALIDATION, TEST = range(3)


def _sessions(
    path: Path, marks: Any, *, items: Any = None, rows: int = 4, **options: Any
) -> ParquetSessions:
    """Return sessions of which session i holds the items 10 i, 10 i + 1, ..., unless given."""
    lists = [range(10 * i, 10 * i + 2 + i % 4) for i in range(len(marks))]
    table = pa.table({"items": [list(row) for row in items or lists], "part": marks})
    pq.write_table(table, path, row_group_size=rows)
    return ParquetSessions(path, "items", split_column="part", **options)


def test_marks_follow_the_sessions_wherever_they_are_read(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    names = rng.choice(MARKS, 50).tolist()
    paths = [tmp_path / "a.parquet", tmp_path / "b.parquet"]
    _sessions(paths[0], names[:21], rows=5)
    _sessions(paths[1], pa.array(names[21:]).dictionary_encode(), rows=7)
    sessions = ParquetSessions(paths, "items", split_column="part")
    assert sessions.marks is not None
    assert [MARKS[mark] for mark in sessions.marks] == names
    order = rng.permutation(len(sessions.row_groups)).tolist()
    for chunk in sessions.chunks(order, rows=3):
        assert chunk.marks is not None
        read = [MARKS[mark] for mark in chunk.marks]
        assert read == names[chunk.first : chunk.first + len(chunk.offsets) - 1]


def test_without_a_column_nothing_is_marked(tmp_path: Path) -> None:
    _sessions(tmp_path / "s.parquet", ["train"] * 3)
    sessions = ParquetSessions(tmp_path / "s.parquet", "items")
    assert sessions.marks is None
    assert [chunk.marks for chunk in sessions.chunks()] == [None]


@pytest.mark.parametrize(
    ("options", "validation"),
    [
        ({}, [20, 22]),  # a tenth of 20, the last ones
        ({"validation_fraction": 0.29}, [15, 16, 18, 19, 20, 22]),  # round(5.8)
        ({"validation_fraction": 1e-9}, [22]),  # at least one
    ],
)
def test_the_last_training_sessions_validate_where_none_is_marked(
    tmp_path: Path, options: dict[str, float], validation: list[int]
) -> None:
    names = ["train"] * 23
    for test in (3, 17, 21):
        names[test] = "test"
    marks = _sessions(tmp_path / "s.parquet", names, **options).marks
    assert marks is not None
    assert np.flatnonzero(marks == VALIDATION).tolist() == validation
    assert np.flatnonzero(marks == TEST).tolist() == [3, 17, 21]
    assert np.count_nonzero(marks == TRAIN) == 20 - len(validation)


def test_sessions_marked_for_validation_are_all_of_it(tmp_path: Path) -> None:
    names = ["validation", *["train"] * 20, "test"]
    marks = _sessions(tmp_path / "s.parquet", names).marks
    assert marks is not None
    assert np.flatnonzero(marks == VALIDATION).tolist() == [0]
    with pytest.raises(ValueError, match=r"validation_fraction must be left out where 'part' ma"):
        _sessions(tmp_path / "s.parquet", names, validation_fraction=0.1)


@pytest.mark.parametrize(
    ("marks", "text"),
    [
        (["train", "test", "train", "train", "valid"], "one of 'train', 'validation', 'test'; got"),
        (["train", "test", "train", "train", "valid"], "got 'valid' in .*b.parquet, row 4"),
        (["train", "test", "train", "train", None], "got null in .*b.parquet, row 4"),
        (["train", "Test"], "got 'Test' in .*b.parquet, row 1"),
    ],
)
def test_another_mark_is_an_error_that_names_the_row(
    tmp_path: Path, marks: list[Any], text: str
) -> None:
    _sessions(tmp_path / "a.parquet", ["train", "test"])
    with pytest.raises(ValueError, match=f"column 'part' must mark every session as .*{text}"):
        _sessions(tmp_path / "b.parquet", marks, rows=2)
    paths = [tmp_path / "a.parquet", tmp_path / "b.parquet"]
    with pytest.raises(ValueError, match=text):
        ParquetSessions(paths, "items", split_column="part")


def test_bad_options(tmp_path: Path) -> None:
    path = tmp_path / "s.parquet"
    with pytest.raises(TypeError, match=r"column 'part' must be strings, of 'train', .* got int64"):
        _sessions(path, [0, 1, 2])
    with pytest.raises(TypeError, match=r"column 'items' must be strings.* got list"):
        ParquetSessions(path, "items", split_column="items")
    with pytest.raises(ValueError, match=r"got 'fold'\. Its columns are: items, part"):
        ParquetSessions(path, "items", split_column="fold")
    with pytest.raises(ValueError, match="validation_fraction must be left out without split_col"):
        ParquetSessions(path, "items", validation_fraction=0.1)
    for wrong in (0, 1, -0.1, float("nan")):
        with pytest.raises(ValueError, match=r"validation_fraction must lie in \(0, 1\)"):
            _sessions(path, ["train", "test"], validation_fraction=wrong)


def _held_items(sessions: ParquetSessions, catalogue: Catalogue, part: Part) -> set[int]:
    """Return the targets of a part and all that they are predicted from."""
    ids: list[np.ndarray] = []
    for chunk in held_out(sessions, catalogue, part):
        ids.append(chunk.targets)
        ids += [chunk.ids[a:b] for a, b in zip(chunk.start, chunk.stop, strict=True)]
    return set(catalogue.decode(np.unique(np.concatenate(ids))).to_pylist())


def _trained_items(loader: SessionLoader) -> set[int]:
    ids = np.concatenate([batch["item_id"].flatten().numpy() for batch in loader])
    return set(loader.catalogue.decode(np.unique(ids[ids > 0])).to_pylist())


def test_no_held_out_item_is_trained_on_or_counted(tmp_path: Path) -> None:
    """No two sessions share an item here, so what a part holds can be told from the ids."""
    names = np.random.default_rng(1).choice(MARKS, 60).tolist()
    sessions = _sessions(tmp_path / "s.parquet", names, rows=11)
    catalogue = Catalogue.fit(sessions)
    loader = SessionLoader(sessions, catalogue, max_length=3, batch_size=8)
    found = {
        "train": _trained_items(loader),
        **{part: _held_items(sessions, catalogue, part) for part in ("validation", "test")},
    }
    for number, part in enumerate(MARKS):
        own = [i for i, name in enumerate(names) if name == part]
        assert found[part] == {10 * i + j for i in own for j in range(2 + i % 4)}, number
    counted = catalogue.items.to_numpy()[catalogue.counts > 0]
    assert set(counted.tolist()) == found["train"]
    # Planted faults: a loader, and a count, that do not know of the marks.
    leaky = SessionLoader(sessions, catalogue, max_length=3, batch_size=8, part="all")
    assert _trained_items(leaky) & found["test"]
    assert Catalogue.fit(sessions, "all").counts.sum() > catalogue.counts.sum()
    unmarked = ParquetSessions(tmp_path / "s.parquet", "items")
    blind = SessionLoader(unmarked, catalogue, max_length=3, batch_size=8)
    assert _trained_items(blind) & found["test"]


def test_every_item_but_the_first_is_a_target_given_all_before_it(tmp_path: Path) -> None:
    lists = [[1, 2, 3], [4, 9, 5, 5], [6], [], [9, 9, 7, 8], [1, 3]]
    names = ["train", "test", "test", "test", "test", "validation"]
    sessions = _sessions(tmp_path / "s.parquet", names, items=lists, rows=3)
    # Ids as they are; 9 is unknown.
    known = Catalogue(pa.array(range(1, 9)), np.zeros(8, np.int64))

    def pairs(part: Part) -> list[tuple[list[int], int]]:
        return [
            (chunk.ids[a:b].tolist(), int(target))
            for chunk in held_out(sessions, known, part)
            for a, b, target in zip(chunk.start, chunk.stop, chunk.targets, strict=True)
        ]

    of_test = [([4], 0), ([4], 5), ([4, 5], 5), ([], 0), ([], 7), ([7], 8)]
    assert pairs("test") == of_test
    assert pairs("validation") == [([1], 3)]
    assert pairs("every") == [([1], 2), ([1, 2], 3), *of_test, ([1], 3)]
    assert pairs("last") == [([1, 2], 3), ([4, 5], 5), ([7], 8), ([1], 3)]


def test_a_sample_is_of_the_sessions_of_the_part(tmp_path: Path) -> None:
    names = ["train"] * 90 + ["validation"] * 10 + ["test"] * 50
    sessions = _sessions(tmp_path / "s.parquet", names, items=[[i, i] for i in range(150)], rows=40)
    catalogue = Catalogue.fit(sessions, "all")

    def sample(part: Part, limit: int, seed: int = 0) -> list[int]:
        chunks = held_out(sessions, catalogue, part, limit=limit, seed=seed)
        return [int(i) for c in chunks for i in catalogue.decode(c.targets).to_pylist()]

    chosen = sample("validation", 7)
    assert len(set(chosen)) == 7
    assert set(chosen) < set(range(90, 100))
    assert chosen == sample("validation", 7)
    assert chosen != sample("validation", 7, seed=1)
    assert sample("validation", 10) == list(range(90, 100)) == sample("validation", 99)
    assert len(sample("every", 70)) == 70
