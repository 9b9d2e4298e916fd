"""Synthetic sessions: the law they promise, and the same from the same seed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from transformers4rec_ext.data import ParquetSessions, synthetic_sessions, write_sessions


def test_same_seed_same_sessions() -> None:
    one, other = synthetic_sessions(50, 40, seed=3), synthetic_sessions(50, 40, seed=3)
    assert [row.tolist() for row in one] == [row.tolist() for row in other]
    assert [row.tolist() for row in one] != [
        row.tolist() for row in synthetic_sessions(50, 40, seed=4)
    ]


def test_structure_can_be_learnt() -> None:
    """The most frequent follower of an item follows it more than half of the time."""
    sessions = synthetic_sessions(3000, 100, seed=0)
    follows = np.zeros((101, 101), np.int64)
    for row in sessions:
        np.add.at(follows, (row[:-1], row[1:]), 1)
    counted = follows.sum(axis=1)
    share = follows.max(axis=1).sum() / counted.sum()
    assert 0.55 < share < 0.70
    popular = follows.sum(axis=0).max() / counted.sum()
    assert popular < 0.25
    # Names say nothing about popularity.
    assert abs(np.corrcoef(np.arange(1, 101), follows.sum(axis=0)[1:])[0, 1]) < 0.4


def test_ids_and_lengths() -> None:
    sessions = synthetic_sessions(400, 30, mean_length=9, seed=1)
    assert min(map(len, sessions)) >= 5
    assert 8 < np.mean([len(row) for row in sessions]) < 10
    assert {int(i) for row in sessions for i in row} == set(range(1, 31))


def test_written_sessions_are_read_back(tmp_path: Path) -> None:
    sessions = synthetic_sessions(7, 10, seed=2)
    write_sessions(tmp_path / "s.parquet", sessions)
    (chunk,) = ParquetSessions(tmp_path / "s.parquet", "item_id", "session_id").chunks()
    assert chunk.items.to_pylist() == np.concatenate(sessions).tolist()


@pytest.mark.parametrize("session", [np.array([1.5, 2.9]), [1, None, 2], ["a"]])
def test_what_is_no_id_is_not_written(tmp_path: Path, session: Any) -> None:
    with pytest.raises(TypeError, match="write_sessions: sessions must be integers; got"):
        write_sessions(tmp_path / "s.parquet", [np.array([1, 2]), session])
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"num_sessions": 0}, "num_sessions must be >= 1; got 0"),
        ({"num_sessions": 1, "num_items": 3}, "num_items must be >= 4; got 3"),
        ({"num_sessions": 1, "mean_length": 5}, "mean_length must be >= 6; got 5"),
        ({"num_sessions": 1, "seed": -1}, "seed must be >= 0; got -1"),
    ],
)
def test_numbers_are_checked(options: dict[str, int], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        synthetic_sessions(**options)
