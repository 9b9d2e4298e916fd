"""Alias tables and uniform draws against their definitions, one number at a time."""

from __future__ import annotations

import math
from itertools import combinations

import mpmath
import pytest
import torch
from test_log_uniform import splitmix64
from torch import Tensor

from transformers4rec_ext import functional
from transformers4rec_ext.functional.weighted import reachable
from transformers4rec_ext.ops import reference
from transformers4rec_ext.ops.reference import alias, uniform


def law_of(threshold: Tensor, aliases: Tensor) -> Tensor:
    """Return the probabilities that a table draws with."""
    p = threshold.double() / threshold.numel()
    return p.index_add(0, aliases.long(), (1 - threshold.double()) / threshold.numel())


@pytest.mark.parametrize("classes", [1, 2, 3, 7, 1000, 100_000])
@pytest.mark.parametrize("power", [0.0, 0.5, 1.0, 4.0])
@pytest.mark.parametrize("zeros", [0.0, 0.3, 0.99])
def test_a_table_draws_with_its_probabilities(classes: int, power: float, zeros: float) -> None:
    weights = torch.rand(classes, dtype=torch.float64) ** power
    weights[1:][torch.rand(classes - 1) < zeros] = 0
    p = weights / weights.sum()
    threshold, aliases = reference.alias_table(p)
    assert threshold.min() >= 0
    assert threshold.max() <= 1
    drawn = law_of(threshold, aliases)
    assert (drawn[p == 0] == 0).all()
    torch.testing.assert_close(drawn, p, rtol=1e-7, atol=0)
    # rounded to float32 and int32, as it is kept
    table = functional.alias_table(weights)
    kept = law_of(table.threshold, table.alias)
    assert (kept[p == 0] == 0).all()
    torch.testing.assert_close(kept, p, rtol=1e-6, atol=0)
    assert table.support == int((p > 0).sum())


def test_a_table_of_ten_million_weights() -> None:
    p = torch.arange(1, 10_000_001, dtype=torch.float64).reciprocal()
    p /= p.sum()
    table = functional.alias_table(p)
    torch.testing.assert_close(law_of(table.threshold, table.alias), p, rtol=1e-6, atol=0)


LAWS = {f"rank^-{power}": torch.arange(1, 2001).double() ** -power for power in (0, 1, 3, 8)}
# One head and a level tail: of all laws that in which most hangs on the tail's exact probability.
LAWS |= {
    f"tail of {mass}": torch.tensor([1 - mass] + [mass / 100_000] * 100_000, dtype=torch.float64)
    for mass in (0.00101, 0.001006)
}


@pytest.mark.parametrize("law", LAWS)
def test_what_is_within_reach_takes_its_tries(law: str) -> None:
    p = LAWS[law] / LAWS[law].sum()

    def found(size: int) -> float:
        """Return the distinct classes that 1000 S draws find on average."""
        return float(-(1000 * size * torch.log1p(-p)).expm1().sum())

    reach = reachable(p)
    assert found(int(0.98 * reach)) >= int(0.98 * reach) - 0.5
    assert reach == len(p) or found(int(1.02 * reach) + 1) < int(1.02 * reach) + 0.5
    assert (reach == len(p)) == (law in ("rank^-0", "rank^-1"))


def test_a_table_is_made_where_its_weights_are() -> None:
    with torch.device("meta"):
        table = functional.alias_table(torch.ones(5, device="cpu"))
    assert (table.threshold.device.type, table.reach) == ("cpu", 5)


@pytest.mark.parametrize("tail", [1e-30, 1e-12])
def test_what_nobody_would_wait_for_is_refused(tail: float) -> None:
    table = functional.alias_table(torch.tensor([1, tail, tail], dtype=torch.float64))
    assert (table.support, table.reach) == (3, 1)
    assert functional.weighted_sample(1, table).ids.tolist() == [0]
    assert functional.weighted_sample(3, table, unique=False).ids.tolist() == [0] * 3
    with pytest.raises(ValueError, match="weighted_sample: num_samples must be at most 1"):
        functional.weighted_sample(2, table)


def test_a_draw_reads_bucket_and_coin() -> None:
    threshold, aliases = torch.tensor([0.25, 1.0, 0.5]), torch.tensor([1, 1, 0], dtype=torch.int32)
    found = alias.alias_classes(torch.tensor(9), 4, 50, threshold, aliases)
    for i, c in enumerate(found.tolist(), start=4):
        u, coin = ((splitmix64(9, 2 * i + k) >> 11) * 2.0**-53 for k in (0, 1))
        bucket = int(3 * u)
        assert c == (bucket if coin < threshold[bucket] else int(aliases[bucket]))


@pytest.mark.parametrize("classes", [1, 3, 1000, 2**40, 3 * 2**51, 2**53 - 1, 2**53])
def test_uniform_classes(classes: int) -> None:
    found = uniform.uniform_classes(torch.tensor(11), 5, 300, classes)
    whole = 2**63 // classes * classes
    for i, c in enumerate(found.tolist(), start=5):
        x = splitmix64(11, i) & (2**63 - 1)
        assert c == (x % classes if x < whole else -1)


def test_a_rejected_draw_is_no_class() -> None:
    # so large a range that a fourth of the draws falls into the incomplete run
    classes = 3 * 2**61
    draws = uniform.uniform_classes(torch.tensor(1), 0, 4000, classes)
    assert (draws < 0).double().mean().item() == pytest.approx(0.25, abs=0.04)
    kept = [c for c in draws.tolist() if c >= 0]
    for unique in (True, False):
        ids, *_ = reference.uniform_sample(torch.tensor(1), 100, classes, 0, unique)
        assert ids.tolist() == kept[:100]
    native = torch.ops.transformers4rec_ext.uniform_sample(torch.tensor(1), 100, classes, 0, True)
    assert native[0].tolist() == kept[:100]


@pytest.mark.parametrize("samples", [1, 2, 3, 4])
def test_all_sets_are_equally_likely(samples: int) -> None:
    items, repeats = 5, 6000
    counts = dict.fromkeys(combinations(range(items), samples), 0)
    for seed in range(repeats):
        ids, *_ = reference.uniform_sample(torch.tensor(seed), samples, items, 0, True)
        counts[tuple(sorted(ids.tolist()))] += 1
    chance = 1 / len(counts)
    error = math.sqrt(repeats * chance * (1 - chance))
    assert all(abs(count - repeats * chance) < 6.6 * error for count in counts.values())


@pytest.mark.parametrize("backend", ["fused", "reference"])
@pytest.mark.parametrize("unique", [True, False])
@pytest.mark.parametrize("tries", [1, 2, 3, 50, 1437, 10**12])
def test_log_counts_of_likely_items_are_exact_to_float32(
    tries: int, unique: bool, backend: str
) -> None:
    p = torch.tensor([0.5, 0.5 + 2**-24, 0.51, 0.75, 0.999, 1 - 2**-24, 1.0])
    found = functional.log_expected_count(p, num_tries=tries, unique=unique, backend=backend)
    with mpmath.workdps(50):
        counts = [1 - (1 - mpmath.mpf(x)) ** tries if unique else x * tries for x in p.tolist()]
        wanted = torch.tensor([float(mpmath.log(count)) for count in counts], dtype=torch.float64)
    # one rounding to float32, and a float64 error that may turn a tie
    torch.testing.assert_close(found.double(), wanted, rtol=6.1e-8, atol=1e-15)
    assert not torch.signbit(found[found == 0]).any()


def test_what_is_no_probability_has_no_log_count() -> None:
    p = torch.tensor([0.0, -1e-30, -1.0, 1.5, math.inf, -math.inf, math.nan])
    for backend in ("fused", "reference"):
        found = functional.log_expected_count(p, num_tries=7, backend=backend)
        assert found[0] == -math.inf
        assert found[1:].isnan().all()
