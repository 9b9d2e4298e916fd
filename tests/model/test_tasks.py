"""PredictionTask, BinaryClassificationTask and RegressionTask."""

from __future__ import annotations

import pickle

import pytest
import torch
import torchmetrics
from task_helpers import D, T, dense_body
from torchmetrics.classification import BinaryAccuracy, BinaryPrecision

from transformers4rec_ext.block.mlp import MLPBlock
from transformers4rec_ext.model import (
    BinaryClassificationPrepareBlock,
    BinaryClassificationTask,
    Head,
    NextItemPredictionTask,
    PredictionTask,
    RegressionPrepareBlock,
    RegressionTask,
)
from transformers4rec_ext.model.base import forward_to_prediction_fn, name_fn, snake_case


def built(task: PredictionTask, width: int = D) -> PredictionTask:
    task.build(None, [-1, T, width])
    return task


def test_import_paths() -> None:
    from transformers4rec_ext.model import base, head, model, prediction_task

    assert base.Head is head.Head
    assert base.Model is model.Model
    assert base.PredictionTask is PredictionTask
    assert prediction_task.BinaryClassificationTask is BinaryClassificationTask
    assert prediction_task.NextItemPredictionTask is NextItemPredictionTask
    assert prediction_task.LogUniformSampler.__name__ == "LogUniformSampler"
    with pytest.raises(AttributeError, match="has no attribute 'Nothing'"):
        _ = base.Nothing


@pytest.mark.parametrize(
    ("name", "snake"),
    [
        ("NDCGAt", "ndcg_at"),
        ("MeanReciprocalRankAt", "mean_reciprocal_rank_at"),
        ("BinaryPrecision", "binary_precision"),
    ],
)
def test_snake_case(name: str, snake: str) -> None:
    assert snake_case(name) == snake


def test_names() -> None:
    task = BinaryClassificationTask("click")
    assert task.task_name == "click/binary_classification_task"
    assert task.child_name("x") == "click/binary_classification_task/x"
    precision = task.metrics[0]
    assert task.metric_name(precision) == "click/binary_classification_task/binary_precision"
    assert BinaryClassificationTask("click", task_name="mine").task_name == "mine"
    assert name_fn(None, "x") is None
    assert forward_to_prediction_fn(3) == 3


def test_prepare_blocks() -> None:
    x = torch.randn(3, D)
    binary = BinaryClassificationPrepareBlock().build([-1, D])
    assert list(binary.state_dict()) == ["0.weight"]
    torch.testing.assert_close(binary(x), torch.sigmoid(x @ binary[0].weight[0]))
    regression = RegressionPrepareBlock().build([-1, D])
    assert list(regression.state_dict()) == ["0.weight", "0.bias"]
    torch.testing.assert_close(regression(x), x @ regression[0].weight[0] + regression[0].bias)
    assert list(binary.output_size()) == [-1]


def test_one_session_keeps_its_dimension() -> None:
    assert built(RegressionTask("r"))(torch.randn(1, T, D)).shape == (1,)
    assert built(RegressionTask("r", summary_type=None))(torch.randn(1, 1, D)).shape == (1, 1)


@pytest.mark.parametrize("summary", ["last", "first", "mean", "cls_index", None])
def test_summary(summary: str | None) -> None:
    task = built(RegressionTask("r", summary_type=summary))
    x = torch.randn(3, T, D)
    summarised = {"last": x[:, -1], "first": x[:, 0], "mean": x.mean(1), "cls_index": x[:, -1]}
    expected = summarised.get(summary or "", x)
    torch.testing.assert_close(task(x), task.pre(expected))
    # Two-dimensional inputs have nothing to summarise.
    torch.testing.assert_close(task(x[:, 0]), task.pre(x[:, 0]))


def test_cls_index_positions() -> None:
    task = built(RegressionTask("r", summary_type="cls_index"))
    x, index = torch.randn(3, T, D), torch.tensor([2, 0, 5])
    torch.testing.assert_close(task(x, cls_index=index), task.pre(x[range(3), index]))
    with pytest.raises(ValueError, match=r"cls_index must be int64 \[B=3\]; got torch.float32"):
        task(x, cls_index=torch.ones(3))


def test_loss_and_metrics_are_own_copies() -> None:
    # D10: upstream's tasks share the class's instances.
    for cls in (BinaryClassificationTask, RegressionTask, NextItemPredictionTask):
        a, b = cls(), cls()
        assert a.loss is not b.loss
        assert a.loss is not cls.DEFAULT_LOSS
        owned = [*a.metrics, *b.metrics, *cls.DEFAULT_METRICS]
        assert len({id(metric) for metric in owned}) == len(owned)
    metric, loss = torchmetrics.regression.MeanAbsoluteError(), torch.nn.L1Loss()
    task = RegressionTask("r", metrics=[metric], loss=loss)
    assert task.metrics[0] is metric
    assert task.loss is loss


def test_metrics_round_probabilities_and_reset() -> None:
    task = built(BinaryClassificationTask("c"))
    predictions, targets = torch.tensor([0.9, 0.2, 0.6, 0.1]), torch.tensor([1.0, 0.0, 0.0, 1.0])
    values = task.calculate_metrics(predictions, targets)
    accuracy = "c/binary_classification_task/binary_accuracy"
    assert values[accuracy] == 0.5
    task.calculate_metrics(torch.tensor([0.9, 0.1, 0.1, 0.9]), targets)
    assert task.compute_metrics()[accuracy] == 0.75
    task.reset_metrics()
    assert task.compute_metrics() == {}


def test_metrics_are_updated_once() -> None:
    calls = []

    class Counting(torchmetrics.regression.MeanSquaredError):
        def update(self, preds: torch.Tensor, target: torch.Tensor) -> None:
            calls.append(1)
            super().update(preds, target)

    task = RegressionTask("r", metrics=[Counting()])
    task.calculate_metrics(torch.ones(3), torch.zeros(3))
    assert len(calls) == 1


def test_integer_targets_stay_integers_in_the_labels() -> None:
    # D26: upstream's labels go through float32.
    task = built(RegressionTask("r"))
    targets = torch.tensor([2**24 + 1, 3])
    output = task(torch.zeros(2, D), targets=targets, training=True)
    assert torch.equal(output["labels"], targets)
    assert output["labels"].dtype == torch.int64
    binary = built(BinaryClassificationTask("c"))
    output = binary(torch.zeros(2, D), targets=torch.tensor([1, 0]), testing=True)
    assert output["loss"].item() == pytest.approx(0.693147, abs=1e-5)
    output = binary(torch.zeros(2, D), targets=torch.tensor([True, False]), testing=True)
    assert output["labels"].dtype == torch.bool


def test_class_indices_reach_the_loss_unchanged() -> None:
    class Classify(PredictionTask):
        pass

    task = Classify(torch.nn.CrossEntropyLoss(), pre=torch.nn.Linear(D, 3))
    task.build(None, [-1, D])
    x, targets = torch.randn(4, D), torch.tensor([0, 2, 1, 1])
    output = task(x, targets=targets, training=True)
    torch.testing.assert_close(
        output["loss"], torch.nn.functional.cross_entropy(task.pre(x), targets)
    )


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_gives_a_float32_loss(dtype: torch.dtype) -> None:
    task = built(BinaryClassificationTask("c")).to(dtype)
    output = task(torch.randn(4, D, dtype=dtype), targets=torch.ones(4), training=True)
    assert output["loss"].dtype == torch.float32
    assert output["predictions"].dtype == torch.float32  # a probability of 0.9991 is none of them
    assert output["loss"].isfinite()


def test_autocast() -> None:
    task = built(BinaryClassificationTask("c"))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = task(torch.randn(4, D), targets=torch.ones(4), training=True)
    assert output["loss"].dtype == torch.float32
    output["loss"].backward()
    assert task.pre[0].weight.grad is not None


def test_empty_batch_has_loss_zero() -> None:
    task = built(RegressionTask("r"))
    x = torch.empty(0, T, D, requires_grad=True)
    output = task(x, targets=torch.empty(0), training=True)
    output["loss"].backward()
    assert output["loss"].item() == 0
    assert task.calculate_metrics(output["predictions"], output["labels"]) == {}


def test_blocks_are_copied_or_built() -> None:
    shared = torch.nn.Linear(D, D)
    first, second = (built(RegressionTask("r", task_block=shared)) for _ in range(2))
    assert first.task_block is not shared
    assert first.task_block is not second.task_block
    assert torch.equal(first.task_block.weight, shared.weight)
    task = RegressionTask("r", task_block=MLPBlock([3]))
    assert not task.built
    task.build(None, [-1, D])
    assert task.built
    assert task.pre[0].weight.shape == (1, 3)
    replaced = RegressionTask("r", task_block=MLPBlock([3]))
    replaced.build(None, [-1, D], task_block=MLPBlock([4]), pre=torch.nn.Linear(4, 1))
    assert replaced(torch.zeros(2, D)).shape == (2, 1)
    meta = RegressionTask("r")
    meta.build(None, [-1, D], device="meta")
    assert meta.pre[0].weight.device.type == "meta"


def test_to_head_and_to_model() -> None:
    head = RegressionTask("r").to_head(dense_body(D), loss_reduction="sum")
    assert isinstance(head, Head)
    assert head.loss_reduction == "sum"
    model = RegressionTask("r").to_model(dense_body(D), task_weights=[2.0], name="m", top_k=3)
    assert model.top_k == 3
    assert repr(model).startswith("m(")
    with pytest.raises(TypeError, match="unexpected"):
        RegressionTask("r").to_model(dense_body(D), nonsense=1)


def test_pickle() -> None:
    task = built(BinaryClassificationTask("c"))
    x = torch.randn(2, D)
    torch.testing.assert_close(pickle.loads(pickle.dumps(task))(x), task(x))


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        ({"loss": "mse"}, TypeError, r"loss must be a torch\.nn\.Module; got str"),
        ({"metrics": BinaryAccuracy()}, TypeError, "metrics must be a list of metrics; got Binary"),
        ({"metrics": [1]}, TypeError, r"metrics must hold torchmetrics\.Metric only; got int"),
        ({"target_name": 1}, TypeError, "target_name must be a str or None; got int"),
        ({"task_name": 1}, TypeError, "task_name must be a str or None"),
        ({"task_block": 1}, TypeError, "task_block must be a torch.nn.Module or have a method"),
        ({"summary_type": "max"}, ValueError, "summary_type must be one of .*; got 'max'"),
    ],
)
def test_constructor_refuses(arguments: dict, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        RegressionTask(**arguments)


def test_base_refuses() -> None:
    with pytest.raises(TypeError, match="forward_to_prediction_fn must be callable; got int"):
        PredictionTask(torch.nn.MSELoss(), forward_to_prediction_fn=1)
    with pytest.raises(TypeError, match=r"pre must be a torch\.nn\.Module or have"):
        PredictionTask(torch.nn.MSELoss(), pre=1)
    with pytest.raises(TypeError, match=r"build: task_block must be a torch\.nn\.Module or have"):
        RegressionTask().build(None, [-1, D], task_block=1)


@pytest.mark.parametrize(
    ("inputs", "targets", "error", "text"),
    [
        ([[1.0]], None, TypeError, r"inputs must be a torch\.Tensor; got list"),
        (torch.ones(2, D, dtype=torch.int64), None, TypeError, "inputs must be floating"),
        (torch.ones(D), None, ValueError, r"inputs must be \[B, D\] or \[B, T, D\]; got \[8\]"),
        (torch.ones(2, D), None, ValueError, "targets must be given .* named 'r'. Give tar"),
        (torch.ones(2, D), [1.0, 2.0], TypeError, r"targets must be a torch\.Tensor; got list"),
        (torch.ones(2, D), torch.ones(2, 1), ValueError, r"shape \[2\]; got \[2, 1\]"),
    ],
)
def test_forward_refuses(
    inputs: object, targets: object, error: type[Exception], text: str
) -> None:
    with pytest.raises(error, match=text):
        built(RegressionTask("r"))([inputs] if isinstance(inputs, list) else inputs, targets, True)


@pytest.mark.parametrize("wrong", [2.0, -1.0, float("nan")])
def test_binary_targets_out_of_range(wrong: float) -> None:
    x, targets = torch.randn(3, D), torch.tensor([0.0, wrong, 1.0])
    with pytest.raises(ValueError, match=rf"targets 'c' must lie in \[0, 1\]; got {wrong:g}"):
        built(BinaryClassificationTask("c"))(x, targets=targets, training=True)
    # A loss of one's own may have other labels.
    own = built(BinaryClassificationTask("c", loss=torch.nn.MSELoss()))
    assert own(x, targets=torch.tensor([2, -1, 0]), training=True)["loss"].isfinite()


def test_binary_predictions_that_are_no_numbers() -> None:
    """Of a NaN in a column, which torch reports in words about its loss."""
    task = built(BinaryClassificationTask("c"))
    x = torch.randn(3, D)
    x[1, 0] = torch.nan
    with pytest.raises(ValueError, match="predictions must be numbers; got NaN"):
        task(x, targets=torch.ones(3), training=True)


def test_targets_per_position() -> None:
    task = built(RegressionTask("r", summary_type=None))
    text = (
        r"^If `summary_type==None`, targets are expected to be a 2D tensor, "
        r"but got a tensor with shape torch\.Size\(\[2\]\)"
    )
    with pytest.raises(ValueError, match=text):
        task(torch.ones(2, T, D), targets=torch.ones(2), training=True)
    assert task(torch.ones(2, T, D), targets=torch.ones(2, T), training=True)["loss"].dim() == 0


def test_binary_metrics_are_of_probabilities() -> None:
    """Of classes an area under the curve of a perfect order is one half."""
    probabilities, targets = torch.tensor([0.1, 0.2, 0.3, 0.4]), torch.tensor([0.0, 0.0, 1.0, 1.0])
    task = BinaryClassificationTask(
        metrics=[torchmetrics.AUROC(task="binary"), BinaryPrecision(threshold=0.25), Classes()]
    )
    values = task.calculate_metrics(probabilities, targets)
    assert [float(value) for value in values.values()] == [1.0, 1.0, 0.0]
    wrapped = [
        torchmetrics.AUROC(task="binary") * 1.0,
        torchmetrics.wrappers.Running(torchmetrics.AUROC(task="binary")),
        OwnUpdate(),
    ]
    values = BinaryClassificationTask(metrics=wrapped).calculate_metrics(probabilities, targets)
    assert [float(value) for value in values.values()] == [1.0, 1.0, 0.5]
    both = BinaryClassificationTask(metrics=[BinaryPrecision() + Classes()])
    # where one needs classes both get them, and there is none of class 1
    assert [float(value) for value in both.calculate_metrics(probabilities, targets).values()] == [
        0
    ]
    task = BinaryClassificationTask(metrics=[torchmetrics.AUROC(task="binary")])
    task.forward_to_prediction_fn = lambda x: 1 - x  # one's own is asked
    assert [float(value) for value in task.calculate_metrics(probabilities, targets).values()] == [
        0
    ]


class OwnUpdate(BinaryAccuracy):
    """A metric of torchmetrics that was extended for the classes of upstream."""

    def update(self, predictions: torch.Tensor, targets: torch.Tensor) -> None:
        assert predictions.dtype == torch.int32
        super().update(predictions, targets)


class Classes(torchmetrics.Metric):
    """What else may be given: it gets the classes, as upstream gives them."""

    def __init__(self) -> None:
        super().__init__()
        self.add_state("total", torch.tensor(0), "sum")

    def update(self, predictions: torch.Tensor, targets: torch.Tensor) -> None:
        assert predictions.dtype == targets.dtype == torch.int32
        self.total += predictions.sum()

    def compute(self) -> torch.Tensor:
        return self.total


def test_probabilities_of_another_type_become_the_scores_type() -> None:
    seen = []

    class Own(torch.nn.Module):
        def forward(self, scores: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
            seen.append(target.dtype)
            return (scores.mean(1) - target).square().mean()

    class Rates(PredictionTask):
        pass

    task = Rates(Own(), pre=torch.nn.Linear(D, 3))
    task.build(None, [-1, D])
    targets = torch.rand(4, dtype=torch.float64)
    assert task(torch.randn(4, D), targets=targets, training=True)["loss"].dtype == torch.float32
    assert seen == [torch.float32]
