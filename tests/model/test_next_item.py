"""NextItemPredictionTask: labels, losses, sampling, precision."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from task_helpers import (
    LAST,
    TARGETS,
    D,
    RecordingLoss,
    V,
    batch,
    hidden_of,
    parts,
    sequence_inputs,
)

from transformers4rec_ext.block.base import SequentialBlock
from transformers4rec_ext.block.mlp import MLPBlock
from transformers4rec_ext.losses import smoothed_cross_entropy
from transformers4rec_ext.model import Head, NextItemPredictionTask
from transformers4rec_ext.model.output import draw_candidates
from transformers4rec_ext.ranking_metric import RecallAt
from transformers4rec_ext.samplers import LogUniformSampler

# Full softmax


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("temperature", [1, 0, 0.5])
def test_full_softmax(tied: bool, temperature: float) -> None:
    model, task = parts(weight_tying=tied, softmax_temperature=temperature)
    fused = model(batch(), training=True)
    output = model(batch(), training=True, returns="predictions")
    weight = task.embeddings.item_embedding_table.weight if tied else task.pre.module.output_layer
    hidden = hidden_of(model, training=True)
    rows = torch.stack([hidden[0, t] for t in range(5)] + [*hidden[1, :2], hidden[2, 0]])
    logits = rows @ weight.t() / (temperature or 1)
    assert output["labels"].tolist() == TARGETS
    assert output["labels"].dtype == torch.int64
    torch.testing.assert_close(output["predictions"], logits)
    torch.testing.assert_close(output["loss"], F.cross_entropy(logits, output["labels"]))
    assert fused["predictions"] is None
    assert torch.equal(fused["labels"], output["labels"])
    torch.testing.assert_close(fused["loss"], output["loss"])


def test_testing_uses_the_last_item_only_and_training_wins() -> None:
    model, _ = parts()
    output = model(batch(), testing=True)
    assert output["labels"].tolist() == LAST
    assert output["predictions"].shape == (3, V)
    assert model(batch(), training=True, testing=True)["labels"].tolist() == TARGETS


def test_flags_decide_and_not_the_mode() -> None:
    model, _ = parts()
    model.eval()
    assert model(batch(), training=True)["labels"].tolist() == TARGETS
    model.train()
    assert model(batch()).shape == (4, V)


def test_given_targets_are_not_the_labels() -> None:
    model, _ = parts()
    output = model(batch(), targets=torch.zeros(4), training=True)
    assert output["labels"].tolist() == TARGETS


# Sampled softmax


def test_sampled_training_is_fused_without_predictions() -> None:
    model, task = parts(sampled_softmax=True, max_n_samples=10)
    torch.manual_seed(1)
    output = model(batch(), training=True)
    assert output["predictions"] is None
    assert output["labels"].tolist() == [0] * 8
    torch.manual_seed(1)
    hidden = hidden_of(model, training=True).flatten(0, 1)[[0, 1, 2, 3, 4, 6, 7, 12]]
    logits, zeros = task.pre(hidden, targets=torch.tensor(TARGETS), training=True)
    assert logits.shape == (8, 11)
    torch.testing.assert_close(output["loss"], F.cross_entropy(logits, zeros))
    assert model(batch(), testing=True)["predictions"].shape == (3, V)


def test_all_items_sampled_is_the_full_softmax_over_items() -> None:
    model, task = parts(sampled_softmax=True, max_n_samples=V)
    loss = model(batch(), training=True)["loss"]
    hidden = hidden_of(model, training=True).flatten(0, 1)[[0, 1, 2, 3, 4, 6, 7, 12]]
    logits = (hidden @ task.pre.module.output_layer.t())[:, 1:]  # padding is no candidate
    torch.testing.assert_close(loss, F.cross_entropy(logits, torch.tensor(TARGETS) - 1))


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_return_predictions(reduction: str) -> None:
    loss = torch.nn.CrossEntropyLoss(reduction=reduction)
    model, _ = parts(sampled_softmax=True, max_n_samples=10, return_predictions=True, loss=loss)
    output = model(batch(), training=True)
    assert output["predictions"].shape == (8, 11)
    assert not output["predictions"].requires_grad
    torch.testing.assert_close(
        output["loss"].detach(), loss(output["predictions"], output["labels"])
    )
    output["loss"].backward()


@pytest.mark.parametrize(
    "loss",
    [
        RecordingLoss(),
        type("Mine", (torch.nn.CrossEntropyLoss,), {})(),
        torch.nn.CrossEntropyLoss(ignore_index=7),
        torch.nn.CrossEntropyLoss(weight=torch.tensor([2.0] + [1.0] * 10)),
    ],
)
def test_other_losses_get_the_real_logits(loss: torch.nn.Module) -> None:
    model, task = parts(sampled_softmax=True, max_n_samples=10, loss=loss)
    output = model(batch(), training=True)
    assert output["predictions"].shape == (8, 11)
    assert output["predictions"].requires_grad
    assert output["labels"].tolist() == [0] * 8
    torch.testing.assert_close(
        output["loss"], F.cross_entropy(output["predictions"], output["labels"])
    )
    if isinstance(loss, RecordingLoss):
        assert torch.equal(task.loss.seen[0], output["predictions"])


def test_label_smoothing_is_finite_with_accidental_hits() -> None:
    loss = torch.nn.CrossEntropyLoss(label_smoothing=0.1)
    model, _ = parts(sampled_softmax=True, max_n_samples=V, loss=loss)
    output = model(batch(), training=True)
    logits = output["predictions"]
    assert bool(torch.isneginf(logits).any())
    torch.testing.assert_close(
        output["loss"], smoothed_cross_entropy(logits, output["labels"], 0.1)
    )
    assert output["loss"].isfinite()
    output["loss"].backward()
    # In testing it is torch's own.
    output = model(batch(), testing=True)
    torch.testing.assert_close(output["loss"], loss(output["predictions"], output["labels"]))


def test_candidates_never_hold_the_padding_item() -> None:
    model, task = parts(sampled_softmax=True, max_n_samples=V)
    ids = draw_candidates(task.pre.module.sampler, torch.tensor([1])).ids
    assert sorted(ids.tolist()) == list(range(1, V))
    assert model(batch(), training=True)["loss"].isfinite()


def padded_with_3(**arguments: Any) -> NextItemPredictionTask:
    """Return the task of a model whose masking pads with item 3."""
    inputs = sequence_inputs()
    inputs.masking.padding_idx = 3
    task = NextItemPredictionTask(**arguments)
    Head(SequentialBlock(inputs, MLPBlock([D])), task, inputs=inputs)
    return task


def test_candidates_begin_behind_a_padding_item_of_another_id() -> None:
    task = padded_with_3(sampled_softmax=True, max_n_samples=V)
    ids = draw_candidates(task.pre.module.sampler, torch.tensor([5])).ids
    assert sorted(ids.tolist()) == list(range(4, V))


@pytest.mark.parametrize(("columns", "recall"), [(5, 0.0), (V, 1.0)])
def test_only_of_all_items_scores_a_column_is_the_padding_items(
    columns: int, recall: float
) -> None:
    """Of [N, 1+S] logits of candidates it is one of them, and competes."""
    task = padded_with_3(metrics=[RecallAt([1], labels_onehot=True)])
    scores = torch.zeros(1, columns)
    scores[0, 3], scores[0, 0] = 2.0, 1.0
    values = task.calculate_metrics(scores, torch.tensor([0]))
    assert [float(value) for value in values.values()] == [recall]


def test_a_sampler_of_the_users_own() -> None:
    class Uniform(torch.nn.Module):
        def sample(self, labels: torch.Tensor) -> tuple[torch.Tensor, ...]:
            ids = torch.tensor([1, 2, 3])
            q = torch.full((3,), 3 / V)
            return ids, torch.full(labels.shape, 3 / V), q

    model, task = parts(sampled_softmax=True, return_predictions=True)
    task.pre.module.sampler = Uniform()
    output = model(batch(), training=True)
    assert output["predictions"].shape == (8, 4)
    hidden = hidden_of(model, training=True)[0, 0]
    expected = task.pre.module.output_layer[2] @ hidden - torch.tensor(3 / V).log()
    torch.testing.assert_close(output["predictions"][0, 2], expected.detach())
    # A patched `sample` of our own sampler is used too, and a zero probability is no infinity.
    model, task = parts(sampled_softmax=True, return_predictions=True)
    task.pre.module.sampler.sample = lambda labels: (
        torch.tensor([4]),
        torch.zeros(labels.shape),
        torch.ones(1),
    )
    assert bool(model(batch(), training=True)["predictions"].isfinite().all())


def test_own_draw_is_preferred_to_sample() -> None:
    class Both(LogUniformSampler):
        def draw(self, targets: torch.Tensor, generator: Any = None) -> Any:
            return super().draw(targets, torch.Generator().manual_seed(4))

        def sample(self, labels: torch.Tensor) -> Any:
            raise AssertionError

    class Overridden(LogUniformSampler):
        def sample(self, labels: torch.Tensor) -> Any:
            return torch.tensor([8]), torch.zeros(labels.shape), torch.zeros(1)

    targets = torch.tensor([3])
    first, second = (draw_candidates(Both(5, V, 1), targets).ids for _ in range(2))
    assert torch.equal(first, second)
    drawn = draw_candidates(Overridden(5, V, 1), targets)
    assert drawn.ids.tolist() == [8]
    for log_q in (drawn.log_q, drawn.target_log_q):  # of a probability of zero
        assert log_q.item() == pytest.approx(math.log(1e-16))


def test_sparse_gradients_of_tied_weights() -> None:
    model, task = parts(sampled_softmax=True, max_n_samples=5, weight_tying=True, sparse_grad=True)
    model(batch(), training=True)["loss"].backward()
    gradient = task.item_embedding_table.weight.grad
    assert gradient.is_sparse
    dense, _ = parts(sampled_softmax=True, max_n_samples=5, weight_tying=True)
    dense.load_state_dict(model.state_dict())
    for one in (model, dense):
        one.zero_grad()
        torch.manual_seed(3)
        one(batch(), training=True)["loss"].backward()
    weight = dense.prediction_tasks[0].item_embedding_table.weight
    torch.testing.assert_close(task.item_embedding_table.weight.grad.to_dense(), weight.grad)


def test_corrected_reaches_the_loss() -> None:
    plain, _ = parts(sampled_softmax=True, max_n_samples=5)
    corrected, _ = parts(sampled_softmax=True, max_n_samples=5, corrected=True)
    corrected.load_state_dict(plain.state_dict())
    losses = []
    for model in (plain, corrected):
        torch.manual_seed(3)
        losses.append(model(batch(), training=True)["loss"].detach().item())
    assert losses[0] != losses[1]


# Nothing to predict, and precision


@pytest.mark.parametrize("sampled", [False, True])
@pytest.mark.parametrize("loss", [torch.nn.CrossEntropyLoss(), RecordingLoss()])
def test_batch_without_targets(sampled: bool, loss: torch.nn.Module) -> None:
    # D24: NaN or an error upstream.
    model, task = parts(sampled_softmax=sampled, loss=loss)
    single = {"item_id": torch.tensor([[3, 0, 0], [4, 0, 0]])}
    for flags in ({"training": True}, {"testing": True}):
        output = model(single, **flags)
        assert output["loss"].item() == 0
        assert output["labels"].shape == (0,)
        assert output["labels"].dtype == torch.int64
        model.zero_grad()
        output["loss"].backward()
        weight = task.pre.module.output_layer
        assert weight.grad is None or not bool(weight.grad.any())
        assert task.calculate_metrics(output["predictions"], output["labels"]) == {}


@pytest.mark.parametrize("sampled", [False, True])
def test_bfloat16(sampled: bool) -> None:
    # D27: upstream computes in float32 whatever it is given.
    model, _ = parts(sampled_softmax=sampled, max_n_samples=5)
    model = model.to(torch.bfloat16)
    output = model(batch(), training=True)
    assert output["loss"].dtype == torch.float32
    assert output["loss"].isfinite()
    if not sampled:
        logits = model(batch(), training=True, returns="predictions")["predictions"]
        assert logits.dtype == torch.bfloat16
    scores, ids = model(batch(), top_k=3)
    assert scores.dtype == torch.float32
    assert ids.dtype == torch.int64


@pytest.mark.parametrize("sampled", [False, True])
def test_autocast(sampled: bool) -> None:
    model, _ = parts(sampled_softmax=sampled, max_n_samples=5)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = model(batch(), training=True)
    assert output["loss"].dtype == torch.float32
    output["loss"].backward()


def test_labels_beyond_target_dim() -> None:
    model, _ = parts(target_dim=10)
    for flags in ({"training": True}, {"testing": True}, {"testing": True, "returns": "ranks"}):
        with pytest.raises(ValueError, match=r"must lie in \[0, 10\); got (12|49)"):
            model(batch(), **flags)


def test_a_task_belongs_to_one_head() -> None:
    model, task = parts()
    body = model.heads[0].body
    weights = task.item_weights
    with pytest.raises(ValueError, match=r"be built once; got 'next-item', .* Make a new task for"):
        Head(body, task)
    assert task.item_weights is weights


@pytest.mark.parametrize("sampled", [False, True])
def test_an_item_table_can_be_parametrized(sampled: bool) -> None:
    """Rows of length one, say: the loss, its gradient and the scores are of what is made."""
    model, task = parts(weight_tying=True, sampled_softmax=sampled, max_n_samples=10)
    table = task.embeddings.item_embedding_table
    with torch.no_grad():
        table.weight.copy_(F.normalize(table.weight, dim=-1))
    torch.manual_seed(1)
    plain = model(batch(), training=True)["loss"]

    class Unit(torch.nn.Module):
        def forward(self, weight: torch.Tensor) -> torch.Tensor:
            return F.normalize(weight, dim=-1)

    torch.nn.utils.parametrize.register_parametrization(table, "weight", Unit())
    table.parametrizations.weight.original.data.mul_(3)
    torch.manual_seed(1)
    loss = model(batch(), training=True)["loss"]
    torch.testing.assert_close(loss, plain)
    loss.backward()
    gradient = table.parametrizations.weight.original.grad
    assert gradient.abs().sum() > 0
    along = (gradient * table.weight).sum(dim=-1)  # a length makes no difference
    torch.testing.assert_close(along, torch.zeros(V), atol=1e-6, rtol=0)
    torch.testing.assert_close(
        model(batch()), model(batch(), returns="hidden") @ task.item_weights.T
    )
