"""NextItemPredictionTask: scores, top-k, metrics, building, refusals."""

from __future__ import annotations

import copy
import logging
import pickle
from typing import Any

import pytest
import torch
import torchmetrics
from task_helpers import (
    D,
    RecordingLoss,
    T,
    V,
    batch,
    hidden_of,
    next_item_model,
    parts,
    sequence_inputs,
)

from transformers4rec_ext.block.base import Block, SequentialBlock
from transformers4rec_ext.block.mlp import MLPBlock
from transformers4rec_ext.model import Head, NextItemPredictionPrepareBlock, NextItemPredictionTask
from transformers4rec_ext.model.output import _say_projection
from transformers4rec_ext.ranking_metric import NDCGAt, RecallAt, target_rank

# Inference


def test_scores_come_from_the_last_item() -> None:
    model, task = parts()
    scores = model(batch())
    hidden = hidden_of(model)
    last = hidden[[0, 1, 2, 3], [5, 2, 1, 0]]
    torch.testing.assert_close(scores, last @ task.pre.module.output_layer.t())


def test_appended_mask_position_is_read() -> None:
    # Maskings that append a [MASK] return T + 1 positions; it stands after the last item.
    model, task = parts()
    hidden_of(model)
    x = torch.randn(4, T + 1, D)
    torch.testing.assert_close(
        task(x), x[[0, 1, 2, 3], [6, 3, 2, 1]] @ task.pre.module.output_layer.t()
    )


def test_session_of_padding_alone() -> None:
    model, _ = parts()
    scores = model({"item_id": torch.tensor([[0, 0], [3, 0]])})
    assert bool(scores.isfinite().all())


def test_top_k_never_recommends_padding() -> None:
    # D17
    model, task = parts()
    with torch.no_grad():
        task.pre.module.output_layer[0] = hidden_of(model)[0, 5] * 1000
    scores = model(batch())
    assert int(scores[0].argmax()) == 0
    values, ids = model(batch(), top_k=V - 1)
    assert values.shape == ids.shape == (4, V - 1)
    assert values.dtype == torch.float32
    assert 0 not in ids
    expected = torch.topk(scores[:, 1:], V - 1)
    assert torch.equal(ids, expected.indices + 1)
    torch.testing.assert_close(values, expected.values)


@pytest.mark.parametrize("top_k", [V, V + 1])
def test_top_k_beyond_the_items(top_k: int) -> None:
    # D30
    with pytest.raises(ValueError, match=f"top_k must be at most {V - 1}, .*V={V} .*; got {top_k}"):
        next_item_model()(batch(), top_k=top_k)


def test_top_k_refuses() -> None:
    with pytest.raises(ValueError, match="top_k must be at least 1; got 0"):
        next_item_model()(batch(), top_k=0)
    with pytest.raises(TypeError, match="top_k must be an int"):
        next_item_model()(batch(), top_k=2.5)


# Metrics


def test_metric_names_and_values() -> None:
    model, task = parts()
    output = model(batch(), testing=True)
    values = task.calculate_metrics(output["predictions"], output["labels"])
    assert list(values) == [
        "next-item/ndcg_at",
        "next-item/avg_precision_at",
        "next-item/recall_at",
    ]
    computed = task.compute_metrics()
    assert list(computed) == [
        "next-item/ndcg_at_10",
        "next-item/ndcg_at_20",
        "next-item/avg_precision_at_10",
        "next-item/avg_precision_at_20",
        "next-item/recall_at_10",
        "next-item/recall_at_20",
    ]
    rank = target_rank(output["predictions"], output["labels"], padding_idx=0)
    torch.testing.assert_close(computed["next-item/recall_at_10"], (rank < 10).float().mean())
    torch.testing.assert_close(values["next-item/recall_at"][1], (rank < 20).float().mean())
    # A second batch counts by its rows, and a cached result is not returned again.
    task.calculate_metrics(torch.eye(V)[[5]], torch.tensor([5]))
    recall = task.compute_metrics()["next-item/recall_at_10"]
    torch.testing.assert_close(recall, ((rank < 10).sum() + 1) / 4)
    task.reset_metrics()
    assert task.compute_metrics() == {}


def test_padding_does_not_outrank_the_target() -> None:
    _, task = parts(metrics=[RecallAt(top_ks=[1], labels_onehot=True)])
    scores = torch.zeros(1, V)
    scores[0, 0], scores[0, 4] = 9.0, 5.0
    values = task.calculate_metrics(scores, torch.tensor([4]))
    assert values == {"next-item/recall_at": torch.tensor(1.0)}
    assert task.compute_metrics() == {"next-item/recall_at_1": torch.tensor(1.0)}


def test_sampled_logits_rank_the_first_column() -> None:
    # There column 0 is the target, whatever the padding index is.
    _, task = parts(metrics=[RecallAt(top_ks=[1], labels_onehot=True)])
    logits = torch.tensor([[1.0, 0.0, -torch.inf], [1.0, 2.0, 0.0]])
    values = task.calculate_metrics(logits, torch.tensor([0, 0]))
    assert values["next-item/recall_at"] == 0.5


def test_rank_is_computed_once_for_all_metrics(monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers4rec_ext.model import _ranking

    calls = []

    def counted(*args: Any, **kwargs: Any) -> torch.Tensor:
        calls.append(1)
        return target_rank(*args, **kwargs)

    monkeypatch.setattr(_ranking, "target_rank", counted)
    _, task = parts()
    task.calculate_metrics(torch.randn(3, V), torch.tensor([1, 2, 3]))
    assert len(calls) == 1


def test_custom_metrics_work_beside_ours() -> None:
    class First(NDCGAt):
        def _metric(self, ks: Any, scores: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
            return labels[:, :1].expand(-1, len(self.top_ks))

    accuracy = torchmetrics.classification.MulticlassAccuracy(num_classes=V, average="micro")
    _, task = parts(metrics=[First(top_ks=[3], labels_onehot=True), accuracy, RecallAt([2], True)])
    task.calculate_metrics(torch.eye(V)[[0, 5]], torch.tensor([0, 7]))
    computed = task.compute_metrics()
    assert computed["next-item/first_3"] == 0.5
    assert computed["next-item/multiclass_accuracy"] == 0.5
    assert computed["next-item/recall_at_2"] == 0.5


@pytest.mark.parametrize("sampled", [True, False])
def test_no_predictions_no_metrics_said_once(
    sampled: bool, caplog: pytest.LogCaptureFixture
) -> None:
    model, task = parts(sampled_softmax=sampled, max_n_samples=5)
    with caplog.at_level(logging.INFO, logger="transformers4rec_ext"):
        for _ in range(3):
            output = model(batch(), training=True)
            assert task.calculate_metrics(output["predictions"], output["labels"]) == {}
    assert [r.message for r in caplog.records] == [
        "next-item: sampled training returns no predictions, so it has no metrics. If you need "
        "them, use CrossEntropyLoss and return_predictions=True."
        if sampled
        else "next-item: training returns no predictions, so it has no metrics. If you need them, "
        'call the model with returns="ranks".'
    ]


# Building


def test_state_dict_keys() -> None:
    prefix = "heads.0.prediction_task_dict.next-item."
    untied, _ = parts()
    keys = {k.removeprefix(prefix) for k in untied.state_dict() if k.startswith(prefix)}
    assert keys == {
        "embeddings.embedding_tables.item_id.weight",
        "masking.masked_item_embedding",
        "pre.module.output_layer",
    }
    tied, task = parts(weight_tying=True, sampled_softmax=True)
    keys = {k.removeprefix(prefix) for k in tied.state_dict() if k.startswith(prefix)}
    assert keys == {
        "embeddings.embedding_tables.item_id.weight",
        "masking.masked_item_embedding",
        "item_embedding_table.weight",
        "pre.module.item_embedding_table.weight",
    }
    assert task.pre.module.item_embedding_table is task.embeddings.item_embedding_table


def test_checkpoint_with_sampler_tables_loads_strictly() -> None:
    model, _ = parts(sampled_softmax=True)
    state = model.state_dict()
    assert not any("sampler" in key for key in state)
    sampler = "heads.0.prediction_task_dict.next-item.pre.module.sampler."
    old = {
        **state,
        sampler + "dist": torch.zeros(V),
        sampler + "unique_sampling_dist": torch.ones(V),
    }
    result = model.load_state_dict(old, strict=True)
    assert result.unexpected_keys == []


def test_initialisation_of_the_output_layer() -> None:
    layer = NextItemPredictionPrepareBlock(1000).build([-1, T, 16]).module.output_layer
    layer = layer.detach()
    assert layer.shape == (1000, 16)
    # kaiming_uniform with a = sqrt(5): uniform within 1 / sqrt(D)
    assert float(layer.abs().max()) <= 0.25
    assert float(layer.std()) == pytest.approx(0.25 / 3**0.5, rel=0.05)


def test_tied_width_is_projected(caplog: pytest.LogCaptureFixture) -> None:
    _say_projection.cache_clear()
    with caplog.at_level(logging.WARNING, logger="transformers4rec_ext"):
        model, task = parts(width=5, weight_tying=True, task_block=MLPBlock([3]))
        parts(width=5, weight_tying=True)
        parts(width=6, weight_tying=True)
    # Once in a process for each pair of widths, however many models are made.
    assert [record.message for record in caplog.records] == [
        f"Projecting inputs of NextItemPredictionTask to '8', as weight tying requires the input "
        f"dimension '{width}' to be equal to the item-id embedding dimension."
        for width in (5, 6)
    ]
    assert [type(m) for m in task.task_block.modules()].count(torch.nn.ReLU) == 0
    assert list(task.task_block.output_size())[-1] == D
    assert model(batch()).shape == (4, V)


def test_build_time_block_is_kept() -> None:
    inputs = sequence_inputs()
    body = SequentialBlock(inputs, MLPBlock([5]))
    head = Head(body, NextItemPredictionTask(weight_tying=True), task_blocks=MLPBlock([D]))
    block = head.task_blocks["next-item"]
    assert [type(m) for m in block.modules()].count(torch.nn.ReLU) == 1
    with pytest.raises(ValueError, match=r"item_embedding_table must have weight \[V=50, D=3\]"):
        Head(body, NextItemPredictionTask(weight_tying=True), task_blocks=MLPBlock([3]))


def test_own_output_layer() -> None:
    class Constant(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w = torch.nn.Parameter(torch.ones(D, V))

        def forward(self, x: torch.Tensor, targets: Any = None, **kwargs: Any) -> Any:
            return x @ self.w, targets

    inputs = sequence_inputs()
    body = SequentialBlock(inputs, MLPBlock([D]))
    task = NextItemPredictionTask()
    task.build(body, body.output_size(), pre=Constant())
    task_output = task(body(batch(), training=True), training=True)
    assert task_output["predictions"].shape == (8, V)


def test_padding_index_of_the_masking_wins() -> None:
    model, task = parts(padding_idx=3)
    assert task.padding_idx == 0
    assert model.prediction_tasks == [task]


def test_remove_pad_3d() -> None:
    _, task = parts()
    x = torch.randn(2, 3, 4)
    mask = torch.tensor([True, False, False, True, True, False])
    assert torch.equal(task.remove_pad_3d(x, mask), x.reshape(6, 4)[[0, 3, 4]])


def test_copies_and_pickles() -> None:
    model, _ = parts(sampled_softmax=True, max_n_samples=5, weight_tying=True)
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        torch.testing.assert_close(other(batch()), model(batch()))
        torch.manual_seed(0)
        expected = model(batch(), training=True)["loss"]
        torch.manual_seed(0)
        torch.testing.assert_close(other(batch(), training=True)["loss"], expected)


# Refusals


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        ({"softmax_temperature": -1}, ValueError, "softmax_temperature must be finite and at"),
        ({"softmax_temperature": "1"}, TypeError, "softmax_temperature must be a number; got str"),
        ({"padding_idx": -1}, ValueError, "padding_idx must be at least 0; got -1"),
        ({"target_dim": 0}, ValueError, "target_dim must be at least 1; got 0"),
        ({"max_n_samples": 0}, ValueError, "max_n_samples must be at least 1; got 0"),
        ({"max_n_samples": 1.5}, TypeError, "max_n_samples must be an int"),
        ({"sampled_softmax": "yes"}, TypeError, "sampled_softmax must be a bool; got str"),
        ({"weight_tying": 1}, TypeError, "weight_tying must be a bool; got int"),
        ({"return_predictions": 1}, TypeError, "return_predictions must be a bool"),
        ({"sparse_grad": True}, ValueError, "sparse_grad must be used with sampled_softmax=True"),
        (
            {"corrected": True, "sampled_softmax": True, "loss": RecordingLoss()},
            ValueError,
            "corrected must be used with .* a plain CrossEntropyLoss; got .*RecordingLoss",
        ),
    ],
)
def test_constructor_refuses(arguments: dict, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        NextItemPredictionTask(**arguments)


def test_build_refuses() -> None:
    inputs = sequence_inputs()
    body = SequentialBlock(inputs, MLPBlock([D]))
    task = NextItemPredictionTask()
    text = "^NextItemPredictionTask needs a 3-dim vector as input, found:"
    with pytest.raises(ValueError, match=text):
        task.build(body, [-1, D])
    with pytest.raises(ValueError, match=text):
        task.build(body, {"a": [-1, T, D]})
    text = "^For Item Prediction task a categorical_module including an item_id column is required."
    with pytest.raises(ValueError, match=text):
        Head(Block(torch.nn.Identity(), [-1, T, D]), NextItemPredictionTask())
    text = "^The input block should contain a masking schema for training and evaluation"
    with pytest.raises(ValueError, match=text):
        task.build(None, [-1, T, D], inputs=sequence_inputs(masking=None))
    with pytest.raises(ValueError, match=r"have weight \[V=20, D=8\]; got \[50, 8\]"):
        Head(body, NextItemPredictionTask(weight_tying=True, target_dim=20))


def test_prepare_block_refuses() -> None:
    with pytest.raises(TypeError, match="target_dim must be an int"):
        NextItemPredictionPrepareBlock(None)
    with pytest.raises(TypeError, match="item_embedding_table must be an embedding"):
        NextItemPredictionPrepareBlock(V, weight_tying=True).build([-1, T, D])
    layer = NextItemPredictionPrepareBlock(V, sampled_softmax=True).build([-1, T, D])
    with pytest.raises(ValueError, match=r"inputs must be \[N, D=8\]; got \[2, 3\]"):
        layer(torch.ones(2, 3))
    with pytest.raises(ValueError, match="targets must be given in sampled training"):
        layer(torch.ones(2, D), training=True)


def test_forward_refuses() -> None:
    with pytest.raises(RuntimeError, match="not built yet"):
        NextItemPredictionTask()(torch.ones(2, T, D))
    model, task = parts()
    model(batch(), training=True)
    with pytest.raises(
        ValueError, match=r"inputs must be \[B=4, T=6, D\] like .*; got \[4, 5, 8\]"
    ):
        task(torch.ones(4, 5, D), training=True)
    with pytest.raises(ValueError, match="inputs must come from the batch"):
        task(torch.ones(3, T, D))
    with pytest.raises(ValueError, match=r"inputs must be \[B, T, D\]; got \[4, 8\]"):
        task(torch.ones(4, D))


def test_item_id_beyond_the_table_is_an_error_in_sampled_training() -> None:
    _, task = parts(sampled_softmax=True, target_dim=40)
    task.masking.masked_targets = torch.tensor([[45]])
    with pytest.raises(ValueError, match="All label values must be within the range"):
        task(torch.ones(1, 1, D), training=True)
