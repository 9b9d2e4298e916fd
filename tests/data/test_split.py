"""The leave-one-out split and the windows: no interaction is lost, none is used twice."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from transformers4rec_ext.data import padded, target_positions, training_bounds, windows


def test_parts_of_sessions() -> None:
    offsets = np.array([0, 5, 8, 10, 11, 11])  # lengths 5, 3, 2, 1, 0
    start, stop = training_bounds(offsets, "train")
    assert start.tolist() == [0, 5, 8, 10, 11]
    assert (stop - start).tolist() == [3, 1, 2, 1, 0]
    assert target_positions(offsets, "validation").tolist() == [3, 6, -1, -1, -1]
    assert target_positions(offsets, "test").tolist() == [4, 7, -1, -1, -1]
    assert target_positions(offsets, "last").tolist() == [4, 7, 9, -1, -1]
    assert training_bounds(offsets, "all")[1].tolist() == offsets[1:].tolist()


def test_unknown_part() -> None:
    with pytest.raises(ValueError, match="part must be 'train' or 'all'; got 'test'"):
        training_bounds(np.array([0, 1]), "test")
    with pytest.raises(ValueError, match="'validation', 'test' or 'last'; got 'train'"):
        target_positions(np.array([0, 1]), "train")


@given(st.lists(st.integers(0, 40), min_size=1, max_size=8), st.integers(2, 9))
def test_every_item_but_the_first_is_a_target_once(lengths: list[int], width: int) -> None:
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    start, stop = windows(offsets[:-1], offsets[1:], width)
    targets = [item for a, b in zip(start, stop, strict=True) for item in range(a + 1, b)]
    expected = [item for a, b in pairwise(offsets.tolist()) for item in range(a + 1, b)]
    assert sorted(targets) == expected
    assert np.all(stop - start <= width)
    assert np.all(stop - start >= 2)
    # Only the window with the beginning of a session may be short.
    short = stop - start < width
    assert set(start[short]) <= set(offsets.tolist())


def test_windows_need_two_items() -> None:
    with pytest.raises(ValueError, match="width must be >= 2; got 1"):
        windows(np.array([0]), np.array([5]), 1)


def test_padded_keeps_the_last_items() -> None:
    ids = np.array([1, 2, 3, 4, 5])
    rows = padded(ids, np.array([0, 1, 5]), np.array([4, 3, 5]), 3)
    assert rows.tolist() == [[2, 3, 4], [2, 3, 0], [0, 0, 0]]
    assert rows.dtype == np.int64
    filled = padded(ids[:0], np.array([0]), np.array([0]), 2, fill=-1)
    assert filled.tolist() == [[-1, -1]]
