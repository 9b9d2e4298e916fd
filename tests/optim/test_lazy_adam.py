"""LazyAdam: equal to torch's AdamW where that is defined, lazy where it is not."""

from __future__ import annotations

import copy
import gc
import pickle
import weakref
from typing import Any

import pytest
import torch
from optim_helpers import EXACT, assert_same_states, gradients, run, sparse, states, table
from torch import nn

from transformers4rec_ext import use_backend
from transformers4rec_ext.optim import LazyAdam

OPTIONS: dict[str, Any] = {"lr": 0.01, "betas": (0.8, 0.95), "eps": 1e-3, "weight_decay": 0.1}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("backend", ["fused", "reference"])
def test_with_every_row_touched_it_is_adamw(dtype: torch.dtype, backend: str) -> None:
    lazy = LazyAdam([table(dtype=dtype)], backend=backend, **OPTIONS)
    adamw = torch.optim.AdamW([table(dtype=dtype)], **OPTIONS)
    run(lazy, gradients(200, every_row=True, dtype=dtype))
    run(adamw, gradients(200, every_row=True, dtype=dtype), dense=True)
    (found,), (wanted,) = lazy.param_groups[0]["params"], adamw.param_groups[0]["params"]
    assert (found - wanted).abs().max() <= EXACT[dtype]
    assert states(lazy)[0]["step"].tolist() == [200] * 13


def test_dense_gradients_are_torchs_fused_adamw() -> None:
    lazy = LazyAdam([table()], **OPTIONS)
    adamw = torch.optim.AdamW([table()], fused=True, **OPTIONS)
    run(lazy, gradients(20), dense=True)
    run(adamw, gradients(20), dense=True)
    assert_same_states(lazy, adamw)


def test_a_parameter_of_a_subclass_takes_torchs_plain_path() -> None:
    class Special(nn.Parameter):
        pass

    lazy = LazyAdam([Special(table().detach())], **OPTIONS)
    adamw = torch.optim.AdamW([table()], **OPTIONS)
    run(lazy, gradients(20), dense=True)
    run(adamw, gradients(20), dense=True)
    assert not torch.equal(lazy.param_groups[0]["params"][0].data, table().data)
    assert torch.equal(*(o.param_groups[0]["params"][0].data for o in (lazy, adamw)))


def test_each_row_counts_its_own_updates() -> None:
    """A table equals one small AdamW for each row, stepped only when the row is touched."""
    lazy = LazyAdam([table(dtype=torch.float64)], **OPTIONS)
    rows = [nn.Parameter(row.clone()) for row in table(dtype=torch.float64).detach()]
    single = [torch.optim.AdamW([row], **OPTIONS) for row in rows]
    for grad in gradients(50, rows=4, dtype=torch.float64):
        run(lazy, iter([grad]))
        coalesced = grad.coalesce()
        for i, values in zip(coalesced.indices()[0].tolist(), coalesced.values(), strict=True):
            rows[i].grad = values
            single[i].step()
    (found,) = lazy.param_groups[0]["params"]
    torch.testing.assert_close(found.data, torch.stack([r.data for r in rows]), rtol=0, atol=1e-12)


def test_one_moment_a_row_of_width_one_is_one_an_element() -> None:
    results = []
    for rowwise in (False, True):
        lazy = LazyAdam([table(width=1)], rowwise=rowwise, **OPTIONS)
        run(lazy, gradients(50, width=1))
        results.append(lazy.param_groups[0]["params"][0])
    torch.testing.assert_close(*results, rtol=0, atol=1e-6)


def test_untouched_rows_do_not_move_or_decay() -> None:
    lazy = LazyAdam([table()], **OPTIONS)
    (weight,) = lazy.param_groups[0]["params"]
    ids = torch.tensor([3, 5])
    for _ in range(10):
        run(lazy, iter([sparse(ids, torch.randn(2, 5), 13)]))
    others = torch.tensor([i for i in range(13) if i not in (3, 5)])
    assert torch.equal(weight[others], table()[others])
    assert not torch.isclose(weight[ids], table()[ids]).any()
    assert states(lazy)[0]["step"].tolist() == [10 if i in (3, 5) else 0 for i in range(13)]
    assert not states(lazy)[0]["exp_avg"][others].any()


def test_state_of_rows_is_as_large_as_promised() -> None:
    items, width = 50, 8
    sizes = {}
    for rowwise in (False, True):
        lazy = LazyAdam([table(items, width)], rowwise=rowwise)
        run(lazy, gradients(1, items, width))
        sizes[rowwise] = sum(value.numel() for value in states(lazy)[0].values())
    assert sizes == {False: items * (2 * width + 1), True: items * (width + 2)}


def test_no_gradient_and_an_empty_gradient() -> None:
    with_none, with_empty = table(), table()
    lazy = LazyAdam([with_none, with_empty])
    with_empty.grad = sparse(torch.empty(0, dtype=torch.int64), torch.empty(0, 5), 13)
    lazy.step()
    assert torch.equal(with_none, table())
    assert torch.equal(with_empty, table())
    assert not lazy.state[with_none]
    lazy.zero_grad(set_to_none=False)
    lazy.step()
    assert torch.equal(with_empty, table())


def test_rows_of_more_than_one_dimension() -> None:
    weight = nn.Parameter(torch.randn(6, 2, 3))
    twin = nn.Parameter(weight.detach().clone().view(6, 6))
    ids, values = torch.tensor([1, 4, 1]), torch.randn(3, 2, 3)
    for rowwise in (False, True):
        lazy, flat = LazyAdam([weight], rowwise=rowwise), LazyAdam([twin], rowwise=rowwise)
        run(lazy, iter([sparse(ids, values, 6)]))
        run(flat, iter([sparse(ids, values.view(3, 6), 6)]))
        assert torch.equal(weight.view(6, 6), twin)


def test_half_tables_keep_their_state_in_float32() -> None:
    for dtype in (torch.float16, torch.bfloat16):
        lazy = LazyAdam([table(dtype=dtype)], **OPTIONS)
        run(lazy, gradients(30, dtype=dtype))
        state = states(lazy)[0]
        assert state["exp_avg"].dtype == state["exp_avg_sq"].dtype == torch.float32
        exact = LazyAdam([nn.Parameter(table(dtype=dtype).float().detach())], **OPTIONS)
        run(exact, (grad.float() for grad in gradients(30, dtype=dtype)))
        torch.testing.assert_close(state["exp_avg"], states(exact)[0]["exp_avg"])
        # thirty roundings of a number of size 1
        close = 30 * torch.finfo(dtype).eps
        (found,), (wanted,) = lazy.param_groups[0]["params"], exact.param_groups[0]["params"]
        assert (found.float() - wanted).abs().max() < close


def test_from_dense_gradients_to_rows_and_back() -> None:
    """With every row touched in every step, any mixture of the two is still AdamW."""
    lazy, adamw = LazyAdam([table()], **OPTIONS), torch.optim.AdamW([table()], **OPTIONS)
    for i, grad in enumerate(gradients(30, every_row=True)):
        run(lazy, iter([grad]), dense=i % 20 < 10)
        run(adamw, iter([grad]), dense=True)
    (found,), (wanted,) = lazy.param_groups[0]["params"], adamw.param_groups[0]["params"]
    assert (found - wanted).abs().max() <= EXACT[torch.float32]
    assert states(lazy)[0]["step"].tolist() == [30] * 13


def test_a_half_tables_state_of_dense_gradients_is_widened_for_rows() -> None:
    lazy = LazyAdam([table(dtype=torch.bfloat16)], **OPTIONS)
    run(lazy, gradients(3, dtype=torch.bfloat16), dense=True)
    assert states(lazy)[0]["exp_avg"].dtype == torch.bfloat16
    run(lazy, gradients(1, dtype=torch.bfloat16))
    assert states(lazy)[0]["exp_avg"].dtype == torch.float32
    assert states(lazy)[0]["exp_avg_sq"].dtype == torch.float32


def test_from_dense_gradients_to_one_moment_a_row() -> None:
    lazy = LazyAdam([table()], rowwise=True, **OPTIONS)
    run(lazy, gradients(3), dense=True)
    dense = states(lazy)[0]["exp_avg_sq"].clone()
    run(lazy, iter([sparse(torch.empty(0, dtype=torch.int64), torch.empty(0, 5), 13)]))
    torch.testing.assert_close(states(lazy)[0]["exp_avg_sq"], dense.mean(1))
    run(lazy, gradients(3), dense=True)  # one second moment a row it stays
    assert states(lazy)[0]["exp_avg_sq"].shape == (13,)


def test_groups_have_options_of_their_own() -> None:
    first, second, third = table(), table(), table()
    lazy = LazyAdam([{"params": [first]}, {"params": [second], "lr": 0.5}], lr=0.1)
    lazy.add_param_group({"params": third, "rowwise": True, "weight_decay": 0.3})
    for param in (first, second, third):
        param.grad = next(gradients(1))
    lazy.step()
    assert [group["lr"] for group in lazy.param_groups] == [0.1, 0.5, 0.1]
    moved = [(param - table()).abs().max().item() for param in (first, second)]
    assert moved == pytest.approx([0.1, 0.5], rel=1e-4)
    assert lazy.state[third]["exp_avg_sq"].shape == (13,)


@pytest.mark.parametrize("tensor", [False, True])
def test_schedulers(tensor: bool) -> None:
    lr = torch.tensor(0.1) if tensor else 0.1
    lazy = LazyAdam([table()], lr=lr)
    adamw = torch.optim.AdamW([table()], lr=0.1, weight_decay=0.0)
    schedulers = [
        torch.optim.lr_scheduler.LambdaLR(optimizer, lambda epoch: 1 / (1 + epoch))
        for optimizer in (lazy, adamw)
    ]
    for grad in gradients(5, every_row=True):
        for optimizer, scheduler in zip((lazy, adamw), schedulers, strict=True):
            run(optimizer, iter([grad]), dense=optimizer is adamw)
            scheduler.step()
    (found,), (wanted,) = lazy.param_groups[0]["params"], adamw.param_groups[0]["params"]
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-6)
    assert float(lazy.param_groups[0]["lr"]) == pytest.approx(0.1 / 6)


def test_closure() -> None:
    embedding = nn.Embedding(13, 5, sparse=True)
    lazy = LazyAdam(embedding.parameters(), lr=0.1)

    def closure() -> torch.Tensor:
        lazy.zero_grad()
        loss = embedding(torch.tensor([1, 2, 1])).pow(2).sum()
        loss.backward()
        return loss

    losses = [lazy.step(closure).detach().item() for _ in range(20)]
    assert losses[-1] < losses[0] / 2
    assert losses == sorted(losses, reverse=True)


def test_copies_and_pickles_go_on_alike() -> None:
    lazy = LazyAdam([table()], rowwise=True, backend="fused", **OPTIONS)
    run(lazy, gradients(3))
    twins = [copy.deepcopy(lazy), pickle.loads(pickle.dumps(lazy))]
    for optimizer in (lazy, *twins):
        run(optimizer, gradients(3, seed=9))
    for twin in twins:
        assert twin.param_groups[0]["backend"] == "fused"
        assert_same_states(lazy, twin)


def test_a_table_that_was_replaced_is_not_kept() -> None:
    lazy = LazyAdam([table()], **OPTIONS)
    run(lazy, gradients(1))
    old = weakref.ref(lazy.param_groups[0]["params"][0])
    lazy.param_groups[0]["params"][0] = nn.Parameter(torch.zeros(9, 3))
    lazy.state.clear()
    gc.collect()
    assert old() is None


def test_the_backend_is_respected() -> None:
    results = []
    for backend, context in (("fused", "auto"), ("reference", "auto"), (None, "reference")):
        lazy = LazyAdam([table(50, 64)], backend=backend, **OPTIONS)
        with use_backend(context):
            run(lazy, gradients(20, 50, 64))
        results.append(lazy.param_groups[0]["params"][0].detach())
    assert torch.equal(results[1], results[2])
    assert not torch.equal(results[0], results[1])  # the last bits tell them apart
    meta = LazyAdam([nn.Parameter(torch.empty(3, 2, device="meta"))], backend="fused")
    meta.param_groups[0]["params"][0].grad = torch.sparse_coo_tensor(
        torch.zeros(1, 1, dtype=torch.int64, device="meta"),
        torch.ones(1, 2, device="meta"),
        (3, 2),
        check_invariants=False,
    )
    with pytest.raises(RuntimeError, match="backend 'fused' needs a native kernel on meta"):
        meta.step()


def test_a_gradient_scaler_steps_it() -> None:
    embedding = nn.Embedding(13, 5, sparse=True)
    lazy = LazyAdam(embedding.parameters(), lr=0.1)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    before = embedding.weight.detach().clone()
    scaler.scale(embedding(torch.tensor([4, 4])).sum()).backward()
    scaler.step(lazy)
    scaler.update()
    assert torch.equal((embedding.weight != before).any(1).nonzero().flatten(), torch.tensor([4]))
    torch.testing.assert_close(states(lazy)[0]["exp_avg"][4], torch.full((5,), 0.2))
