"""What the tests of optimizers share: tables, gradients of rows, a few steps."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from transformers4rec_ext.optim import LazyAdagrad, LazyAdam

# Largest difference allowed between two ways to compute the same steps, by dtype.
EXACT = {torch.float32: 1e-6, torch.float64: 1e-12}
OPTIMIZERS = [LazyAdam, LazyAdagrad]


def table(items: int = 13, width: int = 5, dtype: torch.dtype = torch.float32) -> nn.Parameter:
    """Return a table, the same one every time."""
    generator = torch.Generator().manual_seed(1)
    weight = torch.randn(items, width, generator=generator, dtype=torch.float64)
    return nn.Parameter(weight.to(dtype))


def sparse(ids: Tensor, values: Tensor, items: int) -> Tensor:
    """Return an uncoalesced gradient of rows."""
    size = (items, *values.shape[1:])
    return torch.sparse_coo_tensor(ids[None], values, size, check_invariants=True)


def gradients(
    count: int,
    items: int = 13,
    width: int = 5,
    *,
    rows: int = 9,
    every_row: bool = False,
    dtype: torch.dtype = torch.float32,
    seed: int = 2,
) -> Iterator[Tensor]:
    """Yield gradients of rows with repetitions, on request with every row among them."""
    generator = torch.Generator().manual_seed(seed)
    for _ in range(count):
        ids = torch.randint(items, (rows,), generator=generator)
        if every_row:
            ids = torch.cat([ids, torch.randperm(items, generator=generator)])
        values = torch.randn(len(ids), width, generator=generator, dtype=torch.float64)
        yield sparse(ids, values.to(dtype), items)


def run(optimizer: torch.optim.Optimizer, grads: Iterator[Tensor], *, dense: bool = False) -> None:
    """Step the optimizer's only parameter over the gradients."""
    (param,) = optimizer.param_groups[0]["params"]
    for grad in grads:
        param.grad = grad.to_dense() if dense else grad
        optimizer.step()


def states(optimizer: torch.optim.Optimizer) -> list[dict[str, Any]]:
    """Return the states of all parameters, in their order."""
    return [optimizer.state[p] for group in optimizer.param_groups for p in group["params"]]


def assert_same_states(one: torch.optim.Optimizer, other: torch.optim.Optimizer) -> None:
    """Assert equal bits and dtypes of parameters and states."""
    for a, b in zip(states(one), states(other), strict=True):
        assert a.keys() == b.keys()
        for name in a:
            assert a[name].dtype == b[name].dtype, name
            assert torch.equal(a[name], b[name]), name
    for group, twin in zip(one.param_groups, other.param_groups, strict=True):
        for p, q in zip(group["params"], twin["params"], strict=True):
            assert torch.equal(p, q)
