"""Mixed samplers: the union of what several sources draw, and how often each item is in it."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from transformers4rec_ext.functional import Candidates
from transformers4rec_ext.samplers import (
    InBatchSampler,
    MixedSampler,
    PopularitySampler,
    UniformSampler,
)

COUNTS = torch.tensor([9, 4, 0, 1, 5, 0, 2, 8, 3, 7])  # of ids 0 to 9; 0 is padding
TARGETS = torch.tensor([1, 3, 7, 7, 9])


class Fixed:
    """A source of one's own: ids 3 and 5 with certainty, and two ids of padding."""

    unique_sampling = True

    def log_q(self, ids: torch.Tensor, candidates: Candidates) -> torch.Tensor:
        return torch.where((ids == 3) | (ids == 5), 0.0, -math.inf)

    def draw(self, targets: torch.Tensor, generator: Any = None) -> Any:
        ids = torch.tensor([5, 3, 8, 8])
        log_q = torch.tensor([0.0, 0.0, math.inf, math.inf])
        candidates = Candidates(ids, log_q, torch.tensor(1), torch.tensor(2))
        return candidates, self.log_q(targets, candidates)


def test_a_union_of_distinct_candidates() -> None:
    popular = PopularitySampler(3, COUNTS, min_id=1)
    uniform = UniformSampler(4, max_id=10, min_id=1)
    sampler = MixedSampler([popular, Fixed(), uniform])
    generator = torch.Generator().manual_seed(5)
    candidates, target_log_q = sampler.draw(TARGETS, generator)
    generator = torch.Generator().manual_seed(5)
    drawn = [source.draw(TARGETS, generator)[0] for source in sampler.samplers]
    ids = sorted({*drawn[0].ids.tolist(), 3, 5, *drawn[2].ids.tolist()})
    assert candidates.ids[: len(ids)].tolist() == ids
    assert int(candidates.count) == len(ids)
    assert candidates.ids.shape == (3 + 4 + 4,)
    absent = torch.ones(10).double()
    for source, part in zip(sampler.samplers, drawn, strict=True):
        absent[1:] *= 1 - source.log_q(torch.arange(1, 10), part).double().exp()
    torch.testing.assert_close(
        candidates.log_q[: len(ids)].exp().double(), 1 - absent[ids], rtol=1e-5, atol=0
    )
    torch.testing.assert_close(target_log_q.exp().double(), 1 - absent[TARGETS], rtol=1e-5, atol=0)
    assert int(candidates.num_tries) == max(int(part.num_tries) for part in drawn)


def test_with_repetitions_expected_counts_add_up() -> None:
    repeated = UniformSampler(20, max_id=10, min_id=1, unique_sampling=False)
    sampler = MixedSampler([repeated, Fixed()])
    assert not sampler.unique_sampling
    candidates, target_log_q = sampler.draw(TARGETS)
    assert int(candidates.count) == 22
    assert candidates.ids.shape == (24,)
    torch.testing.assert_close(target_log_q.exp()[:2], torch.tensor([20 / 9, 20 / 9 + 1]))


def test_a_target_that_no_source_draws() -> None:
    popular = PopularitySampler(3, COUNTS, min_id=1)
    candidates, target_log_q = MixedSampler([popular, Fixed()]).draw(torch.tensor([2, 5, 1]))
    assert target_log_q[0] == candidates.log_q[: int(candidates.count)].min()
    assert target_log_q[1] == 0


def test_one_source_is_that_source() -> None:
    uniform = UniformSampler(4, max_id=10, min_id=1)
    candidates, target_log_q = MixedSampler([uniform]).draw(TARGETS)
    assert int(candidates.count) == 4
    torch.testing.assert_close(target_log_q, torch.full((5,), math.log(4 / 9)))
    torch.testing.assert_close(candidates.log_q, torch.full((4,), math.log(4 / 9)))


def test_a_source_that_stands_twice_has_one_seed() -> None:
    source = UniformSampler(4, max_id=10, min_id=1, seed=3)
    assert int(MixedSampler([source, source]).draw(TARGETS)[0].count) >= 4
    with pytest.raises(ValueError, match=r"samplers must have different seeds; got \[3, 3\]"):
        MixedSampler([source, UniformSampler(4, max_id=10, min_id=1, seed=3)])


def test_sources_of_ones_own_have_any_range() -> None:
    sampler = MixedSampler([Fixed()])
    assert (sampler.min_id, sampler.max_id) == (0, 2**53)
    assert sampler.draw(TARGETS)[0].ids.tolist() == [3, 5, 8, 8]


def test_a_mixture_goes_on_where_its_sources_stood() -> None:
    def mixture() -> MixedSampler:
        own = PopularitySampler(2, torch.ones(1000), seed=2)
        return MixedSampler(
            [UniformSampler(4, 1000, seed=1), InBatchSampler(torch.ones(1000)), own]
        )

    def drawn_ids(sampler: MixedSampler) -> list[int]:
        ids: list[int] = sampler.draw(TARGETS)[0].ids.tolist()
        return ids

    sampler = mixture()
    drawn_ids(sampler)
    states = sampler.generator_states()
    following = drawn_ids(sampler)
    other = mixture()
    assert drawn_ids(other) != following
    other.load_generator_states(states)
    assert drawn_ids(other) == following
