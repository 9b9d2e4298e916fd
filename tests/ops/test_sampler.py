"""Candidates: the kernel equals the reference bit for bit; seeds; edges."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from transformers4rec_ext import functional

INT64_MAX = 2**63 - 1


def draw(samples: int, items: int, seed: int, **options: object) -> functional.Candidates:
    generator = torch.Generator().manual_seed(seed)
    return functional.log_uniform_sample(samples, items, generator=generator, **options)


@settings(max_examples=80)
@given(
    items=st.sampled_from([2, 3, 4, 10, 1000, 100_000, 10_000_000, 10**9, 2**40]),
    share=st.sampled_from([0.0, 0.3, 0.8, 1.0, 2.0]),
    samples=st.integers(1, 700),
    min_id=st.sampled_from([0, 1]),
    unique=st.booleans(),
    seed=st.integers(0, 2**31),
)
def test_kernel_equals_reference(
    items: int, share: float, samples: int, min_id: int, unique: bool, seed: int
) -> None:
    if items <= 1000:  # up to and beyond the whole range
        samples = max(1, int(share * items))
    found = draw(samples, items, seed, min_id=min_id, unique=unique, backend="fused")
    wanted = draw(samples, items, seed, min_id=min_id, unique=unique, backend="reference")
    assert torch.equal(found.ids, wanted.ids)
    assert torch.equal(found.num_tries, wanted.num_tries)
    assert torch.equal(found.count, wanted.count)
    # two roundings of one float64 value to float32 differ by a unit in the last place at most
    torch.testing.assert_close(found.log_q, wanted.log_q, rtol=1.2e-7, atol=1e-12)
    assert found.ids.min() >= min_id
    assert found.ids.max() < items
    if unique:
        assert found.ids.unique().numel() == found.ids.numel() == min(samples, items - min_id)


@settings(max_examples=80)
@given(
    items=st.sampled_from([1, 2, 3, 4, 100, 3706, 10**6, 10**9, 2**53]),
    tries=st.sampled_from([1, 2, 17, 2000, 10**6, 10**12, INT64_MAX]),
    unique=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_log_q_equals_reference(items: int, tries: int, unique: bool, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(items, (3, 50), generator=generator)
    ids[0, :2] = torch.tensor([0, items - 1])
    found, wanted = (
        functional.log_uniform_log_q(ids, items, num_tries=tries, unique=unique, backend=backend)
        for backend in ("fused", "reference")
    )
    torch.testing.assert_close(found, wanted, rtol=1.2e-7, atol=1e-12)


@pytest.mark.parametrize("backend", ["fused", "reference"])
@pytest.mark.parametrize("unique", [True, False])
@pytest.mark.parametrize("samples", [5, 200])
def test_one_call_is_the_two(samples: int, unique: bool, backend: str) -> None:
    targets = torch.randint(1, 100, (3, 4)).T
    options = {"min_id": 1, "unique": unique, "backend": backend}
    generator = torch.Generator().manual_seed(4)
    candidates, target_log_q = functional.log_uniform_draw(
        targets, samples, 100, generator=generator, **options
    )
    expected = draw(samples, 100, 4, **options)
    for a, b in zip(candidates, expected, strict=True):
        assert torch.equal(a, b)
    wanted = functional.log_uniform_log_q(targets, 100, num_tries=expected.num_tries, **options)
    assert torch.equal(target_log_q, wanted)
    _, empty = functional.log_uniform_draw(targets[:0], samples, 100, **options)
    assert empty.shape == (0, 3)


@pytest.mark.parametrize("backend", ["fused", "reference"])
@pytest.mark.parametrize("samples", [9, 10, 1000])
def test_the_whole_range(backend: str, samples: int) -> None:
    drawn = draw(samples, 10, 0, min_id=1, backend=backend)
    assert drawn.ids.tolist() == list(range(1, 10))
    assert drawn.log_q.tolist() == [0.0] * 9
    assert int(drawn.count) == 9
    assert int(drawn.num_tries) == INT64_MAX
    of_targets = functional.log_uniform_log_q(
        torch.arange(1, 10), 10, min_id=1, num_tries=drawn.num_tries, backend=backend
    )
    assert of_targets.tolist() == [0.0] * 9
    assert not torch.signbit(of_targets).any()


def test_one_seed_one_result_and_the_generator_moves_on() -> None:
    generator = torch.Generator().manual_seed(7)
    first = functional.log_uniform_sample(50, 10_000, generator=generator)
    second = functional.log_uniform_sample(50, 10_000, generator=generator)
    assert torch.equal(first.ids, draw(50, 10_000, 7).ids)
    assert not torch.equal(first.ids, second.ids)


def test_the_default_generator_is_torchs() -> None:
    torch.manual_seed(11)
    first = functional.log_uniform_sample(50, 10_000)
    torch.manual_seed(11)
    second = functional.log_uniform_sample(50, 10_000)
    third = functional.log_uniform_sample(50, 10_000)
    assert torch.equal(first.ids, second.ids)
    assert not torch.equal(second.ids, third.ids)


def test_a_billion_items_cost_nothing_of_their_size() -> None:
    with torch.profiler.profile(
        profile_memory=True, activities=[torch.profiler.ProfilerActivity.CPU]
    ) as profile:
        drawn = functional.log_uniform_sample(1000, 10**9)
        functional.log_uniform_log_q(drawn.ids, 10**9, num_tries=drawn.num_tries)
    sizes = [event.nbytes() for event in profile.profiler.kineto_results.events()]
    assert 0 < sum(size for size in sizes if size > 0) < 10**6
    assert drawn.ids.max() > 10**8


def test_log_q_takes_any_shape_and_stride() -> None:
    ids = torch.randint(1, 100, (3, 4))
    log_q = functional.log_uniform_log_q(ids.T, 100, num_tries=7)
    assert log_q.shape == (4, 3)
    assert torch.equal(log_q.T, functional.log_uniform_log_q(ids, 100, num_tries=7))
    assert functional.log_uniform_log_q(ids[:0], 100, num_tries=7).shape == (0, 4)
    scalar = functional.log_uniform_log_q(ids[1, 2], 100, num_tries=torch.tensor(7))
    assert scalar == functional.log_uniform_log_q(ids, 100, num_tries=7)[1, 2]
