"""A script of upstream's, after the change of its imports: several tasks on the testing data."""

from __future__ import annotations

from pathlib import Path

import pytest

import transformers4rec_ext as tr
from transformers4rec_ext.config import trainer
from transformers4rec_ext.config import transformer as tconf

METRICS = {
    *(
        f"eval_/next-item/{name}_at_{k}"
        for name in ("ndcg", "avg_precision", "recall")
        for k in (10, 20)
    ),
    *(
        f"eval_/click/binary_classification_task/binary_{name}"
        for name in ("accuracy", "precision", "recall")
    ),
    "eval_/play_percentage/regression_task/mean_squared_error",
    "eval_/loss",
}


def test_several_tasks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = tr.data.music_streaming_testing_data
    schema = data.schema
    tasks = [
        tr.NextItemPredictionTask(weight_tying=True),
        tr.BinaryClassificationTask("click", summary_type="mean"),
        tr.RegressionTask("play_percentage", summary_type="mean"),
    ]
    inputs = tr.TabularSequenceFeatures.from_schema(
        schema, max_sequence_length=20, d_output=64, masking="mlm"
    )
    transformer_config = tconf.XLNetConfig.build(64, 4, 2, 20)
    body = tr.SequentialBlock(inputs, tr.MLPBlock([64]), tr.TransformerBlock(transformer_config))
    model = tr.Model(tr.Head(body, tasks))
    args = trainer.T4RecTrainingArguments(
        output_dir=str(tmp_path),
        max_steps=5,
        num_train_epochs=1,
        per_device_train_batch_size=16,
        per_device_eval_batch_size=128,
        data_loader_engine="merlin_dataloader",
        max_sequence_length=20,
        predict_top_k=20,
        fp16=False,
        no_cuda=True,
        report_to=[],
        debug=["r"],
    )
    recsys_trainer = tr.Trainer(
        model=model,
        args=args,
        schema=schema,
        train_dataset_or_path=data.path,
        eval_dataset_or_path=data.path,
        test_dataset_or_path=data.path,
        compute_metrics=True,
    )
    recsys_trainer.reset_lr_scheduler()
    recsys_trainer.train()
    eval_metrics = recsys_trainer.evaluate(eval_dataset=data.path, metric_key_prefix="eval")
    predictions = recsys_trainer.predict(data.path)
    assert set(eval_metrics) >= METRICS
    assert predictions.predictions["next-item"][0].shape == (1000, 20)
    assert predictions.predictions["play_percentage/regression_task"].shape == (1000,)
    assert predictions.predictions["click/binary_classification_task"].shape == (1000,)
    assert "train_loss" in capsys.readouterr().out
