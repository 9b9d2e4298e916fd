"""The reference of full softmax, rank and top-k against brute force, one row at a time."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from transformers4rec_ext.ops import reference


def table(ties: bool = False) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return hidden [6, 3], weight [9, 3], bias [9] and targets [6]; small integers if to tie."""
    generator = torch.Generator().manual_seed(3)
    if ties:
        hidden = torch.randint(-1, 2, (6, 3), generator=generator).double()
        weight = torch.randint(-1, 2, (9, 3), generator=generator).double()
        bias = torch.randint(-1, 2, (9,), generator=generator).double()
    else:
        hidden = torch.randn(6, 3, generator=generator, dtype=torch.float64)
        weight = torch.randn(9, 3, generator=generator, dtype=torch.float64)
        bias = torch.randn(9, generator=generator, dtype=torch.float64)
    return hidden, weight, bias, torch.tensor([0, 8, 3, 3, 5, 1])


@pytest.mark.parametrize("smoothing", [0.0, 0.2, 1.0])
@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_cross_entropy_is_the_sum_over_all_items(smoothing: float, temperature: float) -> None:
    hidden, weight, bias, targets = table()
    targets[2] = -7
    found = reference.linear_cross_entropy(
        hidden, weight, bias, targets, temperature, -7, smoothing
    )
    for n, target in enumerate(targets.tolist()):
        if target == -7:
            assert found[n] == 0
            continue
        logits = [
            (sum(float(h * w) for h, w in zip(hidden[n], row, strict=True)) + float(b))
            / temperature
            for row, b in zip(weight, bias, strict=True)
        ]
        lse = math.log(sum(math.exp(logit) for logit in logits))
        hard = lse - logits[target]
        even = sum(lse - logit for logit in logits) / len(logits)
        assert float(found[n]) == pytest.approx((1 - smoothing) * hard + smoothing * even)


@pytest.mark.parametrize("ties", [False, True])
def test_rank_counts_by_hand(ties: bool) -> None:
    hidden, weight, bias, targets = table(ties)
    exclude = torch.tensor([[1, 1], [-1, -1], [3, 0], [4, 5], [5, 8], [0, -1]])
    found = reference.target_rank(hidden, weight, targets, bias, exclude, 6)
    for n, target in enumerate(targets.tolist()):
        score = [float((hidden[n] * row).sum() + b) for row, b in zip(weight, bias, strict=True)]
        barred = {6, *exclude[n].tolist()}
        expected = sum(
            v != target and v not in barred and s >= score[target] for v, s in enumerate(score)
        )
        assert int(found[n]) == expected


def test_topk_is_a_sorted_list() -> None:
    hidden, weight, bias, _ = table(ties=True)
    exclude = torch.tensor([[1, 1], [-1, -1], [3, 0], [4, 5], [5, 8], [0, -1]])
    scores, ids = reference.topk_items(hidden, weight, 9, bias, exclude, 6)
    for n in range(len(hidden)):
        barred = {6, *exclude[n].tolist()}
        items = [
            (-float((hidden[n] * row).sum() + b), v)
            for v, (row, b) in enumerate(zip(weight, bias, strict=True))
            if v not in barred
        ]
        expected = [v for _, v in sorted(items)]
        padded = expected + [-1] * (9 - len(expected))
        assert ids[n].tolist() == padded
        assert scores[n, : len(items)].tolist() == [-s for s, _ in sorted(items)]
        assert scores[n, len(items) :].tolist() == [-math.inf] * (9 - len(items))


@pytest.mark.parametrize("with_bias", [False, True])
def test_running_logsumexp_is_that_of_the_whole(with_bias: bool) -> None:
    hidden, weight, bias, _ = table()
    scores = hidden @ weight.T
    maximum, total = torch.full((6,), -math.inf).double(), torch.zeros(6).double()
    for begin in range(0, 9, 4):
        tile = slice(begin, begin + 4)
        b = bias[tile] if with_bias else None
        reference.logsumexp_tile(scores[:, tile], b, 0.7, maximum, total)
    logits = (scores + bias if with_bias else scores) / 0.7
    found = (maximum + total.log2()) * math.log(2)
    torch.testing.assert_close(found, torch.logsumexp(logits, 1))
