"""What several tests of the command line share."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from transformers4rec_ext.cli import build_parser
from transformers4rec_ext.cli.train import _prepare_new
from transformers4rec_ext.training import load_state
from transformers4rec_ext.training.folder import RunFolder

TINY = [
    "--epochs=3", "--batch-size=32", "--max-length=8", "--d-model=8", "--layers=1", "--heads=1",
    "--num-negatives=20", "--lr=0.01", "--checkpoint-every=4", "--schedule=constant", "--threads=1",
    "--no-progress",
]  # fmt: skip


def write_named(path: Path, sessions: list[np.ndarray]) -> Path:
    """Write sessions with string ids and the columns ``who`` and ``items``."""
    lists = [[f"item-{i}" for i in row] for row in sessions]
    table = pa.table({"who": [f"u{i}" for i in range(len(lists))], "items": lists})
    pq.write_table(table, path, row_group_size=120)
    return path


def begin(out: Path, file: Path, *more: str) -> RunFolder:
    """Write run.json as ``train`` does, without training."""
    options = ["train", str(file), f"--out={out}", "--items-column=items", *TINY, *more]
    _prepare_new(RunFolder(out), build_parser().parse_args(options))
    return RunFolder(out)


def assert_same_run(one: Path, other: Path) -> None:
    """Assert that two finished runs have the same log, weights and metrics, bit by bit."""
    assert (one / "log.jsonl").read_bytes() == (other / "log.jsonl").read_bytes()
    for name in ("model.safetensors", "checkpoint.safetensors"):
        left, right = load_state(one / name), load_state(other / name)
        left, right = left.get("model", left), right.get("model", right)
        assert left.keys() == right.keys()
        for key, tensor in left.items():
            assert torch.equal(tensor, right[key]), key
    results = [json.loads((path / "metrics.json").read_text()) for path in (one, other)]
    for result in results:
        result.pop("training_seconds")
    assert results[0] == results[1]
