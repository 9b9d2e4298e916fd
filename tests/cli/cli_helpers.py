"""What several tests of the command line share."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

TINY = [
    "--epochs=3", "--batch-size=32", "--max-length=8", "--d-model=8", "--layers=1", "--heads=1",
    "--num-negatives=20", "--lr=0.01", "--checkpoint-every=4", "--threads=1", "--no-progress",
]  # fmt: skip


def write_named(path: Path, sessions: list[np.ndarray]) -> Path:
    """Write sessions with string ids and the columns ``who`` and ``items``."""
    lists = [[f"item-{i}" for i in row] for row in sessions]
    table = pa.table({"who": [f"u{i}" for i in range(len(lists))], "items": lists})
    pq.write_table(table, path, row_group_size=120)
    return path
