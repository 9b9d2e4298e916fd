"""Binary cross-entropy over shared candidates: fused against reference, gradients, edges."""

from __future__ import annotations

import math
from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from loss_helpers import DTYPES, Largest, loss_gradients, peak_bytes
from op_table import Inputs, close
from torch import Tensor
from torch.nn import functional as torch_functional

from transformers4rec_ext import functional

loss_of = functional.sampled_bce_loss
gradients = partial(loss_gradients, loss_of)
BACKENDS = ["fused", "reference"]


@settings(max_examples=60)
@given(
    rows=st.sampled_from([1, 2, 3, 33]),
    width=st.sampled_from([1, 3, 8]),
    items=st.sampled_from([1, 2, 50]),
    samples=st.sampled_from([1, 2, 31, 129, 1500]),
    dtype=st.sampled_from(DTYPES),
    temperature=st.sampled_from([0.1, 1.0, 3.0]),
    with_log_q=st.booleans(),
    padded=st.booleans(),
    remove=st.booleans(),
    t=st.sampled_from([0.0, 0.75, 1.0]),
    reduction=st.sampled_from(["mean", "sum", "none"]),
    seed=st.integers(0, 10),
)
def test_fused_equals_reference(
    rows: int,
    width: int,
    items: int,
    samples: int,
    dtype: torch.dtype,
    temperature: float,
    with_log_q: bool,
    padded: bool,
    remove: bool,
    t: float,
    reduction: str,
    seed: int,
) -> None:
    data = Inputs.make(rows, width, items, samples, dtype=dtype, with_log_q=with_log_q, seed=seed)
    if padded and data.candidate_log_q is not None:
        data.candidate_log_q[samples // 2 :] = math.inf
    options = {
        "temperature": temperature,
        "remove_accidental_hits": remove,
        "t": t,
        "reduction": reduction,
    }
    expected = gradients(data, backend="reference", **options)
    # scores and gradients are sums of such terms, which may cancel
    largest = max(1.0, data.hidden.abs().max().item(), data.weight.abs().max().item())
    scale = largest * math.sqrt(rows * samples) * (1 + 1 / temperature)
    for found, wanted in zip(gradients(data, backend="fused", **options), expected, strict=True):
        close(found, wanted, dtype, scale=scale)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_gradcheck(backend: str, reduction: str) -> None:
    data = Inputs.make()
    assert data.candidate_log_q is not None
    data.candidate_log_q[3] = math.inf

    def loss(hidden: Tensor, weight: Tensor) -> Tensor:
        return loss_of(
            hidden,
            weight,
            data.targets,
            data.candidate_ids,
            **data.keywords(),
            t=0.75,
            temperature=0.7,
            reduction=reduction,
            backend=backend,
        )

    assert torch.autograd.gradcheck(loss, (data.hidden, data.weight))


@pytest.mark.parametrize("backend", BACKENDS)
def test_all_items_without_calibration_are_torchs_bce(backend: str) -> None:
    data = Inputs.make(rows=6, items=9, with_log_q=False)
    data.candidate_ids = torch.arange(9)
    found = gradients(data, reduction="sum", backend=backend)
    data.hidden.grad = data.weight.grad = None
    labels = torch_functional.one_hot(data.targets, 9).double()
    full = torch_functional.binary_cross_entropy_with_logits(
        data.hidden @ data.weight.T, labels, reduction="sum"
    )
    full.backward()
    assert data.hidden.grad is not None
    assert data.weight.grad is not None
    for a, b in zip(found, (full.detach(), data.hidden.grad, data.weight.grad), strict=True):
        close(a, b)


def test_t_weighs_the_targets_term() -> None:
    data = Inputs.make(rows=1, items=21, samples=5, with_log_q=False)
    data.targets, data.candidate_ids = torch.tensor([0]), torch.arange(1, 6)

    def loss(**options: float | int) -> float:
        return loss_of(*data.all()[:4], **options).item()

    score = (data.hidden[0] @ data.weight[0]).item()
    of_target = math.log1p(math.exp(-score))
    plain = loss()
    alpha = 5 / 20
    for t in (0.25, 0.75, 1.0):
        # beta as the paper writes it
        beta = alpha * (t * (1 - 1 / alpha) + 1 / alpha)
        assert loss(t=t) == pytest.approx(plain - (1 - beta) * of_target)
    assert loss(t=1.0, num_items=11) == pytest.approx(plain - of_target / 2)
    # more candidates than items: nothing is left to calibrate
    assert loss(t=1.0, num_items=4) == pytest.approx(plain)


@pytest.mark.parametrize("backend", BACKENDS)
def test_padding_is_as_if_it_were_not_there(backend: str) -> None:
    data = Inputs.make(rows=4, items=30, samples=9, with_log_q=False)
    data.candidate_log_q = torch.zeros(9)
    data.candidate_log_q[6:] = math.inf
    found = gradients(data, t=0.5, backend=backend)
    data.candidate_ids, data.candidate_log_q = data.candidate_ids[:6], None
    for a, b in zip(found, gradients(data, t=0.5, backend=backend), strict=True):
        close(a, b)


@pytest.mark.parametrize("reduction", ["mean", "none"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_sparse_gradient_is_the_dense_one_in_rows(reduction: str, dtype: torch.dtype) -> None:
    data = Inputs.make(rows=9, items=30, samples=6, dtype=dtype)
    dense = gradients(data, reduction=reduction)[2]
    data.weight.grad = None
    loss = loss_of(*data.all()[:4], **data.keywords(), reduction=reduction, sparse_grad=True)
    loss.sum().backward()
    rows = data.weight.grad
    assert rows is not None
    assert rows.is_sparse
    assert torch.equal(rows._indices()[0], torch.cat([data.targets, data.candidate_ids]))
    close(rows.to_dense(), dense, dtype)


@pytest.mark.parametrize("temperature", [0.1, 1.0, 100.0])
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_hit_has_no_influence(temperature: float, dtype: torch.dtype) -> None:
    data = Inputs.make(rows=1, items=6, dtype=dtype, with_log_q=False)
    data.targets = torch.tensor([2])
    data.candidate_ids = torch.tensor([2, 0, 2, 5])
    found = gradients(data, temperature=temperature)
    data.candidate_ids = torch.tensor([0, 5])
    for a, b in zip(found, gradients(data, temperature=temperature), strict=True):
        close(a, b, dtype)


@pytest.mark.parametrize("backend", BACKENDS)
def test_only_hits_leave_the_targets_term(backend: str) -> None:
    data = Inputs.make(rows=3, items=4, with_log_q=False)
    data.targets, data.candidate_ids = torch.tensor([1, 1, 1]), torch.tensor([1, 1])
    loss, *_ = gradients(data, reduction="none", backend=backend)
    close(loss, torch_functional.softplus(-(data.hidden @ data.weight[1])).detach())


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_scores_of_any_size(dtype: torch.dtype) -> None:
    weight = torch.tensor([[1.0], [-1.0]], dtype=dtype)
    for score in (1e-30, 30.0, 1e3, 1e30):
        for sign in (1, -1):
            hidden = torch.full((1, 1), sign * score, dtype=dtype, requires_grad=True)
            loss = loss_of(hidden, weight, torch.tensor([0]), torch.tensor([1]))
            loss.backward()
            # both terms are softplus(-score)
            exact = 2 * (max(-sign * score, 0.0) + math.log1p(math.exp(-score)))
            # exact to 1e-16 a term, as the logarithm of a product in float64
            assert loss.item() == pytest.approx(exact, rel=1e-5, abs=1e-15)
            slope = (
                math.exp(-score) / (1 + math.exp(-score))
                if sign > 0
                else 1 / (1 + math.exp(-score))
            )
            assert hidden.grad is not None
            assert hidden.grad.item() == pytest.approx(-2 * slope, rel=1e-5, abs=1e-37)


def test_many_small_terms_are_not_lost_in_float32() -> None:
    # each adds 1e-9, less than a float32 next to 1 can hold
    samples, score = 5000, math.log(1e-9)
    weight = torch.tensor([[-score], [score]])
    loss = loss_of(
        torch.ones(1, 1), weight, torch.tensor([0]), torch.ones(samples, dtype=torch.int64)
    )
    assert loss.item() == pytest.approx((samples + 1) * 1e-9, rel=1e-5)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_broken_row_stays_alone(value: float) -> None:
    data = Inputs.make(rows=4, dtype=torch.float32)
    good = loss_of(*data.all()[:4], **data.keywords(), reduction="none").detach()
    with torch.no_grad():
        data.hidden[1] = value
    loss, of_hidden, _ = gradients(data, reduction="none")
    assert not loss[1].isfinite()
    assert of_hidden[[0, 2, 3]].isfinite().all()
    close(loss[[0, 2, 3]], good[[0, 2, 3]])


@pytest.mark.parametrize("samples", [1, 40, 1100])
@pytest.mark.parametrize("position", [0, -1])
def test_a_nan_score_is_a_nan_loss(samples: int, position: int) -> None:
    weight = torch.zeros(samples + 1, 1)
    weight[1:][position] = math.nan
    loss = loss_of(torch.ones(2, 1), weight, torch.tensor([0, 0]), torch.arange(1, samples + 1))
    assert loss.isnan()


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("sparse", [False, True])
def test_no_rows_give_zero_with_gradient(reduction: str, sparse: bool) -> None:
    data = Inputs.make(rows=0)
    loss = loss_of(*data.all()[:4], **data.keywords(), reduction=reduction, sparse_grad=sparse)
    assert loss.item() == 0.0
    loss.backward()
    assert data.weight.grad is not None
    assert not data.weight.grad.to_dense().any()
    assert loss_of(*data.all()[:4], reduction="none").shape == (0,)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_autocast_rounds_the_rows_and_accumulates_in_float32(
    dtype: torch.dtype, backend: str, reduction: str
) -> None:
    data = Inputs.make(rows=8, dtype=torch.float32)
    with torch.autocast("cpu", dtype=dtype):  # the backward inside it as well
        found = gradients(data, backend=backend, reduction=reduction)
    assert {value.dtype for value in found} == {torch.float32}
    exact = gradients(data, reduction=reduction)
    with torch.no_grad():
        data.hidden.copy_(data.hidden.to(dtype))
        data.weight.copy_(data.weight.to(dtype))
    rounded = gradients(data, reduction=reduction)
    close(found[0], rounded[0])
    for a, b in zip(found[1:], rounded[1:], strict=True):
        close(a, b, dtype)
    assert not torch.equal(found[0], exact[0])


@pytest.mark.usefixtures("keep_threads")
def test_threads_and_strides_do_not_change_the_result() -> None:
    data = Inputs.make(rows=300, width=8, items=500, samples=2000, dtype=torch.float32)
    found = []
    for count in (1, 2):
        torch.set_num_threads(count)
        found.append(gradients(data))
    data.targets = data.targets.repeat_interleave(2)[::2]
    data.candidate_ids = data.candidate_ids.repeat_interleave(3)[::3]
    found.append(gradients(data))
    for other in found[1:]:
        for a, b in zip(found[0], other, strict=True):
            close(a, b)


def test_second_derivative_is_refused() -> None:
    data = Inputs.make()
    for reduction in ("mean", "none"):
        loss = loss_of(*data.all()[:4], reduction=reduction).sum()
        (grad,) = torch.autograd.grad(loss, data.hidden, create_graph=True)
        with pytest.raises(RuntimeError, match="second derivative"):
            grad.sum().backward()


def test_memory_depends_neither_on_the_catalogue_nor_on_rows_times_samples() -> None:
    small = peak_bytes(loss_of, rows=4096, samples=2048, items=10_000)
    assert small > 0
    # four times the rows: the [N, D] tensors grow, the tile does not; [N, S] would be 128 MiB
    assert peak_bytes(loss_of, rows=16384, samples=2048, items=10_000) < small + 4 * 2**20
    assert peak_bytes(loss_of, rows=4096, samples=2048, items=1_000_000) < small + 2**16
    data = Inputs.make(rows=16, width=4, items=100_000, samples=32, dtype=torch.float32)
    with Largest() as largest:
        loss_of(*data.all()[:4], **data.keywords(), sparse_grad=True).backward()
    assert 0 < largest.numel < 100_000


@pytest.mark.parametrize("padded", [False, True])
def test_compiles_without_a_graph_break(padded: bool) -> None:
    data = Inputs.make(dtype=torch.float32, with_log_q=padded)

    def step(hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
        return loss_of(
            hidden,
            weight,
            targets,
            data.candidate_ids,
            candidate_log_q=data.candidate_log_q,
            t=0.75,
            sparse_grad=True,
        )

    compiled = torch.compile(step, fullgraph=True, backend="aot_eager")
    loss = compiled(*data.all()[:3])
    loss.backward()
    found = loss.detach(), data.hidden.grad, data.weight.grad
    data.hidden.grad = data.weight.grad = None
    expected = step(*data.all()[:3])
    expected.backward()
    close(found[0], expected.detach())
    for a, b in ((found[1], data.hidden.grad), (found[2], data.weight.grad)):
        assert a is not None
        assert b is not None
        close(a.to_dense(), b.to_dense())
