"""Updates of rows: the formulas against one number at a time in plain Python."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from transformers4rec_ext.ops import reference

WEIGHT = [[0.5, -1.0], [2.0, 0.25], [0.0, 3.0]]
GRADIENTS = [
    [(1, [0.5, -2.0]), (0, [1.0, 1.0]), (1, [0.25, 4.0])],
    [(1, [-1.0, 0.125])],
    [(0, [3.0, -0.5]), (0, [-3.0, 0.5]), (1, [0.0, 2.0])],
]


def _sums(rows: list[tuple[int, list[float]]]) -> dict[int, list[float]]:
    sums: dict[int, list[float]] = {}
    for i, row in rows:
        sums[i] = [a + b for a, b in zip(sums.get(i, [0.0, 0.0]), row, strict=True)]
    return sums


def _tensors(rows: list[tuple[int, list[float]]]) -> tuple[Tensor, Tensor]:
    values = torch.tensor([row for _, row in rows], dtype=torch.float64)
    return torch.tensor([i for i, _ in rows]), values


@pytest.mark.parametrize("rowwise", [False, True])
def test_adam_one_number_at_a_time(rowwise: bool) -> None:
    lr, beta1, beta2, eps, decay = 0.1, 0.8, 0.95, 1e-3, 0.02
    w = [row[:] for row in WEIGHT]
    m = [[0.0, 0.0] for _ in w]
    v = [[0.0, 0.0] for _ in w]
    t = [0, 0, 0]
    weight = torch.tensor(WEIGHT, dtype=torch.float64)
    exp_avg = torch.zeros_like(weight)
    exp_avg_sq = torch.zeros(3, dtype=torch.float64) if rowwise else torch.zeros_like(weight)
    steps = torch.zeros(3, dtype=torch.int32)
    for rows in GRADIENTS:
        for i, g in _sums(rows).items():
            t[i] += 1
            mean = (g[0] ** 2 + g[1] ** 2) / 2
            for j in range(2):
                m[i][j] = beta1 * m[i][j] + (1 - beta1) * g[j]
                v[i][j] = beta2 * v[i][j] + (1 - beta2) * (mean if rowwise else g[j] ** 2)
                m_hat, v_hat = m[i][j] / (1 - beta1 ** t[i]), v[i][j] / (1 - beta2 ** t[i])
                w[i][j] += -lr * decay * w[i][j] - lr * m_hat / (math.sqrt(v_hat) + eps)
        ids, values = _tensors(rows)
        reference.adam_rows(
            weight, exp_avg, exp_avg_sq, steps, ids, values, lr, beta1, beta2, eps, decay
        )
    second = torch.tensor(v, dtype=torch.float64)
    for found, wanted in (
        (weight, torch.tensor(w, dtype=torch.float64)),
        (exp_avg, torch.tensor(m, dtype=torch.float64)),
        (exp_avg_sq, second[:, 0] if rowwise else second),
    ):
        torch.testing.assert_close(found, wanted, rtol=1e-13, atol=1e-15)
    assert steps.tolist() == t == [2, 3, 0]
    assert weight[2].tolist() == WEIGHT[2]


@pytest.mark.parametrize("rowwise", [False, True])
def test_adagrad_one_number_at_a_time(rowwise: bool) -> None:
    lr, eps, decay = 0.1, 1e-3, 0.02
    w = [row[:] for row in WEIGHT]
    s = [[0.0, 0.0] for _ in w]
    weight = torch.tensor(WEIGHT, dtype=torch.float64)
    square_sum = torch.zeros(3, dtype=torch.float64) if rowwise else torch.zeros_like(weight)
    for rows in GRADIENTS:
        for i, total in _sums(rows).items():
            g = [total[j] + decay * w[i][j] for j in range(2)]
            mean = (g[0] ** 2 + g[1] ** 2) / 2
            for j in range(2):
                s[i][j] += mean if rowwise else g[j] ** 2
                w[i][j] -= lr * g[j] / (math.sqrt(s[i][j]) + eps)
        reference.adagrad_rows(weight, square_sum, *_tensors(rows), lr, eps, decay)
    second = torch.tensor(s, dtype=torch.float64)
    torch.testing.assert_close(weight, torch.tensor(w, dtype=torch.float64), rtol=1e-13, atol=0)
    wanted = second[:, 0] if rowwise else second
    torch.testing.assert_close(square_sum, wanted, rtol=1e-13, atol=0)


def test_rows_are_summed_in_their_order_and_wide() -> None:
    ids = torch.tensor([2, 0, 2, 2])
    values = torch.tensor([[1e8], [1.0], [1.0], [-1e8]])
    rows, sums = reference.sum_rows(ids, values)
    assert rows.tolist() == [0, 2]
    assert sums.tolist() == [[1.0], [0.0]]  # (1e8 + 1) - 1e8 in float32
    halves = torch.tensor([[2048.0], [1.0], [1.0], [1.0]], dtype=torch.float16)
    rows, sums = reference.sum_rows(ids, halves)
    assert sums.dtype == torch.float32
    assert sums.tolist() == [[1.0], [2050.0]]
    rows, sums = reference.sum_rows(ids[:0], values[:0])
    assert rows.shape == (0,)
    assert sums.shape == (0, 1)


def _by_parts(rows: Tensor) -> Tensor:
    """Sum rows [n, D] one after the other, 32 of them at a time, then those sums."""

    def in_order(rows: Tensor) -> Tensor:
        total = rows[0].clone()
        for row in rows[1:]:
            total += row
        return total

    return in_order(torch.stack([in_order(part) for part in rows.split(32)]))


def test_many_rows_are_summed_by_parts_in_their_order() -> None:
    ids, values = torch.randint(3, (1000,)), torch.randn(1000, 4)
    ids[ids == 1][100:] = 2
    wanted = torch.stack([_by_parts(values[ids == i]) for i in range(3)])
    assert torch.equal(reference.sum_rows(ids, values)[1], wanted)
    padded = reference.padded_sums(ids, values)
    assert torch.equal(padded, torch.cat([wanted, torch.zeros(997, 4)]))


@pytest.mark.parametrize("counts", [[500, 500], [1] * 900 + [300, 7], [64, 1], [1] * 200])
def test_no_sum_waits_for_a_long_one(counts: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    """A GPU makes each by one load after the other, and padding is no part of any."""
    longest: list[int] = []
    reduce = torch.segment_reduce

    def noted(rows: Tensor, *args: Any, offsets: Tensor, **kwargs: Any) -> Tensor:
        longest.append(int(offsets.diff().max()))
        return reduce(rows, *args, offsets=offsets, **kwargs)

    monkeypatch.setattr(torch, "segment_reduce", noted)
    ids = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
    reference.padded_sums(ids[torch.randperm(len(ids))], torch.randn(len(ids), 2))
    assert longest == [min(32, max(counts)), -(-max(counts) // 32)]


@pytest.mark.parametrize("before", [0, 1, 31, 32, 33])
@pytest.mark.parametrize("count", [31, 32, 33, 64, 65])
def test_where_rows_stand_does_not_change_their_sum(before: int, count: int) -> None:
    ids = torch.cat([torch.arange(before), torch.full((count,), 40)])
    values = torch.randn(before + count, 3)
    rows, sums = reference.sum_rows(ids, values)
    assert rows.tolist() == [*range(before), 40]
    assert torch.equal(sums, torch.cat([values[:before], _by_parts(values[before:])[None]]))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_dense_sums_are_rounded_once(dtype: torch.dtype) -> None:
    """One after the other in bfloat16, a thousand ones would make 256."""
    ids = torch.cat([torch.full((1000,), 3), torch.tensor([0])])
    found = reference.dense_sums(ids, torch.ones(1001, 2), torch.empty(5, 2, dtype=dtype))
    assert found.dtype == dtype
    assert found.tolist() == [[1, 1], [0, 0], [0, 0], [1000, 1000], [0, 0]]
    nothing = reference.dense_sums(ids[:0], torch.ones(0, 2), torch.empty(5, 2))
    assert torch.equal(nothing, torch.zeros(5, 2))


def test_padded_sums_of_halves_and_of_nothing() -> None:
    ids = torch.tensor([5, 0])
    halves = torch.tensor([[1.5, 2.0], [0.5, 4.0]], dtype=torch.float16)
    sums = reference.padded_sums(ids, halves)
    assert sums.dtype == torch.float32
    assert sums.tolist() == [[0.5, 4.0], [1.5, 2.0]]
    assert reference.padded_sums(ids[:0], halves[:0]).shape == (0, 2)
