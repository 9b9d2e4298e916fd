"""Full softmax, rank and top-k: fused against reference, gradients, ties, NaN, memory."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from item_inputs import Items
from op_table import close
from torch import Tensor
from torch.nn import functional as torch_functional

from transformers4rec_ext import functional

cross_entropy = functional.linear_cross_entropy
DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]
SHAPES = {
    "rows": st.sampled_from([1, 3, 33]),
    "width": st.sampled_from([1, 3, 8, 33]),
    "items": st.sampled_from([1, 2, 63, 64, 300]),
    "dtype": st.sampled_from(DTYPES),
    "with_bias": st.booleans(),
    "seed": st.integers(0, 10),
}


def loss_and_gradients(
    data: Items, targets: Tensor, backend: str, **options: object
) -> list[Tensor]:
    for tensor in data.tensors():
        tensor.grad = None
    loss = cross_entropy(
        data.hidden, data.weight, targets, bias=data.bias, backend=backend, **options
    )
    loss.sum().backward()
    return [loss.detach(), *(t.grad.clone() for t in data.tensors() if t.grad is not None)]


@settings(max_examples=60)
@given(
    **SHAPES,
    temperature=st.sampled_from([0.1, 1.0, 3.0]),
    smoothing=st.sampled_from([0.0, 0.3]),
    reduction=st.sampled_from(["mean", "sum", "none"]),
)
def test_cross_entropy_fused_equals_reference(
    rows: int,
    width: int,
    items: int,
    dtype: torch.dtype,
    with_bias: bool,
    seed: int,
    temperature: float,
    smoothing: float,
    reduction: str,
) -> None:
    data = Items.make(rows, width, items, dtype=dtype, with_bias=with_bias, seed=seed)
    options = {
        "temperature": temperature,
        "label_smoothing": smoothing,
        "reduction": reduction,
        "ignore_index": -100,
    }
    found = loss_and_gradients(data, data.some_ignored(), "fused", **options)
    wanted = loss_and_gradients(data, data.some_ignored(), "reference", **options)
    scale = max(1.0, *(t.abs().max().item() for t in data.tensors()))
    scale *= math.sqrt(width * rows) * (1 + 1 / temperature)
    for a, b in zip(found, wanted, strict=True):
        close(a, b, dtype, scale=scale)


def test_cross_entropy_in_many_tiles(small_tiles: str) -> None:
    data = Items.make(5, 4, 41, seed=1)
    options = {"temperature": 0.7, "label_smoothing": 0.1, "ignore_index": -100}
    wanted = loss_and_gradients(data, data.some_ignored(), "reference", **options)
    for found, expected in zip(
        loss_and_gradients(data, data.some_ignored(), "fused", **options), wanted, strict=True
    ):
        close(found, expected)


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_gradcheck(small_tiles: str, reduction: str, smoothing: float) -> None:
    data = Items.make(4, 3, 17)

    def loss(hidden: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return cross_entropy(
            hidden,
            weight,
            data.some_ignored(),
            bias=bias,
            temperature=0.7,
            label_smoothing=smoothing,
            reduction=reduction,
            backend="fused",
        )

    assert torch.autograd.gradcheck(loss, tuple(data.tensors()))


def test_gradients_are_exact_in_float64(small_tiles: str) -> None:
    """Against torch's own cross-entropy on the real logits, not against our reference."""
    data = Items.make(9, 8, 120, seed=4)
    targets = data.some_ignored()
    found = loss_and_gradients(data, targets, "fused", label_smoothing=0.1)
    logits = data.hidden @ data.weight.T + data.bias
    expected = torch_functional.cross_entropy(logits, targets, label_smoothing=0.1)
    gradients = torch.autograd.grad(expected, data.tensors())
    for a, b in zip(found, (expected.detach(), *gradients), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-14)


def test_backward_twice_and_create_graph() -> None:
    data = Items.make()
    loss = cross_entropy(data.hidden, data.weight, data.targets, bias=data.bias)
    first = torch.autograd.grad(loss, data.tensors(), retain_graph=True)
    for a, b in zip(first, torch.autograd.grad(loss, data.tensors()), strict=True):
        assert torch.equal(a, b)
    loss = cross_entropy(data.hidden, data.weight, data.targets)
    (gradient,) = torch.autograd.grad(loss, [data.hidden], create_graph=True)
    with pytest.raises(RuntimeError, match="second derivative"):
        torch.autograd.grad(gradient.sum(), [data.hidden])


FAR = torch.tensor([-200.0, 80.0, -90.0, 5.0, 79.0, -300.0, 150.0, 149.0] * 5)
LOGITS = {
    "mixed": FAR[torch.randperm(40, generator=torch.Generator().manual_seed(1))],
    "below zero": FAR - 300,
    "rising": torch.linspace(-1000.0, 1000.0, 120),
    "falling": torch.linspace(1000.0, -1000.0, 120),
}


@pytest.mark.parametrize("name", LOGITS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_logits_far_from_zero_and_far_apart(
    small_tiles: str, name: str, dtype: torch.dtype
) -> None:
    """The running maximum may jump by any amount from one tile to the next."""
    weight = LOGITS[name][:, None].to(dtype).requires_grad_()
    hidden, targets = torch.ones(2, 1, dtype=dtype), torch.tensor([3, len(weight) - 3])
    loss = cross_entropy(hidden, weight, targets, reduction="none")
    expected = torch_functional.cross_entropy(
        (hidden @ weight.T).double(), targets, reduction="none"
    )
    torch.testing.assert_close(loss.double(), expected, rtol=1e-6, atol=1e-6)
    (found,) = torch.autograd.grad(loss.sum(), weight, retain_graph=True)
    (wanted,) = torch.autograd.grad(expected.sum(), weight)
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("offset", [-2000.0, 2000.0])
def test_a_bias_that_moves_all(small_tiles: str, offset: float) -> None:
    data = Items.make(4, 3, 50, dtype=torch.float64, with_bias=True)
    hidden, weight, bias = data.hidden.detach(), data.weight.detach(), data.bias.detach() + offset
    expected = torch_functional.cross_entropy(hidden @ weight.T + bias, data.targets)
    for backend in ("fused", "reference"):
        loss = cross_entropy(hidden, weight, data.targets, bias=bias, backend=backend)
        torch.testing.assert_close(loss, expected)


@pytest.mark.parametrize("scale", [1e5, 1e9, 1e15, 1e20])
def test_gradients_of_huge_logits_are_finite(small_tiles: str, scale: float) -> None:
    """One ulp of such a score is larger than what an exponential can take."""
    data = Items.make(9, 8, 501, dtype=torch.float32, with_bias=False)
    hidden = (data.hidden.detach() * scale).requires_grad_()
    loss = cross_entropy(hidden, data.weight, data.targets)
    expected = torch_functional.cross_entropy(hidden @ data.weight.T, data.targets)
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=0)
    for gradient in torch.autograd.grad(loss, (hidden, data.weight)):
        assert torch.isfinite(gradient).all()


def test_excluding_an_item_by_its_bias(small_tiles: str) -> None:
    data = Items.make(3, 4, 40, dtype=torch.float32)
    assert data.bias is not None
    bias = data.bias.detach().clone()
    bias[:20] = -math.inf
    loss = cross_entropy(data.hidden, data.weight, data.targets % 20 + 20, bias=bias)
    expected = cross_entropy(data.hidden, data.weight[20:], data.targets % 20, bias=bias[20:])
    close(loss, expected)


def test_a_nan_row_stays_a_row(small_tiles: str) -> None:
    data = Items.make(5, 4, 40, dtype=torch.float32)
    with torch.no_grad():
        data.hidden[2] = math.nan
    rows = cross_entropy(data.hidden, data.weight, data.targets, reduction="none")
    assert rows.isnan().tolist() == [False, False, True, False, False]
    data.targets[2] = -100
    assert torch.isfinite(cross_entropy(data.hidden, data.weight, data.targets))


@pytest.mark.parametrize("rows", [0, 3])
def test_no_row_counts(rows: int) -> None:
    data = Items.make(rows, 4, 11)
    targets = torch.full((rows,), -100)
    loss, *gradients = loss_and_gradients(data, targets, "fused")
    assert loss == 0
    assert all(torch.equal(g, torch.zeros_like(g)) for g in gradients)


def test_loss_is_never_negative() -> None:
    hidden = torch.randn(64, 32) * 20
    assert (cross_entropy(hidden, hidden, torch.arange(64), reduction="none") >= 0).all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_rounds_then_accumulates_wide(dtype: torch.dtype) -> None:
    data = Items.make(7, 16, 50, dtype=torch.float32)
    with torch.autocast("cpu", dtype=dtype):
        loss = cross_entropy(data.hidden, data.weight, data.targets, bias=data.bias)
    expected = cross_entropy(
        data.hidden.to(dtype).float(), data.weight.to(dtype).float(), data.targets, bias=data.bias
    )
    assert loss.dtype == torch.float32
    close(loss, expected)


def test_compiles_without_a_break() -> None:
    data = Items.make(dtype=torch.float32)

    def step(hidden: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
        loss, rank = cross_entropy(hidden, weight, data.targets, return_rank=True)
        return loss, rank

    compiled = torch.compile(step, fullgraph=True, backend="aot_eager")
    found, found_rank = compiled(data.hidden, data.weight)
    wanted, wanted_rank = step(data.hidden, data.weight)
    close(found, wanted)
    assert torch.equal(found_rank, wanted_rank)
    (a,) = torch.autograd.grad(found, data.weight)
    (b,) = torch.autograd.grad(wanted, data.weight)
    close(a, b)


def peak_bytes(function: object) -> int:
    """Return the peak of what torch's allocator held during a call, above what it held before."""
    with torch.profiler.profile(profile_memory=True) as profile:
        function()
    held, peak = 0, 0
    for event in sorted(profile.profiler.kineto_results.events(), key=lambda e: e.start_ns()):
        if event.name() == "[memory]":
            held += event.nbytes()
            peak = max(peak, held)
    return peak


def test_peak_memory_does_not_depend_on_the_scores() -> None:
    """8 MiB of scores at 1,000 items, 800 MiB at 100,000: the peak must not follow."""
    rows, width = 2048, 8
    hidden = torch.randn(rows, width)
    targets = torch.zeros(rows, dtype=torch.int64)

    def peak(items: int) -> int:
        weight = torch.randn(items, width)
        return peak_bytes(lambda: functional.target_rank(hidden, weight, targets))

    small, large = peak(1_000), peak(100_000)
    assert small > 2**20  # the probe sees the tile
    assert large < small + 2**20
    weight = torch.randn(100_000, width, requires_grad=True)
    gradient_bytes, kept_bytes = 100_000 * width * 4, 64 * 2**20
    peaks = peak_bytes(lambda: cross_entropy(hidden, weight, targets).backward())
    assert kept_bytes < peaks < kept_bytes + 2 * gradient_bytes + 16 * 2**20
    peaks = peak_bytes(lambda: functional.topk_items(hidden, weight, 20))
    assert peaks < 16 * 2**20


@pytest.mark.parametrize("backend", ["auto", "reference"])
def test_a_row_that_is_ignored_may_be_anything(backend: str) -> None:
    targets, generator = torch.tensor([1, -100, 4]), torch.Generator().manual_seed(0)
    hidden, weight = (torch.randn(n, 4, generator=generator) for n in (3, 7))
    gradients = []
    for value in (0.0, torch.nan):
        rows = hidden.index_fill(0, torch.tensor([1]), value).requires_grad_()
        table = weight.clone().requires_grad_()
        cross_entropy(rows, table, targets, label_smoothing=0.1, backend=backend).backward()
        gradients.append((rows.grad, table.grad))
    for clean, with_nan in zip(*gradients, strict=True):
        torch.testing.assert_close(with_nan, clean)


@pytest.mark.parametrize("backend", ["auto", "reference"])
def test_an_item_that_is_never_chosen(backend: str) -> None:
    """A bias of -inf takes it out of the softmax."""
    hidden, weight = torch.randn(3, 4), torch.randn(7, 4)
    bias = torch.zeros(7).index_fill(0, torch.tensor([6]), -torch.inf)
    targets = torch.tensor([1, 0, 4])
    loss = cross_entropy(hidden, weight, targets, bias=bias, backend=backend)
    torch.testing.assert_close(loss, cross_entropy(hidden, weight[:6], targets))


@pytest.mark.parametrize("backend", ["auto", "reference"])
def test_vectors_of_no_width(backend: str) -> None:
    loss = cross_entropy(torch.zeros(3, 0), torch.zeros(5, 0), torch.arange(3), backend=backend)
    assert loss.item() == pytest.approx(math.log(5))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_frozen_table_has_no_gradient_made(dtype: torch.dtype) -> None:
    rows, items, width = 64, 50_000, 64
    targets = torch.arange(rows)

    def gradient(frozen: bool) -> tuple[Tensor, Tensor, int]:
        generator = torch.Generator().manual_seed(0)
        hidden, weight, bias = (
            torch.randn(*size, generator=generator).to(dtype)
            for size in ((rows, width), (items, width), (items,))
        )
        weight.requires_grad_(not frozen)
        hidden.requires_grad_()
        bias.requires_grad_()
        loss = cross_entropy(hidden, weight, targets, bias=bias)
        peak = peak_bytes(loss.backward)
        assert (weight.grad is None) == frozen
        assert hidden.grad is not None
        assert bias.grad is not None
        return hidden.grad, bias.grad, peak

    trained, frozen = gradient(False), gradient(True)
    assert torch.equal(frozen[0], trained[0])
    assert torch.equal(frozen[1], trained[1])
    table = items * width * dtype.itemsize
    assert trained[2] - frozen[2] >= table
