"""Ranks and ranking metrics against brute force, with ties, NaN and exclusions."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchmetrics import MetricCollection

from transformers4rec_ext import ranking_metric
from transformers4rec_ext.ranking_metric import (
    MISSED,
    VALUE_OF_HIT,
    MeanReciprocalRankAt,
    NDCGAt,
    PrecisionAt,
    RankingMetric,
    RecallAt,
    ranking_metrics_from_rank,
    ranking_metrics_registry,
    target_rank,
)

KS = [1, 2, 5, 9]
# Few distinct values, so that ties, NaN and infinities are everywhere.
score = st.sampled_from([0.0, 1.0, 1.0, 2.0, -math.inf, math.inf, math.nan])
finite = st.sampled_from([0.0, 1.0, 2.0])


def brute_rank(row: list[float], target: int, excluded: set[int]) -> int:
    rivals = [s for i, s in enumerate(row) if i != target and i not in excluded]
    if math.isnan(row[target]) or any(math.isnan(s) for s in rivals):
        return MISSED
    return sum(s >= row[target] for s in rivals)


def brute_metrics(row: list[float], labels: list[int]) -> dict[str, list[float]]:
    """Walk down the list, the irrelevant first among equals."""
    order = sorted(range(len(row)), key=lambda i: (-row[i], labels[i]))
    gains = [0 if any(map(math.isnan, row)) else labels[i] for i in order]
    found = [sum(gains[: i + 1]) for i in range(len(gains))]
    relevant = sum(labels)

    def at(k: int) -> dict[str, float]:
        top = range(min(k, len(row)))
        dcg = sum(gains[i] / math.log2(i + 2) for i in top)
        # Upstream's ideal order: of what was found at the largest cut-off.
        num_found = found[min(max(KS), len(row)) - 1]
        ideal = sum(1 / math.log2(i + 2) for i in range(min(k, num_found)))
        precision = [gains[i] * found[i] / (i + 1) for i in top]
        return {
            "ndcg_at": dcg / ideal if ideal else 0.0,
            "dcg_at": dcg,
            "avg_precision_at": sum(precision) / max(min(relevant, k), 1),
            "mrr_at": max((gains[i] / (i + 1) for i in top), default=0.0),
            "precision_at": found[top[-1]] / k,
            "recall_at": found[top[-1]] / relevant if relevant else 0.0,
        }

    return {name: [at(k)[name] for k in KS] for name in at(1)}


@given(data=st.data(), v=st.integers(1, 7), n=st.integers(1, 4))
@settings(max_examples=200, deadline=None)
def test_rank_by_brute_force(data, v, n):
    rows = data.draw(st.lists(st.lists(score, min_size=v, max_size=v), min_size=n, max_size=n))
    targets = data.draw(st.lists(st.integers(0, v - 1), min_size=n, max_size=n))
    excluded = data.draw(
        st.lists(st.lists(st.integers(-1, v - 1), min_size=3, max_size=3), min_size=n, max_size=n)
    )
    padding = data.draw(st.none() | st.integers(0, v - 1))
    rank = target_rank(
        torch.tensor(rows),
        torch.tensor(targets),
        exclude_ids=torch.tensor(excluded),
        padding_idx=padding,
    )
    expected = [
        brute_rank(row, target, {*out, padding} - {-1})
        for row, target, out in zip(rows, targets, excluded, strict=True)
    ]
    assert rank.tolist() == expected
    assert rank.dtype is torch.int64
    plain = [brute_rank(row, target, set()) for row, target in zip(rows, targets, strict=True)]
    assert target_rank(torch.tensor(rows), torch.tensor(targets)).tolist() == plain


@given(data=st.data(), v=st.integers(1, 7))
@settings(max_examples=100, deadline=None)
def test_metrics_by_brute_force(data, v):
    row = data.draw(st.lists(st.one_of(finite, score), min_size=v, max_size=v))
    labels = data.draw(st.lists(st.integers(0, 1), min_size=v, max_size=v))
    expected = brute_metrics(row, labels)
    for name, values in expected.items():
        metric = ranking_metrics_registry.parse(name)
        got = metric._metric(KS, torch.tensor([row]), torch.tensor([labels]))
        torch.testing.assert_close(got, torch.tensor([values]), msg=lambda m, n=name: f"{n}: {m}")
    if sum(labels) == 1:
        rank = target_rank(torch.tensor([row]), torch.tensor([labels.index(1)]))
        from_rank = ranking_metrics_from_rank(rank, KS)
        assert set(from_rank) == set(VALUE_OF_HIT) == set(expected)
        for name, values in expected.items():
            torch.testing.assert_close(from_rank[name], torch.tensor([values]))


def test_a_model_that_scores_all_items_alike_is_worst():
    rank = target_rank(torch.zeros(3, 100), torch.tensor([0, 50, 99]))
    assert rank.tolist() == [99, 99, 99]


@pytest.mark.parametrize("name", sorted(VALUE_OF_HIT))
def test_nan_rows_score_nothing_even_beyond_the_catalogue(name):
    scores = torch.tensor([[math.nan] * 3, [0.1, 0.9, math.nan]])
    metric = ranking_metrics_registry.parse(name)
    metric.top_ks, metric.labels_onehot = [1, 10], True
    metric.update(scores, torch.tensor([1, 1]))
    assert torch.equal(metric.metric_mean[0], torch.zeros(2, 2))


def test_excluding_needs_no_column_of_its_own():
    scores = torch.tensor([[9.0, 8.0, 7.0, 6.0]])
    target = torch.tensor([3])
    seen = torch.tensor([[1, 1, 3, -1]])
    assert target_rank(scores, target, exclude_ids=seen).item() == 2
    assert target_rank(scores, target, exclude_ids=seen, padding_idx=0).item() == 1
    assert target_rank(scores, target, padding_idx=0).item() == 2
    assert target_rank(scores, target, exclude_ids=torch.empty(1, 0).long()).item() == 3


def test_one_pass_per_update(monkeypatch):
    calls = []
    monkeypatch.setattr(
        ranking_metric, "target_rank", lambda *a: calls.append(1) or target_rank(*a)
    )
    metric = RecallAt(top_ks=[1, 2], labels_onehot=True)
    first = metric(torch.tensor([[0.1, 0.9, 0.5]]), torch.tensor([2]))
    second = metric(torch.tensor([[0.1, 0.9, 0.5]]), torch.tensor([1]))
    assert len(calls) == 2
    assert (first.tolist(), second.tolist()) == ([0.0, 1.0], [1.0, 1.0])
    assert metric.compute().tolist() == [0.5, 1.0]


def test_rank_can_be_given_instead_of_scores():
    scores, targets = torch.rand(6, 20), torch.randint(0, 20, (6,))
    for name in VALUE_OF_HIT:
        one, other = ranking_metrics_registry.parse(name), ranking_metrics_registry.parse(name)
        one.labels_onehot = True
        one.update(scores, targets)
        other.update_from_rank(target_rank(scores, targets))
        assert torch.equal(one.compute(), other.compute())


def test_relevances_of_sequences_are_rows():
    scores, relevances = torch.rand(2, 3, 7), torch.randint(0, 2, (2, 3, 7))
    for name in VALUE_OF_HIT:
        metric = ranking_metrics_registry.parse(name)
        expected = metric(scores.flatten(0, 1), relevances.flatten(0, 1))
        assert torch.equal(metric(scores, relevances), expected)


def test_one_cutoff_may_be_a_number():
    metric = RecallAt(2, labels_onehot=True)
    assert metric.top_ks == [2]
    assert metric(torch.tensor([[0.1, 0.9, 0.5]]), torch.tensor([2])).tolist() == 1.0
    with pytest.raises(ValueError, match="ks must be positive ints"):
        RecallAt(0)


def test_the_registry_holds_metrics_ready_to_use():
    """As upstream's does: each look-up makes one."""
    for name in VALUE_OF_HIT:
        made = ranking_metrics_registry[name]
        assert isinstance(made, RankingMetric)
        assert isinstance(ranking_metrics_registry.get(name.upper()), type(made))
        assert made is not ranking_metrics_registry[name]
    assert ranking_metrics_registry.get("accuracy") is None


def test_a_subclass_metric_is_used():
    class Half(NDCGAt):
        def _metric(self, ks, scores, labels):
            assert labels.sum(1).tolist() == [1.0]
            return torch.full((len(scores), len(ks)), 0.5)

    metric = Half(top_ks=[1, 3], labels_onehot=True)
    metric.update(torch.rand(1, 4), torch.tensor([2]))
    assert metric.compute().tolist() == [0.5, 0.5]
    assert not metric.follows_from_rank
    assert NDCGAt().follows_from_rank
    assert not RankingMetric().follows_from_rank
    with pytest.raises(ValueError, match="Call update"):
        metric.update(rank=torch.tensor([1]))
    with pytest.raises(NotImplementedError, match="RankingMetric must define _metric"):
        RankingMetric(labels_onehot=True).update(torch.rand(1, 4), torch.tensor([2]))


def test_empty_batch_changes_nothing():
    metric = MeanReciprocalRankAt(top_ks=[2], labels_onehot=True)
    metric.update(torch.rand(0, 4), torch.empty(0, dtype=torch.int64))
    metric.update(torch.tensor([[0.9, 0.5]]), torch.tensor([1]))
    assert metric.compute().item() == 0.5
    metric.reset()
    assert metric.metric_mean == []


def test_a_row_without_relevant_items_scores_zero():
    for name in VALUE_OF_HIT:
        metric = ranking_metrics_registry.parse(name)
        assert metric._metric([2], torch.rand(1, 4), torch.zeros(1, 4)).tolist() == [[0.0]]


def test_metrics_that_are_equal_after_a_batch_stay_apart_in_a_collection() -> None:
    # torchmetrics updates one of those whose states are equal after the first batch.
    def metrics() -> dict[str, RankingMetric]:
        classes = {name: type(ranking_metrics_registry.get(name)) for name in VALUE_OF_HIT}
        made = {name: cls([10], labels_onehot=True) for name, cls in classes.items()}
        return {**made, "ndcg_at_100": NDCGAt([100], labels_onehot=True)}

    for first in ([500, 700], [0, 0]):  # all misses; all hits
        together = MetricCollection(metrics())
        for rank in (first, [3, 60]):
            together.update(rank=torch.tensor(rank))
        for name, metric in metrics().items():
            metric.update(rank=torch.tensor([*first, 3, 60]))
            assert together.compute()[name] == metric.compute(), name


def test_twins_share_their_state_in_a_collection() -> None:
    twins = MetricCollection({"a": NDCGAt([5], True), "b": NDCGAt([5], True)})
    twins.update(rank=torch.tensor([0, 3]))
    assert len(twins.compute_groups) == 1


@pytest.mark.filterwarnings("ignore:The ``compute`` method of metric:UserWarning")
def test_a_process_without_rows_takes_part() -> None:
    theirs = torch.tensor([[1.0, 0.5], [0.0, 0.5]])

    def gather(own: torch.Tensor, group: object) -> list[torch.Tensor]:
        if own.dtype == torch.int64:
            return [own, own]
        assert own.dim() == 2  # as theirs: what is gathered may differ in its sizes only
        return [own, theirs]

    two = {"dist_sync_fn": gather, "distributed_available_fn": lambda: True}
    metric = NDCGAt([1, 5], labels_onehot=True, **two)
    assert torch.equal(metric.compute(), torch.tensor([0.5, 0.5]))
    metric.update(rank=torch.tensor([0]))
    assert torch.equal(metric.compute(), torch.tensor([2 / 3, 2 / 3]))


@pytest.mark.filterwarnings("ignore:The ``compute`` method of metric:UserWarning")
@pytest.mark.parametrize("ks", [[1, 5], [3]])
def test_of_no_rows_the_mean_is_nan(ks: list[int]) -> None:
    metric = RecallAt(ks, labels_onehot=True)
    assert metric.compute().isnan().all()
    metric.update(rank=torch.tensor([0]))
    assert metric.compute().eq(1).all()


@pytest.mark.parametrize("ks", [np.int64(3), (np.int64(3),), np.array([3]), range(3, 4), (3,)])
def test_cutoffs_of_numpy(ks: Any) -> None:
    assert RecallAt(ks).top_ks == [3]
    assert all(type(k) is int for k in RecallAt(ks).top_ks)


@pytest.mark.parametrize("ks", [[], "5", 5, None])
def test_ks_must_be_a_list(ks):
    text = "ks should be a list or tuple with at least one element"
    with pytest.raises(ValueError, match=text):
        PrecisionAt()._metric(ks, torch.rand(1, 4), torch.zeros(1, 4))


def test_bad_input():
    metric, scores, ids = PrecisionAt(), torch.rand(2, 4), torch.tensor([1, 2])
    with pytest.raises(ValueError, match="preds and target must be given, or rank"):
        metric.update(scores)
    with pytest.raises(ValueError, match="ks must be positive ints"):
        PrecisionAt(top_ks=[0])
    with pytest.raises(ValueError, match="scores must be a 2-dimensional tensor"):
        metric._metric([1], torch.rand(4), torch.rand(4))
    with pytest.raises(ValueError, match=r"labels must be a 2-dimensional .*labels_onehot=True"):
        metric._metric([1], scores, ids)
    with pytest.raises(ValueError, match="scores and labels must be the same shape"):
        metric._metric([1], scores, torch.rand(2, 5))
    with pytest.raises(TypeError, match=r"targets must be int64; got torch\.float32"):
        target_rank(scores, ids.float())
    with pytest.raises(TypeError, match="exclude_ids must be int64"):
        target_rank(scores, ids, exclude_ids=torch.rand(2, 1))
    with pytest.raises(ValueError, match=r"targets must be \[2\]; got \[3\]"):
        target_rank(scores, torch.tensor([1, 2, 3]))
    with pytest.raises(ValueError, match="targets must lie from 0 to V - 1 = 3; got 1 to 4"):
        target_rank(scores, torch.tensor([1, 4]))
    with pytest.raises(ValueError, match="exclude_ids must lie from -1 to V - 1 = 3; got -2"):
        target_rank(scores, ids, exclude_ids=torch.tensor([[-2], [1]]))
    with pytest.raises(ValueError, match="scores must be floating"):
        target_rank(torch.ones(2, 4, dtype=torch.int64), ids)


@pytest.mark.parametrize("ks", [[2, 5], [3]])
def test_a_call_costs_what_its_batch_costs(ks: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    """The forward of torchmetrics copies the state of all batches before, at each of them."""
    ranks = [torch.randint(9, (size,)) for size in (4, 1, 7)]
    mine, theirs = NDCGAt(ks, labels_onehot=True), NDCGAt(ks, labels_onehot=True)
    expected = [super(RankingMetric, theirs).forward(rank=rank) for rank in ranks]
    monkeypatch.setattr(RankingMetric, "_copy_state_dict", None)
    found = [mine(rank=rank) for rank in ranks]
    for value, wanted in zip(found, expected, strict=True):
        assert torch.equal(value, wanted)
    assert torch.equal(mine.compute(), theirs.compute())
    assert torch.equal(mine(rank=ranks[0]), expected[0])  # after compute, too
    assert len(mine.metric_mean) == 4


def test_a_call_of_a_metric_with_a_compute_of_its_own() -> None:
    class InPercent(RecallAt):
        def compute(self) -> torch.Tensor:
            return super().compute() * 100

    metric = InPercent([2], labels_onehot=True)
    assert metric(rank=torch.tensor([0, 5])) == 50
    assert metric.compute() == 50


def test_a_call_shares_its_batch_with_other_processes_where_that_is_asked_for() -> None:
    """With torchmetrics' ``dist_sync_on_step`` the value of a call is of all processes' rows."""
    metric = RecallAt(
        [2],
        labels_onehot=True,
        dist_sync_on_step=True,
        dist_sync_fn=lambda mine, group: [mine, torch.zeros_like(mine)],  # another's are misses
        distributed_available_fn=lambda: True,
    )
    assert metric(rank=torch.tensor([0, 1])) == 0.5
