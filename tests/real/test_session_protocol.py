"""Diginetica and Yoochoose 1/64: as many prefixes as in the source, most sessions read once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from transformers4rec_ext.data import Catalogue, ParquetSessions, held_out


@pytest.mark.parametrize(
    ("name", "train", "test", "prefixes"),
    [
        ("diginetica-gcegnn", 186_670, 15_963, 60_858),
        ("yoochoose1_64-cgenet", 116_167, 15_324, 55_898),
    ],
)
def test_parts(
    interactions: Callable[[str], Path], name: str, train: int, test: int, prefixes: int
) -> None:
    sessions = ParquetSessions(interactions(name), "items", "user_id", split_column="split")
    assert sessions.marks is not None
    validation = round(train / 10)
    assert np.bincount(sessions.marks).tolist() == [train - validation, validation, test]
    catalogue = Catalogue.fit(sessions)
    contexts = list(held_out(sessions, catalogue, "test"))
    assert sum(len(chunk.targets) for chunk in contexts) == prefixes
    assert all((chunk.lengths > 0).all() for chunk in contexts)
    # Every target is answered for once, with far fewer rows than targets.
    read = answered = 0
    for chunk in contexts:
        for batch in chunk.batches(256, 50):
            read += len(batch.ids)
            answered += len(batch.rows)
    assert answered == prefixes
    assert test <= read < 1.05 * test
