"""State dicts: round trips, files, precision, checkpoints of torch's own optimizers."""

from __future__ import annotations

import copy
import io
from pathlib import Path
from typing import Any

import pytest
import torch
from optim_helpers import OPTIMIZERS, assert_same_states, gradients, run, states, table
from torch import nn

from transformers4rec_ext.optim import LazyAdagrad, LazyAdam

Class = type[LazyAdam] | type[LazyAdagrad]


def through_a_file(state: dict[str, Any]) -> dict[str, Any]:
    """Save and load, as a checkpoint does."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    buffer.seek(0)
    loaded: dict[str, Any] = torch.load(buffer, weights_only=True, map_location="cpu")
    return loaded


def model(dtype: torch.dtype = torch.float32) -> nn.Module:
    """Return a table with gradients of rows and a layer with dense ones."""
    torch.manual_seed(7)
    return nn.Sequential(nn.Embedding(20, 6, sparse=True), nn.Linear(6, 2)).to(dtype)


def train(net: nn.Module, optimizer: torch.optim.Optimizer, steps: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        optimizer.zero_grad()
        net(torch.randint(20, (7,), generator=generator)).float().pow(2).sum().backward()
        optimizer.step()


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("rowwise", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_a_run_goes_on_from_a_file(optimizer: Class, rowwise: bool, dtype: torch.dtype) -> None:
    net = model(dtype)
    first = optimizer(net.parameters(), lr=0.02, rowwise=rowwise)
    train(net, first, 5, seed=1)
    saved = through_a_file({"model": net.state_dict(), "optimizer": first.state_dict()})

    other = model(dtype)
    second = optimizer(other.parameters(), lr=0.5)
    other.load_state_dict(saved["model"])
    second.load_state_dict(saved["optimizer"])
    assert_same_states(first, second)
    assert second.param_groups[0]["lr"] == 0.02
    for each, its in ((net, first), (other, second)):
        train(each, its, 5, seed=2)
    assert_same_states(first, second)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_the_layout_of_the_state(optimizer: Class) -> None:
    net = model(torch.bfloat16)
    lazy = optimizer(net.parameters(), rowwise=True)
    train(net, lazy, 3, seed=1)
    found = {
        i: {name: (value.dtype, tuple(value.shape)) for name, value in state.items()}
        for i, state in lazy.state_dict()["state"].items()
    }
    if optimizer is LazyAdam:
        assert found[0] == {
            "step": (torch.int32, (20,)),
            "exp_avg": (torch.float32, (20, 6)),
            "exp_avg_sq": (torch.float32, (20,)),
        }
        assert found[2]["exp_avg"] == (torch.bfloat16, (2,))
    else:
        assert found[0] == {"step": (torch.float32, ()), "sum": (torch.float32, (20,))}
        assert found[2]["sum"] == (torch.bfloat16, (2,))


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_accelerate_style(optimizer: Class) -> None:
    """What accelerate does: load the optimizer's own state dict before training."""
    net = model()
    lazy = optimizer(net.parameters())
    lazy.load_state_dict(copy.deepcopy(lazy.state_dict()))
    train(net, lazy, 2, seed=1)
    twin = model()
    untouched = optimizer(twin.parameters())
    train(twin, untouched, 2, seed=1)
    assert_same_states(lazy, untouched)


def test_hooks_see_and_change_what_is_loaded() -> None:
    net = model()
    lazy = LazyAdam(net.parameters())
    train(net, lazy, 2, seed=1)
    saved = through_a_file(lazy.state_dict())
    twin = LazyAdam(model().parameters())

    def rename(_: torch.optim.Optimizer, state: dict[str, Any]) -> dict[str, Any]:
        return state | {"state": {int(key): value for key, value in state["state"].items()}}

    twin.register_load_state_dict_pre_hook(rename)
    saved["state"] = {str(key): value for key, value in saved["state"].items()}
    twin.load_state_dict(saved)
    assert states(twin)[0]["step"].dtype == torch.int32
    assert len(twin._optimizer_load_state_dict_pre_hooks) == 1


@pytest.mark.parametrize("rowwise", [False, True])
def test_adamw_goes_on_as_lazy_adam(rowwise: bool) -> None:
    """With every row touched the run goes on as if nothing had happened."""
    options: dict[str, Any] = {"lr": 0.01, "weight_decay": 0.1}
    adamw = torch.optim.AdamW([table()], **options)
    run(adamw, gradients(5), dense=True)
    lazy = LazyAdam([nn.Parameter(adamw.param_groups[0]["params"][0].clone())], rowwise=rowwise)
    lazy.load_state_dict(through_a_file(adamw.state_dict()))
    run(lazy, gradients(5, every_row=True, seed=3))
    run(adamw, gradients(5, every_row=True, seed=3), dense=True)
    assert states(lazy)[0]["step"].tolist() == [10] * 13
    assert states(lazy)[0]["exp_avg_sq"].shape == ((13,) if rowwise else (13, 5))
    if not rowwise:
        (found,), (wanted,) = lazy.param_groups[0]["params"], adamw.param_groups[0]["params"]
        torch.testing.assert_close(found, wanted, rtol=0, atol=1e-6)


@pytest.mark.filterwarnings("ignore:Sparse invariant checks")  # by torch's own SparseAdam
def test_sparse_adam_goes_on_as_lazy_adam() -> None:
    torchs = torch.optim.SparseAdam([table()], lr=0.01)
    run(torchs, gradients(4))
    for dense in (False, True):
        lazy = LazyAdam([table()], lr=0.3)
        lazy.load_state_dict(through_a_file(torchs.state_dict()))
        run(lazy, gradients(1, every_row=True), dense=dense)
        step = states(lazy)[0]["step"]
        assert step.tolist() == (5.0 if dense else [5] * 13)
        assert lazy.param_groups[0]["lr"] == 0.01


def test_torchs_adagrad_goes_on_as_lazy_adagrad() -> None:
    torchs = torch.optim.Adagrad([table()], lr=0.1, lr_decay=0.1)
    run(torchs, gradients(5), dense=True)
    lazy = LazyAdagrad([nn.Parameter(torchs.param_groups[0]["params"][0].clone())])
    lazy.load_state_dict(through_a_file(torchs.state_dict()))
    run(lazy, gradients(5, seed=3))
    run(torchs, gradients(5, seed=3), dense=True)
    (found,), (wanted,) = lazy.param_groups[0]["params"], torchs.param_groups[0]["params"]
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-6)


def test_a_state_of_another_precision_is_taken_over() -> None:
    lazy = LazyAdam([table(dtype=torch.float64)])
    run(lazy, gradients(3, dtype=torch.float64))
    narrow = LazyAdam([table(dtype=torch.bfloat16)])
    narrow.load_state_dict(lazy.state_dict())
    assert states(narrow)[0]["exp_avg"].dtype == torch.float32
    run(narrow, gradients(1, dtype=torch.bfloat16))
    assert states(narrow)[0]["step"].max() > 1


@pytest.mark.parametrize(
    ("other", "option"),
    [
        (lambda p: torch.optim.AdamW(p, maximize=True), "maximize"),
        (lambda p: torch.optim.AdamW(p, amsgrad=True), "amsgrad"),
        (lambda p: torch.optim.Adam(p, weight_decay=0.1), "decoupled_weight_decay=False"),
    ],
)
def test_a_state_of_another_rule_is_refused(other: Any, option: str) -> None:
    lazy = LazyAdam([table()])
    message = f"load_state_dict: a group must be of this optimizer's rule; got {option}"
    with pytest.raises(ValueError, match=message):
        lazy.load_state_dict(other([table()]).state_dict())
    assert not lazy._optimizer_load_state_dict_pre_hooks
    lazy.load_state_dict(torch.optim.Adam([table()]).state_dict())


def test_a_state_of_another_table_is_refused() -> None:
    lazy, larger = LazyAdam([table()]), LazyAdam([table(items=14)])
    run(larger, gradients(1, items=14))
    lazy.load_state_dict(larger.state_dict())
    with pytest.raises(ValueError, match=r"exp_avg must be \[13, 5\]; got float32 \[14, 5\]"):
        run(lazy, gradients(1))


def test_a_checkpoint_file_holds_every_state_once(tmp_path: Path) -> None:
    lazy = LazyAdam([table(1000, 64)], rowwise=True)
    run(lazy, gradients(1, 1000, 64))
    torch.save(lazy.state_dict(), tmp_path / "state.pt")
    assert (tmp_path / "state.pt").stat().st_size < 4 * 1000 * (64 + 2) + 10_000
