"""The next-item task over all items: fused loss, ranks in place of scores, top-k, memory."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import torchmetrics
from task_helpers import TARGETS, D, RecordingLoss, T, V, batch, hidden_of, parts, sequence_inputs

from transformers4rec_ext.block.base import Block, SequentialBlock
from transformers4rec_ext.block.mlp import MLPBlock
from transformers4rec_ext.features.sequence import TabularSequenceFeatures
from transformers4rec_ext.losses import GBCELoss, SampledSoftmaxLoss
from transformers4rec_ext.model import Head, Model, NextItemPredictionTask, all_items
from transformers4rec_ext.model._ranking import Ranks
from transformers4rec_ext.model.all_items import check_returns
from transformers4rec_ext.ranking_metric import (
    AvgPrecisionAt,
    DCGAt,
    MeanReciprocalRankAt,
    NDCGAt,
    PrecisionAt,
    RankingMetric,
    RecallAt,
)
from transformers4rec_ext.samplers import UniformSampler
from transformers4rec_ext.schema import Schema

METRICS = (NDCGAt, RecallAt, AvgPrecisionAt, PrecisionAt, DCGAt, MeanReciprocalRankAt)


def all_metrics() -> list[RankingMetric]:
    return [metric(top_ks=[1, 5, 20], labels_onehot=True) for metric in METRICS]


class MeanScore(torchmetrics.Metric):
    """A metric of the user's own, which wants the scores."""

    def __init__(self) -> None:
        super().__init__()
        self.add_state("total", torch.tensor(0.0), dist_reduce_fx="sum")
        self.add_state("count", torch.tensor(0), dist_reduce_fx="sum")

    def update(self, preds: torch.Tensor, target: torch.Tensor) -> None:
        self.total += preds.sum()
        self.count += preds.numel()

    def compute(self) -> torch.Tensor:
        return self.total / self.count


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("flags", [{"training": True}, {"testing": True}])
def test_fused_loss_is_the_loss_of_the_scores(
    smoothing: float, reduction: str, flags: dict[str, bool]
) -> None:
    loss = torch.nn.CrossEntropyLoss(label_smoothing=smoothing, reduction=reduction)
    model, task = parts(loss=loss, softmax_temperature=0.5, weight_tying=True)
    fused = model(batch(), returns="loss", **flags)
    whole = model(batch(), returns="predictions", **flags)
    assert fused["predictions"] is None
    torch.testing.assert_close(fused["loss"], whole["loss"])
    torch.testing.assert_close(whole["loss"], loss(whole["predictions"], whole["labels"]))
    table = task.item_weights
    (found,) = torch.autograd.grad(fused["loss"], table)
    (wanted,) = torch.autograd.grad(whole["loss"], table)
    torch.testing.assert_close(found, wanted)


CANDIDATES = UniformSampler(9, V, min_id=1)


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("kind", [GBCELoss, SampledSoftmaxLoss])
def test_a_loss_of_candidates_is_tested_on_some_scores_at_a_time(
    kind: Any, reduction: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    loss = kind(CANDIDATES, temperature=0.5, reduction=reduction)
    model, _ = parts(loss=loss, metrics=all_metrics())
    whole = model(batch(), testing=True, returns="predictions")
    sizes: list[int] = []
    of_scores = kind.over_all_items

    def recorded(self: Any, scores: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        sizes.append(scores.numel())
        return of_scores(self, scores, targets)

    monkeypatch.setattr(kind, "over_all_items", recorded)
    monkeypatch.setattr(all_items, "_SCORES", 2 * V)
    some = model(batch(), testing=True, returns="ranks")
    assert sizes == [2 * V, V]  # of three rows
    torch.testing.assert_close(some["loss"], whole["loss"])
    assert model(batch(), testing=True, returns="loss")["predictions"] is None
    by_ranks = model.calculate_metrics(some["predictions"], some["labels"])
    model.reset_metrics()
    by_scores = model.calculate_metrics(whole["predictions"], whole["labels"])
    for name, value in by_scores.items():
        torch.testing.assert_close(by_ranks[name], value)
    nothing = model({"item_id": torch.tensor([[9, 0, 0, 0, 0, 0]])}, testing=True, returns="ranks")
    assert nothing["loss"].sum() == 0


@pytest.mark.parametrize("sampled", [False, True])
def test_evaluation_by_ranks_equals_evaluation_by_scores(sampled: bool) -> None:
    model, _ = parts(metrics=all_metrics(), sampled_softmax=sampled, max_n_samples=7)
    by_ranks = model.evaluate([batch(), batch()], verbose=False)
    model.reset_metrics()
    for _ in range(2):
        output = model(batch(), testing=True)
        model.calculate_metrics(output["predictions"], output["labels"])
    by_scores = model.compute_metrics()
    assert list(by_ranks) == list(by_scores)
    assert len(by_ranks) == len(METRICS) * 3
    for name, value in by_scores.items():
        assert float(by_ranks[name]) == pytest.approx(float(value), abs=1e-6)


def test_ranks_of_a_collapsed_model_are_last() -> None:
    model, task = parts(metrics=all_metrics())
    with torch.no_grad():
        task.pre.module.output_layer.fill_(0.25)
    assert set(map(float, model.evaluate([batch()], verbose=False).values())) == {0.0}
    output = model(batch(), testing=True, returns="ranks")
    assert output["predictions"].rank.tolist() == [V - 2] * 3  # all but itself and the padding


def test_scores_exist_only_where_a_metric_wants_them(monkeypatch: pytest.MonkeyPatch) -> None:
    model, task = parts()
    assert not task.needs_scores
    monkeypatch.setattr(type(task.pre.module), "forward", None)  # what would make [N, V] scores
    metrics = model.evaluate([batch()], verbose=False)
    assert metrics["next-item/ndcg_at_10"] >= 0
    assert len(model.fit([batch()], num_epochs=1, verbose=False)) == 1
    monkeypatch.undo()
    own, _ = parts(metrics=[*all_metrics(), MeanScore()])
    found = own.evaluate([batch()], verbose=False)["next-item/mean_score"]
    expected = own.eval()(batch(), testing=True)["predictions"].mean()
    torch.testing.assert_close(found, expected)


def test_training_metrics_of_full_softmax_come_from_ranks(capsys: Any) -> None:
    model, task = parts(metrics=[RecallAt(top_ks=[V - 1], labels_onehot=True)])
    model.fit([batch()], num_epochs=1, verbose=True)
    assert "recall_at_49 1.0" in capsys.readouterr().out  # every target is among the 49 items
    output = model(batch(), training=True, returns="ranks")
    assert isinstance(output["predictions"], Ranks)
    assert output["predictions"].rank.shape == (len(TARGETS),)
    assert task.calculate_metrics(output["predictions"], output["labels"])


def test_a_loss_of_ones_own_gets_real_logits() -> None:
    model, task = parts(loss=RecordingLoss())
    output = model(batch(), training=True, returns="loss")
    assert task.loss.seen[0].shape == (8, V)
    torch.testing.assert_close(output["predictions"], task.loss.seen[0])
    weighted = torch.nn.CrossEntropyLoss(weight=torch.rand(V))
    model, _ = parts(loss=weighted)
    output = model(batch(), training=True)
    torch.testing.assert_close(output["loss"], weighted(output["predictions"], output["labels"]))


def test_hidden_and_item_weights_make_the_scores() -> None:
    model, task = parts(weight_tying=True, softmax_temperature=2)
    hidden = model(batch(), returns="hidden")
    assert hidden.shape == (4, D)
    torch.testing.assert_close(hidden @ task.item_weights.T / 2, model(batch()))


def test_all_hidden_is_hidden_for_every_beginning_of_a_session() -> None:
    model, _ = parts(weight_tying=True)
    model.eval()
    ids = batch()["item_id"]
    found = model(batch(), returns="all_hidden")
    assert found.shape == (4, T, D)
    for length in range(1, T + 1):
        beginning = {**batch(), "item_id": torch.where(torch.arange(T) < length, ids, 0)}
        last = (beginning["item_id"] > 0).sum(dim=1).clamp(min=1) - 1
        expected = model(beginning, returns="hidden")
        torch.testing.assert_close(found[torch.arange(4), last], expected)


def test_all_hidden_is_refused_where_a_position_sees_what_follows() -> None:
    inputs = sequence_inputs(masking="mlm")
    body = SequentialBlock(inputs, MLPBlock([D]))
    model = Model(Head(body, NextItemPredictionTask(), inputs=inputs))
    text = "returns must be another with a masking that is not causal; got 'all_hidden'"
    with pytest.raises(ValueError, match=re.escape(text)):
        model(batch(), returns="all_hidden")


@pytest.mark.parametrize("own_layer", [False, True])
def test_top_k_is_streamed_and_leaves_out_what_it_should(own_layer: bool) -> None:
    model, task = parts(softmax_temperature=0.5)
    if own_layer:  # scores [B, V] by a layer of the user's
        inner = task.pre
        task.pre = Block(_Opaque(inner), [-1, V])
    seen = torch.where(batch()["item_id"] > 0, batch()["item_id"], -1)
    scores, ids = model(batch(), top_k=5, exclude_ids=seen)
    expected = model(batch()).scatter(1, batch()["item_id"], -torch.inf)
    expected[:, 0] = -torch.inf
    values, order = expected.topk(5, dim=1)
    assert torch.equal(ids, order)
    torch.testing.assert_close(scores, values)


class _Opaque(torch.nn.Module):
    def __init__(self, inner: Any) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: torch.Tensor, **kwargs: Any) -> Any:
        return self.inner(x, **kwargs)


def test_fewer_items_left_than_asked_for() -> None:
    model, _ = parts()
    seen = torch.arange(1, V).expand(4, -1).clone()
    seen[:, 1:3] = -1  # items 2 and 3 are left
    scores, ids = model(batch(), top_k=4, exclude_ids=seen)
    assert (ids.sort(dim=1).values[:, 2:] == torch.tensor([2, 3])).all()
    assert (ids[:, 2:] == -1).all()
    assert (scores[:, 2:] == -torch.inf).all()


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"exclude_ids": batch()["item_id"]}, "exclude_ids must be given with top_k, at inference"),
        (
            {"exclude_ids": batch()["item_id"], "top_k": 3, "testing": True},
            "exclude_ids must be given with top_k, at inference; got top_k=3",
        ),
        ({"returns": "scores", "top_k": 3}, "returns must be None with top_k=3; got 'scores'"),
        ({"returns": "hidden", "top_k": 3}, "returns must be None with top_k=3; got 'hidden'"),
    ],
)
def test_arguments_that_would_do_nothing_are_refused(arguments: Any, text: str) -> None:
    model, _ = parts()
    with pytest.raises(ValueError, match=re.escape(text)):
        model(batch(), **arguments)


def test_returns_goes_before_the_models_top_k() -> None:
    model, _ = parts()
    model.top_k = 3
    assert model(batch())[1].shape == (4, 3)
    assert model(batch(), returns="hidden").shape == (4, D)
    assert model(batch(), returns="scores").shape == (4, V)
    assert model(batch(), testing=True)["predictions"].shape == (3, V)


@pytest.mark.parametrize(
    ("flags", "returns", "text"),
    [
        ({}, "ranks", "returns must be one of ('scores', 'hidden', 'all_hidden'); got 'ranks'"),
        ({"testing": True}, "hidden", "returns must be one of ('predictions', 'ranks', 'loss')"),
    ],
)
def test_returns_is_checked(flags: dict[str, bool], returns: str, text: str) -> None:
    model, _ = parts()
    with pytest.raises(ValueError, match=re.escape(f"NextItemPredictionTask: {text}")):
        model(batch(), returns=returns, **flags)


def test_item_weights_of_a_layer_of_ones_own() -> None:
    _, task = parts()
    task.pre = _Opaque(task.pre)
    with pytest.raises(RuntimeError, match="item_weights are those of the task's own output"):
        _ = task.item_weights


def test_plain_softmax_agrees_with_torch_on_hidden_states() -> None:
    model, task = parts()
    rows = hidden_of(model, training=True)
    hidden = torch.stack([*rows[0, :5], *rows[1, :2], rows[2, 0]])
    logits = hidden @ task.item_weights.T
    expected = F.cross_entropy(logits, torch.tensor(TARGETS))
    torch.testing.assert_close(model(batch(), training=True)["loss"], expected)


def test_evaluation_of_a_large_catalogue_stays_small() -> None:
    """200,000 items and 512 sessions: their scores alone are 390 MiB."""
    items, rows = 200_000, 512
    inputs = TabularSequenceFeatures.from_schema(
        Schema.from_item_column("item_id", num_items=items - 1, max_length=T),
        max_sequence_length=T,
        embedding_dim_default=D,
        masking="causal",
    )
    body = SequentialBlock(inputs)
    model = Model(Head(body, NextItemPredictionTask(weight_tying=True), inputs=inputs))
    sessions = {"item_id": torch.randint(1, items, (rows, T))}
    with torch.profiler.profile(profile_memory=True) as profile:
        model.evaluate([sessions], verbose=False)
        model(sessions, top_k=20)
    held = peak = 0
    events = profile.profiler.kineto_results.events()
    for event in sorted(events, key=lambda event: event.start_ns()):
        if event.name() == "[memory]":
            held += event.nbytes()
            peak = max(peak, held)
    assert 2**20 < peak < 32 * 2**20


def test_all_hidden_knows_a_causal_masking_of_upstreams() -> None:
    class CausalLanguageModeling:  # of upstream: it has no attribute that says so
        pass

    check_returns("all_hidden", False, None, CausalLanguageModeling())
    with pytest.raises(ValueError, match="not causal"):
        check_returns("all_hidden", False, None, object())
