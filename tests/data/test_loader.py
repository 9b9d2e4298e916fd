"""Training batches: complete, shuffled by (seed, epoch), the same from any step on."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from transformers4rec_ext.data import Catalogue, ParquetSessions, SessionLoader

WIDTH = 6


@pytest.fixture
def sessions(tmp_path: Path) -> ParquetSessions:
    rng = np.random.default_rng(3)
    lists = [rng.integers(0, 60, rng.integers(0, 20)).tolist() for _ in range(200)]
    path = tmp_path / "s.parquet"
    pq.write_table(pa.table({"items": lists}), path, row_group_size=23)
    return ParquetSessions(path, "items")


def _loader(sessions: ParquetSessions, **options: Any) -> SessionLoader:
    merged = {"max_length": WIDTH - 1, "batch_size": 4, "seed": 5, **options}
    return SessionLoader(sessions, Catalogue.fit(sessions), **merged)


def _rows(loader: SessionLoader, epoch: int, start: int = 0) -> list[np.ndarray]:
    return [batch["item_id"].numpy() for batch in loader.batches(epoch, start)]


def _bag(batches: list[np.ndarray]) -> Counter[tuple[int, ...]]:
    return Counter(tuple(row[row > 0].tolist()) for batch in batches for row in batch)


@pytest.mark.parametrize("buffer", [1, 300, 65_536])
def test_an_epoch_holds_every_window_once(sessions: ParquetSessions, buffer: int) -> None:
    plain = _loader(sessions, shuffle=False)
    expected = _bag(_rows(plain, 0))
    loader = _loader(sessions, buffer_windows=buffer)
    for epoch in (0, 1):
        batches = _rows(loader, epoch)
        assert _bag(batches) == expected
        assert len(batches) == len(loader)
        assert sum(len(batch) for batch in batches) == loader.num_windows
        assert all(map(len, batches))


def _targets(batches: list[np.ndarray]) -> np.ndarray:
    return np.array([int((rows > 0).sum()) - len(rows) for rows in batches])


@pytest.mark.parametrize("batch_size", [2, 4, 16])
def test_batches_have_as_many_targets_as_each_other(
    sessions: ParquetSessions, batch_size: int
) -> None:
    # A loss is the mean over a batch's targets: only so does each count for the same.
    loader = _loader(sessions, batch_size=batch_size, max_length=24)
    batches = _rows(loader, 0)
    sizes = [len(rows) for rows in batches]
    assert len(set(sizes)) > 1
    for begin in range(0, len(batches), 16):
        targets = _targets(batches[begin : begin + 16])
        assert np.abs(targets - targets.mean()).max() < 17 - 1  # the longest has 17 items
    widths = [rows.shape[1] for rows in batches]
    assert widths != sorted(widths)  # short and long ones go out in random order


def test_balance_by_rows_is_for_one_label_a_session(sessions: ParquetSessions) -> None:
    loader = _loader(sessions, balance="rows", batch_size=16)
    sizes = [len(rows) for rows in _rows(loader, 0)]
    assert sorted(sizes)[1:] == [16] * (len(sizes) - 1)
    assert _bag(_rows(loader, 0)) == _bag(_rows(_loader(sessions), 0))
    with pytest.raises(ValueError, match='balance must be "targets" or "rows"; got \'row\''):
        _loader(sessions, balance="row")


@pytest.mark.parametrize("batch_size", [1, 2, 8, 64])
@pytest.mark.parametrize("long_share", [0.001, 0.02, 0.1, 0.5, 1.0])
def test_a_batch_is_not_larger_than_its_rows_of_full_width(
    tmp_path: Path, batch_size: int, long_share: float
) -> None:
    # Many windows of one target beside a few of 100: cut by their targets alone, a batch held
    # hundreds of the short ones, padded to the one long window that it ended with.
    rng = np.random.default_rng(0)
    number = 2000
    lists = [[*range(101)] if rng.random() < long_share else [1, 2] for _ in range(number)]
    path = tmp_path / "s.parquet"
    pq.write_table(pa.table({"items": lists}), path)
    loader = _loader(
        ParquetSessions(path, "items"), batch_size=batch_size, max_length=100, part="all"
    )
    batches = _rows(loader, 0)
    assert len(batches) == len(loader)
    assert all(map(len, batches))
    assert sum(map(len, batches)) == number
    assert max(rows.size for rows in batches) <= batch_size * 101


def _batches_needed(lengths: list[int], size: int) -> int:
    """Return how many batches of at most ``size`` ids hold windows of rising lengths."""
    batches, rows = 1, 0
    for length in lengths:
        rows += 1
        if rows * length > size:
            batches, rows = batches + 1, 1
    return batches


@pytest.mark.parametrize("long_share", [0.02, 0.1])
def test_the_largest_batch_is_as_small_as_can_be(tmp_path: Path, long_share: float) -> None:
    # Here batches of as many targets would be larger than 64 rows of full width.
    rng = np.random.default_rng(0)
    lists = [[*range(101)] if rng.random() < long_share else [1, 2] for _ in range(1024)]
    path = tmp_path / "s.parquet"
    pq.write_table(pa.table({"items": lists}), path)
    loader = _loader(ParquetSessions(path, "items"), batch_size=64, max_length=100, part="all")
    batches = _rows(loader, 0)
    assert len(batches) == 16
    largest = max(rows.size for rows in batches)
    lengths = sorted(map(len, lists))
    assert _batches_needed(lengths, largest) <= 16 < _batches_needed(lengths, largest - 1)


@pytest.mark.parametrize("batch_size", [1, 2, 3, 64])
def test_no_batch_is_empty(tmp_path: Path, batch_size: int) -> None:
    # Beside windows of 100 targets those of one hardly count; each batch has a window all the same.
    lists = [[1, 2]] * 30 + [[*range(1, 102)]] * 3
    path = tmp_path / "s.parquet"
    pq.write_table(pa.table({"items": lists}), path)
    loader = _loader(ParquetSessions(path, "items"), batch_size=batch_size, max_length=100)
    batches = _rows(loader, 0)
    assert len(batches) == len(loader)
    assert all(map(len, batches))
    assert sum(map(len, batches)) == 33


def test_targets_are_all_training_items_but_the_first(sessions: ParquetSessions) -> None:
    lengths = np.concatenate([np.diff(chunk.offsets) for chunk in sessions.chunks()])
    kept = np.where(lengths >= 3, lengths - 2, lengths)
    targets = _targets(_rows(_loader(sessions), 0))
    assert targets.sum() == np.maximum(kept - 1, 0).sum()
    everything = _targets(_rows(_loader(sessions, part="all"), 0))
    assert everything.sum() == np.maximum(lengths - 1, 0).sum()


def test_batches_are_int64_right_padded_and_trimmed(sessions: ParquetSessions) -> None:
    for batch in _loader(sessions).batches(0):
        ids = batch["item_id"]
        assert ids.dtype == torch.int64
        assert ids.is_contiguous()
        assert ids.shape[1] <= WIDTH
        real = ids > 0
        assert bool((real[:, 1:] <= real[:, :-1]).all())  # no item after padding
        assert bool(real[:, -1].any())  # as wide as the longest row


@pytest.mark.parametrize("buffer", [1, 65_536])
def test_resuming_at_any_step(sessions: ParquetSessions, buffer: int) -> None:
    loader = _loader(sessions, buffer_windows=buffer)
    whole = _rows(loader, 2)
    for start in (0, 1, 17, len(whole) - 1, len(whole)):
        rest = _rows(loader, 2, start)
        assert len(rest) == len(whole) - start
        for one, other in zip(rest, whole[start:], strict=True):
            np.testing.assert_array_equal(one, other)


def test_order_depends_on_seed_and_epoch_only(sessions: ParquetSessions) -> None:
    first = [b.tolist() for b in _rows(_loader(sessions), 1)]
    assert first == [b.tolist() for b in _rows(_loader(sessions), 1)]
    assert first != [b.tolist() for b in _rows(_loader(sessions), 0)]
    assert first != [b.tolist() for b in _rows(_loader(sessions, seed=6), 1)]


def test_shuffling_reaches_over_row_groups(sessions: ParquetSessions) -> None:
    """With a buffer for everything, early sessions turn up late; planted fault: no shuffle."""
    early = {tuple(row) for row in _rows(_loader(sessions, shuffle=False), 0)[0].tolist()}

    def place(loader: SessionLoader) -> float:
        rows = [tuple(row) for batch in _rows(loader, 0) for row in batch.tolist()]
        return max(i for i, row in enumerate(rows) if row in early) / len(rows)

    assert place(_loader(sessions)) > 0.3
    assert place(_loader(sessions, shuffle=False)) < 0.05


def test_iterating_moves_on_to_the_next_epoch(sessions: ParquetSessions) -> None:
    loader = _loader(sessions, name="clicks")
    first = [batch["clicks"].tolist() for batch in loader]
    second = [batch["clicks"].tolist() for batch in loader]
    assert first == [batch["clicks"].tolist() for batch in loader.batches(0)]
    assert second == [batch["clicks"].tolist() for batch in loader.batches(1)]
    assert len(first) == len(loader)


def test_unknown_items_are_left_out(tmp_path: Path) -> None:
    path = tmp_path / "s.parquet"
    pq.write_table(pa.table({"items": [[1, 9, 2, 9, 9, 3], [9, 9, 9], [1, 2]]}), path)
    known = Catalogue(pa.array([1, 2, 3]), np.array([3, 2, 1]))
    loader = SessionLoader(
        ParquetSessions(path, "items"), known, max_length=5, batch_size=9, part="all", shuffle=False
    )
    assert [batch["item_id"].tolist() for batch in loader] == [[[1, 2, 3], [1, 2, 0]]]


def test_sessions_too_short(tmp_path: Path) -> None:
    path = tmp_path / "s.parquet"
    pq.write_table(pa.table({"items": [[1, 2, 3], [4], []]}), path)
    with pytest.raises(ValueError, match=r"got 3 shorter ones\..* needs 4\."):
        _loader(ParquetSessions(path, "items"))


@pytest.mark.parametrize("option", ["max_length", "batch_size", "buffer_windows"])
def test_numbers_are_checked(sessions: ParquetSessions, option: str) -> None:
    with pytest.raises(ValueError, match=f"SessionLoader: {option} must be at least 1; got 0"):
        _loader(sessions, **{option: 0})
