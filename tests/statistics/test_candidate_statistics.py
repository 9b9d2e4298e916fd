"""Every sampler's log q is that of what it draws, and each check fails on a planted fault."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import candidate_checks as checks
import pytest
import torch
from candidate_checks import Source, candidates_of
from sampler_checks import LIMIT

from transformers4rec_ext.samplers import InBatchSampler

SAMPLERS: dict[str, Callable[[], Any]] = {
    "uniform": lambda: checks.uniform(True),
    "uniform, most of the range": lambda: checks.uniform(True, 450),
    "uniform, with repetitions": lambda: checks.uniform(False),
    "popularity": lambda: checks.by_popularity(1.0, True),
    "popularity, root": lambda: checks.by_popularity(0.5, True),
    "popularity, with repetitions": lambda: checks.by_popularity(1.0, False),
    "in batch": lambda: InBatchSampler(checks.COUNTS, checks.MIN_ID),
    "mixed": lambda: checks.mixed(True),
    "mixed, with repetitions": lambda: checks.mixed(False),
}
FAULTS: dict[str, Source] = {
    "two tries a sample": checks.two_tries_a_sample,
    "power left out": checks.power_left_out,
    "without the coin": checks.without_the_coin,
    "modulo bias": checks.modulo_bias,
    "as if repeated": checks.changed(checks.uniform(True, 450), checks.as_if_repeated),
    "duplicates stay": checks.duplicates_stay,
    "all rows alike": checks.all_rows_alike,
    "own row counted": checks.own_row_counted,
    "own source only": checks.own_source_only,
    "sum of a union": checks.sum_of_a_union,
    "no padding": checks.changed(checks.mixed(True), lambda ids, q: (ids[:-9], q[:-9])),
}
# In these the candidates depend on the targets, so all items cannot be the targets.
OF_THE_BATCH = {"in batch", "mixed", "mixed, with repetitions"}


@pytest.mark.parametrize("name", SAMPLERS)
def test_the_weighted_candidates_stand_for_all_items(name: str) -> None:
    assert checks.estimates_the_sum(candidates_of(SAMPLERS[name]())) < LIMIT


def test_a_small_batch_leaves_the_rows_own_target_out() -> None:
    sampler = InBatchSampler(checks.COUNTS, checks.MIN_ID)
    assert checks.estimates_the_sum(candidates_of(sampler, rows=4), 4000) < LIMIT


@pytest.mark.parametrize("name", FAULTS)
def test_a_planted_fault_is_noticed(name: str) -> None:
    repeats = 4000 if name == "own row counted" else 800
    assert checks.estimates_the_sum(FAULTS[name], repeats) > LIMIT


@pytest.mark.parametrize("name", sorted(SAMPLERS.keys() - OF_THE_BATCH))
def test_the_targets_log_q_is_that_of_the_draws(name: str) -> None:
    assert checks.targets_agree(SAMPLERS[name]()) < LIMIT


def test_targets_with_the_log_q_of_another_law_are_noticed() -> None:
    sampler, other = checks.by_popularity(1.0, True), checks.by_popularity(0.5, True)
    sampler.log_q = other.log_q
    assert checks.targets_agree(sampler) > LIMIT


@pytest.mark.parametrize("name", SAMPLERS)
def test_candidates_and_targets_have_one_log_q(name: str) -> None:
    sampler = SAMPLERS[name]()
    drawn, _ = sampler.draw(checks.EVERY[:50], checks.generator(1))
    ids, log_q = (t[: int(drawn.count)] for t in (drawn.ids, drawn.log_q))
    if name in OF_THE_BATCH:
        # the same draw again, with the targets that were drawn
        _, of_targets = sampler.draw(checks.EVERY[:50], checks.generator(1))
        found = dict(zip(checks.EVERY[:50].tolist(), of_targets.tolist(), strict=True))
        wanted = dict(zip(ids.tolist(), log_q.tolist(), strict=True))
        common = found.keys() & wanted.keys()
        assert len(common) >= 50
        assert all(abs(found[i] - wanted[i]) < 1e-6 for i in common)
    else:
        torch.testing.assert_close(sampler.log_q(ids, drawn), log_q)
