"""Training with row gradients and the lazy optimizer, from the command line."""

from __future__ import annotations

import json
from pathlib import Path

from cli_helpers import TINY

from transformers4rec_ext.__main__ import main
from transformers4rec_ext.training import load_state

COLUMNS = ["--items-column=items", "--session-column=who"]


def test_a_sparse_run_learns_and_resumes_bit_by_bit(sessions_file: Path, tmp_path: Path) -> None:
    whole, halved = tmp_path / "whole", tmp_path / "halved"
    arguments = ["train", str(sessions_file), *COLUMNS, *TINY, "--sparse"]
    assert main([*arguments, f"--out={whole}"]) == 0
    metrics = json.loads((whole / "metrics.json").read_text())
    assert metrics["model"]["ndcg_at_10"] > metrics["popularity"]["ndcg_at_10"]
    state = load_state(whole / "checkpoint.safetensors")
    steps = [s["step"] for s in state["optimizer"]["state"].values()]
    assert any(step.ndim == 1 for step in steps)  # a count of its own for every row

    assert main([*arguments, f"--out={halved}", "--epochs=1"]) == 0
    (halved / "metrics.json").unlink()  # as if it had been killed after the first epoch
    assert main(["train", "--resume", f"--out={halved}", "--epochs=3", *TINY[-2:]]) == 0
    found = load_state(halved / "model.safetensors")
    expected = load_state(whole / "model.safetensors")
    assert found.keys() == expected.keys()
    assert all(bool((found[name] == expected[name]).all()) for name in expected)
