"""What is ranked and recommended where a run leaves out seen items, and of how many sessions."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from cli_helpers import TINY

from transformers4rec_ext.__main__ import main
from transformers4rec_ext.baselines import popularity_ranks
from transformers4rec_ext.data import held_out
from transformers4rec_ext.training import read_log, summarize
from transformers4rec_ext.training.folder import RunFolder

COLUMN = "--items-column=items"


def test_a_run_without_seen_items_is_judged_and_served_without_them(
    tmp_path: Path, sessions_file: Path
) -> None:
    run, file = tmp_path / "run", str(sessions_file)
    assert main(["train", file, f"--out={run}", COLUMN, *TINY, "--epochs=1", "--exclude-seen"]) == 0
    _, catalogue, _ = RunFolder(run).load()
    contexts = held_out(RunFolder(run).sessions(), catalogue, "test")
    expected = summarize(popularity_ranks(catalogue, contexts, exclude_seen=True))
    assert json.loads((run / "metrics.json").read_text())["popularity"] == expected
    out = tmp_path / "metrics.json"
    assert main(["evaluate", str(run), f"--out={out}", "--no-progress"]) == 0
    assert json.loads(out.read_text())["popularity"] == expected
    out = tmp_path / "best.parquet"
    recommend = ["recommend", str(run), file, f"--out={out}", "--top-k=5", "--no-progress"]
    assert main(recommend) == 0
    best, sessions = pq.read_table(out), pq.read_table(file)
    rows = list(zip(sessions["items"].to_pylist(), best["items"].to_pylist(), strict=True))
    assert not any(set(seen) & set(items) for seen, items in rows)
    assert best["row"].to_pylist() == list(range(300))  # over row groups of 120
    assert main([*recommend, "--no-exclude-seen"]) == 0
    again = pq.read_table(out)["items"].to_pylist()
    assert any(set(seen) & set(items) for (seen, _), items in zip(rows, again, strict=True))


def test_validation_ranks_as_many_sessions_as_it_is_told(
    tmp_path: Path, sessions_file: Path
) -> None:
    run = tmp_path / "run"
    train = ["train", str(sessions_file), f"--out={run}", COLUMN, *TINY]
    assert main([*train, "--validation-sessions=10"]) == 0
    lines = [line for line in read_log(run / "log.jsonl") if line["event"] == "validation"]
    hits = [10 * line[f"recall_at_{k}"] for line in lines for k in (5, 10, 20)]
    assert hits == [pytest.approx(round(number), abs=1e-9) for number in hits]
    assert max(hits) > 0


def test_a_sample_is_of_the_seed(tmp_path: Path, sessions_file: Path) -> None:
    found = []
    for seed in (1, 1, 2):
        train = ["train", str(sessions_file), f"--out={tmp_path / 'run'}", COLUMN, *TINY]
        assert main([*train, "--test-sessions=20", f"--seed={seed}", "--overwrite"]) == 0
        # the popularity baseline depends on nothing but which sessions are in the sample
        found.append(json.loads((tmp_path / "run" / "metrics.json").read_text())["popularity"])
    assert found[0] == found[1] != found[2]
