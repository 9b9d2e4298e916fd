"""Statistical checks of a sampler, and samplers with planted faults that they must notice.

A check returns standardised deviations; `LIMIT` is what a correct sampler exceeds with probability
below 1e-10 each, so that the whole suite raises a false alarm with less than 1e-6.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import combinations

import torch
from torch import Tensor

from transformers4rec_ext import functional
from transformers4rec_ext.ops.reference import draws
from transformers4rec_ext.ops.reference import log_uniform as reference

LIMIT = 6.6
Sampler = Callable[[int, int, int, bool], tuple[Tensor, int]]  # (S, V, seed, unique) -> ids, M


def _generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def correct(samples: int, items: int, seed: int, unique: bool) -> tuple[Tensor, int]:
    """Draw with the sampler under test."""
    drawn = functional.log_uniform_sample(samples, items, unique=unique, generator=_generator(seed))
    return drawn.ids, int(drawn.num_tries)


def _from_uniforms(u: Tensor, samples: int, items: int, unique: bool) -> tuple[Tensor, int]:
    classes = reference.log_uniform_classes(u, items)
    if not unique:
        return classes[:samples], samples
    first = draws.first_distinct(classes)[:samples]
    return classes[first], int(first[-1]) + 1


def cut_lowest(samples: int, items: int, seed: int, unique: bool) -> tuple[Tensor, int]:
    """Do as upstream: sort the distinct ids of 2 S draws and keep the smallest S."""
    ids = correct(2 * samples, items, seed, False)[0]
    return (ids.unique()[:samples], 2 * samples) if unique else (ids.sort()[0][:samples], samples)


def coarse_uniforms(samples: int, items: int, seed: int, unique: bool) -> tuple[Tensor, int]:
    """Draw by uniforms of 24 bits."""
    u = torch.rand(20 * samples, generator=_generator(seed), dtype=torch.float32)
    return _from_uniforms(u.double(), samples, items, unique)


def modulo_uniforms(samples: int, items: int, seed: int, unique: bool) -> tuple[Tensor, int]:
    """Draw by 16 random bits reduced by a modulus that does not divide 2^16."""
    bits = torch.randint(2**16, (20 * samples,), generator=_generator(seed))
    return _from_uniforms((bits % 49152).double() / 49152, samples, items, unique)


def off_by_one(samples: int, items: int, seed: int, unique: bool) -> tuple[Tensor, int]:
    """Return every class one too high."""
    ids, tries = correct(samples, items - 1, seed, unique)
    return ids + 1, tries


def wrong_tries(samples: int, items: int, seed: int, unique: bool) -> tuple[Tensor, int]:
    """Draw right, but claim 2 S tries."""
    return correct(samples, items, seed, unique)[0], 2 * samples


def same_stream(samples: int, items: int, seed: int, unique: bool) -> tuple[Tensor, int]:
    """Give consecutive seeds one result."""
    return correct(samples, items, seed // 2, unique)


def _edges(items: int, buckets: int) -> Tensor:
    edges = torch.logspace(0, math.log10(items + 1), buckets + 1, dtype=torch.float64).round() - 1
    return edges.to(torch.int64).unique()


def goodness_of_fit(sampler: Sampler, items: int, samples: int) -> float:
    """Chi-square over log-spaced buckets of draws with repetition, as a normal deviate."""
    ids, _ = sampler(samples, items, 1, False)
    edges = _edges(items, 24)
    share = torch.log1p(edges.double()).diff() / math.log1p(items)
    counts = torch.histogram(ids.double(), edges.double() - 0.5)[0]
    expected = share * samples
    assert expected.min() > 10
    chi2 = ((counts - expected) ** 2 / expected).sum().item()
    freedom = len(share) - 1
    # Wilson & Hilferty (1931): the cube root of a chi-square is nearly normal
    spread = 2 / (9 * freedom)
    return ((chi2 / freedom) ** (1 / 3) - (1 - spread)) / math.sqrt(spread)


def inclusion(sampler: Sampler, items: int, samples: int, repeats: int) -> float:
    """Largest deviation, over buckets of items, of inclusion counts from the claimed q(M).

    The stopping rule makes M depend on the draw: given M, the last draw is a new item for
    certain, so q(M) is off by a relative 1 / S or so in each bucket. ``samples`` must be large
    enough for that to vanish in the noise of ``repeats``.
    """
    edges = _edges(items, 12)
    bucket = torch.bucketize(torch.arange(items), edges, right=True) - 1
    residuals = torch.zeros(repeats, len(edges) - 1, dtype=torch.float64)
    every = torch.arange(items)
    for r in range(repeats):
        ids, tries = sampler(samples, items, r, True)
        q = functional.log_uniform_log_q(every, items, num_tries=tries).double().exp()
        residual = -q
        residual[ids] += 1.0
        residuals[r].index_add_(0, bucket, residual)
    error = residuals.std(0) / math.sqrt(repeats)
    return (residuals.mean(0) / error.clamp(min=1e-3)).abs().max().item()


def off_grid_share(sampler: Sampler, items: int, samples: int) -> float:
    """Deviation of the share of tail ids that no 24-bit uniform reaches."""
    tail = items - items // 100
    low = math.log(tail + 1) / math.log1p(items)
    grid = torch.arange(int(low * 2**24), 2**24, dtype=torch.float64) / 2**24
    reachable = torch.zeros(items - tail, dtype=torch.bool)
    on_grid = reference.log_uniform_classes(grid, items) - tail
    reachable[on_grid[on_grid >= 0]] = True
    ids, _ = sampler(samples, items, 2, False)
    found = ids[ids >= tail] - tail
    expected = 1 - reachable.double().mean().item()
    assert len(found) > 100
    share = (~reachable[found]).double().mean().item()
    return (share - expected) / math.sqrt(expected * (1 - expected) / len(found))


def exact_mean_tries(items: int, samples: int) -> float:
    """Return E[M] by summing over all sets of distinct ids found so far."""
    p = [math.log1p(1 / (c + 1)) / math.log1p(items) for c in range(items)]
    chance = {frozenset[int](): 1.0}
    mean = 0.0
    for size in range(samples):
        after: dict[frozenset[int], float] = {}
        for found, weight in chance.items():
            new = 1 - sum(p[i] for i in found)
            mean += weight / new  # a geometric number of draws until a new item
            for i in set(range(items)) - found:
                key = found | {i}
                after[key] = after.get(key, 0.0) + weight * p[i] / new
        assert len(after) == len(list(combinations(range(items), size + 1)))
        chance = after
    return mean


def mean_tries(sampler: Sampler, items: int, samples: int, repeats: int) -> float:
    """Deviation of the mean of M from its exact expectation."""
    tries = torch.tensor(
        [sampler(samples, items, r, True)[1] for r in range(repeats)], dtype=torch.float64
    )
    error = tries.std().clamp(min=1e-3) / math.sqrt(repeats)
    return ((tries.mean() - exact_mean_tries(items, samples)) / error).item()


def overlap(sampler: Sampler, items: int, samples: int, repeats: int) -> float:
    """Deviation of what consecutive seeds share from what independent draws would share."""
    every = torch.arange(items)
    residuals = []
    for r in range(repeats):
        (a, m_a), (b, m_b) = (sampler(samples, items, seed, True) for seed in (2 * r, 2 * r + 1))
        q_a, q_b = (
            functional.log_uniform_log_q(every, items, num_tries=m).double().exp()
            for m in (m_a, m_b)
        )
        residuals.append(len(set(a.tolist()) & set(b.tolist())) - (q_a * q_b).sum().item())
    values = torch.tensor(residuals, dtype=torch.float64)
    return (values.mean() / (values.std() / math.sqrt(repeats))).item()
