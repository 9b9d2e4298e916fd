"""What the samplers by range, by counts, of the batch and of several refuse, and how."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from transformers4rec_ext.samplers import (
    InBatchSampler,
    LogUniformSampler,
    MixedSampler,
    PopularitySampler,
    UniformSampler,
)

COUNTS = torch.tensor([9, 4, 0, 1, 5, 0, 2, 8, 3, 7])


def samplers() -> dict[str, Any]:
    """Return one of each, over ids 1 to 9."""
    uniform, in_batch = UniformSampler(4, max_id=10, min_id=1), InBatchSampler(COUNTS, min_id=1)
    return {
        "uniform": uniform,
        "popularity": PopularitySampler(4, COUNTS, min_id=1),
        "in batch": in_batch,
        "mixed": MixedSampler([uniform, in_batch]),
    }


@pytest.mark.parametrize(
    ("make", "error", "text"),
    [
        (lambda: UniformSampler(0, 10), ValueError, "max_n_samples must be at least 1; got 0"),
        (lambda: UniformSampler(2.5, 10), TypeError, "max_n_samples must be an int; got float"),
        (lambda: UniformSampler(1, 0), ValueError, "max_id must be at least 1; got 0"),
        (lambda: UniformSampler(1, 5, 5), ValueError, "max_id must exceed min_id=5; got 5"),
        (lambda: UniformSampler(1, 2**53 + 1), ValueError, r"max_id must be at most 2\^53"),
        (lambda: UniformSampler(1, 5, -1), ValueError, "min_id must be at least 0; got -1"),
        (lambda: UniformSampler(1, 5, 0, 1), TypeError, "unique_sampling must be a bool; got int"),
        (lambda: UniformSampler(1, 5, seed="x"), TypeError, "seed must be an int or None; got str"),
        (lambda: PopularitySampler(0, COUNTS), ValueError, "max_n_samples must be at least 1"),
        (lambda: PopularitySampler(2, [1, 2]), TypeError, "counts must be a Tensor; got list"),
        (lambda: PopularitySampler(2, COUNTS > 0), TypeError, "counts must be integer or floating"),
        (lambda: PopularitySampler(2, COUNTS[None]), ValueError, r"counts must be \[V\]"),
        (lambda: PopularitySampler(2, -COUNTS), ValueError, "values from -9.0 to 0.0"),
        (lambda: PopularitySampler(2, COUNTS * 0), ValueError, "not all 0 from min_id on"),
        (lambda: PopularitySampler(2, COUNTS / 0), ValueError, "counts must be finite"),
        (lambda: PopularitySampler(2, COUNTS, 10), ValueError, "length of counts must exceed min_"),
        (lambda: PopularitySampler(2, COUNTS[:0]), ValueError, "length of counts must be at least"),
        (
            lambda: PopularitySampler(2, COUNTS, power=-1),
            ValueError,
            "power must be finite and at",
        ),
        (lambda: PopularitySampler(2, COUNTS, power="1"), TypeError, "power must be a number"),
        (lambda: InBatchSampler([1]), TypeError, "InBatchSampler: counts must be a Tensor"),
        (lambda: MixedSampler([]), ValueError, "samplers must hold at least one sampler"),
        (lambda: MixedSampler([object()]), TypeError, r"samplers must have draw\(targets, gen"),
        (lambda: MixedSampler([samplers()["mixed"]]), TypeError, "give the sources instead"),
        (
            lambda: MixedSampler([UniformSampler(1, 5), LogUniformSampler(1, 6)]),
            ValueError,
            r"samplers must share one range of ids; got \[\(0, 5\), \(0, 6\)\]",
        ),
        (
            lambda: MixedSampler([UniformSampler(1, 5, seed=1), LogUniformSampler(1, 5, seed=1)]),
            ValueError,
            r"samplers must have different seeds; got \[1, 1\]",
        ),
        (lambda: MixedSampler([UniformSampler(1, 5)], seed=1.0), TypeError, "seed must be an int"),
    ],
)
def test_constructors_refuse(make: Any, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        make()


@pytest.mark.parametrize("name", samplers())
@pytest.mark.parametrize(
    ("targets", "error", "text"),
    [
        ([1], TypeError, "draw: targets must be a Tensor; got list"),
        (torch.tensor([1.0]), TypeError, "draw: targets must be int64; got float32"),
        (torch.tensor([1, 10]), ValueError, r"draw: targets must lie in \[1, 10\); got 10"),
        (torch.tensor([0]), ValueError, r"draw: targets must lie in \[1, 10\); got 0"),
    ],
)
def test_draws_refuse(name: str, targets: Any, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        samplers()[name].draw(targets)


@pytest.mark.parametrize("name", ["uniform", "popularity", "mixed"])
def test_a_generator_is_one(name: str) -> None:
    with pytest.raises(TypeError, match=r"generator must be a torch\.Generator or None; got int"):
        samplers()[name].draw(torch.tensor([1]), 5)
