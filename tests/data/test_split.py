"""The leave-one-out split and the windows: no interaction is lost, none is used twice."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from transformers4rec_ext.data import padded, target_bounds, training_bounds, windows


def _positions(offsets: np.ndarray, part: Any, marks: np.ndarray | None = None) -> list[list[int]]:
    start, stop = target_bounds(offsets, part, marks)
    return [list(range(a, b)) for a, b in zip(start, stop, strict=True)]


def test_parts_of_sessions() -> None:
    offsets = np.array([0, 5, 8, 10, 11, 11])  # lengths 5, 3, 2, 1, 0
    start, stop = training_bounds(offsets, "train")
    assert start.tolist() == [0, 5, 8, 10, 11]
    assert (stop - start).tolist() == [3, 1, 2, 1, 0]
    start, stop = training_bounds(offsets, "train+validation")
    assert (stop - start).tolist() == [4, 2, 2, 1, 0]
    assert _positions(offsets, "validation") == [[3], [6], [], [], []]
    assert _positions(offsets, "test") == [[4], [7], [], [], []]
    assert _positions(offsets, "last") == [[4], [7], [9], [], []]
    assert _positions(offsets, "every") == [[1, 2, 3, 4], [6, 7], [9], [], []]
    assert training_bounds(offsets, "all")[1].tolist() == offsets[1:].tolist()


def test_parts_of_marked_sessions() -> None:
    offsets = np.array([0, 5, 8, 10, 11, 11])
    for shift in range(3):  # every session is once in every part
        marks = (np.array([0, 1, 2, 1, 0], np.int8) + shift) % 3
        start, stop = training_bounds(offsets, "train", marks)
        lengths = np.diff(offsets)
        assert (stop - start).tolist() == np.where(marks == 0, lengths, 0).tolist()
        start, stop = training_bounds(offsets, "train+validation", marks)
        assert (stop - start).tolist() == np.where(marks == 2, 0, lengths).tolist()
        for code, part in ((1, "validation"), (2, "test")):
            every = _positions(offsets, "every")
            expected = [row if mark == code else [] for row, mark in zip(every, marks, strict=True)]
            assert _positions(offsets, part, marks) == expected
        assert _positions(offsets, "last", marks) == _positions(offsets, "last")
        assert training_bounds(offsets, "all", marks)[1].tolist() == offsets[1:].tolist()


def test_unknown_part() -> None:
    with pytest.raises(ValueError, match="'train', 'train\\+validation', 'all'\\); got 'test'"):
        training_bounds(np.array([0, 1]), "test")
    with pytest.raises(ValueError, match="'validation', 'test', 'last' or 'every'; got 'train'"):
        target_bounds(np.array([0, 1]), "train")


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
