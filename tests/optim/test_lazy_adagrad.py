"""LazyAdagrad: equal to torch's Adagrad, whose rule is lazy by itself."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from optim_helpers import EXACT, assert_same_states, gradients, run, sparse, states, table
from torch import nn

from transformers4rec_ext.optim import LazyAdagrad

OPTIONS: dict[str, Any] = {
    "lr": 0.1,
    "lr_decay": 0.05,
    "initial_accumulator_value": 0.2,
    "eps": 1e-3,
}


def weight(optimizer: torch.optim.Optimizer) -> torch.Tensor:
    found: torch.Tensor = optimizer.param_groups[0]["params"][0]
    return found.detach()


# torch's own Adagrad makes sparse tensors without saying whether to check them
@pytest.mark.filterwarnings("ignore:Sparse invariant checks")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("backend", ["fused", "reference"])
@pytest.mark.parametrize("dense", [False, True])
def test_it_is_torchs_adagrad(dtype: torch.dtype, backend: str, dense: bool) -> None:
    """Both on gradients of rows and on dense ones: untouched rows do not move in either."""
    lazy = LazyAdagrad([table(dtype=dtype)], backend=backend, **OPTIONS)
    torchs = torch.optim.Adagrad([table(dtype=dtype)], **OPTIONS)
    run(lazy, gradients(200, dtype=dtype))
    run(torchs, gradients(200, dtype=dtype), dense=dense)
    assert (weight(lazy) - weight(torchs)).abs().max() <= EXACT[dtype]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_weight_decay_is_torchs_with_every_row_touched(dtype: torch.dtype) -> None:
    options = {**OPTIONS, "weight_decay": 0.1}
    lazy = LazyAdagrad([table(dtype=dtype)], **options)
    torchs = torch.optim.Adagrad([table(dtype=dtype)], **options)
    run(lazy, gradients(200, every_row=True, dtype=dtype))
    run(torchs, gradients(200, every_row=True, dtype=dtype), dense=True)
    assert (weight(lazy) - weight(torchs)).abs().max() <= EXACT[dtype]


def test_weight_decay_leaves_untouched_rows_alone() -> None:
    lazy = LazyAdagrad([table()], weight_decay=0.5)
    run(lazy, iter([sparse(torch.tensor([3]), torch.zeros(1, 5), 13)]))
    moved = (weight(lazy) != table()).any(1)
    assert moved.nonzero().flatten().tolist() == [3]


def test_dense_gradients_are_torchs_fused_adagrad() -> None:
    options = {**OPTIONS, "weight_decay": 0.1}
    lazy = LazyAdagrad([table()], **options)
    torchs = torch.optim.Adagrad([table()], fused=True, **options)
    run(lazy, gradients(20), dense=True)
    run(torchs, gradients(20), dense=True)
    assert_same_states(lazy, torchs)


def test_a_parameter_of_a_subclass_takes_torchs_plain_path() -> None:
    class Special(nn.Parameter):
        pass

    lazy = LazyAdagrad([Special(table().detach())], **OPTIONS)
    torchs = torch.optim.Adagrad([table()], **OPTIONS)
    run(lazy, gradients(20), dense=True)
    run(torchs, gradients(20), dense=True)
    assert torch.equal(weight(lazy), weight(torchs))


@pytest.mark.parametrize("backend", ["fused", "reference"])
def test_one_sum_a_row(backend: str) -> None:
    lazy = LazyAdagrad([table(dtype=torch.float64)], lr=0.1, rowwise=True, backend=backend)
    wanted, sums = table(dtype=torch.float64).detach().clone(), torch.zeros(13, dtype=torch.float64)
    for grad in gradients(20, dtype=torch.float64):
        run(lazy, iter([grad]))
        dense = grad.to_dense()
        sums += dense.pow(2).mean(1)
        wanted -= torch.where(sums[:, None] > 0, 0.1 * dense / (sums.sqrt()[:, None] + 1e-10), 0.0)
    torch.testing.assert_close(weight(lazy), wanted, rtol=0, atol=1e-12)
    assert {name: value.shape for name, value in states(lazy)[0].items()} == {
        "step": torch.Size([]),
        "sum": torch.Size([13]),
    }


def test_from_dense_gradients_to_rows_and_back() -> None:
    lazy, torchs = LazyAdagrad([table()], **OPTIONS), torch.optim.Adagrad([table()], **OPTIONS)
    for i, grad in enumerate(gradients(30)):
        run(lazy, iter([grad]), dense=i % 20 < 10)
        run(torchs, iter([grad]), dense=True)
    assert (weight(lazy) - weight(torchs)).abs().max() <= EXACT[torch.float32]
    assert float(states(lazy)[0]["step"]) == 30


@pytest.mark.parametrize("rowwise", [False, True])
def test_state_of_rows_stays_of_rows(rowwise: bool) -> None:
    lazy = LazyAdagrad([table(dtype=torch.bfloat16)], rowwise=rowwise)
    run(lazy, gradients(2, dtype=torch.bfloat16), dense=True)
    assert states(lazy)[0]["sum"].dtype == torch.bfloat16  # as torch's
    for dense in (False, True):
        run(lazy, gradients(2, dtype=torch.bfloat16), dense=dense)
        assert states(lazy)[0]["sum"].dtype == torch.float32
        assert states(lazy)[0]["sum"].shape == ((13,) if rowwise else (13, 5))
    assert float(states(lazy)[0]["step"]) == 6


@pytest.mark.filterwarnings("ignore:Sparse invariant checks")
def test_an_empty_gradient_counts_as_a_step_like_torchs() -> None:
    lazy, torchs = LazyAdagrad([table()], **OPTIONS), torch.optim.Adagrad([table()], **OPTIONS)
    empty = sparse(torch.empty(0, dtype=torch.int64), torch.empty(0, 5), 13)
    for optimizer in (lazy, torchs):
        run(optimizer, iter([empty]))
    assert torch.equal(weight(lazy), table())
    assert float(states(lazy)[0]["step"]) == float(states(torchs)[0]["step"]) == 1
