"""Rank counting on CUDA, run on the CPU, against the CPU kernels and brute force."""

from __future__ import annotations

import math

import emulated
import pytest
import torch
from torch import Tensor

from transformers4rec_ext.ops.schemas import operators

CODES = {torch.float32: 0, torch.float64: 1}
every_dtype = pytest.mark.parametrize("dtype", CODES, ids=str)


class Case:
    """A tile of scores with what they were made of; several items repeat the target's row."""

    def __init__(
        self, rows: int, items: int, width: int, dtype: torch.dtype, bias: bool = False
    ) -> None:
        generator = torch.Generator().manual_seed(rows + 31 * items + 7 * width)
        self.hidden = torch.randn(rows, width, generator=generator, dtype=torch.float64).to(dtype)
        self.weight = torch.randn(items, width, generator=generator, dtype=torch.float64).to(dtype)
        self.weight[items // 2 :: 5] = self.weight[items // 3].clone()  # ties
        self.bias = None
        if bias:
            self.bias = torch.randn(items, generator=generator, dtype=torch.float64).to(dtype)
            self.bias[items // 2 :: 5] = self.bias[items // 3].clone()
        self.targets = torch.randint(0, items, (rows,), generator=generator)
        self.targets[: rows // 2] = items // 3
        self.scores = self.hidden @ self.weight.T
        self.update()

    def update(self) -> None:
        """Make the targets' scores and the norms anew."""
        rows = len(self.targets)
        self.target_scores = torch.empty(rows, 1, dtype=torch.float64)
        operators.pair_scores(
            self.hidden, self.weight, self.bias, self.targets[:, None], self.target_scores
        )
        self.target_scores = self.target_scores[:, 0].contiguous()
        self.norms = torch.linalg.vector_norm(self.hidden, dim=1, dtype=torch.float64)

    def on_cuda(self, run: emulated.Run) -> tuple[Tensor, Tensor]:
        above, nan = (torch.full_like(self.targets, start) for start in (3, 1))
        emulated.library("ranks", run).t4r_rank_tile_cuda(
            self.scores,
            self.scores.stride(0),
            *self.scores.shape,
            self.hidden,
            self.weight,
            self.weight.stride(0),
            self.weight.shape[1],
            self.bias,
            self.target_scores,
            self.norms,
            above,
            nan,
            torch.full((2,), -1),
            CODES[self.scores.dtype],
        )
        return above - 3, nan - 1

    def by_cpu(self) -> tuple[Tensor, Tensor]:
        above, nan = torch.zeros_like(self.targets), torch.zeros_like(self.targets)
        operators.rank_tile(
            self.scores,
            self.hidden,
            self.weight,
            self.bias,
            self.target_scores,
            self.norms,
            above,
            nan,
        )
        return above, nan

    def by_force(self) -> tuple[Tensor, Tensor]:
        """Count over the exact scores of all pairs."""
        rows, items = self.scores.shape
        exact = torch.empty(rows, items, dtype=torch.float64)
        ids = torch.arange(items).repeat(rows, 1)
        operators.pair_scores(self.hidden, self.weight, self.bias, ids, exact)
        lost = self.target_scores.isnan()
        above = (exact >= self.target_scores[:, None]).sum(1)
        return above, torch.where(lost, 1, exact.isnan().sum(1))

    def check(self, run: emulated.Run) -> tuple[Tensor, Tensor]:
        mine = self.on_cuda(run)
        for theirs in (self.by_cpu(), self.by_force()):
            assert torch.equal(mine[0], theirs[0])
            assert torch.equal(mine[1], theirs[1])
        return mine


@emulated.every_run
@every_dtype
@pytest.mark.parametrize("bias", [False, True])
def test_counts(run: emulated.Run, dtype: torch.dtype, bias: bool) -> None:
    above, _ = Case(5, 132, 17, dtype, bias).check(run)
    assert above[0] >= 13  # the target itself, and 13 items that tie


@pytest.mark.parametrize("items", [1, 2, 31, 33, 129, 1030, 4096])
def test_sizes(items: int) -> None:
    for run in (emulated.RUNS[2], emulated.RUNS[-1]):
        Case(3, items, 8, torch.float32).check(run)


@emulated.every_run
@every_dtype
@pytest.mark.parametrize("items", [129, 130, 131])
def test_rows_that_end_within_16_bytes(run: emulated.Run, dtype: torch.dtype, items: int) -> None:
    """A target of -inf has no score below it: all are in doubt, and none beyond the last is."""
    case = Case(4, items, 3, dtype, bias=True)
    case.bias[case.targets[-1]] = -math.inf
    case.scores = torch.nn.functional.pad(case.scores, (0, 132 - items))[:, :items]
    case.update()
    above, _ = case.check(run)
    assert above[-1] == items


@emulated.every_run
def test_rows_in_pieces(run: emulated.Run) -> None:
    """Long rows, few of them: of one a miss, counted once, and of one a NaN in its last piece."""
    case = Case(3, 8 * 1024 + 9, 2, torch.float32)
    case.hidden[0] = math.nan
    case.weight[-1] = math.nan
    case.scores = case.hidden @ case.weight.T
    case.update()
    above, nan = case.check(run)
    assert nan.tolist() == [1, 1, 1]
    assert above[1] > 1024


@pytest.mark.parametrize("width", [1, 7, 8, 9, 64])
def test_widths(width: int) -> None:
    Case(4, 70, width, torch.float32, bias=True).check(emulated.RUNS[-1])


def test_no_rows_and_no_items() -> None:
    Case(0, 8, 4, torch.float32).on_cuda(emulated.RUNS[-1])
    case = Case(3, 8, 4, torch.float32)
    case.scores, case.weight = case.scores[:, :0].contiguous(), case.weight[:0]
    above, nan = case.on_cuda(emulated.RUNS[-1])
    assert not above.any()
    assert not nan.any()


def test_every_score_in_doubt() -> None:
    """A collapsed table: all items tie with the target."""
    case = Case(3, 100, 16, torch.float32)
    case.weight[:] = case.weight[0].clone()
    case.scores = case.hidden @ case.weight.T
    case.update()
    above, _ = case.check(emulated.RUNS[-1])
    assert above.tolist() == [100] * 3


@pytest.mark.parametrize("size", [1e-24, 1e-30])
def test_a_collapsed_table_of_numbers_too_small_to_square(size: float) -> None:
    case = Case(5, 100, 64, torch.float32)
    row = torch.randn(64, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    away = case.hidden.double()
    case.hidden = (away - (away @ row)[:, None] * row / row.square().sum()).float()
    case.weight[:] = (row * size).float()
    noise = torch.rand(5, 100, generator=torch.Generator().manual_seed(2)) - 0.5
    case.scores = case.hidden @ case.weight.T + 1e-7 * size * noise  # another GEMM's rounding
    case.update()
    above, _ = case.check(emulated.RUNS[-1])
    assert above.tolist() == [100] * 5


def test_scores_that_the_gemm_rounded_the_wrong_way() -> None:
    """What decides is the exact score, not the tile's."""
    case = Case(4, 64, 32, torch.float32)
    exact = case.by_force()
    noise = torch.randn(case.scores.shape, generator=torch.Generator().manual_seed(0))
    case.scores = case.scores + 1e-6 * noise
    assert torch.equal(case.on_cuda(emulated.RUNS[-1])[0], exact[0])


@emulated.every_run
def test_nan_and_infinity(run: emulated.Run) -> None:
    case = Case(6, 40, 8, torch.float32)
    case.hidden[1, 3] = math.nan  # a row whose every score is NaN, its target's too
    case.weight[7, 2] = math.nan  # an item
    case.weight[9, 0] = math.inf
    case.weight[11, 1] = -math.inf
    case.targets[2] = 9
    case.scores = case.hidden @ case.weight.T
    case.update()
    _, nan = case.check(run)
    assert nan.tolist() == [1] * 6


@emulated.every_run
def test_strided_and_unaligned_scores(run: emulated.Run) -> None:
    case = Case(5, 64, 12, torch.float32)
    wide = torch.zeros(5, 71)
    case.scores = wide[:, 3:67].copy_(case.scores)
    padded = torch.zeros(64, 15)
    case.weight = padded[:, 1:13].copy_(case.weight)
    case.check(run)


@emulated.every_run
@every_dtype
@pytest.mark.parametrize("width", [1, 9, 64])
def test_pair_scores_have_the_cpus_bits(run: emulated.Run, dtype: torch.dtype, width: int) -> None:
    case = Case(7, 30, width, dtype, bias=True)
    ids = torch.randint(-1, 30, (7, 5), generator=torch.Generator().manual_seed(1))
    mine, theirs = (torch.empty(7, 5, dtype=torch.float64) for _ in range(2))
    emulated.library("ranks", run).t4r_pair_scores_cuda(
        case.hidden, case.weight, width, 30, width, case.bias, ids, 7, 5, mine, CODES[dtype]
    )
    operators.pair_scores(case.hidden, case.weight, case.bias, ids, theirs)
    assert torch.equal(mine, theirs)
    assert torch.equal(mine == -math.inf, ids < 0)


@pytest.mark.parametrize("size", [0, 1, 31, 33, 129])
def test_numbers_of_pairs(size: int) -> None:
    case = Case(max(size, 1), 30, 5, torch.float32)
    ids = torch.randint(0, 30, (size, 1), generator=torch.Generator().manual_seed(1))
    mine, theirs = (torch.empty(size, 1, dtype=torch.float64) for _ in range(2))
    emulated.library("ranks", emulated.RUNS[-1]).t4r_pair_scores_cuda(
        case.hidden[:size], case.weight, 5, 30, 5, None, ids, size, 1, mine, 0
    )
    operators.pair_scores(case.hidden[:size], case.weight, None, ids, theirs)
    assert torch.equal(mine, theirs)


@emulated.every_run
@pytest.mark.parametrize("biased", [False, True])
def test_an_item_beyond_the_table_is_not_read(run: emulated.Run, biased: bool) -> None:
    """On a GPU no check looks at ids; the loss of such a target is to be NaN, and no fault."""
    case = Case(3, 30, 5, torch.float32, bias=biased)
    ids = torch.tensor([[4, 30], [-1, 2**40], [29, 31]])
    expected = torch.empty(3, 2, dtype=torch.float64)
    operators.pair_scores(case.hidden, case.weight, case.bias, ids, expected)
    assert expected.isnan().tolist() == [[False, True], [False, True], [False, True]]
    mine = torch.empty(3, 2, dtype=torch.float64)
    emulated.library("ranks", run).t4r_pair_scores_cuda(
        case.hidden, case.weight, 5, 30, 5, case.bias, ids, 3, 2, mine, 0
    )
    torch.testing.assert_close(mine, expected, rtol=0, atol=0, equal_nan=True)
