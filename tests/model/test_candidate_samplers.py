"""Uniform, popularity, in-batch and mixed samplers: what they draw, report and refuse."""

from __future__ import annotations

import copy
import math
import pickle
from typing import Any

import pytest
import torch

from transformers4rec_ext.losses import GBCELoss, SampledSoftmaxLoss
from transformers4rec_ext.samplers import (
    CandidateSampler,
    InBatchSampler,
    LogUniformSampler,
    MixableSampler,
    MixedSampler,
    PopularitySampler,
    UniformSampler,
)

INT64_MAX = 2**63 - 1
COUNTS = torch.tensor([9, 4, 0, 1, 5, 0, 2, 8, 3, 7])  # of ids 0 to 9; 0 is padding
TARGETS = torch.tensor([1, 3, 7, 7, 9])


def samplers() -> dict[str, Any]:
    """Return one of each, over ids 1 to 9."""
    return {
        "log-uniform": LogUniformSampler(4, max_id=10, min_id=1),
        "uniform": UniformSampler(4, max_id=10, min_id=1),
        "popularity": PopularitySampler(4, COUNTS, min_id=1),
        "in batch": InBatchSampler(COUNTS, min_id=1),
        "mixed": MixedSampler(
            [UniformSampler(4, max_id=10, min_id=1), InBatchSampler(COUNTS, min_id=1)]
        ),
    }


every = pytest.mark.parametrize("name", samplers())
RANDOM = ["log-uniform", "uniform", "popularity", "mixed"]


def drawn_ids(sampler: Any, seed: int | None = None) -> list[int]:
    generator = None if seed is None else torch.Generator().manual_seed(seed)
    return sampler.draw(TARGETS, generator)[0].ids.tolist()


@every
def test_a_draw(name: str) -> None:
    sampler = samplers()[name]
    assert isinstance(sampler, CandidateSampler)
    assert isinstance(sampler, MixableSampler) == (name != "mixed")
    for targets in (TARGETS, TARGETS[:, None], TARGETS[:1], TARGETS[0], TARGETS[:0]):
        candidates, target_log_q = sampler.draw(targets)
        assert candidates.ids.dtype == torch.int64
        assert candidates.log_q.shape == candidates.ids.shape
        assert candidates.log_q.dtype == target_log_q.dtype == torch.float32
        assert target_log_q.shape == targets.shape
        assert target_log_q.isfinite().all()
        assert not candidates.log_q.requires_grad
        count = int(candidates.count)
        assert candidates.ids.min() >= 1
        assert candidates.ids.max() < 10
        assert candidates.ids[:count].unique().numel() == count
        assert (candidates.log_q[:count] <= 0).all()
        assert (candidates.log_q[count:] == math.inf).all()


@pytest.mark.parametrize("unique", [True, False])
@pytest.mark.parametrize("kind", [LogUniformSampler, UniformSampler, PopularitySampler])
def test_of_what_was_drawn_log_q_is_what_the_draw_says(kind: Any, unique: bool) -> None:
    items = COUNTS if kind is PopularitySampler else 10
    sampler = kind(4, items, min_id=1, unique_sampling=unique)
    candidates, target_log_q = sampler.draw(TARGETS)
    assert torch.equal(sampler.log_q(candidates.ids, candidates), candidates.log_q)
    assert torch.equal(sampler.log_q(TARGETS, candidates), target_log_q)


@pytest.mark.parametrize("name", RANDOM)
def test_randomness(name: str) -> None:
    assert drawn_ids(samplers()[name], seed=3) == drawn_ids(samplers()[name], seed=3)
    different = {tuple(drawn_ids(samplers()[name], seed=seed)) for seed in range(20)}
    assert len(different) > 5
    torch.manual_seed(1)
    first = drawn_ids(samplers()[name])
    torch.manual_seed(1)
    assert drawn_ids(samplers()[name]) == first


@pytest.mark.parametrize("name", RANDOM)
def test_a_seed_of_ones_own(name: str) -> None:
    seeded = {
        "log-uniform": lambda: LogUniformSampler(4, 1000, seed=7),
        "uniform": lambda: UniformSampler(4, 1000, seed=7),
        "popularity": lambda: PopularitySampler(4, torch.ones(1000), seed=7),
        "mixed": lambda: MixedSampler(
            [UniformSampler(4, 1000), LogUniformSampler(3, 1000)], seed=7
        ),
    }[name]
    sampler = seeded()
    state = torch.random.get_rng_state()
    first, second = drawn_ids(sampler), drawn_ids(sampler)
    assert first != second
    assert drawn_ids(seeded()) == first
    assert torch.equal(torch.random.get_rng_state(), state)
    # a copy goes on where the original stood
    clone, pickled = copy.deepcopy(sampler), pickle.loads(pickle.dumps(sampler))
    following = drawn_ids(sampler)
    assert drawn_ids(clone) == following
    assert drawn_ids(pickled) == following


def test_states_go_to_a_device_of_the_type_and_wait_for_it() -> None:
    """A run may go on with the GPU of another number, or where there is none at all."""
    sampler, other = (UniformSampler(4, 1000, seed=1) for _ in range(2))
    drawn_ids(sampler)
    states = sampler.generator_states()
    following = drawn_ids(sampler)
    (state,) = states.values()
    fresh = UniformSampler(4, 1000, seed=1)
    fresh.load_generator_states({"cpu:1": torch.Generator().get_state(), "cpu": state})
    assert drawn_ids(fresh) == following  # its own before one that is like it
    other.load_generator_states({"cpu:0": state, "cuda:0": state, "cuda:3": state})
    assert set(other.generator_states()) == {"cpu:0", "cuda:0", "cuda:3"}
    assert drawn_ids(pickle.loads(pickle.dumps(other))) == following
    assert drawn_ids(other) == following
    assert set(other.generator_states()) == {"cpu", "cuda:0", "cuda:3"}


@every
def test_tables_move_but_are_neither_saved_nor_rounded(name: str) -> None:
    sampler = samplers()[name]
    before, _ = sampler.draw(TARGETS, torch.Generator().manual_seed(1))
    assert sampler.state_dict() == {}
    assert list(sampler.parameters()) == []
    sampler.to(torch.bfloat16)
    after, _ = sampler.draw(TARGETS, torch.Generator().manual_seed(1))
    for a, b in zip(before, after, strict=True):
        assert torch.equal(a, b)
    on_meta = copy.deepcopy(sampler).to("meta")
    assert all(buffer.device.type == "meta" for buffer in on_meta.buffers())
    assert len(list(on_meta.buffers())) == {"popularity": 3, "in batch": 1, "mixed": 1}.get(name, 0)


@every
@pytest.mark.parametrize("loss", [SampledSoftmaxLoss, GBCELoss])
def test_losses_take_any_of_them(name: str, loss: Any) -> None:
    hidden = torch.randn(5, 4, requires_grad=True)
    weight = torch.randn(10, 4, requires_grad=True)
    for rows in (5, 1, 0):
        weight.grad = None
        value = loss(samplers()[name], sparse_grad=True)(hidden[:rows], weight, TARGETS[:rows])
        value.backward()
        assert value.isfinite()
        assert weight.grad is not None
        assert weight.grad.is_sparse
        assert weight.grad.to_dense().isfinite().all()
        assert not weight.grad.to_dense()[0].any()  # padding is no candidate


@every
def test_compiles_without_a_graph_break(name: str) -> None:
    sampler = samplers()[name]
    compiled = torch.compile(sampler.draw, fullgraph=True, backend="aot_eager")
    torch.manual_seed(2)
    found, found_log_q = compiled(TARGETS)
    torch.manual_seed(2)
    wanted, wanted_log_q = sampler.draw(TARGETS)
    for a, b in zip((*found, found_log_q), (*wanted, wanted_log_q), strict=True):
        torch.testing.assert_close(a, b)


# Uniform


@pytest.mark.parametrize(("samples", "q"), [(3, 3 / 9), (9, 1.0), (50, 1.0)])
def test_uniform_probabilities(samples: int, q: float) -> None:
    candidates, target_log_q = UniformSampler(samples, max_id=10, min_id=1).draw(TARGETS)
    assert candidates.ids.numel() == min(samples, 9)
    for log_q in (candidates.log_q, target_log_q):
        torch.testing.assert_close(log_q.exp(), torch.full_like(log_q, q))


def test_uniform_with_repetitions() -> None:
    sampler = UniformSampler(50, max_id=10, min_id=1, unique_sampling=False)
    candidates, target_log_q = sampler.draw(TARGETS)
    assert candidates.ids.numel() == 50
    torch.testing.assert_close(target_log_q.exp(), torch.full((5,), 50 / 9))


def test_uniform_over_more_items_than_a_table_could_hold() -> None:
    sampler = UniformSampler(100, max_id=2**53)
    candidates, target_log_q = sampler.draw(torch.tensor([2**53 - 1]))
    assert candidates.ids.max() > 2**50
    assert target_log_q.item() == pytest.approx(math.log(100 / 2**53))


# Popularity


@pytest.mark.parametrize("unique", [True, False])
@pytest.mark.parametrize("power", [0.0, 0.5, 1.0])
def test_popularity_probabilities(power: float, unique: bool) -> None:
    sampler = PopularitySampler(4, COUNTS, min_id=1, power=power, unique_sampling=unique)
    candidates, target_log_q = sampler.draw(TARGETS)
    weights = torch.where(COUNTS > 0, COUNTS.double() ** power, 0)
    weights[0] = 0
    p = weights / weights.sum()
    tries = int(candidates.num_tries)
    for ids, log_q in ((candidates.ids, candidates.log_q), (TARGETS, target_log_q)):
        q = -torch.expm1(tries * torch.log1p(-p[ids])) if unique else 4 * p[ids]
        torch.testing.assert_close(log_q.exp().double(), q, rtol=1e-5, atol=0)


def test_items_that_never_occur() -> None:
    sampler = PopularitySampler(4, COUNTS, min_id=1)
    for seed in range(200):
        assert not {0, 2, 5} & set(drawn_ids(sampler, seed))
    candidates, target_log_q = sampler.draw(torch.tensor([2, 3]))
    # as a target it counts as the rarest candidate of the draw
    assert target_log_q[0] == candidates.log_q.min()
    assert sampler.log_q(torch.tensor([2, 5]), candidates).tolist() == [-math.inf] * 2


@pytest.mark.parametrize("samples", [7, 8, 1000])
def test_all_that_occur_when_more_are_asked_for(samples: int) -> None:
    sampler = PopularitySampler(samples, COUNTS, min_id=1, power=20)
    candidates, target_log_q = sampler.draw(TARGETS)
    assert candidates.ids.tolist() == [1, 3, 4, 6, 7, 8, 9]
    assert candidates.log_q.tolist() == [0.0] * 7
    assert target_log_q.tolist() == [0.0] * 5
    assert int(candidates.num_tries) == INT64_MAX
    assert int(candidates.count) == 7
    assert sampler.log_q(torch.tensor([1, 2]), candidates).tolist() == [0.0, -math.inf]
    for outside in (0, 10):
        with pytest.raises(ValueError, match=r"ids must lie in \[1, 10\)"):
            sampler.log_q(torch.tensor([outside]), candidates)
    assert all(buffer.device.type == "meta" for buffer in sampler.to("meta").buffers())
    assert sampler._occurring is not None
    assert sampler._occurring.device.type == "meta"


def test_a_high_power_overflows_nothing() -> None:
    candidates, _ = PopularitySampler(1, COUNTS * 10**6, min_id=1, power=200).draw(TARGETS)
    assert candidates.ids.tolist() == [7]  # the others' weights are less than 1e-11 of its


def test_candidates_that_hours_would_not_find_are_refused() -> None:
    counts = torch.tensor([10**12, 10**12, 1, 1])
    assert PopularitySampler(2, counts).draw(torch.tensor([3]))[0].ids.numel() == 2
    assert PopularitySampler(4, counts).draw(torch.tensor([3]))[0].ids.numel() == 4
    assert PopularitySampler(3, counts, unique_sampling=False).draw(torch.tensor([3]))
    with pytest.raises(ValueError, match="be at most 2, the distinct items that about 1000"):
        PopularitySampler(3, counts)


def test_counts_of_any_number_type() -> None:
    expected = PopularitySampler(3, COUNTS, power=0.75).table
    of_numpy = PopularitySampler(3, COUNTS.numpy(), power=0.75).table
    for a, b in zip(of_numpy, expected, strict=True):
        assert torch.equal(torch.as_tensor(a), torch.as_tensor(b))
    in_batch = [InBatchSampler(counts, min_id=1) for counts in (COUNTS, COUNTS.numpy())]
    log_q = [sampler.draw(torch.tensor([7, 1]))[1] for sampler in in_batch]
    assert torch.equal(*log_q)
    for dtype in (torch.int32, torch.float32, torch.float64):
        for a, b in zip(
            PopularitySampler(3, COUNTS.to(dtype), power=0.75).table, expected, strict=True
        ):
            assert torch.equal(torch.as_tensor(a), torch.as_tensor(b))


# In batch


def test_in_batch_candidates_are_the_targets() -> None:
    candidates, target_log_q = InBatchSampler(COUNTS, min_id=1).draw(torch.tensor([7, 1, 7, 9, 1]))
    assert candidates.ids[:3].tolist() == [1, 7, 9]
    assert int(candidates.count) == 3
    p = torch.tensor([8, 4, 8, 7, 4]) / 32.0  # 30, and 1 for each of the two that do not occur
    q = 1 - (1 - p.double()) ** 4  # of the other four rows
    torch.testing.assert_close(target_log_q.exp().double(), q, rtol=1e-6, atol=0)
    torch.testing.assert_close(candidates.log_q[:3], target_log_q[[1, 0, 3]])


def test_of_no_target_nothing_is_a_candidate() -> None:
    candidates, _ = InBatchSampler(COUNTS, min_id=1).draw(TARGETS[:0])
    assert int(candidates.count) == 0
    assert candidates.log_q.tolist() == [math.inf]


def test_in_batch_items_that_do_not_occur_count_as_the_rarest() -> None:
    _, log_q = InBatchSampler(COUNTS, min_id=1).draw(torch.tensor([2, 3, 5, 1]))
    assert log_q[0] == log_q[1] == log_q[2] < log_q[3]


def test_one_row_has_no_candidate_but_itself() -> None:
    hidden, weight = torch.randn(1, 4, requires_grad=True), torch.randn(10, 4)
    loss = SampledSoftmaxLoss(InBatchSampler(COUNTS))(hidden, weight, TARGETS[:1])
    loss.backward()
    assert loss.item() == 0
    assert hidden.grad is not None
    assert not hidden.grad.any()


@pytest.mark.parametrize("name", ["popularity", "in batch", "mixed"])
def test_targets_elsewhere_than_the_counts(name: str) -> None:
    with pytest.raises(ValueError, match=r"must be on cpu like the (table|counts); got meta"):
        samplers()[name].draw(TARGETS.to("meta"))


@every
def test_repr(name: str) -> None:
    text = repr(samplers()[name])
    assert "max_id=10, min_id=1, unique_sampling=True" in text
