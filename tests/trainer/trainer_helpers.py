"""A small model, its data on disk and quiet arguments, for the tests of the Trainer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

import transformers4rec_ext as tr

V, T, D = 30, 6, 8
ITEM = "item_id"
CLICK = "click/binary_classification_task"
SCHEMA = tr.Schema(
    [
        *tr.Schema.from_item_column(ITEM, num_items=V, max_length=T),
        tr.ColumnSchema("click", tags=("target", "binary_classification")),
    ]
)


def write(folder: Path, rows: int = 40, seed: int = 0, shortest: int = 2) -> Path:
    """Write sessions, in row groups of 7; two of three items are followed by their successor."""
    rng = np.random.default_rng(seed)
    sessions = []
    for length in rng.integers(shortest, T + 1, rows):
        session = [int(rng.integers(1, V + 1))]
        while len(session) < length:
            after = session[-1] % V + 1
            session.append(after if rng.random() < 0.67 else int(rng.integers(1, V + 1)))
        sessions.append(session)
    table = pa.table({ITEM: sessions, "click": [session[-1] % 2 for session in sessions]})
    folder.mkdir(exist_ok=True)
    pq.write_table(table, folder / "part.parquet", row_group_size=7)
    return folder


def next_item(**options: Any) -> tr.NextItemPredictionTask:
    """Return a next-item task that ranks at 5 and 10."""
    metrics = [tr.ranking_metric.NDCGAt([5, 10], True), tr.ranking_metric.RecallAt([5, 10], True)]
    return tr.NextItemPredictionTask(metrics=metrics, **options)


def model_of(*tasks: Any, dropout: float = 0.0, masking: str = "clm") -> tr.Model:
    """Return a GPT-2 of one layer with ``tasks``, the same weights every time."""
    torch.manual_seed(11)
    inputs = tr.TabularSequenceFeatures.from_schema(
        SCHEMA.select_by_tag("item_id"),
        max_sequence_length=T,
        d_output=D,
        masking=masking,
        aggregation="concat",
        embedding_dim_default=D,
    )
    config = tr.GPT2Config.build(D, 2, 1, T, dropout=dropout)
    body = tr.SequentialBlock(inputs, tr.TransformerBlock(config, masking=inputs.masking))
    return tr.Model(tr.Head(body, list(tasks) or [next_item()], inputs=inputs))


def arguments(folder: Path, **options: Any) -> tr.T4RecTrainingArguments:
    """Return quiet arguments: logged at each step, nothing saved."""
    quiet = {
        "output_dir": str(folder / "out"),
        "use_cpu": True,
        "report_to": [],
        "disable_tqdm": True,
        "log_level": "error",
        "logging_steps": 1,
        "save_strategy": "no",
        "per_device_train_batch_size": 8,
        "per_device_eval_batch_size": 8,
        "max_sequence_length": T,
        "learning_rate": 1e-2,
        "num_train_epochs": 2,
        "predict_top_k": 5,
    }
    return tr.T4RecTrainingArguments(**{**quiet, **options})


def trainer_of(folder: Path, model: tr.Model | None = None, **options: Any) -> tr.Trainer:
    """Return a Trainer whose data lie in ``folder / "data"``; ``options`` go where they belong."""
    data = folder / "data"
    if not data.exists():
        write(data)
    of_trainer = {
        "train_dataset_or_path": data,
        "eval_dataset_or_path": data,
        "test_dataset_or_path": data,
        "schema": SCHEMA,
        "compute_metrics": True,
    }
    known = {*of_trainer, "callbacks", "incremental_logging", "optimizers"}
    known |= {f"{kind}_dataloader" for kind in ("train", "eval", "test")}
    for name in known & set(options):
        of_trainer[name] = options.pop(name)
    return tr.Trainer(model or model_of(), arguments(folder, **options), **of_trainer)


def losses(trainer: tr.Trainer) -> list[float]:
    """Return the losses that were logged at each step."""
    return [line["loss"] for line in trainer.state.log_history if "loss" in line]


def batches(folder: Path, size: int = 8) -> list[Any]:
    """Return the batches of the data, in order."""
    return list(tr.data.ParquetLoader(folder, SCHEMA, size, max_sequence_length=T))
