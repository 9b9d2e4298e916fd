"""Uniform and weighted candidates: the kernel equals the reference bit for bit; edges."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from transformers4rec_ext import functional

INT64_MAX = 2**63 - 1


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def weights(items: int, zeros: float, power: float, seed: int) -> torch.Tensor:
    """Return positive weights of which some are set to 0."""
    drawn = torch.rand(items, generator=generator(seed), dtype=torch.float64) + 1e-3
    drawn = drawn**power
    drawn[1:][torch.rand(items - 1, generator=generator(seed + 1)) < zeros] = 0
    return drawn


@settings(max_examples=80)
@given(
    items=st.sampled_from([2, 3, 10, 1000, 100_000, 10**9, 2**40, 2**53 - 1, 2**53]),
    share=st.sampled_from([0.0, 0.3, 0.5, 0.8, 1.0, 2.0]),
    samples=st.integers(1, 700),
    min_id=st.sampled_from([0, 1]),
    unique=st.booleans(),
    seed=st.integers(0, 2**31),
)
def test_uniform_kernel_equals_reference(
    items: int, share: float, samples: int, min_id: int, unique: bool, seed: int
) -> None:
    if items <= 1000:  # up to and beyond the whole range
        samples = max(1, int(share * items))
    found, wanted = (
        functional.uniform_sample(
            samples,
            items,
            min_id=min_id,
            unique=unique,
            generator=generator(seed),
            backend=backend,
        )
        for backend in ("fused", "reference")
    )
    for a, b in zip(found, wanted, strict=True):
        assert torch.equal(a, b)
        assert a.dtype == b.dtype
    assert found.ids.min() >= min_id
    assert found.ids.max() < items
    size = min(samples, items - min_id) if unique else samples
    assert found.ids.numel() == int(found.count) == size
    assert found.log_q[0].item() == pytest.approx(math.log(size / (items - min_id)), rel=1e-7)
    whole = unique and size == items - min_id
    assert int(found.num_tries) == (INT64_MAX if whole else size)
    if unique:
        assert found.ids.unique().numel() == size


@settings(max_examples=80)
@given(
    items=st.sampled_from([1, 2, 3, 50, 5000]),
    zeros=st.sampled_from([0.0, 0.4, 1.0]),
    power=st.sampled_from([0.0, 1.0, 3.0]),
    share=st.sampled_from([0.0, 0.2, 0.7]),
    min_id=st.sampled_from([0, 1, 10**12]),
    unique=st.booleans(),
    seed=st.integers(0, 2**31),
)
def test_weighted_kernel_equals_reference(
    items: int,
    zeros: float,
    power: float,
    share: float,
    min_id: int,
    unique: bool,
    seed: int,
) -> None:
    given_weights = weights(items, zeros, power, seed)
    table = functional.alias_table(given_weights)
    samples = max(1, int(share * table.support))
    found, wanted = (
        functional.weighted_sample(
            samples,
            table,
            min_id=min_id,
            unique=unique,
            generator=generator(seed),
            backend=backend,
        )
        for backend in ("fused", "reference")
    )
    for a, b in zip(found, wanted, strict=True):
        assert torch.equal(a, b)
        assert a.dtype == b.dtype
    assert (given_weights[found.ids - min_id] > 0).all()
    assert int(found.count) == samples
    if unique:
        assert found.ids.unique().numel() == samples
        assert int(found.num_tries) >= samples
    tries = int(found.num_tries)
    p = (given_weights / given_weights.sum())[found.ids - min_id]
    q = -torch.expm1(tries * torch.log1p(-p)) if unique else tries * p
    torch.testing.assert_close(found.log_q.double(), q.log(), rtol=1e-5, atol=1e-5)


def test_log_q_of_any_shape_and_of_what_is_never_drawn() -> None:
    table = functional.alias_table(torch.tensor([1.0, 0.0, 3.0]))
    ids = torch.tensor([[5, 6], [7, 7]])
    for unique, wanted in ((True, 1 - 0.75**2), (False, 0.5)):
        log_q = functional.weighted_log_q(ids, table, min_id=5, num_tries=2, unique=unique)
        assert log_q.dtype == torch.float32
        assert log_q.shape == (2, 2)
        assert log_q[0].exp().tolist() == pytest.approx([wanted, 0.0])
    # a tensor of tries is the same
    again = functional.weighted_log_q(ids, table, min_id=5, num_tries=torch.tensor(2), unique=False)
    assert torch.equal(again, log_q)


@settings(max_examples=60)
@given(
    tries=st.sampled_from([1, 2, 17, 2000, 10**6, 10**12, INT64_MAX]),
    exponent=st.sampled_from([0, 1, 5, 20, 44]),
    unique=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_log_expected_count_equals_reference(
    tries: int, exponent: int, unique: bool, seed: int
) -> None:
    p = torch.rand(7, 50, generator=generator(seed)) * 10.0**-exponent
    p[0, :5] = torch.tensor([0.0, 1.0, 0.5, 0.5000001, 1e-45])
    found, wanted = (
        functional.log_expected_count(p, num_tries=tries, unique=unique, backend=backend)
        for backend in ("fused", "reference")
    )
    torch.testing.assert_close(found, wanted, rtol=1.2e-7, atol=1e-12)
    assert found[0, 0] == -math.inf
    assert torch.equal(functional.log_expected_count(p.T, num_tries=tries, unique=unique).T, found)


def test_weights_of_any_number_type_and_size_give_one_table() -> None:
    expected = functional.alias_table(torch.tensor([3.0, 1.0, 0.0], dtype=torch.float64))
    for other in (
        torch.tensor([3, 1, 0]),
        torch.tensor([3, 1, 0], dtype=torch.uint8),
        torch.tensor([3.0, 1.0, 0.0]).bfloat16(),
        torch.tensor([1.5e308, 0.5e308, 0.0], dtype=torch.float64),
    ):
        table = functional.alias_table(other)
        assert table.support == 2
        for a, b in zip(table[:3], expected[:3], strict=True):
            assert torch.equal(a, b)


def test_two_draws_of_a_generator_differ_and_one_seed_gives_one_result() -> None:
    table = functional.alias_table(torch.ones(5000))
    for draw in (
        lambda g: functional.uniform_sample(50, 5000, generator=g),
        lambda g: functional.weighted_sample(50, table, generator=g),
    ):
        g = generator(7)
        first, second = draw(g), draw(g)
        assert torch.equal(first.ids, draw(generator(7)).ids)
        assert not torch.equal(first.ids, second.ids)


def test_a_uniform_draw_costs_nothing_of_the_catalogues_size() -> None:
    with torch.profiler.profile(
        profile_memory=True, activities=[torch.profiler.ProfilerActivity.CPU]
    ) as profile:
        drawn = functional.uniform_sample(1000, 2**53)
    sizes = [event.nbytes() for event in profile.profiler.kineto_results.events()]
    assert 0 < sum(size for size in sizes if size > 0) < 10**6
    assert drawn.ids.max() > 2**52


def test_compiles_without_a_graph_break() -> None:
    table = functional.alias_table(torch.rand(300))

    def step() -> list[torch.Tensor]:
        drawn = functional.weighted_sample(20, table, min_id=1)
        log_q = functional.weighted_log_q(drawn.ids, table, min_id=1, num_tries=drawn.num_tries)
        return [*functional.uniform_sample(20, 300), *drawn, log_q]

    torch.manual_seed(2)
    found = torch.compile(step, fullgraph=True, backend="aot_eager")()
    torch.manual_seed(2)
    for a, b in zip(found, step(), strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("unique", [True, False])
def test_rejected_draws_are_no_ids(unique: bool) -> None:
    """Of a range just above a power of two about half of the draws are rejected."""
    options = {"unique": unique, "min_id": 1}
    fused, expected = (
        functional.uniform_sample(
            20_000, 2**52 + 2, generator=generator(1), backend=backend, **options
        )
        for backend in ("fused", "reference")
    )
    assert all(torch.equal(a, b) for a, b in zip(fused, expected, strict=True))
    assert fused.ids.min() >= 1
