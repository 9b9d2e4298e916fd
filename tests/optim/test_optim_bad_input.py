"""Every check of the optimizers and of the updates of rows: what is wrong, and what it says."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from optim_helpers import OPTIMIZERS, sparse, table
from torch import nn

from transformers4rec_ext import functional
from transformers4rec_ext.optim import LazyAdagrad, LazyAdam

COMMON: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"lr": -1.0}, ValueError, "lr must lie in [0, inf); got -1.0"),
    ({"lr": float("nan")}, ValueError, "lr must lie in [0, inf); got nan"),
    ({"lr": torch.tensor(-0.5)}, ValueError, "lr must lie in [0, inf); got -0.5"),
    ({"lr": torch.ones(2)}, TypeError, "lr must be a number; got float32 [2]"),
    ({"lr": "fast"}, TypeError, "lr must be a number; got str"),
    ({"lr": True}, TypeError, "lr must be a number; got bool"),
    ({"eps": -1e-8}, ValueError, "eps must lie in [0, inf)"),
    ({"weight_decay": -0.1}, ValueError, "weight_decay must lie in [0, inf)"),
    ({"weight_decay": float("inf")}, ValueError, "weight_decay must lie in [0, inf); got inf"),
    ({"rowwise": 1}, TypeError, "rowwise must be a bool; got int"),
    ({"backend": "cuda"}, ValueError, "backend must be one of auto, fused, reference; got 'cuda'"),
]
ADAM: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"betas": (1.0, 0.9)}, ValueError, "betas[0] must lie in [0, 1); got 1.0"),
    ({"betas": (0.9, -0.1)}, ValueError, "betas[1] must lie in [0, 1); got -0.1"),
    ({"betas": (0.9,)}, ValueError, "betas must be a pair of numbers; got (0.9,)"),
    ({"betas": 0.9}, ValueError, "betas must be a pair of numbers; got 0.9"),
    ({"betas": ("a", 0.9)}, TypeError, "betas[0] must be a number; got str"),
]
ADAGRAD: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"lr_decay": -1.0}, ValueError, "lr_decay must lie in [0, inf)"),
    ({"initial_accumulator_value": -1}, ValueError, "initial_accumulator_value must lie in"),
]


@pytest.mark.parametrize(
    ("optimizer", "options", "error", "message"),
    [(optimizer, *row) for optimizer in OPTIMIZERS for row in COMMON]
    + [(LazyAdam, *row) for row in ADAM]
    + [(LazyAdagrad, *row) for row in ADAGRAD],
)
def test_options(
    optimizer: Any, options: dict[str, Any], error: type[Exception], message: str
) -> None:
    message = re.escape(f"{optimizer.__name__}: {message}")
    with pytest.raises(error, match=message):
        optimizer([table()], **options)
    good = optimizer([table()])
    with pytest.raises(error, match=message):
        good.add_param_group({"params": [table()], **options})
    assert len(good.param_groups) == 1


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_parameters(optimizer: Any) -> None:
    message = re.escape("params must be dense tensors of float16, bfloat16, float32 or float64")
    for param in (
        torch.zeros(3, dtype=torch.int64),
        torch.zeros(3, dtype=torch.complex64),
        sparse(torch.tensor([0]), torch.ones(1, 2), 3),
    ):
        with pytest.raises(TypeError, match=message):
            optimizer([param])
    with pytest.raises(ValueError, match="empty parameter list"):
        optimizer([])


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_gradients_that_are_not_of_rows(optimizer: Any) -> None:
    two = nn.Parameter(torch.ones(2, 3))
    two.grad = torch.sparse_coo_tensor([[0], [1]], [1.0], (2, 3), check_invariants=True)
    one = nn.Parameter(torch.ones(3))
    one.grad = torch.sparse_coo_tensor([[1]], [1.0], (3,), check_invariants=True)
    for param, got in ((two, "sparse_dim=2, dense_dim=0"), (one, "sparse_dim=1, dense_dim=0")):
        message = f"{optimizer.__name__}.step: a sparse gradient must have one sparse dimension"
        with pytest.raises(ValueError, match=f"{message}.*; got {got}"):
            optimizer([param]).step()
    rows = nn.Parameter(torch.ones(2, 3))
    rows.grad = torch.ones(2, 3).to_sparse_coo()
    rows.grad = torch.sparse_coo_tensor([[0]], torch.ones(1, 3), (2, 3), check_invariants=True)
    optimizer([rows]).step()
    strided = nn.Parameter(torch.ones(3, 2).T)
    strided.grad = torch.sparse_coo_tensor([[0]], torch.ones(1, 3), (2, 3), check_invariants=True)
    message = "a parameter must be contiguous where its gradient is sparse; got strides"
    with pytest.raises(ValueError, match=message):
        optimizer([strided]).step()


@pytest.mark.parametrize("backend", ["fused", "reference"])
@pytest.mark.parametrize("wrong", [-1, 13, 2**40])
def test_an_id_outside_the_table_changes_nothing(backend: str, wrong: int) -> None:
    weight = table()
    lazy = LazyAdam([weight], backend=backend)
    ids = torch.tensor([[2, wrong]])
    weight.grad = torch.sparse_coo_tensor(ids, torch.ones(2, 5), (13, 5), check_invariants=False)
    with pytest.raises(ValueError, match=f"ids must lie in \\[0, 13\\); got {wrong}"):
        lazy.step()
    assert torch.equal(weight, table())
    assert not lazy.state[weight]["step"].any()


def arguments(**changes: Any) -> dict[str, Any]:
    """Good arguments of adam_rows_, changed as told."""
    good = {
        "weight": torch.zeros(4, 2),
        "exp_avg": torch.zeros(4, 2),
        "exp_avg_sq": torch.zeros(4, 2),
        "steps": torch.zeros(4, dtype=torch.int32),
        "ids": torch.tensor([1, 2, 1]),
        "values": torch.ones(3, 2),
        "lr": 0.1,
    }
    return good | changes


META = torch.zeros(4, 2, device="meta")
ROWS = [
    ({"weight": torch.zeros(4, 2).long()}, TypeError, "weight must be floating [V, D]; got int64"),
    ({"weight": [1.0]}, TypeError, "weight must be a Tensor; got list"),
    ({"weight": torch.zeros(4)}, ValueError, "weight must be [V, D], contiguous; got float32 [4]"),
    ({"weight": torch.zeros(2, 4).T}, ValueError, "weight must be [V, D], contiguous; got"),
    ({"ids": torch.zeros(3)}, TypeError, "ids must be int64; got float32 [3]"),
    ({"ids": torch.tensor([[1, 2, 1]])}, ValueError, "ids must be int64 [N]; got int64 [1, 3]"),
    ({"ids": torch.tensor([1, 4, 1])}, ValueError, "ids must lie in [0, 4); got 4"),
    ({"values": torch.ones(3, 2).double()}, TypeError, "values and weight must share a dtype"),
    ({"values": torch.ones(3, 3)}, ValueError, "values must be [N=3, D=2]; got float32 [3, 3]"),
    ({"values": META[:3]}, ValueError, "values must be on cpu like weight; got meta"),
    ({"exp_avg": torch.zeros(4, 2).half()}, TypeError, "exp_avg must be float32; got float16"),
    ({"exp_avg": torch.zeros(3, 2)}, ValueError, "exp_avg must be [4, 2]; got float32 [3, 2]"),
    ({"exp_avg": torch.zeros(2, 4).T}, ValueError, "exp_avg must be contiguous; got strides"),
    ({"exp_avg_sq": torch.zeros(5)}, ValueError, "exp_avg_sq must be [4, 2] or [4]; got float32"),
    ({"exp_avg_sq": META}, ValueError, "exp_avg_sq must be on cpu like weight; got meta"),
    ({"steps": torch.zeros(4)}, TypeError, "steps must be int32; got float32 [4]"),
    ({"steps": torch.zeros(5).int()}, ValueError, "steps must be [4]; got int32 [5]"),
    ({"backend": "quick"}, ValueError, "backend must be one of auto, fused, reference"),
]


@pytest.mark.parametrize(("changes", "error", "message"), ROWS)
def test_adam_rows(changes: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=re.escape(f"adam_rows_: {message}")):
        functional.adam_rows_(**arguments(**changes))


def test_adagrad_rows() -> None:
    weight, ids, values = torch.zeros(4, 2), torch.tensor([1]), torch.ones(1, 2)
    with pytest.raises(ValueError, match=re.escape("adagrad_rows_: square_sum must be [4, 2] or")):
        functional.adagrad_rows_(weight, torch.zeros(3), ids, values, lr=0.1)
    with pytest.raises(ValueError, match=re.escape("adagrad_rows_: ids must lie in [0, 4); got 9")):
        functional.adagrad_rows_(weight, torch.zeros(4), ids + 8, values, lr=0.1)


@pytest.mark.parametrize(
    "changes",
    [
        {"exp_avg_sq": torch.zeros(3, 2)},
        {"exp_avg": torch.zeros(3, 2)},
        {"steps": torch.zeros(3, dtype=torch.int32)},
        {"steps": torch.zeros(4)},
        {"values": torch.ones(2, 2)},
        {"values": torch.ones(3, 2).double()},
        {"ids": torch.tensor([0, 1, 4])},
        {"weight": torch.zeros(4, 2, dtype=torch.int32)},
    ],
)
def test_the_kernel_writes_nowhere_else(changes: dict[str, Any]) -> None:
    """The operator itself, past the public function's checks."""
    given = arguments(**changes)
    tensors = [given[name] for name in arguments() if name != "lr"]
    with pytest.raises(RuntimeError):
        torch.ops.transformers4rec_ext.adam_rows(*tensors, 0.1, 0.9, 0.999, 1e-8, 0.0)
