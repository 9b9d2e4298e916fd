"""MovieLens-1M: the baseline as recorded, a short run that beats it, twice the same numbers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from transformers4rec_ext.baselines import popularity_ranks
from transformers4rec_ext.data import Catalogue, ParquetSessions, SessionLoader, held_out
from transformers4rec_ext.training import RunConfig, read_log, summarize
from transformers4rec_ext.training.folder import RunFolder
from transformers4rec_ext.training.run import begin_run, train_run

CONFIG = RunConfig(
    items_column="items",
    session_column="user_id",
    seed=7,
    epochs=1,
    batch_size=64,
    max_length=50,
    d_model=16,
    layers=1,
    heads=1,
    dropout=0.1,
    lr=5e-3,
    schedule="constant",
    num_negatives=200,
    exclude_seen=True,
    validation_sessions=500,
)


@pytest.fixture
def file(interactions: Callable[[str], Path]) -> Path:
    return interactions("ml-1m")


@pytest.fixture(autouse=True)
def _one_thread(keep_threads: None) -> None:
    torch.set_num_threads(1)


def test_reading_and_the_split(file: Path) -> None:
    sessions = ParquetSessions(file, "items")
    catalogue = Catalogue.fit(sessions)
    assert sessions.num_sessions == 6040
    assert catalogue.num_items == 3417
    assert catalogue.counts.sum() == 999_611 - 2 * 6040
    loader = SessionLoader(sessions, catalogue, max_length=200, batch_size=128)
    targets = sum(int((b["item_id"] > 0).sum()) - len(b["item_id"]) for b in loader)
    assert targets == 999_611 - 3 * 6040
    contexts = list(held_out(sessions, catalogue, "test"))
    assert sum(int(part.lengths.sum()) for part in contexts) == 999_611 - 6040


def test_popularity_is_as_recorded(file: Path) -> None:
    sessions = ParquetSessions(file, "items")
    catalogue = Catalogue.fit(sessions)
    contexts = held_out(sessions, catalogue, "test")
    metrics = summarize(popularity_ranks(catalogue, contexts, exclude_seen=True))
    assert round(metrics["ndcg_at_10"], 4) == 0.0180


def test_a_short_run_beats_popularity_and_repeats_itself(file: Path, tmp_path: Path) -> None:
    folders = [RunFolder(tmp_path / "one"), RunFolder(tmp_path / "two")]
    for folder in folders:
        begin_run(folder, CONFIG, ParquetSessions(file, "items", "user_id"))
    result = train_run(folders[0], progress=False, say=lambda line: None)
    assert result is not None
    assert result["model"]["ndcg_at_10"] > 1.5 * result["popularity"]["ndcg_at_10"]
    assert result["model"]["recall_at_10"] > 1.5 * result["popularity"]["recall_at_10"]
    steps: list[int] = []
    train_run(
        folders[1],
        progress=False,
        say=lambda line: None,
        on_step=steps.append,
        should_stop=lambda: len(steps) == 40,
    )
    logs = [read_log(folder.path / "log.jsonl") for folder in folders]
    assert len(logs[1]) == 4
    assert logs[0][:4] == logs[1]
