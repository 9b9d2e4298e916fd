"""Checks of any candidate sampler's log q, and planted faults that they must notice.

`sampler_checks.LIMIT` bounds the standardised deviations here too.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from transformers4rec_ext.samplers import (
    InBatchSampler,
    MixedSampler,
    PopularitySampler,
    UniformSampler,
)

V, MIN_ID = 601, 1
EVERY = torch.arange(MIN_ID, V)
# far from sorted, and a factor of 30 between the rarest and the commonest
COUNTS = (3000.0 / (torch.arange(V) % 100 + 3)).round()
FIRST = 250  # the target of row 0 of a batch
Drawn = tuple[Tensor, Tensor]  # ids and log q
Source = Callable[[int], Drawn]  # of a seed


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def batch(rows: int, seed: int) -> Tensor:
    """Return targets: row 0's is fixed, the others are drawn by popularity."""
    p = COUNTS.clone()
    p[:MIN_ID] = 0
    others = torch.multinomial(p, rows - 1, replacement=True, generator=generator(seed + 10**6))
    return torch.cat([torch.tensor([FIRST]), others])


def candidates_of(sampler: Any, rows: int = 24) -> Source:
    """Return what a sampler draws for a batch, without padding."""

    def draw(seed: int) -> Drawn:
        drawn, _ = sampler.draw(batch(rows, seed), generator(seed))
        count = int(drawn.count)
        assert (drawn.log_q[count:] == math.inf).all()
        return drawn.ids[:count], drawn.log_q[:count]

    return draw


def _buckets(ids: Tensor, values: Tensor) -> Tensor:
    """Add up ``values`` of items in 20 buckets of similar popularity, and in 20 of near ids."""
    sums = torch.zeros(40, dtype=torch.float64)
    sums.index_add_(0, ids % 100 // 5, values.double())
    return sums.index_add_(0, 20 + (ids - MIN_ID) // 30, values.double())


def estimates_the_sum(source: Source, repeats: int = 800) -> float:
    """Largest deviation of the mean of ``sum_j 1 / q_j`` over a bucket's candidates from its size.

    That is what q is for: the sum over candidates, weighted so, stands for the sum over all
    items. Row 0's own target is left out, as the loss leaves out hits.
    """
    estimates = torch.empty(repeats, 40, dtype=torch.float64)
    for r in range(repeats):
        ids, log_q = source(r)
        weights = log_q.double().neg().exp()
        estimates[r] = _buckets(ids, weights * (ids != FIRST))
    sizes = _buckets(EVERY, EVERY != FIRST)
    error = estimates.std(0).clamp(min=1e-6) / math.sqrt(repeats)
    return ((estimates.mean(0) - sizes) / error).abs().max().item()


def targets_agree(sampler: Any, repeats: int = 800) -> float:
    """Largest deviation of the mean of (count - q) in a bucket from 0, with q as told of targets.

    All items are the targets, so that every one's q is seen, drawn or not.
    """
    residuals = torch.empty(repeats, 40, dtype=torch.float64)
    for r in range(repeats):
        drawn, log_q = sampler.draw(EVERY, generator(r))
        ids = drawn.ids[: int(drawn.count)]
        residuals[r] = _buckets(ids, torch.ones(len(ids)))
        residuals[r] -= _buckets(EVERY, log_q.double().exp())
    error = residuals.std(0).clamp(min=1e-3) / math.sqrt(repeats)
    return (residuals.mean(0) / error).abs().max().item()


def by_popularity(power: float, unique: bool) -> PopularitySampler:
    return PopularitySampler(100, COUNTS, MIN_ID, power, unique)


def uniform(unique: bool, samples: int = 60) -> UniformSampler:
    return UniformSampler(samples, V, MIN_ID, unique)


def mixed(unique: bool) -> MixedSampler:
    return MixedSampler([uniform(unique), InBatchSampler(COUNTS, MIN_ID), by_popularity(0.5, True)])


# Planted faults: each is a sampler as a careless hand would write it.


def changed(sampler: Any, change: Callable[[Tensor, Tensor], Drawn]) -> Source:
    """Return what ``sampler`` draws, changed."""
    source = candidates_of(sampler)
    return lambda seed: change(*source(seed))


def two_tries_a_sample(seed: int) -> Drawn:
    """Draw distinct ids by popularity, but claim 2 S tries."""
    sampler = by_popularity(1.0, True)
    drawn, _ = sampler.draw(EVERY[:1], generator(seed))
    wrong = drawn._replace(num_tries=torch.tensor(200))
    return drawn.ids, sampler.log_q(drawn.ids, wrong)


def power_left_out(seed: int) -> Drawn:
    """Draw by the root of the counts, but claim the counts."""
    drawn, _ = by_popularity(0.5, True).draw(EVERY[:1], generator(seed))
    return drawn.ids, by_popularity(1.0, True).log_q(drawn.ids, drawn)


def without_the_coin(seed: int) -> Drawn:
    """Take every bucket of the alias table for its own class."""
    sampler = by_popularity(1.0, False)
    drawn, _ = sampler.draw(EVERY[:1], generator(seed))
    ids = torch.randint(MIN_ID, V, (100,), generator=generator(seed))
    return ids, sampler.log_q(ids, drawn)


def modulo_bias(seed: int) -> Drawn:
    """Reduce 10 random bits by a modulus that does not divide 2^10."""
    ids = torch.randint(2**10, (60,), generator=generator(seed)) % (V - MIN_ID) + MIN_ID
    return ids, torch.full((60,), math.log(60 / (V - MIN_ID)))


def as_if_repeated(ids: Tensor, log_q: Tensor) -> Drawn:
    """Draw a simple random sample, but claim the q of S tries."""
    q = -math.expm1(len(ids) * math.log1p(-1 / (V - MIN_ID)))
    return ids, torch.full_like(log_q, math.log(q))


def duplicates_stay(seed: int) -> Drawn:
    """Take the batch as it is, with the q of merged candidates."""
    sampler = InBatchSampler(COUNTS, MIN_ID)
    ids = batch(24, seed)[1:]
    _, log_q = sampler.draw(ids, None)
    return torch.cat([ids, ids[:1]]), torch.cat([log_q, log_q[:1]])


def all_rows_alike(seed: int) -> Drawn:
    """Forget that items differ in popularity."""
    ids, log_q = candidates_of(InBatchSampler(COUNTS, MIN_ID))(seed)
    return ids, torch.full_like(log_q, math.log(23 / (V - MIN_ID)))


def own_row_counted(seed: int) -> Drawn:
    """Take row 0's own target for one of the draws, in a small batch."""
    sampler = InBatchSampler(COUNTS, MIN_ID)
    drawn, _ = sampler.draw(batch(4, seed))
    ids = drawn.ids[: int(drawn.count)]
    return ids, sampler.log_q(ids, drawn._replace(num_tries=torch.tensor(4)))


def own_source_only(seed: int) -> Drawn:
    """Concatenate sources, every candidate with the q of where it came from."""
    parts = [candidates_of(s)(seed) for s in (uniform(True), by_popularity(0.5, True))]
    return torch.cat([ids for ids, _ in parts]), torch.cat([log_q for _, log_q in parts])


def sum_of_a_union(seed: int) -> Drawn:
    """Merge duplicates, but add the probabilities."""
    sources = [uniform(True, 300), by_popularity(0.5, True)]
    drawn, _ = MixedSampler(sources).draw(EVERY, generator(seed))
    ids = drawn.ids[: int(drawn.count)]
    parts = [s.draw(ids, generator(seed))[1] for s in sources]
    return ids, torch.stack(parts).logsumexp(0)
