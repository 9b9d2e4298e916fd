"""Held-out contexts: nothing of the target, everything before it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from transformers4rec_ext.data import Catalogue, Contexts, ParquetSessions, held_out, whole_sessions

LISTS = [[1, 2, 3, 4, 5], [2, 9, 1], [9, 9, 1], [3, 9], [4], []]


@pytest.fixture
def sessions(tmp_path: Path) -> ParquetSessions:
    path = tmp_path / "s.parquet"
    table = pa.table({"items": LISTS, "who": list("abcdef")})
    pq.write_table(table, path, row_group_size=4)
    return ParquetSessions(path, "items", "who")


# Ids as they are, so that contexts can be read off; 9 is unknown.
KNOWN = Catalogue(pa.array([1, 2, 3, 4, 5]), np.zeros(5, np.int64))


def _contexts(parts: Any) -> list[tuple[list[int], int]]:
    return [
        (c.ids[a:b].tolist(), int(t))
        for c in parts
        for a, b, t in zip(c.start, c.stop, c.targets, strict=True)
    ]


def test_parts(sessions: ParquetSessions) -> None:
    assert _contexts(held_out(sessions, KNOWN, "test")) == [
        ([1, 2, 3, 4], 5),
        ([2], 1),
        ([], 1),
    ]
    assert _contexts(held_out(sessions, KNOWN, "validation")) == [
        ([1, 2, 3], 4),
        ([2], 0),
        ([], 0),
    ]
    assert _contexts(held_out(sessions, KNOWN, "last")) == [
        ([1, 2, 3, 4], 5),
        ([2], 1),
        ([], 1),
        ([3], 0),
    ]


def test_whole_sessions_keep_every_row(sessions: ParquetSessions) -> None:
    parts = list(whole_sessions(sessions, KNOWN))
    assert [c for c, _ in _contexts(parts)] == [[1, 2, 3, 4, 5], [2, 1], [1], [3], [4], []]
    assert [part.first for part in parts] == [0, 4]
    assert [key for part in parts for key in part.sessions.to_pylist()] == list("abcdef")


def test_batches_sort_by_length_and_skip_the_empty(sessions: ParquetSessions) -> None:
    (chunk, *_) = held_out(sessions, KNOWN, "last")
    batches = list(chunk.batches(2, max_length=3))
    assert [batch.rows.tolist() for batch in batches] == [[1, 3], [0]]
    assert batches[0].ids.tolist() == [[2], [3]]
    assert batches[1].ids.tolist() == [[2, 3, 4]]  # the last max_length
    assert chunk.seen(batches[1].rows).tolist() == [[1, 2, 3, 4]]  # all of them
    assert [[part.tolist() for part in batch.at] for batch in batches] == [
        [[0, 1], [0, 0]],
        [[0], [2]],
    ]


def test_seen_is_padded_with_minus_one() -> None:
    ids = np.array([1, 2, 3])
    chunk = Contexts(ids, np.array([0, 0]), np.array([3, 1]), np.array([4, 4]), None, 0)
    (batch,) = chunk.batches(8, 2)
    assert batch.rows.tolist() == [1, 0]
    assert batch.ids.tolist() == [[1, 0], [2, 3]]
    assert chunk.seen(batch.rows).tolist() == [[1, -1, -1], [1, 2, 3]]


def test_sample_is_reproducible(tmp_path: Path) -> None:
    path = tmp_path / "s.parquet"
    pq.write_table(pa.table({"items": [[1, 2, i] for i in range(3, 6)] * 40}), path)
    sessions = ParquetSessions(path, "items")

    def targets(**options: Any) -> list[int]:
        return [t for _, t in _contexts(held_out(sessions, KNOWN, "test", **options))]

    assert len(targets(limit=30)) == 30
    assert targets(limit=30) == targets(limit=30)
    assert targets(limit=30) != targets(limit=30, seed=1)
    assert targets(limit=500) == targets()
    with pytest.raises(ValueError, match="limit must be >= 1 or None; got 0"):
        targets(limit=0)
