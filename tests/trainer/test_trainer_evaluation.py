"""Evaluation and prediction: what comes out, and that it does not grow with the catalogue."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from torch.utils.data import DataLoader
from torchmetrics import Metric
from trainer_helpers import CLICK, ITEM, V, batches, model_of, next_item, trainer_of, write

import transformers4rec_ext as tr

METRICS = {f"next-item/{name}_at_{k}" for name in ("ndcg", "recall") for k in (5, 10)}


def click() -> tr.BinaryClassificationTask:
    return tr.BinaryClassificationTask("click", summary_type="mean")


# Evaluation


def test_evaluation_equals_the_models_own(tmp_path: Path) -> None:
    trainer = trainer_of(tmp_path, model_of(dropout=0.5))
    metrics = trainer.evaluate()
    expected = model_of().evaluate(batches(tmp_path / "data"), verbose=False)
    assert {k.removeprefix("eval_/") for k in metrics if "at_" in k} == METRICS
    for name, value in expected.items():
        assert metrics[f"eval_/{name}"] == pytest.approx(float(value), abs=1e-6)
    whole = batches(tmp_path / "data", 40)[0][0]
    loss = model_of().eval()(whole, testing=True)["loss"].item()
    assert metrics["eval_/loss"] == pytest.approx(loss, rel=1e-5)
    assert trainer.evaluate()["eval_/loss"] == metrics["eval_/loss"]
    assert trainer.model.training


def test_keys_of_several_tasks_and_of_another_prefix(tmp_path: Path) -> None:
    trainer = trainer_of(tmp_path, model_of(next_item(), click()))
    metrics = trainer.evaluate(metric_key_prefix="test")
    names = {key for key in metrics if "_/" in key}
    assert names == {"test_/loss"} | {f"test_/{name}" for name in METRICS} | {
        f"test_/{CLICK}/binary_{name}" for name in ("accuracy", "precision", "recall")
    }


def test_other_data_is_evaluated_where_it_is_given(tmp_path: Path) -> None:
    other = write(tmp_path / "other", 20, seed=9)
    trainer = trainer_of(tmp_path, test_dataset_or_path=other)
    expected = trainer_of(tmp_path, eval_dataset_or_path=other).evaluate()["eval_/loss"]
    assert trainer.evaluate()["eval_/loss"] != expected
    assert trainer.evaluate(other)["eval_/loss"] == expected
    assert trainer.evaluate(batches(other))["eval_/loss"] == expected
    assert trainer.evaluate(DataLoader(batches(other), batch_size=None))["eval_/loss"] == expected
    on_test = trainer_of(tmp_path, test_dataset_or_path=other, eval_on_test_set=True)
    assert on_test.evaluate()["eval_/loss"] == expected
    # upstream's scripts give the file of the test as evaluation data
    as_upstream = {"eval_dataset_or_path": other, "test_dataset_or_path": None}
    on_test = trainer_of(tmp_path, **as_upstream, eval_on_test_set=True)
    assert on_test.evaluate()["eval_/loss"] == expected


def test_the_model_keeps_the_metrics_of_the_last_evaluation(tmp_path: Path) -> None:
    trainer = trainer_of(tmp_path)
    for data in (None, write(tmp_path / "other", 20, seed=9)):
        results = trainer.evaluate(data)
        kept = trainer.model.compute_metrics()
        assert kept
        assert {f"eval_/{name}": float(value) for name, value in kept.items()} == {
            name: value for name, value in results.items() if "_at_" in name
        }


def test_data_without_a_batch_is_told_so(tmp_path: Path) -> None:
    few = write(tmp_path / "few", 3)
    trainer = trainer_of(tmp_path, per_device_eval_batch_size=64, dataloader_drop_last=True)
    for method in (trainer.evaluate, trainer.predict):
        with pytest.raises(ValueError, match=r"at least one batch; got none\. dataloader_drop_"):
            method(few)
    with pytest.raises(ValueError, match=r"got none\. A generator is spent after one pass"):
        trainer_of(tmp_path).evaluate(iter([]))


def test_without_metrics_only_the_loss_is_computed(tmp_path: Path) -> None:
    for options in ({"compute_metrics": None}, {"prediction_loss_only": True}):
        metrics = trainer_of(tmp_path, **options).evaluate()
        assert {key for key in metrics if "_/" in key} == {"eval_/loss"}


def test_metrics_each_n_steps_and_few_steps_on_training_data(tmp_path: Path) -> None:
    data = batches(write(tmp_path / "data"))
    trainer = trainer_of(tmp_path, compute_metrics_each_n_steps=2, eval_steps_on_train_set=3)
    expected = model_of().evaluate(data[::2], verbose=False)["next-item/ndcg_at_10"]
    assert trainer.evaluate()["eval_/next-item/ndcg_at_10"] == pytest.approx(float(expected))
    on_train = trainer.evaluate(metric_key_prefix="train")
    expected = model_of().evaluate(data[:3:2], verbose=False)["next-item/ndcg_at_10"]
    assert on_train["train_/next-item/ndcg_at_10"] == pytest.approx(float(expected))


class Largest(Metric):
    """A metric of scores: it does not follow from ranks."""

    def __init__(self) -> None:
        super().__init__()
        self.add_state("largest", torch.tensor(-torch.inf), dist_reduce_fx="max")

    def update(self, preds: torch.Tensor, target: torch.Tensor) -> None:
        assert preds.shape == (len(target), V + 1)
        self.largest = torch.maximum(self.largest, preds.max())

    def compute(self) -> torch.Tensor:
        return self.largest


def test_a_metric_of_ones_own_gets_scores(tmp_path: Path) -> None:
    task = tr.NextItemPredictionTask(metrics=[Largest()])
    metrics = trainer_of(tmp_path, model_of(task)).evaluate()
    assert np.isfinite(metrics["eval_/next-item/largest"])


def test_memory_grows_neither_with_the_catalogue_nor_with_the_batches(tmp_path: Path) -> None:
    """Of 200,000 items the scores of one batch of 64 sessions alone are 49 MiB."""
    items = 200_000
    schema = tr.Schema.from_item_column("item_id", num_items=items - 1, max_length=6)
    inputs = tr.TabularSequenceFeatures.from_schema(
        schema, max_sequence_length=6, embedding_dim_default=8, masking="clm", aggregation="concat"
    )
    body = tr.SequentialBlock(inputs)
    model = tr.Model(tr.Head(body, next_item(weight_tying=True), inputs=inputs))
    trainer = trainer_of(tmp_path, model)

    def peak(steps: int) -> int:
        data = [{"item_id": torch.randint(1, items, (64, 6))} for _ in range(steps)]
        with torch.profiler.profile(profile_memory=True) as profile:
            trainer.evaluate(data)
            trainer.predict(data)
        held = largest = 0
        for event in sorted(profile.profiler.kineto_results.events(), key=lambda e: e.start_ns()):
            if event.name() == "[memory]":
                held += event.nbytes()
                largest = max(largest, held)
        return largest

    few, many = peak(2), peak(8)
    assert 2**18 < few < 16 * 2**20
    # a rank, two metrics at two cut-offs and five recommendations a session, with their scores
    assert many - few < 6 * 64 * 200


def test_log_predictions_gives_the_best_items(tmp_path: Path) -> None:
    calls: list[dict[str, Any]] = []
    trainer = trainer_of(tmp_path, log_predictions=True)
    plain = trainer.evaluate()
    trainer.log_predictions_callback = lambda **values: calls.append(values)
    assert trainer.evaluate()["eval_/next-item/ndcg_at_10"] == plain["eval_/next-item/ndcg_at_10"]
    assert len(calls) == 5
    (x, _), *_ = batches(tmp_path / "data")
    output = model_of().eval()(x, testing=True)
    scores, ids = output["predictions"][:, 1:].topk(5)
    call = calls[0]
    assert call["dataset_type"] == "eval"
    assert (call["labels"] == output["labels"].numpy()).all()
    assert (call["pred_item_ids"] == ids.numpy() + 1).all()
    assert call["pred_item_scores"] == pytest.approx(scores.detach().numpy(), abs=1e-6)
    assert set(call["metrics"]) == {f"next-item/{name}" for name in ("ndcg_at", "recall_at")}


@pytest.mark.parametrize(
    ("options", "with_metrics"),
    [
        ({"compute_metrics_each_n_steps": 2}, [True, False, True, False, True]),
        ({"compute_metrics": None}, [False] * 5),
        ({"compute_metrics": False}, [False] * 5),
        ({"prediction_loss_only": True}, [False] * 5),
    ],
)
def test_every_batch_is_logged_whichever_have_metrics(
    tmp_path: Path, options: dict[str, Any], with_metrics: list[bool]
) -> None:
    calls: list[dict[str, Any]] = []
    trainer = trainer_of(tmp_path, log_predictions=True, **options)
    plain = trainer.evaluate()
    trainer.log_predictions_callback = lambda **values: calls.append(values)
    logged = trainer.evaluate()
    found = {name: value for name, value in logged.items() if "_/" in name}
    expected = {name: value for name, value in plain.items() if "_/" in name}
    assert found == pytest.approx(expected, rel=1e-6)
    assert [call["metrics"] is not None for call in calls] == with_metrics
    assert all(call["pred_item_ids"].shape == (8, 5) for call in calls)


# Prediction


def _inference(tmp_path: Path, model: tr.Model) -> Any:
    (x, _), *_ = batches(tmp_path / "data", 40)
    with torch.no_grad():
        return model.eval()(x)


def test_predictions_are_ids_and_scores_in_the_order_of_the_rows(tmp_path: Path) -> None:
    ids, scores = trainer_of(tmp_path).predict().predictions
    best = _inference(tmp_path, model_of())[:, 1:].topk(5)
    assert (ids == best.indices.numpy() + 1).all()
    assert scores == pytest.approx(best.values.numpy(), abs=1e-6)
    assert ids.dtype == np.int64


def test_data_given_to_predict_come_before_the_trainers_own_loader(tmp_path: Path) -> None:
    other = write(tmp_path / "other", 20, seed=9)
    own = DataLoader(batches(write(tmp_path / "data")), batch_size=None)
    trainer = trainer_of(tmp_path, test_dataloader=own)
    assert trainer.predict(other).predictions[0].shape == (20, 5)
    assert trainer.predict().predictions[0].shape == (40, 5)


def test_prediction_drops_nothing_out(tmp_path: Path) -> None:
    model = model_of(dropout=0.5)
    _, scores = trainer_of(tmp_path, model.train()).predict().predictions
    assert model.training
    best = _inference(tmp_path, model_of(dropout=0.5))[:, 1:].topk(5)
    assert scores == pytest.approx(best.values.numpy(), abs=1e-6)


@pytest.mark.parametrize("top_k", [0, None])
def test_all_scores_are_predicted_where_no_top_k_is_set(tmp_path: Path, top_k: int | None) -> None:
    scores = trainer_of(tmp_path, predict_top_k=top_k).predict().predictions
    expected = _inference(tmp_path, model_of())
    assert scores == pytest.approx(expected.numpy(), abs=1e-6)


def test_several_tasks_predict_a_dictionary(tmp_path: Path) -> None:
    trainer = trainer_of(tmp_path, model_of(next_item(), click()))
    found = trainer.predict(tmp_path / "data").predictions
    assert set(found) == {"next-item", CLICK}
    expected = _inference(tmp_path, model_of(next_item(), click()))
    best = expected["next-item"][:, 1:].topk(5)
    ids, scores = found["next-item"]
    assert (ids == best.indices.numpy() + 1).all()
    assert scores == pytest.approx(best.values.numpy(), abs=1e-6)
    assert found[CLICK] == pytest.approx(expected[CLICK].numpy(), abs=1e-6)
    alone = trainer_of(tmp_path, model_of(click())).predict().predictions
    assert alone.shape[0] == 40


def test_the_models_top_k_bounds_that_of_predictions(tmp_path: Path) -> None:
    for given, expected in ((4, 4), (0, 6)):
        model = model_of()
        model.top_k = 6
        ids, _ = trainer_of(tmp_path, model, predict_top_k=given).predict().predictions
        assert ids.shape == (40, expected)
    with pytest.raises(ValueError, match=r"args.predict_top_k should not be larger than model.top"):
        trainer_of(tmp_path, model, predict_top_k=7).predict()


def test_prediction_needs_no_targets(tmp_path: Path) -> None:
    inputs = [x for x, _ in batches(write(tmp_path / "data"))]
    found = trainer_of(tmp_path, model_of(click())).predict(inputs)
    assert found.predictions.shape[0] == 40
    assert found.label_ids is None


@pytest.mark.parametrize("engine", ["merlin", "pyarrow"])
def test_prediction_needs_no_columns_of_targets(tmp_path: Path, engine: str) -> None:
    whole, bare = write(tmp_path / "data"), tmp_path / "bare"
    bare.mkdir()
    table = pq.read_table(whole / "part.parquet")
    pq.write_table(table.drop_columns(["click"]), bare / "b.parquet")
    trainer = trainer_of(tmp_path, model_of(next_item(), click()), data_loader_engine=engine)
    expected = trainer.predict(whole).predictions
    found = trainer.predict(str(bare)).predictions
    assert (found["next-item"][0] == expected["next-item"][0]).all()
    assert (found[CLICK] == expected[CLICK]).all()
    pq.write_table(table, bare / "a.parquet")  # which has them
    assert trainer.predict(bare).predictions[CLICK].shape == (80,)
    with pytest.raises(ValueError, match=r"schema must name columns of .*b\.parquet; got 'click'"):
        trainer.evaluate(bare)
    pq.write_table(table.drop_columns([ITEM]), bare / "b.parquet")
    with pytest.raises(ValueError, match=r"schema must name columns of .*b\.parquet; got 'item_id"):
        trainer.predict(bare)
    with pytest.raises(FileNotFoundError, match=r"Trainer\.predict: paths must exist"):
        trainer.predict(tmp_path / "none")
