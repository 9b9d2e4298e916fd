"""Synthetic sessions with a structure that a sequence model can learn and popularity cannot."""

from __future__ import annotations

import os

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from transformers4rec_ext import _checks
from transformers4rec_ext._errors import value_error
from transformers4rec_ext._files import atomic_path
from transformers4rec_ext._lazy import elsewhere

_FOLLOW, _TOPIC = 0.55, 0.30
__getattr__ = elsewhere(
    __name__,
    {
        "generate_item_interactions": "write_sessions makes a parquet file of sessions",
        "generate_session_interactions": "write_sessions makes a parquet file of sessions",
        "synthetic_ecommerce_data_schema": "data.music_streaming_testing_data.schema is like it",
    },
)


def synthetic_sessions(
    num_sessions: int, num_items: int = 1000, *, mean_length: int = 12, seed: int = 0
) -> list[np.ndarray]:
    """Return sessions in which an item often brings its successor.

    Item ``k`` has the popularity ``log1p(1/k) / log1p(num_items)``, one fixed successor of like
    popularity (the most popular item itself, where there is no other of its octave), and a topic
    (one of ``max(2, num_items // 50)``). Each step of a session is, with probability 0.55, the
    successor of the last item; 0.30, an item of the session's topic by popularity; and 0.15, any
    item by popularity. The ids are then renamed at random, so that they say nothing about
    popularity, as in real files.

    Parameters
    ----------
    num_sessions, num_items, mean_length : int
        At least 1, 4 and 6; lengths are 4 plus a geometric number.
    seed : int
        The same arguments give the same sessions.

    Returns
    -------
    list of int64 arrays

    Examples
    --------
    >>> sessions = synthetic_sessions(3, 50, seed=1)
    >>> len(sessions), min(len(s) for s in sessions) >= 5
    (3, True)
    """
    for argument, value, least in (
        ("num_sessions", num_sessions, 1),
        ("num_items", num_items, 4),
        ("mean_length", mean_length, 6),
        ("seed", seed, 0),
    ):
        if value < least:
            raise value_error("synthetic_sessions", argument, f"be >= {least}", value)
    rng = np.random.default_rng(seed)
    rank = np.arange(num_items)
    popularity = np.log1p(1 / (rank + 1.0)) / np.log1p(num_items)
    topics = max(2, num_items // 50)
    # Like popularity: a successor is drawn among the neighbours in rank.
    successor = _local_permutation(rng, num_items)
    by_topic = np.argsort(rank % topics, kind="stable")
    mass = np.cumsum(popularity[by_topic])
    first = np.searchsorted(by_topic % topics, np.arange(topics + 1))
    edge = np.concatenate([np.zeros(1), mass])[first]

    length = 4 + rng.geometric(1 / (mean_length - 4), num_sessions)
    topic = rng.integers(topics, size=num_sessions)
    width = int(length.max())
    items = np.zeros((num_sessions, width), np.int64)
    for step in range(width):
        kind, draw = rng.random(num_sessions), rng.random(num_sessions)
        in_topic = edge[topic] + draw * (edge[topic + 1] - edge[topic])
        anywhere = draw * mass[-1]
        if step == 0:
            kind = np.full(num_sessions, _FOLLOW)
        place = np.searchsorted(mass, np.where(kind < _FOLLOW + _TOPIC, in_topic, anywhere))
        drawn = by_topic[np.minimum(place, num_items - 1)]
        followed = successor[items[:, step - 1]]
        items[:, step] = np.where(kind < _FOLLOW, followed, drawn)
    names = rng.permutation(num_items) + 1
    return [names[row[:n]] for row, n in zip(items, length, strict=True)]


def _local_permutation(rng: np.random.Generator, size: int) -> np.ndarray:
    """Return a permutation that moves an id inside its octave [2^n - 1, 2^(n+1) - 1)."""
    successor = np.arange(size)
    low = 1
    while low < size:
        high = min(2 * low + 1, size)
        # A cycle through the octave in random order: nothing follows itself, but alone in it.
        cycle = low + rng.permutation(high - low)
        successor[cycle] = np.roll(cycle, -1)
        low = high
    return successor


def write_sessions(
    path: str | os.PathLike[str], sessions: list[np.ndarray], items_column: str = "item_id"
) -> None:
    """Write sessions as parquet with the columns ``session_id`` and ``items_column``.

    Raises
    ------
    TypeError   if a session holds something else than integers, such as floats or None.
    ValueError  if an integer has more than 63 bits, or ``items_column`` is "session_id".
    """
    if items_column == "session_id":
        expectation = "be another than that of the sessions' numbers"
        raise value_error("write_sessions", "items_column", expectation, repr(items_column))
    ids = [_checks.integers("write_sessions", "sessions", session) for session in sessions]
    table = pa.table(
        {
            "session_id": pa.array(np.arange(len(sessions))),
            items_column: pa.array(ids, pa.list_(pa.int64())),
        }
    )
    with atomic_path(path) as temporary:
        pq.write_table(table, temporary, compression="zstd")
