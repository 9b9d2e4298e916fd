"""How wrong a score of a GEMM may be, so that ranks do not depend on its rounding."""

from __future__ import annotations

import pytest
import torch

from transformers4rec_ext.functional import target_rank

OPS = torch.ops.transformers4rec_ext


@pytest.mark.parametrize("backend", ["fused", "reference"])
@pytest.mark.parametrize(
    ("hidden_size", "weight_size", "dtype"),
    [
        (1, 1e-24, torch.float32),
        (1e-21, 1e-21, torch.float32),
        (1e-24, 1, torch.float32),
        (1, 1e-170, torch.float64),
        (1e-170, 1, torch.float64),
        (1e-170, 1e-100, torch.float64),
        (1e-200, 1e100, torch.float64),
    ],
)
def test_a_collapsed_model_of_numbers_too_small_to_square_ranks_last(
    hidden_size: float, weight_size: float, dtype: torch.dtype, backend: str
) -> None:
    """The squares of its rows are 0, or its products are."""
    weight = torch.randn(1, 64, dtype=torch.float64)
    hidden = torch.randn(37, 64, dtype=torch.float64)
    hidden -= hidden @ weight.T / weight.square().sum() * weight  # scores cancel
    hidden, weight = (hidden * hidden_size).to(dtype), (weight * weight_size).to(dtype)
    targets = torch.randint(3001, (37,))
    ranks = target_rank(hidden, weight.repeat(3001, 1), targets, backend=backend)
    assert ranks.tolist() == [3000] * 37


@pytest.mark.usefixtures("keep_threads")
@pytest.mark.parametrize("threads", [1, 2, 5])
@pytest.mark.parametrize("place", [0, 333, 1000, 2999])
@pytest.mark.parametrize(("gap", "counted"), [(0.05, 1), (0.09, 0)])
def test_the_error_of_a_tile_is_that_of_its_longest_row(
    place: int, threads: int, gap: float, counted: int
) -> None:
    """Which thread meets it does not matter: a score that is too low by less still counts."""
    torch.set_num_threads(threads)
    hidden, weight = torch.zeros(1, 64), torch.zeros(3000, 64)
    hidden[0, 0] = weight[500, 0] = 1  # an item as good as the target
    weight[place, 1] = 1e4  # its score may be wrong by 2 (64 + 4) 2^-24 1e4 = 0.081
    target, norm = torch.ones(1, dtype=torch.float64), torch.ones(1, dtype=torch.float64)
    above, nan = torch.zeros(2, 1, dtype=torch.int64)
    scores = hidden @ weight.T
    scores[0, 500] -= gap
    OPS.rank_tile(scores, hidden, weight, None, target, norm, above, nan)
    assert above.tolist() == [counted]
