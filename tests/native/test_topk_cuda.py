"""Top-k selection on CUDA, run on the CPU, against a sort of all scores."""

from __future__ import annotations

import math

import emulated
import pytest
import torch
from torch import Tensor

CODES = {torch.float32: 0, torch.float64: 1}


def _select(
    run: emulated.Run,
    scores: Tensor,
    k: int,
    tile: int,
    bias: Tensor | None = None,
    excluded: Tensor | None = None,
    capacity: int | None = None,
    pieces: int = 1,
) -> tuple[Tensor, Tensor]:
    """Return the k best scores and their ids, read tile by tile as ops/tiles does."""
    library = emulated.library("topk", run)
    rows, items = scores.shape
    capacity = capacity or k + max(k, 64)
    best = scores.new_full((rows, pieces, capacity), -math.inf)
    ids = torch.full((rows, pieces, capacity), -1)
    fill = torch.zeros(rows, pieces, dtype=torch.int64)
    threshold = scores.new_full((rows, pieces), -math.inf)
    for begin in range(0, items, tile):
        part = scores[:, begin : begin + tile]
        library.t4r_topk_tile_cuda(
            part,
            part.stride(0),
            *part.shape,
            begin,
            None if bias is None else bias[begin : begin + tile],
            excluded,
            0 if excluded is None else excluded.shape[1],
            k,
            pieces,
            capacity,
            best,
            ids,
            fill,
            threshold,
            CODES[scores.dtype],
        )
        valid = torch.arange(capacity) < fill[..., None]
        assert torch.equal(ids >= 0, valid)
        assert (best[~valid] == -math.inf).all()
    ids, order = ids.flatten(1).sort(dim=1, stable=True)
    best, order = best.flatten(1).gather(1, order).sort(dim=1, descending=True, stable=True)
    return best[:, :k], ids.gather(1, order)[:, :k]


def _expected(
    scores: Tensor, k: int, bias: Tensor | None = None, excluded: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    values = scores if bias is None else scores + bias
    values = torch.where(values.isnan(), -math.inf, values)
    if excluded is not None:
        padded = torch.nn.functional.pad(values, (0, 1))
        at = torch.where(excluded < 0, values.shape[1], excluded)
        values = padded.scatter(1, at, -math.inf)[:, :-1]
    values = torch.nn.functional.pad(values, (0, max(0, k - values.shape[1])), value=-math.inf)
    best, ids = values.sort(dim=1, descending=True, stable=True)
    best, ids = best[:, :k], ids[:, :k]
    return best, torch.where(best == -math.inf, -1, ids)


def _scores(rows: int, items: int, dtype: torch.dtype = torch.float32) -> Tensor:
    generator = torch.Generator().manual_seed(items)
    return torch.randn(rows, items, generator=generator, dtype=torch.float64).to(dtype)


def _check(
    run: emulated.Run, scores: Tensor, k: int, tile: int, pieces: int = 1, **others: Tensor | None
) -> None:
    found = _select(run, scores, k, tile, pieces=pieces, **others)
    for mine, expected in zip(found, _expected(scores, k, **others), strict=True):
        assert torch.equal(mine, expected)


@emulated.every_run
@pytest.mark.parametrize("dtype", CODES, ids=str)
def test_against_a_sort(run: emulated.Run, dtype: torch.dtype) -> None:
    _check(run, _scores(4, 700, dtype), k=10, tile=132)


@emulated.every_run
def test_ties_go_to_the_lower_id(run: emulated.Run) -> None:
    """Scores of three values, of which one alone fills the buffer several times."""
    scores = torch.randint(-1, 2, (3, 600), generator=torch.Generator().manual_seed(2)).float()
    _check(run, scores, k=33, tile=200)
    _check(run, torch.zeros(2, 300), k=7, tile=300)
    _check(run, torch.zeros(2, 300) * torch.tensor([1.0, -1.0]).repeat(150), k=7, tile=100)


@emulated.every_run
def test_bias_and_excluded_items(run: emulated.Run) -> None:
    scores = _scores(3, 300)
    bias = _scores(1, 300)[0].flip(0)
    best = _expected(scores, 20, bias)[1]
    excluded = torch.cat([best[:, ::2], torch.full((3, 2), -1)], dim=1).sort(dim=1).values
    _check(run, scores, k=20, tile=90, bias=bias, excluded=excluded)


@emulated.every_run
@pytest.mark.parametrize("pieces", [2, 5, 30])
def test_pieces_of_rows(run: emulated.Run, pieces: int) -> None:
    """The last tile has 34 items, so three of 30 pieces, and of the others too some are empty."""
    scores, bias = _scores(3, 300), _scores(1, 300)[0]
    _check(run, scores, k=10, tile=133, pieces=pieces)
    _check(run, torch.zeros(2, 300), k=40, tile=132, pieces=pieces)
    excluded = _expected(scores, 20, bias)[1][:, ::2].sort(dim=1).values
    _check(run, scores, k=20, tile=132, pieces=pieces, bias=bias, excluded=excluded)


@emulated.every_run
@pytest.mark.parametrize("dtype", CODES, ids=str)
@pytest.mark.parametrize("items", [129, 130, 131])
def test_rows_that_end_within_16_bytes(run: emulated.Run, dtype: torch.dtype, items: int) -> None:
    """They are read by packs, but for the last items: what is beyond them is nobody's."""
    scores = _scores(3, 132, dtype)[:, :items]
    bias = _scores(1, items, dtype)[0]
    _check(run, scores, k=20, tile=132, bias=bias)
    _check(run, scores, k=7, tile=132, pieces=3)


@pytest.mark.parametrize("items", [1, 2, 31, 33, 129, 1030, 2500])
@pytest.mark.parametrize("k", [1, 5, 64, 200])
def test_sizes(items: int, k: int) -> None:
    """Among them fewer items than k, rows in packs of 16 bytes and not, several cuts."""
    run = emulated.RUNS[-1] if items < 1000 else emulated.RUNS[3]
    _check(run, _scores(2, items), k=k, tile=1030)


def test_ascending_scores_cut_the_buffer_again_and_again() -> None:
    scores = torch.arange(600.0).repeat(2, 1) - 300
    for run in (emulated.RUNS[2], emulated.RUNS[-1]):
        _check(run, scores, k=5, tile=600)
        _check(run, scores.flip(1), k=5, tile=600)


def test_the_smallest_buffer() -> None:
    """One entry more than k: every item that enters is a cut."""
    scores = _scores(2, 120)
    best, ids = _select(emulated.RUNS[-1], scores, 4, 50, capacity=5)
    assert torch.equal(best, _expected(scores, 4)[0])
    assert torch.equal(ids, _expected(scores, 4)[1])


@emulated.every_run
def test_nan_and_infinity(run: emulated.Run) -> None:
    scores = _scores(4, 200)
    scores[0, ::3] = math.nan
    scores[1] = math.nan
    scores[2, 5], scores[2, 6] = math.inf, -math.inf
    scores[3, 4:] = -math.inf
    _check(run, scores, k=9, tile=64)


@emulated.every_run
def test_strided_and_unaligned_scores(run: emulated.Run) -> None:
    scores = torch.zeros(3, 203)[:, 1:201].copy_(_scores(3, 200))
    _check(run, scores, k=6, tile=64)


def test_no_rows() -> None:
    _check(emulated.RUNS[-1], _scores(0, 20), k=6, tile=8)
