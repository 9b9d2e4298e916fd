"""Ranks, metrics and the popularity baseline of the command line against brute force."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from torch import Tensor

from transformers4rec_ext.baselines import popularity_ranks
from transformers4rec_ext.data import Catalogue, Contexts, ParquetSessions, held_out
from transformers4rec_ext.ranking_metric import MISSED
from transformers4rec_ext.training import count_groups, held_out_ranks, summarize


def _contexts(lists: list[list[int]], targets: list[int]) -> Contexts:
    offsets = np.concatenate([[0], np.cumsum([len(row) for row in lists])])
    flat = np.array([item for row in lists for item in row], np.int64)
    return Contexts(flat, offsets[:-1], offsets[1:], np.array(targets), None, 0)


SCORES = torch.tensor([9.0, 5.0, 4.0, 4.0, 3.0, 1.0])  # padding scores highest


def _constant(ids: Tensor) -> tuple[Tensor, Tensor]:
    return torch.ones(*ids.shape, 1), SCORES[:, None]


@pytest.mark.parametrize(
    ("target", "exclude", "rank"),
    [
        (1, False, 1),
        (2, False, 3),  # ties count against the model
        (4, False, 4),
        (5, False, 5),
        (5, True, 3),  # 1 and 4 are seen
        (2, True, 2),
        (4, True, MISSED),  # seen itself: never recommended
        (0, False, MISSED),  # unknown
    ],
)
def test_rank_by_hand(target: int, exclude: bool, rank: int) -> None:
    ranks = held_out_ranks(
        _constant,
        [_contexts([[1, 4, 4]], [target])],
        max_length=2,
        exclude_seen=exclude,
    )
    assert ranks.tolist() == [rank]


def test_empty_context_and_nan_are_misses() -> None:
    chunk = _contexts([[], [1]], [2, 2])

    def nan(ids: Tensor) -> tuple[Tensor, Tensor]:
        return torch.full((*ids.shape, 1), torch.nan), SCORES[:, None]

    assert held_out_ranks(_constant, [chunk], max_length=2).tolist() == [MISSED, 3]
    assert held_out_ranks(nan, [chunk], max_length=2).tolist() == [MISSED] * 2


@pytest.mark.parametrize("exclude", [False, True])
def test_ranks_against_brute_force(exclude: bool) -> None:
    """Random contexts in batches of another order than the file, few rows at once."""
    rng = np.random.default_rng(0)
    table = torch.from_numpy(rng.integers(0, 4, (30, 30))).float()  # many ties
    lists = [rng.integers(1, 30, rng.integers(1, 12)).tolist() for _ in range(60)]
    targets = rng.integers(1, 30, 60).tolist()

    def last_item(ids: Tensor) -> tuple[Tensor, Tensor]:
        assert len(ids) <= 3
        return torch.nn.functional.one_hot(ids, 30).float(), table.T

    ranks = held_out_ranks(
        last_item,
        [_contexts(lists[:25], targets[:25]), _contexts(lists[25:], targets[25:])],
        max_length=4,
        batch_size=3,
        exclude_seen=exclude,
    )
    for seen, target, rank in zip(lists, targets, ranks.tolist(), strict=True):
        scores = table[seen[-1]]
        rivals = [i for i in range(1, 30) if i != target and not (exclude and i in seen)]
        expected = 1 + sum(bool(scores[i] >= scores[target]) for i in rivals)
        assert rank == (MISSED if exclude and target in seen else expected)


def test_metrics_by_hand() -> None:
    metrics = summarize(torch.tensor([1, 3, 6, 100]))
    assert metrics["ndcg_at_5"] == pytest.approx((1 + 0.5) / 4)
    assert metrics["ndcg_at_10"] == pytest.approx((1 + 0.5 + 1 / math.log2(7)) / 4)
    gains = np.array([1, 0.5, 1 / math.log2(7), 0])
    assert metrics["ndcg_at_10_se"] == pytest.approx(gains.std() / 2)
    assert metrics["recall_at_5"] == 0.5
    assert metrics["recall_at_10"] == 0.75
    assert metrics["mrr_at_5"] == pytest.approx((1 + 1 / 3) / 4)
    assert metrics["mrr_at_10"] == pytest.approx((1 + 1 / 3 + 1 / 6) / 4)
    assert metrics["mrr"] == pytest.approx((1 + 1 / 3 + 1 / 6 + 1 / 100) / 4)
    assert set(summarize(torch.tensor([MISSED, MISSED])).values()) == {0.0}
    assert summarize(torch.tensor([MISSED, 2]))["mrr"] == 0.25
    for k in (5, 10, 20):  # the last place that counts, and the first that does not
        inside, outside = summarize(torch.tensor([k])), summarize(torch.tensor([k + 1]))
        assert inside[f"recall_at_{k}"] == 1
        assert inside[f"ndcg_at_{k}"] == pytest.approx(1 / math.log2(k + 1))
        assert inside[f"mrr_at_{k}"] == pytest.approx(1 / k)
        assert {outside[f"{name}_at_{k}"] for name in ("recall", "ndcg", "mrr")} == {0.0}
    with pytest.raises(ValueError, match="hold at least one held-out item"):
        summarize(torch.zeros(0, dtype=torch.int64))


def test_the_standard_error_is_what_other_targets_change() -> None:
    """NDCG@10 of many samples of targets deviates by what one of them gives as its error."""
    generator = torch.Generator().manual_seed(0)
    ranks = torch.randint(1, 60, (2000, 400), generator=generator)
    samples = [summarize(of) for of in ranks]
    deviation = np.std([sample["ndcg_at_10"] for sample in samples])
    claimed = np.mean([sample["ndcg_at_10_se"] for sample in samples])
    assert claimed == pytest.approx(deviation, rel=0.05)  # 2,000 samples: 1.6 % is one sigma


def test_groups_of_targets_by_their_training_counts() -> None:
    counts = np.array([0, 1, 5, 6, 20, 21, 100, 101, 10**9])
    groups = count_groups(counts)
    assert {name: counts[mask].tolist() for name, mask in groups.items()} == {
        "0": [0], "1-5": [1, 5], "6-20": [6, 20], "21-100": [21, 100], "more": [101, 10**9],
    }  # fmt: skip
    assert list(count_groups(np.array([7]))) == ["6-20"]


def test_popularity_ranks_by_training_counts(tmp_path: Path) -> None:
    path = tmp_path / "s.parquet"
    pq.write_table(pa.table({"items": [[7, 7, 7, 8, 8], [8, 8, 9, 9, 7]]}), path)
    sessions = ParquetSessions(path, "items")
    catalogue = Catalogue.fit(sessions)  # training: 7 7 7, 8 8 9
    assert catalogue.counts.tolist() == [3, 2, 1]
    assert popularity_ranks(catalogue, held_out(sessions, catalogue, "test")).tolist() == [2, 1]
    seen = popularity_ranks(catalogue, held_out(sessions, catalogue, "test"), exclude_seen=True)
    assert seen.tolist() == [MISSED, 1]  # the first one's target was seen: a miss


@pytest.mark.parametrize("exclude", [False, True])
def test_popularity_ranks_as_a_model_that_scores_by_counts(exclude: bool) -> None:
    rng = np.random.default_rng(1)
    counts = np.sort(rng.integers(0, 6, 40))[::-1].copy()  # many ties, some never counted
    catalogue = Catalogue(pa.array(range(40)), counts)
    lists = [rng.integers(1, 41, rng.integers(0, 9)).tolist() for _ in range(700)]
    chunk = _contexts(lists, rng.integers(0, 41, 700).tolist())
    scores = torch.from_numpy(catalogue.popularity).double()[:, None]
    expected = held_out_ranks(
        lambda ids: (torch.ones(*ids.shape, 1, dtype=torch.float64), scores),
        [chunk],
        max_length=1,
        exclude_seen=exclude,
    )
    assert torch.equal(popularity_ranks(catalogue, [chunk], exclude_seen=exclude), expected)
    assert popularity_ranks(catalogue, []).shape == (0,)


def test_a_sample_is_of_sessions_that_have_a_target(tmp_path: Path) -> None:
    path = tmp_path / "s.parquet"
    lists = [[1, 2]] * 500 + [[1, 2, 3, 4]] * 7
    pq.write_table(pa.table({"items": lists}), path, row_group_size=100)
    sessions = ParquetSessions(path, "items")
    catalogue = Catalogue.fit(sessions)
    for limit, found in ((3, 3), (20, 7)):
        chunks = held_out(sessions, catalogue, "validation", limit=limit)
        assert sum(len(chunk.targets) for chunk in chunks) == found
