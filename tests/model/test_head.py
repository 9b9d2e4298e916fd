"""Head: tasks on a body, their targets, losses and metrics."""

from __future__ import annotations

import pytest
import torch
from task_helpers import D, T, batch, dense_body, sequence_inputs
from torchmetrics.regression import MeanSquaredError

from transformers4rec_ext.block.base import Block, SequentialBlock
from transformers4rec_ext.block.mlp import MLPBlock
from transformers4rec_ext.model import (
    BinaryClassificationTask,
    Head,
    Model,
    NextItemPredictionTask,
    RegressionTask,
)
from transformers4rec_ext.schema import ColumnSchema, Schema, Tags

CLICK, PLAY = "click/binary_classification_task", "play/regression_task"


def two_tasks(**kwargs: object) -> Head:
    return Head(dense_body(), [BinaryClassificationTask("click"), RegressionTask("play")], **kwargs)


def targets() -> dict[str, torch.Tensor]:
    return {"click": torch.tensor([1, 0, 1]), "play": torch.tensor([0.5, 2.0, -1.0])}


@pytest.mark.parametrize("reduction", ["mean", "sum", "max", "min"])
def test_loss_is_the_reduced_weighted_sum(reduction: str) -> None:
    head = two_tasks(task_weights=[0.5, 3.0], loss_reduction=reduction)
    x = torch.randn(3, T, 5)
    output = head(x, training=True, targets=targets())
    losses = [
        task(x, targets=targets()[task.target_name], training=True)["loss"]
        for task in head.prediction_task_dict.values()
    ]
    weighted = torch.stack([losses[0] * 0.5, losses[1] * 3.0])
    torch.testing.assert_close(output["loss"], getattr(weighted, reduction)())
    assert list(output["labels"]) == [CLICK, PLAY]
    assert list(output["predictions"]) == [CLICK, PLAY]
    assert output["labels"][CLICK].dtype == torch.int64


def test_inference_returns_a_dictionary() -> None:
    output = two_tasks()(torch.randn(3, T, 5), top_k=2)
    assert {name: y.shape for name, y in output.items()} == {CLICK: (3,), PLAY: (3,)}


def test_one_tensor_is_the_target_of_the_task() -> None:
    head = Head(dense_body(), RegressionTask("play"))
    output = head(torch.randn(3, T, 5), testing=True, targets=targets()["play"])
    assert torch.equal(output["labels"][PLAY], targets()["play"])


def test_call_body_passes_the_flags_that_the_body_takes() -> None:
    class Body(torch.nn.Module):
        def forward(self, x: torch.Tensor, training: bool) -> torch.Tensor:
            self.seen = training
            return x

    body = Body()
    head = Head(Block(body, [-1, 5]), RegressionTask("play"))
    head(torch.randn(3, 5), call_body=True, training=True, targets=targets())
    assert body.seen is True
    # A body that takes no flag is called without.
    plain = Head(dense_body(), RegressionTask("play"))
    assert plain(torch.randn(3, T, 5), call_body=True, other=1)[PLAY].shape == (3,)

    class Any(torch.nn.Module):
        def forward(self, x: torch.Tensor, **kwargs: object) -> torch.Tensor:
            self.seen = kwargs
            return x

    anything = Any()
    head = Head(Block(anything, [-1, 5]), RegressionTask("play"))
    head(torch.randn(3, 5), call_body=True, extra=2)
    assert anything.seen == {"training": False, "testing": False, "extra": 2}


def test_metrics() -> None:
    head = two_tasks()
    x = torch.randn(3, T, 5)
    output = head(x, testing=True, targets=targets())
    batch_metrics = head.calculate_metrics(output["predictions"], output["labels"])
    assert set(batch_metrics) == {
        f"{CLICK}/binary_precision",
        f"{CLICK}/binary_recall",
        f"{CLICK}/binary_accuracy",
        f"{PLAY}/mean_squared_error",
    }
    computed = head.compute_metrics(mode="eval")
    assert list(computed) == [f"eval_{CLICK}", f"eval_{PLAY}"]
    assert list(head.compute_metrics()) == [CLICK, PLAY]
    torch.testing.assert_close(
        computed[f"eval_{PLAY}"][f"{PLAY}/mean_squared_error"],
        output["loss"].new_tensor(
            ((output["predictions"][PLAY] - targets()["play"]) ** 2).mean().item()
        ),
    )
    head.reset_metrics()
    assert head.compute_metrics() == {CLICK: {}, PLAY: {}}
    # One task: no prefix.
    single = Head(dense_body(), RegressionTask("play"))
    single.calculate_metrics(torch.ones(3), torch.zeros(3))
    assert single.compute_metrics(mode="eval") == {f"{PLAY}/mean_squared_error": torch.tensor(1.0)}


def test_one_metric_given_to_two_tasks_is_one_each() -> None:
    metric = MeanSquaredError()
    tasks = [RegressionTask(name, metrics=[metric]) for name in ("a", "b")]
    head = Head(dense_body(), tasks)
    first, second = (task.metrics[0] for task in tasks)
    assert first is metric
    assert second is not metric
    labels = {task.task_name: torch.zeros(2) for task in tasks}
    predictions = {"a/regression_task": torch.zeros(2), "b/regression_task": torch.ones(2)}
    head.calculate_metrics(predictions, labels)
    values = [next(iter(metrics.values())) for metrics in head.compute_metrics().values()]
    assert [float(value) for value in values] == [0.0, 1.0]


def test_pop_labels_by_target_name() -> None:
    # D20: upstream pops by task name.
    head = two_tasks()
    inputs = {"x": torch.ones(1), **targets()}
    labels = head.pop_labels(inputs)
    assert set(labels) == {"click", "play"}
    assert set(inputs) == {"x"}
    inputs = {"click": torch.ones(1)}
    with pytest.raises(ValueError, match=r"inputs must hold the targets .*; got no \['play'\]"):
        head.pop_labels(inputs)
    assert set(inputs) == {"click"}


def test_pop_labels_leaves_the_next_item_alone() -> None:
    body = SequentialBlock(sequence_inputs(), MLPBlock([D]))
    assert Head(body, NextItemPredictionTask()).pop_labels(batch()) == {}


def test_task_blocks() -> None:
    head = two_tasks(task_blocks=MLPBlock([3]))
    blocks = head.task_blocks
    assert list(blocks) == [CLICK, PLAY]
    assert blocks[CLICK] is not blocks[PLAY]
    assert list(blocks[PLAY].output_size())[-1] == 3
    head = two_tasks(task_blocks={PLAY: MLPBlock([4])})
    assert head.task_blocks[CLICK] is None
    assert list(head.task_blocks[PLAY].output_size())[-1] == 4
    assert list(head.input_size) == [-1, T, 5]


def test_from_schema() -> None:
    schema = Schema(
        [
            ColumnSchema("click", tags=(Tags.BINARY_CLASSIFICATION, Tags.TARGET)),
            ColumnSchema("play", tags=(Tags.REGRESSION,), dtype="float32"),
            ColumnSchema("other"),
        ]
    )
    head = Head.from_schema(
        schema, dense_body(), task_weight_dict={"play": 2.0}, loss_reduction="sum"
    )
    assert list(head.prediction_task_dict) == [CLICK, PLAY]
    assert head._task_weights == {CLICK: 1.0, PLAY: 2.0}
    assert head.loss_reduction == "sum"
    with pytest.raises(ValueError, match=r"task_weight_dict must name targets .*; got \['x'\]"):
        Head.from_schema(schema, dense_body(), task_weight_dict={"x": 1.0})
    with pytest.raises(TypeError, match=r"task_weight_dict must be a dict .*; got list"):
        Head.from_schema(schema, dense_body(), task_weight_dict=[2.0])
    with pytest.raises(TypeError, match="from_schema: schema must be a Schema; got dict"):
        Head.from_schema({}, dense_body())
    with pytest.raises(ValueError, match="schema must tag a column"):
        Head.from_schema(schema.select_by_name("other"), dense_body())


def test_to_model() -> None:
    model = two_tasks().to_model(name="named")
    assert isinstance(model, Model)
    assert model.name == "named"


@pytest.mark.parametrize(
    ("kwargs", "error", "text"),
    [
        ({"body": 1}, TypeError, r"body must be a torch\.nn\.Module; got int"),
        (
            {"body": torch.nn.Linear(3, 3)},
            ValueError,
            "^Can't infer output-size of the body, please provide  a `Block` with a output-size",
        ),
        ({"prediction_tasks": []}, ValueError, "prediction_tasks must hold at least one task"),
        ({"prediction_tasks": [1]}, TypeError, "prediction_tasks must be PredictionTask objects"),
        (
            {"prediction_tasks": [RegressionTask("a"), RegressionTask("a")]},
            ValueError,
            "prediction_tasks must have different names; got two named 'a/regression_task'",
        ),
        ({"task_weights": [1.0, 2.0]}, ValueError, r"one weight per task \(1\); got \[1.0, 2.0\]"),
        ({"task_weights": 0.5}, TypeError, "task_weights must be a list of numbers; got float"),
        (
            {"task_weights": ["a"]},
            TypeError,
            "task_weights of 'play/regression_task' must be a num",
        ),
        ({"task_weights": [float("nan")]}, ValueError, "'play/regression_task' must be finite"),
        ({"task_blocks": {"x": MLPBlock([2])}}, ValueError, r"task_blocks must name tasks among"),
        ({"task_blocks": 3}, TypeError, "task_block must be a torch.nn.Module or have"),
        ({"loss_reduction": "median"}, ValueError, "loss_reduction must be one of .*'median'"),
    ],
)
def test_constructor_refuses(kwargs: dict, error: type[Exception], text: str) -> None:
    arguments = {"body": dense_body(), "prediction_tasks": RegressionTask("play"), **kwargs}
    with pytest.raises(error, match=text):
        Head(**arguments)


def test_missing_target() -> None:
    head = two_tasks()
    with pytest.raises(ValueError, match=r"targets must hold 'play' for the task .*'click'"):
        head(torch.randn(3, T, 5), training=True, targets={"click": torch.ones(3)})
    with pytest.raises(ValueError, match="targets must be given when training or testing"):
        head(torch.randn(3, T, 5), training=True)


def test_next_item_beside_a_session_task() -> None:
    inputs = sequence_inputs()
    body = SequentialBlock(inputs, MLPBlock([D]))
    tasks = [NextItemPredictionTask(weight_tying=True), BinaryClassificationTask("click")]
    head = Head(body, tasks)
    output = head(
        batch(), call_body=True, training=True, targets={"click": torch.tensor([1, 0, 0, 1])}
    )
    assert output["labels"]["next-item"].tolist() == [49, 3, 7, 7, 12, 6, 7, 2]
    assert output["predictions"]["next-item"] is None
    scores = head(batch(), call_body=True, top_k=3)
    assert scores["next-item"][1].shape == (4, 3)
    assert scores[CLICK].shape == (4,)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_confident_binary_score_keeps_its_gradient(dtype: torch.dtype) -> None:
    """Rounded to half precision its probability is 1: a loss of 100 and no gradient."""
    head = two_tasks()
    task = head.prediction_task_dict[CLICK]
    linear = task.pre[0] if hasattr(task.pre, "__getitem__") else next(task.pre.children())
    with torch.no_grad():
        linear.weight.zero_()[0, 0] = 9.0
    x = torch.zeros(2, T, 5)
    x[..., 0] = 1.0
    with torch.autocast("cpu", dtype):
        loss = task(x, targets=torch.tensor([0, 0]), training=True)["loss"]
    loss.backward()
    assert loss.item() == pytest.approx(9.0, abs=0.05)
    assert linear.weight.grad[0, 0].item() == pytest.approx(1.0, abs=0.01)


def test_losses_of_rows_of_several_tasks() -> None:
    """Those of next items are as many as there are labels, or none."""
    inputs = sequence_inputs(masking="clm", d_output=8)
    body = SequentialBlock(inputs, MLPBlock([8]))
    rows = NextItemPredictionTask(loss=torch.nn.CrossEntropyLoss(reduction="none"))
    model = Model(Head(body, [rows, BinaryClassificationTask("click", summary_type="mean")]))
    click = {"click": torch.ones(4)}
    for sessions in (batch(), {"item_id": torch.tensor([[3, 0, 0, 0, 0, 0]] * 4)}):
        output = model(sessions, targets=click, training=True)
        assert output["loss"].shape == ()
        assert output["loss"].isfinite()


def test_heads_do_not_share_a_metric() -> None:
    metric = MeanSquaredError()
    heads = [
        Head(dense_body(), RegressionTask(name, metrics=[metric], task_name=name))
        for name in ("play", "share")
    ]
    first, second = Model(*heads).prediction_tasks
    assert first.metrics[0] is not second.metrics[0]
