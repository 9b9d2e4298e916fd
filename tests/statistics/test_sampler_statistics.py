"""The sampler follows its law, and each check fails on a planted fault."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import sampler_checks as checks
from sampler_checks import LIMIT, Sampler

CHECKS: dict[str, Callable[[Sampler], float]] = {
    "goodness of fit, 10k": lambda s: checks.goodness_of_fit(s, 10_000, 200_000),
    "goodness of fit, 10M": lambda s: checks.goodness_of_fit(s, 10_000_000, 200_000),
    "goodness of fit, 1G": lambda s: checks.goodness_of_fit(s, 10**9, 200_000),
    "inclusion": lambda s: checks.inclusion(s, 20_000, 200, 1000),
    "tail": lambda s: checks.off_grid_share(s, 10_000_000, 300_000),
    "mean tries": lambda s: checks.mean_tries(s, 6, 4, 5000),
    "overlap of seeds": lambda s: checks.overlap(s, 2000, 100, 300),
}
FAULTS = [
    ("goodness of fit, 10k", checks.cut_lowest),
    ("goodness of fit, 10k", checks.modulo_uniforms),
    ("goodness of fit, 10k", checks.off_by_one),
    ("goodness of fit, 10M", checks.modulo_uniforms),
    ("inclusion", checks.cut_lowest),
    ("inclusion", checks.wrong_tries),
    ("inclusion", checks.modulo_uniforms),
    ("inclusion", checks.off_by_one),
    ("tail", checks.coarse_uniforms),
    ("mean tries", checks.wrong_tries),
    ("mean tries", checks.modulo_uniforms),
    ("overlap of seeds", checks.same_stream),
]


@pytest.mark.parametrize("name", CHECKS)
def test_the_sampler_follows_its_law(name: str) -> None:
    assert abs(CHECKS[name](checks.correct)) < LIMIT


@pytest.mark.parametrize(("name", "fault"), FAULTS, ids=lambda x: getattr(x, "__name__", x))
def test_a_planted_fault_is_noticed(name: str, fault: Sampler) -> None:
    assert abs(CHECKS[name](fault)) > LIMIT


def test_every_check_notices_some_fault() -> None:
    assert {name for name, _ in FAULTS} | {"goodness of fit, 1G"} == set(CHECKS)
