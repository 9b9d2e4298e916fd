"""Many targets of a session from one pass of the model: the ranks of one pass for each."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from torch import Tensor

from transformers4rec_ext.data import Catalogue, Contexts, ParquetSessions, held_out
from transformers4rec_ext.ranking_metric import MISSED
from transformers4rec_ext.training import RunConfig, build_model, evaluating, held_out_ranks
from transformers4rec_ext.training.network import model_query

T, ITEMS = 6, 30


@pytest.fixture(scope="module")
def lists() -> list[list[int]]:
    """Sessions shorter than T, as long and longer; 0 to 2 items in 30 are unknown (31, 32)."""
    rng = np.random.default_rng(4)
    lengths = [0, 1, 2, T - 1, T, T + 1, T + 2, *rng.integers(0, 3 * T, 40)]
    return [rng.integers(1, ITEMS + 3, length).tolist() for length in lengths]


@pytest.fixture(scope="module")
def sessions(lists: list[list[int]], tmp_path_factory: pytest.TempPathFactory) -> ParquetSessions:
    path = tmp_path_factory.mktemp("sessions") / "s.parquet"
    pq.write_table(pa.table({"items": lists}), path, row_group_size=17)
    return ParquetSessions(path, "items")


# Ids as they are, so that contexts can be read off.
KNOWN = Catalogue(pa.array(range(1, ITEMS + 1)), np.zeros(ITEMS, np.int64))


def _targets(lists: list[list[int]]) -> list[tuple[list[int], int]]:
    """Return the definition: each item but the first, given the known ones before it."""
    return [
        ([i for i in row[:place] if i <= ITEMS], row[place])
        for row in lists
        for place in range(1, len(row))
    ]


@pytest.mark.parametrize("size", [1, 3, 100])
def test_a_row_that_is_read_answers_for_contexts_as_they_are_defined(
    lists: list[list[int]], sessions: ParquetSessions, size: int
) -> None:
    found: list[list[int]] = []
    for chunk in held_out(sessions, KNOWN, "every"):
        contexts: dict[int, list[int]] = {}
        for ids, rows, (row, position) in chunk.batches(size, T):
            assert len(ids) <= size
            assert ids.shape[1] <= T
            assert set(row.tolist()) == set(range(len(ids)))  # none is read for nothing
            for of, r, p in zip(rows.tolist(), row.tolist(), position.tolist(), strict=True):
                assert of not in contexts
                contexts[of] = ids[r, : p + 1].tolist()
        found += [contexts.get(of, []) for of in range(len(chunk.targets))]
    assert found == [context[-T:] for context, _ in _targets(lists)]


def test_a_session_is_read_once_and_what_is_longer_once_for_each_target() -> None:
    ids = np.arange(1, 20)
    stop = np.array([1, 2, 3, 4, 5, 6, 7, 8, 11])  # the last is another session
    start = np.array([0] * 8 + [8])
    chunk = Contexts(ids, start, stop, np.ones(9, np.int64), None, 0)
    (batch,) = chunk.batches(100, T)
    assert batch.ids.tolist() == [
        [9, 10, 11, 0, 0, 0],
        [1, 2, 3, 4, 5, 6],
        [2, 3, 4, 5, 6, 7],
        [3, 4, 5, 6, 7, 8],
    ]
    assert Counter(batch.at[0].tolist()) == {0: 1, 1: 6, 2: 1, 3: 1}
    # Planted fault: a window of a longer session that answers for its inner positions.
    positions = dict(zip(batch.rows.tolist(), batch.at[1].tolist(), strict=True))
    assert [positions[of] for of in (5, 6, 7)] == [T - 1] * 3


@pytest.mark.parametrize("body", ["gpt2", "xlnet"])
@pytest.mark.parametrize("exclude", [False, True])
def test_ranks_are_those_of_one_pass_for_each_target(
    lists: list[list[int]], sessions: ParquetSessions, body: str, exclude: bool
) -> None:
    torch.manual_seed(0)
    config = RunConfig("items", max_length=T, d_model=8, layers=2, heads=2, inner=16, body=body)
    model = build_model(config, ITEMS + 1).double()  # so that no rounding decides a rank
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    with evaluating(model):
        ranks = held_out_ranks(
            model_query(model),
            held_out(sessions, KNOWN, "every"),
            max_length=T,
            batch_size=5,
            exclude_seen=exclude,
        )
        expected = []
        for context, target in _targets(lists):
            if not context or target > ITEMS or (exclude and target in context):
                expected.append(MISSED)
                continue
            scores = model({"item_id": torch.tensor([context[-T:]])})[0]
            rivals = set(range(1, ITEMS + 1)) - {target} - (set(context) if exclude else set())
            expected.append(1 + sum(bool(scores[i] >= scores[target]) for i in rivals))
    assert ranks.tolist() == expected
    assert len(set(expected)) > ITEMS // 2  # a model that ranks all alike would prove nothing


def test_a_query_that_looks_ahead_would_be_noticed(
    lists: list[list[int]], sessions: ParquetSessions
) -> None:
    """Planted fault: hidden states that know the items to come give other ranks in one pass."""
    weights = torch.randn(ITEMS + 1, 4, generator=torch.Generator().manual_seed(0))

    def ahead(ids: Tensor) -> tuple[Tensor, Tensor]:
        mean = weights[ids].mean(dim=1, keepdim=True)
        return mean.expand(-1, ids.shape[1], -1), weights

    def ranks(length: int) -> list[int]:
        contexts = held_out(sessions, KNOWN, "every")
        return held_out_ranks(ahead, contexts, max_length=length).tolist()

    alone = [
        held_out_ranks(
            ahead,
            [
                Contexts(
                    np.array(context, np.int64), np.array([0]), np.array([len(context)]),
                    np.array([target if target <= ITEMS else 0]), None, 0,
                )
            ],
            max_length=99,
        ).item()
        for context, target in _targets(lists)
    ]  # fmt: skip
    assert ranks(99) != alone
