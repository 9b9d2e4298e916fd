"""What torch's counter of operations is told of the operators, against what they multiply."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
from op_table import OPS, TABLE, Op
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode, flop_registry

import transformers4rec_ext as tr
from transformers4rec_ext import functional

COUNTED = [op for op in TABLE if getattr(OPS, op.name) in flop_registry]


LOSSES = ("sampled_softmax", "sampled_bce")


def _counting(function: Callable[..., Any], sizes: list[int], first: int) -> Callable[..., Any]:
    def multiply(*arguments: Tensor, **options: Any) -> Any:
        a, b = arguments[first : first + 2]
        if a.dtype != torch.float64 or b.dim() == 2:  # h . w of single rows in float64 is no GEMM
            sizes.append(2 * a.shape[0] * a.shape[1] * b.shape[1])
        return function(*arguments, **options)

    return multiply


@pytest.mark.parametrize("op", COUNTED, ids=lambda op: op.name)
def test_formulas_count_the_products(
    op: Op, small_tiles: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[int] = []
    monkeypatch.setattr(torch, "mm", _counting(torch.mm, made, 0))
    monkeypatch.setattr(Tensor, "__matmul__", _counting(Tensor.__matmul__, made, 0))
    monkeypatch.setattr(Tensor, "addmm_", _counting(Tensor.addmm_, made, 1))
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        op.overload(*op.arguments())
    assert sum(made) > 0
    assert counter.get_total_flops() == sum(made)


def test_losses_ranks_and_the_best_items_are_counted() -> None:
    losses = [f"{loss}_{part}" for loss in LOSSES for part in ("rows", "backward", "sum")]
    others = ["", "_backward"]
    assert {op.name for op in COUNTED} == {
        *losses,
        *(f"sampled_logits{part}" for part in others),
        *(f"linear_cross_entropy{part}" for part in others),
        *("target_rank", "topk_items"),
    }


@pytest.mark.parametrize("sampled", [False, True])
def test_a_training_step_is_counted_as_its_formulas_are(sampled: bool) -> None:
    """The reference makes the scores once; of so few all are kept, so that the operators do too."""
    hidden = torch.randn(6, 4, requires_grad=True)
    weight = torch.randn(50, 4, requires_grad=True)
    targets, candidates = torch.randint(50, (6,)), torch.randint(50, (9,))

    def flops(backend: str) -> int:
        with tr.use_backend(backend), FlopCounterMode(display=False) as counter:
            if sampled:
                loss = functional.sampled_softmax_loss(hidden, weight, targets, candidates)
            else:
                loss = functional.linear_cross_entropy(hidden, weight, targets)
            loss.backward()
        return int(counter.get_total_flops())

    assert flops("auto") == flops("reference") == 3 * 2 * 6 * 4 * (9 if sampled else 50)


def test_nothing_is_said_where_nothing_is_counted() -> None:
    """A torch for CUDA warns of a counter without Triton when that is imported."""
    code = "import torch; torch.version.cuda = '13.0'; import transformers4rec_ext.ops.schemas"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr == done.stdout == ""
