"""Which items of a session are trained on, and which are held out; windows and padding.

Two ways to hold out, each a range of items to train on and a range of targets in every session:

* *Leave-one-out.* A session of ``n`` items leaves out its last two: *test* is the last item given
  all before it, *validation* the last but one given all before it, and training uses
  ``items[:-2]``. A session with fewer than three items is too short for that and belongs wholly to
  training.
* *Marked sessions.* A session belongs as a whole to training, validation or test. Of those held out
  every item but the first is a target, given all before it (the protocol of SR-GNN and GCE-GNN).

What is held out to choose an epoch may be trained on once that is chosen: ``"train+validation"``
leaves out the test alone, and ``"all"`` nothing.
"""

from __future__ import annotations

from typing import Literal

import numpy as np

from transformers4rec_ext._errors import value_error

Part = Literal["train", "train+validation", "validation", "test", "all", "last", "every"]
#: What whole sessions are marked as; a mark is the index in it, int8.
MARKS = ("train", "validation", "test")
#: The fewest items of a session of which two are held out.
HELD_OUT_MINIMUM = 3
#: The fewest items of a session that leaves something to train on beside what is held out of it, by
#: the part that is trained on.
TRAIN_MINIMUM: dict[Part, int] = {"train": 4, "train+validation": 3, "all": 2}


def training_bounds(
    offsets: np.ndarray, part: Part, marks: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Return ``(start, stop)`` of the items of each session that belong to training.

    Parameters
    ----------
    offsets : int64 [sessions + 1]
    part : "train", "train+validation" or "all"
        All items; or those of training: of marked sessions the whole ones marked so, else
        ``items[:-2]`` of sessions with three items or more and the whole of shorter ones; or those
        of training and validation, with ``items[:-1]``.
    marks : int8 [sessions], optional
        Indices in ``MARKS``.
    """
    start, stop = offsets[:-1], offsets[1:]
    if part == "all":
        return start, stop
    if part not in TRAIN_MINIMUM:
        expectation = f"be one of {tuple(TRAIN_MINIMUM)}"
        raise value_error("training_bounds", "part", expectation, repr(part))
    wanted = [MARKS.index(mark) for mark in part.split("+")]
    if marks is not None:
        return start, np.where(np.isin(marks, wanted), stop, start)
    left_out = len(MARKS) - len(wanted)
    return start, np.where(stop - start >= HELD_OUT_MINIMUM, stop - left_out, stop)


def target_bounds(
    offsets: np.ndarray, part: Part, marks: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Return ``(start, stop)`` of the items of each session that are to be predicted.

    Each given all items of its session before it, so the first of a session is never among them.

    Parameters
    ----------
    offsets : int64 [sessions + 1]
    part : "validation", "test", "last" or "every"
        What is held out: of marked sessions every item but the first of those marked so, else the
        last but one or the last item of sessions with three items or more. Or, whatever is held
        out, the last item of each session, or every item but the first.
    marks : int8 [sessions], optional
        Indices in ``MARKS``.
    """
    begin, end = offsets[:-1], offsets[1:]
    if part not in ("validation", "test", "last", "every"):
        expectation = "be 'validation', 'test', 'last' or 'every'"
        raise value_error("target_bounds", "part", expectation, repr(part))
    if part == "every":
        return np.minimum(begin + 1, end), end
    if marks is not None and part != "last":
        of_part = marks == MARKS.index(part)
        return np.where(of_part, np.minimum(begin + 1, end), end), end
    start = end - (2 if part == "validation" else 1)
    enough = end - begin >= (2 if part == "last" else HELD_OUT_MINIMUM)
    return np.where(enough, start, end), np.where(enough, start + 1, end)


def windows(start: np.ndarray, stop: np.ndarray, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Cut ``[start, stop)`` of each session into windows of at most ``width`` items.

    The windows are laid from the end, and each begins with the item that the one before it ends
    with: of a session of ``n`` items exactly the last ``n - 1`` are predicted, each once, whatever
    its length, and the most recent window is the full one. Sessions with fewer than two items
    give no window.

    Parameters
    ----------
    start, stop : int64 [sessions]
    width : int
        At least 2: the model sees ``width - 1`` items and predicts the ``width - 1`` after them.

    Returns
    -------
    tuple of int64 [windows]
        Starts and stops.

    Examples
    --------
    >>> windows(np.array([0]), np.array([10]), 5)
    (array([5, 1, 0]), array([10,  6,  2]))
    """
    if width < 2:
        raise value_error("windows", "width", "be >= 2", width)
    stride = width - 1
    count = -(-np.maximum(stop - start - 1, 0) // stride)
    session = np.repeat(np.arange(len(start)), count)
    back = np.arange(len(session)) - np.repeat(np.cumsum(count) - count, count)
    window_stop = stop[session] - back * stride
    return np.maximum(window_stop - width, start[session]), window_stop


def padded(
    ids: np.ndarray, start: np.ndarray, stop: np.ndarray, width: int, fill: int = 0
) -> np.ndarray:
    """Return ``[rows, width]`` with ``ids[start:stop]`` at the left of each row, then ``fill``.

    Of a longer stretch the last ``width`` ids are kept.

    Examples
    --------
    >>> padded(np.arange(1, 6), np.array([0, 2]), np.array([2, 5]), 2)
    array([[1, 2],
           [4, 5]])
    """
    start = np.maximum(start, stop - width)
    position = start[:, None] + np.arange(width)
    inside = position < stop[:, None]
    if not len(ids):
        return np.full(position.shape, fill, ids.dtype)
    return np.where(inside, ids[np.minimum(position, len(ids) - 1)], ids.dtype.type(fill))
