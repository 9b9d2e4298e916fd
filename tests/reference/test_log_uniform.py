"""The reference sampler against Python integers, enumeration and 60-digit arithmetic."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import permutations
from typing import Any

import mpmath
import pytest
import torch
from torch import Tensor

from transformers4rec_ext import functional
from transformers4rec_ext.ops import reference

MASK = 2**64 - 1


def splitmix64(seed: int, index: int) -> int:
    """Return the index-th output of the generator, in Python integers."""
    x = (seed + (index + 1) * 0x9E3779B97F4A7C15) & MASK
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & MASK
    return x ^ (x >> 31)


def test_splitmix64_published_value() -> None:
    assert splitmix64(1234567, 0) == 6457827717110365317  # from its author's C program


@pytest.mark.parametrize("seed", [0, 1, 1234567, 2**62 + 12345, 2**63 - 1])
def test_uniforms(seed: int) -> None:
    found = reference.uniforms(torch.tensor(seed), 3, 100)
    wanted = [(splitmix64(seed, i) >> 11) * 2.0**-53 for i in range(3, 103)]
    assert found.dtype == torch.float64
    assert found.tolist() == wanted


@pytest.mark.parametrize("classes", [1, 2, 10, 3706, 10**6, 10**9, 2**52])
def test_inverse_cdf(classes: int) -> None:
    u = torch.cat(
        [
            reference.uniforms(torch.tensor(5), 0, 2000),
            torch.tensor([0.0, 2.0**-53, 1 - 2.0**-53], dtype=torch.float64),
        ]
    )
    found = reference.log_uniform_classes(u, classes)
    assert found.min() >= 0
    assert found.max() < classes
    for value, c in zip(u.tolist(), found.tolist(), strict=True):
        x = value * math.log1p(classes)
        exact = mpmath.expm1(mpmath.mpf(x))
        at_an_edge = abs(exact - mpmath.nint(exact)) < 1e-14 * (1 + exact)
        assert at_an_edge or c == min(int(mpmath.floor(exact)), classes - 1)


def exact_log_q(c: int, classes: int, tries: int, unique: bool) -> float:
    """Return log q in 50 digits, rounded once."""
    with mpmath.workdps(50):
        p = mpmath.log1p(mpmath.mpf(1) / (c + 1)) / mpmath.log1p(classes)
        if not unique:
            return float(mpmath.log(p * tries))
        if p == 1:
            return 0.0
        return float(mpmath.log(-mpmath.expm1(tries * mpmath.log1p(-p))))


@pytest.mark.parametrize("unique", [True, False])
@pytest.mark.parametrize("backend", ["reference", "fused"])
@pytest.mark.parametrize("items", [1, 2, 3, 5, 3706, 10**6, 10**9])
@pytest.mark.parametrize("tries", [1, 3, 1437, 10**6])
def test_log_q_is_exact_to_float32(items: int, tries: int, backend: str, unique: bool) -> None:
    ids = sorted({0, items // 3, items // 2, items - 1})
    found = functional.log_uniform_log_q(
        torch.tensor(ids), items, num_tries=tries, unique=unique, backend=backend
    )
    wanted = torch.tensor([exact_log_q(c, items, tries, unique) for c in ids], dtype=torch.float64)
    # one rounding to float32, and a float64 error that may turn a tie
    torch.testing.assert_close(found.double(), wanted, rtol=6.1e-8, atol=1e-15)


@pytest.mark.parametrize("unique", [True, False])
def test_an_id_that_the_law_does_not_know_has_no_log_q(unique: bool) -> None:
    ids = torch.tensor([1, 9, 0, -1, -7, 10, 2**60, -(2**63), 2**63 - 1])
    found = reference.log_uniform_log_q(ids, torch.tensor(7), 10, 1, unique)
    assert found[:2].isfinite().all()
    assert found[2:].isnan().all()


def test_parity_with_recorded_truth(
    parity: Callable[[str], tuple[dict[str, Any], dict[str, Tensor]]],
) -> None:
    meta, tensors = parity("sampler")
    cases = [name for name in meta["cases"] if name.startswith("exact/")]
    assert len(cases) > 5
    for name in cases:
        case = meta["cases"][name]
        ids = tensors[f"{name}/ids"]
        items, min_id, tries = (case[key] for key in ("max_id", "min_id", "n_tries"))
        for backend in ("reference", "fused"):
            found = functional.log_uniform_log_q(
                ids, items, min_id=min_id, num_tries=tries, backend=backend
            )
            wanted = tensors[f"{name}/log_q_unique"].double()
            torch.testing.assert_close(found.double(), wanted, rtol=1.2e-7, atol=1e-12)


@pytest.mark.parametrize(("samples", "items", "min_id"), [(1, 2, 0), (3, 10, 1), (50, 1000, 0)])
def test_unique_draws_by_a_plain_loop(samples: int, items: int, min_id: int) -> None:
    for seed in range(20):
        ids, _, tries, count = reference.log_uniform_sample(
            torch.tensor(seed), samples, items, min_id, True
        )
        found: list[int] = []
        draws = 0
        while len(found) < samples:
            u = reference.uniforms(torch.tensor(seed), draws, 1)
            c = int(reference.log_uniform_classes(u, items - min_id)) + min_id
            draws += 1
            if c not in found:
                found.append(c)
        assert ids.tolist() == found
        assert int(tries) == draws
        assert int(count) == samples


@pytest.mark.parametrize(("samples", "items"), [(1, 3), (2, 4), (3, 5)])
def test_set_probabilities_by_enumeration(samples: int, items: int) -> None:
    p = [math.log1p(1 / (c + 1)) / math.log1p(items) for c in range(items)]
    exact: dict[frozenset[int], float] = {}
    for order in permutations(range(items), samples):
        chance, left = 1.0, 1.0
        for i in order:
            chance *= p[i] / left
            left -= p[i]
        exact[frozenset(order)] = exact.get(frozenset(order), 0.0) + chance
    assert sum(exact.values()) == pytest.approx(1.0)
    repeats = 6000
    counts = dict.fromkeys(exact, 0)
    for seed in range(repeats):
        ids, *_ = reference.log_uniform_sample(torch.tensor(seed), samples, items, 0, True)
        counts[frozenset(ids.tolist())] += 1
    for key, chance in exact.items():
        error = math.sqrt(repeats * chance * (1 - chance))
        assert abs(counts[key] - repeats * chance) < 6.6 * error
