"""The update of rows: kernel against reference, threads, half precision, cost."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from optim_helpers import EXACT, gradients, table
from torch import Tensor

from transformers4rec_ext import functional

WIDE = {torch.float64: torch.float64}
HALVES = [torch.float16, torch.bfloat16]


def fresh(weight: Tensor, op: str, rowwise: bool) -> tuple[Tensor, ...]:
    """Return a clone of the weight and its state for the operator."""
    wide = WIDE.get(weight.dtype, torch.float32)
    size = weight.shape[:1] if rowwise else weight.shape
    second = torch.zeros(size, dtype=wide)
    weight = weight.detach().clone()
    if op == "adagrad_rows_":
        return weight, second
    first = torch.zeros(weight.shape, dtype=wide)
    return weight, first, second, torch.zeros(len(weight), dtype=torch.int32)


def steps_of(op: str, weight: Tensor, grads: list[Tensor], **options: Any) -> tuple[Tensor, ...]:
    """Apply the gradients; return the weight and its state."""
    tensors = fresh(weight, op, options.pop("rowwise"))
    for grad in grads:
        getattr(functional, op)(*tensors, grad._indices()[0], grad._values(), **options)
    return tensors


@settings(max_examples=80)
@given(
    op=st.sampled_from(["adam_rows_", "adagrad_rows_"]),
    items=st.sampled_from([1, 2, 40, 5000]),
    width=st.sampled_from([1, 3, 16, 64, 129]),
    rows=st.sampled_from([0, 1, 2, 63, 65, 300]),
    dtype=st.sampled_from([torch.float32, torch.float64]),
    rowwise=st.booleans(),
    weight_decay=st.sampled_from([0.0, 0.1]),
    count=st.sampled_from([1, 7]),
    seed=st.integers(0, 100),
)
def test_kernel_equals_reference(
    op: str,
    items: int,
    width: int,
    rows: int,
    dtype: torch.dtype,
    rowwise: bool,
    weight_decay: float,
    count: int,
    seed: int,
) -> None:
    weight = table(items, width, dtype)
    grads = list(gradients(count, items, width, rows=rows, dtype=dtype, seed=seed))
    options = {"lr": 0.01, "weight_decay": weight_decay, "rowwise": rowwise}
    fused = steps_of(op, weight, grads, backend="fused", **options)
    plain = steps_of(op, weight, grads, backend="reference", **options)
    for found, wanted in zip(fused, plain, strict=True):
        torch.testing.assert_close(found, wanted, rtol=EXACT[dtype], atol=EXACT[dtype])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, *HALVES])
@pytest.mark.parametrize("width", [1, 8, 33])
def test_repetitions_have_one_sum(dtype: torch.dtype, width: int) -> None:
    """Kernel and formulas sum the rows of an item in one order: to the bit, however many."""
    counts = torch.tensor([1, 31, 32, 33, 64, 65, 500])
    ids = torch.arange(7).repeat_interleave(counts)[torch.randperm(int(counts.sum()))]
    values = torch.randn(len(ids), width).to(dtype)
    sums = {}
    for backend in ("fused", "reference"):
        tensors = fresh(torch.zeros(7, width, dtype=dtype), "adam_rows_", rowwise=False)
        functional.adam_rows_(*tensors, ids, values, lr=1.0, beta1=0.0, backend=backend)
        sums[backend] = tensors[1]  # the first moment is the gradient
    assert torch.equal(sums["fused"], sums["reference"])
    one_by_one = torch.zeros_like(sums["fused"]).index_add_(0, ids, values.to(sums["fused"].dtype))
    torch.testing.assert_close(sums["fused"], one_by_one, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("op", ["adam_rows_", "adagrad_rows_"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_many_steps_stay_exact(op: str, dtype: torch.dtype) -> None:
    weight = table(20, 8, dtype)
    grads = list(gradients(1000, 20, 8, rows=15, dtype=dtype))
    options = {"lr": 0.01, "weight_decay": 0.01, "rowwise": False}
    fused = steps_of(op, weight, grads, backend="fused", **options)
    plain = steps_of(op, weight, grads, backend="reference", **options)
    assert (fused[0] - plain[0]).abs().max() <= EXACT[dtype]


@pytest.mark.parametrize("beta", [0.0, 0.5, 0.9, 0.999, 0.9999999])
@pytest.mark.parametrize("count", [0, 1, 30, 5000, 10**6, 2**31 - 2])
def test_bias_correction_of_every_count(beta: float, count: int) -> None:
    tensors = fresh(torch.zeros(1, 1, dtype=torch.float64), "adam_rows_", rowwise=False)
    weight, first, second, steps = tensors
    steps.fill_(count)
    # moments after which m = v = 1
    first.fill_(1.0)
    second.fill_(1.0)
    ids, values = torch.tensor([0]), torch.ones(1, 1, dtype=torch.float64)
    functional.adam_rows_(
        weight, first, second, steps, ids, values, lr=1.0, beta1=beta, beta2=beta, eps=0.0
    )
    correction = -torch.expm1((count + 1) * torch.tensor(beta, dtype=torch.float64).log())
    wanted = -(correction.sqrt() / correction)
    torch.testing.assert_close(weight[0, 0], wanted, rtol=1e-14, atol=0)
    assert int(steps) == count + 1


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("rowwise", [False, True])
def test_half_precision_is_rounded_once(dtype: torch.dtype, rowwise: bool) -> None:
    # magnitudes from the subnormal numbers to overflow
    scale = 10.0 ** torch.linspace(-9, 6, 400)[:, None]
    weight = (torch.randn(400, 8) * scale).to(dtype)
    ids = torch.randint(400, (900,))
    values = (torch.randn(900, 8) * scale[ids]).to(dtype)
    for op in ("adagrad_rows_", "adam_rows_"):
        fused, plain = (fresh(weight, op, rowwise) for _ in range(2))
        update = getattr(functional, op)
        update(*fused, ids, values, lr=0.3, backend="fused")
        update(*plain, ids, values, lr=0.3, backend="reference")
        assert fused[1].dtype == torch.float32
        for found, wanted in zip(fused[1:], plain[1:], strict=True):
            torch.testing.assert_close(found, wanted, rtol=1e-6, atol=0, equal_nan=True)
        # where float32 differs in its last bit, one rounding in ten thousand falls the other way
        same = (fused[0] == plain[0]) | (fused[0].isnan() & plain[0].isnan())
        assert same.double().mean() > 0.998
        eps = torch.finfo(dtype).eps
        torch.testing.assert_close(fused[0], plain[0], rtol=eps, atol=1e-7, equal_nan=True)


@pytest.mark.parametrize("dtype", HALVES)
def test_every_half_number_survives_an_update_by_nothing(dtype: torch.dtype) -> None:
    bits = torch.arange(-(2**15), 2**15).to(torch.int16)
    weight = bits.view(dtype)[:, None].clone()
    gradient = torch.zeros_like(weight)
    functional.adagrad_rows_(
        weight, torch.zeros(2**16, 1), torch.arange(2**16), gradient, lr=0.1, backend="fused"
    )
    number = ~bits.view(dtype).isnan()
    assert torch.equal(weight[:, 0].view(torch.int16)[number], bits[number])
    assert weight[:, 0].isnan().equal(~number)


@pytest.mark.usefixtures("keep_threads")
@pytest.mark.parametrize("op", ["adam_rows_", "adagrad_rows_"])
@pytest.mark.parametrize("rowwise", [False, True])
def test_threads_do_not_change_a_bit(op: str, rowwise: bool) -> None:
    generator = torch.Generator().manual_seed(5)
    ids = (torch.rand(20_000, generator=generator) ** 4 * 3000).long()  # popular ids, many times
    values = torch.randn(20_000, 32, generator=generator)
    results = []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        tensors = fresh(table(3000, 32), op, rowwise)
        for _ in range(3):
            getattr(functional, op)(*tensors, ids, values, lr=0.01)
        results.append(tensors)
    for other in results[1:]:
        assert all(map(torch.equal, results[0], other))


@pytest.mark.parametrize("backend", ["fused", "reference"])
@pytest.mark.parametrize("op", ["adam_rows_", "adagrad_rows_"])
def test_nan_stays_in_its_row(op: str, backend: str) -> None:
    ids, values = torch.tensor([4, 2, 4, 7]), torch.ones(4, 5)
    values[2, 3] = torch.nan
    tensors = fresh(table(), op, rowwise=False)
    clean = fresh(table(), op, rowwise=False)
    getattr(functional, op)(*tensors, ids, values, lr=0.1, backend=backend)
    getattr(functional, op)(*clean, ids, torch.ones(4, 5), lr=0.1, backend=backend)
    assert tensors[0][4].isnan().tolist() == [False, False, False, True, False]
    others = torch.arange(13) != 4
    assert torch.equal(tensors[0][others], clean[0][others])


@pytest.mark.parametrize("backend", ["fused", "reference"])
def test_the_graph_notices_the_update(backend: str) -> None:
    weight = table()
    product = (weight * weight).sum()
    tensors = fresh(weight, "adam_rows_", rowwise=False)
    functional.adam_rows_(
        weight, *tensors[1:], torch.tensor([1]), torch.ones(1, 5), lr=0.1, backend=backend
    )
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        product.backward()


def test_nothing_of_the_tables_size_is_made() -> None:
    tensors = fresh(torch.zeros(100_000, 8), "adam_rows_", rowwise=True)
    ids, values = torch.randint(100_000, (64,)), torch.randn(64, 8)
    activities = [torch.profiler.ProfilerActivity.CPU]
    with torch.profiler.profile(profile_memory=True, activities=activities) as profile:
        functional.adam_rows_(*tensors, ids, values, lr=0.1)
    sizes = [event.nbytes() for event in profile.profiler.kineto_results.events()]
    assert sum(size for size in sizes if size > 0) < 10_000


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("backend", ["fused", "reference"])
def test_halves_between_two_numbers_go_to_the_even_one(dtype: torch.dtype, backend: str) -> None:
    eps = torch.finfo(dtype).eps
    weight = torch.tensor([[1.0], [1.0 + eps]], dtype=dtype)
    grad, ids = -torch.ones(2, 1, dtype=dtype), torch.tensor([0, 1])
    options = {"lr": eps / 2, "eps": 0.0, "backend": backend}
    functional.adagrad_rows_(weight, torch.zeros(2, 1), ids, grad, **options)
    assert weight.flatten().tolist() == [1.0, 1.0 + 2 * eps]
