"""Several tasks on one head, and two heads on one body, over recorded weights."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from recorded_models import Recorded

import transformers4rec_ext as tr
from transformers4rec_ext.ranking_metric import AvgPrecisionAt, NDCGAt, RecallAt

NEXT, CLICK, PLAY = "next-item", "click/binary_classification_task", "play/regression_task"
WATCH = "watch/regression_task"
KS = (5, 10, 40)
HEADS = {
    "head0": {},
    "head1": {"task_weights": [1.0, 2.0, 0.5]},
    "head2": {"task_weights": [0.3, 1.5, 4.0], "loss_reduction": "sum"},
}
MODELS = {
    "two_heads0": {},
    "two_heads1": {"head_weights": [0.25, 2.0], "head_reduction": "sum"},
}


class RecordedTasks(Recorded):
    """The group of several tasks, and the models that it is of."""

    def __init__(self, parity) -> None:
        super().__init__(parity, "e2e_multitask")
        self.batch, self.targets = self.below("batch"), self.below("targets")

    def body(self) -> tr.SequentialBlock:
        given = self.meta["model"]
        inputs = tr.TabularSequenceFeatures.from_schema(
            self.schema(), masking="clm", **given["features"]
        )
        transformer = tr.GPT2Config.build(**given["build"])
        return tr.SequentialBlock(
            inputs, tr.MLPBlock(given["mlp"]), tr.TransformerBlock(transformer, inputs.masking)
        )

    def one_head(self, **head: Any) -> tr.Model:
        options = {"top_ks": list(KS), "labels_onehot": True}
        metrics = [NDCGAt(**options), AvgPrecisionAt(**options), RecallAt(**options)]
        tasks = [
            tr.NextItemPredictionTask(weight_tying=True, metrics=metrics, return_predictions=True),
            tr.BinaryClassificationTask("click", summary_type="mean"),
            tr.RegressionTask("play", summary_type="last", task_block=tr.MLPBlock([8])),
        ]
        return self.loaded("weights", tr.Model(tr.Head(self.body(), tasks, **head)))

    def two_heads(self, **model: Any) -> tr.Model:
        body = self.body()
        tasks = [
            tr.BinaryClassificationTask("click"),
            tr.RegressionTask("watch", summary_type=None),
        ]
        heads = [
            tr.Head(body, tr.NextItemPredictionTask(return_predictions=True)),
            tr.Head(body, tasks, task_weights=[2.0, 3.0], loss_reduction="sum"),
        ]
        return self.loaded("weights_two_heads", tr.Model(*heads, **model))

    def loaded(self, prefix: str, model: tr.Model) -> tr.Model:
        model.load_state_dict(self.state_dict(prefix))
        return model.eval()


@pytest.fixture
def recorded(parity) -> RecordedTasks:
    return RecordedTasks(parity)


def test_every_case_is_tested(recorded) -> None:
    assert set(recorded.meta["cases"]) == {*HEADS, *MODELS}
    for name, head in HEADS.items():
        case = recorded.meta["cases"][name]
        assert case["task_weights"] == head.get("task_weights")
        assert case["loss_reduction"] == head.get("loss_reduction", "mean")
        assert case["task_names"] == case["output_keys"] == [NEXT, CLICK, PLAY]
    for name, model in MODELS.items():
        case = recorded.meta["cases"][name]
        assert case["head_weights"] == model.get("head_weights")
        assert case["head_reduction"] == model.get("head_reduction", "mean")
    assert sorted(recorded.one_head().state_dict()) == sorted(recorded.meta["state_dict_keys"])
    keys = recorded.meta["two_heads_state_dict_keys"]
    assert sorted(recorded.two_heads().state_dict()) == sorted(keys)


@pytest.mark.parametrize("mode", ["training", "testing"])
@pytest.mark.parametrize("case", HEADS)
def test_one_head(recorded, case: str, mode: str) -> None:
    model = recorded.one_head(**HEADS[case])
    output = model(recorded.batch, targets=recorded.targets, **{mode: True})
    recorded.close(output["loss"], f"{case}/{mode}/loss")
    for part in ("labels", "predictions"):
        assert list(output[part]) == [NEXT, CLICK, PLAY]
        for task, value in output[part].items():
            recorded.close(value, f"{case}/{mode}/{part}/{task}")
    output["loss"].backward()
    stats = recorded.meta["cases"][case][f"{mode}_grad_stats"]
    recorded.gradients_close(model, f"{case}/{mode}/grad", stats)


@pytest.mark.parametrize("case", MODELS)
def test_two_heads(recorded, case: str) -> None:
    model = recorded.two_heads(**MODELS[case])
    output = model(recorded.batch, targets=recorded.targets, training=True)
    recorded.close(output["loss"], f"{case}/training/loss")
    for part in ("labels", "predictions"):
        assert list(output[part]) == [NEXT, CLICK, WATCH]
        for task, value in output[part].items():
            recorded.close(value, f"{case}/training/{part}/{task}")
    output["loss"].backward()
    recorded.gradients_close(model, f"{case}/training/grad")


@pytest.mark.parametrize("case", HEADS)
def test_serving(recorded, case: str) -> None:
    """Upstream recommends the padding item where its score is high; here it never is (D17)."""
    output = recorded.one_head(**HEADS[case])(recorded.batch, top_k=4)
    assert list(output) == [NEXT, CLICK, PLAY]
    for task in (CLICK, PLAY):
        recorded.close(output[task], f"{case}/inference_topk4/{task}")
    scores, ids = output[NEXT]
    assert not (ids == 0).any()
    their_ids = recorded.tensors[f"{case}/inference_topk4/{NEXT}/ids"]
    their_scores = recorded.tensors[f"{case}/inference_topk4/{NEXT}/scores"]
    for row, items in enumerate(their_ids):
        kept = items != 0
        found = int(kept.sum())
        assert torch.equal(ids[row, :found], items[kept])
        torch.testing.assert_close(
            scores[row, :found], their_scores[row][kept], rtol=1e-4, atol=2e-5
        )


def test_metrics(recorded) -> None:
    model = recorded.one_head()
    output = model(recorded.batch, targets=recorded.targets, testing=True)
    theirs = recorded.meta["cases"]["head0"]
    metrics = model.calculate_metrics(output["predictions"], output["labels"])
    assert {name: value.tolist() for name, value in metrics.items()} == {
        name: pytest.approx(value, rel=1e-5) for name, value in theirs["metrics"].items()
    }
    computed = model.compute_metrics(mode="eval")
    assert list(computed) == list(theirs["compute_metrics_eval"])
    for task, values in theirs["compute_metrics_eval"].items():
        assert {name: float(value) for name, value in computed[task].items()} == {
            name: pytest.approx(value, rel=1e-5) for name, value in values.items()
        }
