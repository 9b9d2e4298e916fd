"""The arithmetic behind benchmarks/statistics.md, and what it says, on small cases."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks import bench_statistics, cases, plots
from transformers4rec_ext import functional

LIMIT = 6.6  # a correct sampler exceeds it with probability below 1e-10


def test_ranges_of_ranks() -> None:
    assert bench_statistics.edges(3416, 1) == [0, 10, 100, 1000, 3416]
    assert bench_statistics.edges(1000, 1) == [0, 10, 100, 1000]
    assert bench_statistics.edges(10, 3) == [0, 2, 5, 10]


def test_claims_are_the_sums_of_our_q() -> None:
    bounds = bench_statistics.edges(5000, 1)
    tries = [*range(150, 400, 7), 399]
    found = bench_statistics.claims_of_ours(5000, tries, bounds)
    assert found.shape == (len(tries), 4)
    for row, number in zip(found, tries, strict=True):
        q = functional.log_uniform_log_q(torch.arange(5000), 5000, num_tries=number).double().exp()
        sums = [float(part.sum()) for part in q.split([10, 90, 900, 4000])]
        np.testing.assert_allclose(row, sums, rtol=1e-5)


def test_a_single_number_of_tries_is_enough() -> None:
    found = bench_statistics.claims_of_ours(50, [7, 7], [0, 10, 50])
    np.testing.assert_array_equal(found[0], found[1])


@pytest.mark.parametrize("bias", [0.0, 0.3])
def test_the_noise_is_taken_out_of_the_bias(bias: float) -> None:
    """100 numbers with noise of standard deviation 0.5 in each group's mean, 50 times."""
    generator = torch.Generator().manual_seed(0)
    full = torch.full((100,), 2.0, dtype=torch.float64)
    sizes, errors = [], []
    for _ in range(50):
        noise = torch.randn(20, 100, generator=generator, dtype=torch.float64) / 2
        result = bench_statistics._relative(full * (1 + bias) + noise, full)
        sizes.append(result["size"])
        errors.append(result["error"])
    if bias:
        assert np.mean(sizes) == pytest.approx(bias, abs=LIMIT * np.std(sizes) / math.sqrt(50))
        assert np.mean(errors) == pytest.approx(np.std(sizes), rel=0.5)
    else:
        # the plain norm of the mean would be 0.5 / sqrt(20) / 2 = 0.056
        assert np.mean(sizes) < 0.03


def test_ours_is_drawn_as_claimed_and_upstreams_tail_is_not() -> None:
    case = cases.StatisticsCase(items=3416, samples=100, draws=2000)
    counted = bench_statistics.inclusion(case, bench_statistics.edges(case.items, 1))
    assert counted["ranks"] == [[1, 10], [11, 100], [101, 1000], [1001, 3416]]
    ours, theirs = ({k: np.array(v) for k, v in counted[w].items()} for w in ("ours", "upstream"))
    assert ours["found"].sum() == pytest.approx(100, abs=1e-3)
    # given the number of tries the claim is off by a part in S or so
    tolerance = LIMIT * ours["error"] + 0.02 * ours["claimed"]
    assert (np.abs(ours["found"] - ours["claimed"]) < tolerance).all()
    assert theirs["found"][-1] < 0.2 * theirs["claimed"][-1]
    assert counted["upstream_largest_rank"] < case.items


def test_float32_differences_lose_the_law() -> None:
    errors = bench_statistics.probabilities(1_000_000)
    assert errors["worst"] > 0.5
    assert errors["ours_worst"] < 1e-6


def test_the_gradient_of_ours_is_nearer_to_the_full_one() -> None:
    case = cases.StatisticsCase(items=1000, samples=50, draws=400)
    bias = bench_statistics.gradient_bias(case, rows=16, width=8)["bias"]
    hidden = {name: value["hidden"] for name, value in bias.items()}
    assert hidden["upstream"]["size"] > 3 * hidden["ours"]["size"]
    corrected = hidden["ours, corrected"]
    assert corrected["size"] + LIMIT * corrected["error"] < hidden["upstream"]["size"]


def test_the_picture_is_drawn_from_the_results(tmp_path: Path) -> None:
    plots.sampled_distribution(tmp_path / "drawn.png")
    content = (tmp_path / "drawn.png").read_bytes()
    assert content.startswith(b"\x89PNG")
    assert len(content) > 20_000
