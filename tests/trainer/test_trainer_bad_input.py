"""What the Trainer refuses, in words."""

from __future__ import annotations

import glob
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from trainer_helpers import ITEM, arguments, batches, model_of, trainer_of, write

import transformers4rec_ext as tr


@pytest.mark.parametrize(
    ("source", "error", "text"),
    [
        ("none", FileNotFoundError, "ParquetLoader: paths must exist; .*none does not"),
        ("empty", ValueError, r"paths must be files, or folders that hold \*.parquet files; got"),
        ("bare", ValueError, "schema must name columns of .*part.parquet; got 'click'. Its"),
        ("large", ValueError, "column 'item_id' must hold ids from 0 to 30, .*; got 31"),
        (7, TypeError, "Trainer: train data must be a path, paths, a Dataset, .*; got int"),
        (None, ValueError, "Trainer: train data must be given; got none. Give train_dataset_or"),
    ],
)
def test_bad_data(tmp_path: Path, source: Any, error: type[Exception], text: str) -> None:
    (tmp_path / "empty").mkdir()
    write(tmp_path / "bare")
    pq.write_table(pa.table({ITEM: [[1, 2]]}), tmp_path / "bare/part.parquet")
    write(tmp_path / "large")
    table = pa.table({ITEM: [[1, 31]], "click": [1]})
    pq.write_table(table, tmp_path / "large/part.parquet")
    path = tmp_path / source if isinstance(source, str) else source
    with pytest.raises(error, match=text):
        trainer_of(tmp_path, train_dataset_or_path=path).train()


def test_paths_need_a_schema(tmp_path: Path) -> None:
    trainer = trainer_of(tmp_path, schema=None)
    with pytest.raises(AssertionError, match="schema is required to generate Train Dataloader"):
        trainer.get_train_dataloader()
    with pytest.raises(AssertionError, match="schema is required to generate Eval Dataloader"):
        trainer.evaluate()


def test_a_model_needs_a_head(tmp_path: Path) -> None:
    body = model_of().heads[0].body
    with pytest.raises(TypeError, match="model must be a Model, which has a head; got Sequential"):
        tr.Trainer(body, arguments(tmp_path))
    with pytest.raises(ValueError, match="Model: head must be at least one Head; got none"):
        tr.Trainer(tr.Model(), arguments(tmp_path))
    with pytest.raises(TypeError, match="args must be T4RecTrainingArguments; got str"):
        tr.Trainer(model_of(), "out")
    with pytest.raises(ValueError, match=r"data_loader_engine must be one of \('merlin', .*'csv'"):
        tr.Trainer(model_of(), arguments(tmp_path, data_loader_engine="csv"))
    with pytest.raises(TypeError, match=r"compute_metrics must be a bool; got function\."):
        tr.Trainer(model_of(), arguments(tmp_path), compute_metrics=lambda _: {})


def test_more_items_than_there_are(tmp_path: Path) -> None:
    text = "predict_top_k must be at most 30, the items of V=31 rows without padding; got 31"
    with pytest.raises(ValueError, match=text):
        trainer_of(tmp_path, predict_top_k=31).predict()


def test_evaluation_without_labels(tmp_path: Path) -> None:
    inputs = [x for x, _ in batches(write(tmp_path / "data"))]
    task = tr.BinaryClassificationTask("click", summary_type="mean")
    with pytest.raises(ValueError, match=r"targets must be given .*has none named 'click'"):
        trainer_of(tmp_path, model_of(task)).evaluate(inputs)
    single = write(tmp_path / "single")
    pq.write_table(pa.table({ITEM: [[1], [2]], "click": [0, 1]}), single / "part.parquet")
    text = "Trainer.evaluate: data must hold something to predict; got 2 rows without a label. A n"
    with pytest.raises(ValueError, match=text):
        trainer_of(tmp_path).evaluate(single)
    with pytest.raises(ValueError, match=r"Trainer\.predict: data must hold at least one batch"):
        trainer_of(tmp_path).predict(iter([]))


@pytest.mark.parametrize(("kind", "method"), [("train", "train"), ("eval", "evaluate")])
def test_patterns_that_match_no_file(tmp_path: Path, kind: str, method: str) -> None:
    trainer = trainer_of(tmp_path)
    setattr(trainer, f"{kind}_dataset_or_path", glob.glob(f"{tmp_path}/day1/*.parquet"))
    text = f"Trainer: {kind} data must hold a path or a batch; got an empty list. If a pattern made"
    with pytest.raises(ValueError, match=text):
        getattr(trainer, method)()
    with pytest.raises(ValueError, match=r"Trainer: test data must hold .* an empty tuple"):
        trainer.predict(())


def test_evaluation_needs_data(tmp_path: Path) -> None:
    trainer = trainer_of(tmp_path, eval_dataset_or_path=None, test_dataset_or_path=None)
    with pytest.raises(ValueError, match="eval data must be given; got none"):
        trainer.evaluate()
    with pytest.raises(ValueError, match="test data must be given; got none"):
        trainer.predict()
    trainer = trainer_of(tmp_path, eval_dataset_or_path=None, eval_strategy="epoch")
    with pytest.raises(ValueError, match=r"eval data must be given; .* leave out eval_strategy"):
        trainer.train()
    assert trainer.state.global_step == 0  # before anything is trained
