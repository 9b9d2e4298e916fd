"""Sampled softmax and logits: fused against reference, gradients, edges, memory."""

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

loss_of = functional.sampled_softmax_loss
gradients = partial(loss_gradients, loss_of)


@settings(max_examples=60)
@given(
    rows=st.sampled_from([1, 2, 3, 33]),
    width=st.sampled_from([1, 3, 8]),
    items=st.sampled_from([1, 2, 50]),
    samples=st.sampled_from([1, 2, 31, 129]),
    dtype=st.sampled_from(DTYPES),
    temperature=st.sampled_from([0.1, 1.0, 3.0]),
    with_log_q=st.booleans(),
    remove=st.booleans(),
    corrected=st.booleans(),
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
    remove: bool,
    corrected: bool,
    reduction: str,
    seed: int,
) -> None:
    data = Inputs.make(rows, width, items, samples, dtype=dtype, with_log_q=with_log_q, seed=seed)
    options = {
        "temperature": temperature,
        "remove_accidental_hits": remove,
        "corrected": corrected,
        "reduction": reduction,
    }
    expected = gradients(data, backend="reference", **options)
    # scores and gradients are sums of such terms, which may cancel
    largest = max(1.0, data.hidden.abs().max().item(), data.weight.abs().max().item())
    scale = largest * math.sqrt(rows) * (1 + 1 / temperature)
    for found, wanted in zip(gradients(data, backend="fused", **options), expected, strict=True):
        close(found, wanted, dtype, scale=scale)
    logits = {
        backend: functional.sampled_logits(
            *data.all()[:4],
            **data.keywords(),
            temperature=temperature,
            remove_accidental_hits=remove,
            backend=backend,
        )
        for backend in ("fused", "reference")
    }
    close(logits["fused"], logits["reference"], scale=scale)


@pytest.mark.parametrize("backend", ["fused", "reference"])
@pytest.mark.parametrize("corrected", [False, True])
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_gradcheck(backend: str, corrected: bool, reduction: str) -> None:
    data = Inputs.make()
    if corrected:  # its gradient is not that of its value: the weight 1 - P is held fixed
        classic = gradients(data, reduction=reduction, backend="reference", corrected=True)
        data.target_log_q = torch.zeros_like(data.targets, dtype=torch.float64)
        for found, wanted in zip(
            gradients(data, reduction=reduction, backend=backend)[1:], classic[1:], strict=True
        ):
            close(found, wanted)
        return

    def loss(hidden: Tensor, weight: Tensor) -> Tensor:
        return loss_of(
            hidden,
            weight,
            data.targets,
            data.candidate_ids,
            **data.keywords(),
            temperature=0.7,
            reduction=reduction,
            backend=backend,
        )

    assert torch.autograd.gradcheck(loss, (data.hidden, data.weight))


def test_gradcheck_of_logits() -> None:
    data = Inputs.make()

    def finite(hidden: Tensor, weight: Tensor) -> Tensor:
        logits = functional.sampled_logits(
            hidden, weight, data.targets, data.candidate_ids, **data.keywords(), temperature=0.7
        )
        return logits.masked_fill(logits.isneginf(), 0.0)

    assert torch.autograd.gradcheck(finite, (data.hidden, data.weight))


@pytest.mark.parametrize("reduction", ["mean", "none"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_sparse_gradient_is_the_dense_one_in_rows(reduction: str, dtype: torch.dtype) -> None:
    data = Inputs.make(rows=9, items=30, samples=6, dtype=dtype)
    dense = gradients(data, reduction=reduction)[2]
    loss_of(
        *data.all()[:4], **data.keywords(), reduction=reduction, sparse_grad=True
    ).sum().backward()
    both = data.weight.grad
    data.weight.grad = None
    loss = loss_of(*data.all()[:4], **data.keywords(), reduction=reduction, sparse_grad=True)
    loss.sum().backward()
    rows = data.weight.grad
    assert both is not None
    assert rows is not None
    assert rows.is_sparse
    assert rows._nnz() == 9 + 6
    assert torch.equal(rows._indices()[0], torch.cat([data.targets, data.candidate_ids]))
    close(rows.to_dense(), dense, dtype)
    close(both.to_dense(), 2 * dense, dtype)


@pytest.mark.parametrize("temperature", [0.1, 1.0, 100.0])
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_hit_has_no_influence(temperature: float, dtype: torch.dtype) -> None:
    data = Inputs.make(rows=1, items=6, dtype=dtype)
    data.targets = torch.tensor([2])
    data.candidate_ids = torch.tensor([2, 0, 2, 5])
    data.candidate_log_q = torch.tensor([-9.0, -1.0, -9.0, -2.0])
    found = gradients(data, temperature=temperature)
    data.candidate_ids = torch.tensor([0, 5])
    data.candidate_log_q = torch.tensor([-1.0, -2.0])
    for a, b in zip(found, gradients(data, temperature=temperature), strict=True):
        close(a, b, dtype)


def test_temperature_divides_the_score_only() -> None:
    hidden, weight = torch.ones(1, 1), torch.tensor([[3.0], [5.0]])
    log_q = {"target_log_q": torch.tensor([-1.0]), "candidate_log_q": torch.tensor([-2.0])}
    ids = torch.tensor([0]), torch.tensor([1])
    logits = functional.sampled_logits(hidden, weight, *ids, **log_q, temperature=2.0)
    assert logits.tolist() == [[3.0 / 2 + 1, 5.0 / 2 + 2]]


def test_all_items_as_candidates_is_the_full_softmax() -> None:
    data = Inputs.make(rows=6, items=9, with_log_q=False)
    data.candidate_ids = torch.arange(9)
    loss, of_hidden, of_weight = gradients(data)
    data.hidden.grad = data.weight.grad = None
    full = torch_functional.cross_entropy(data.hidden @ data.weight.T, data.targets)
    full.backward()
    close(loss, full.detach())
    assert data.hidden.grad is not None
    close(of_hidden, data.hidden.grad)
    assert data.weight.grad is not None
    close(of_weight, data.weight.grad)


@pytest.mark.parametrize("corrected", [False, True])
def test_only_hits_left_gives_loss_zero(corrected: bool) -> None:
    data = Inputs.make(rows=3, items=4)
    data.targets = torch.tensor([1, 1, 1])
    data.candidate_ids = torch.tensor([1, 1])
    data.candidate_log_q = torch.zeros(2)
    for backend in ("fused", "reference"):
        loss, of_hidden, of_weight = gradients(
            data, corrected=corrected, reduction="none", backend=backend
        )
        assert loss.tolist() == [0.0, 0.0, 0.0]
        assert not of_hidden.any()
        assert not of_weight.any()


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_broken_row_stays_alone(value: float) -> None:
    data = Inputs.make(rows=4, dtype=torch.float32)
    good = loss_of(*data.all()[:4], **data.keywords(), reduction="none").detach()
    with torch.no_grad():
        data.hidden[1] = value
    loss = loss_of(*data.all()[:4], **data.keywords(), reduction="none").detach()
    assert not loss[1].isfinite()
    close(loss[[0, 2, 3]], good[[0, 2, 3]])
    assert not loss_of(*data.all()[:4], **data.keywords()).isfinite()


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("sparse", [False, True])
def test_no_rows_give_zero_with_gradient(reduction: str, sparse: bool) -> None:
    data = Inputs.make(rows=0)
    loss = loss_of(*data.all()[:4], **data.keywords(), reduction=reduction, sparse_grad=sparse)
    assert loss.item() == 0.0
    loss.backward()
    assert data.hidden.grad is not None
    assert data.hidden.grad.shape == (0, 4)
    assert data.weight.grad is not None
    assert not data.weight.grad.to_dense().any()


def test_no_rows_and_no_reduction_is_an_empty_tensor() -> None:
    data = Inputs.make(rows=0)
    assert loss_of(*data.all()[:4], reduction="none").shape == (0,)
    assert functional.sampled_logits(*data.all()[:4]).shape == (0, 8)


def test_strided_arguments() -> None:
    data = Inputs.make(rows=6, width=4, items=12, samples=10)
    strided = Inputs(
        data.hidden.detach().T.contiguous().T.requires_grad_(),
        data.weight.detach().repeat(1, 2)[:, ::2].requires_grad_(),
        data.targets.repeat_interleave(2)[::2],
        data.candidate_ids.repeat_interleave(3)[::3],
        None,
        None,
    )
    with torch.no_grad():
        strided.weight.copy_(data.weight)
    data.target_log_q = data.candidate_log_q = None
    for a, b in zip(gradients(strided), gradients(data), strict=True):
        close(a, b)


@pytest.mark.usefixtures("keep_threads")
@pytest.mark.parametrize("samples", [5, 3000])
def test_threads_do_not_change_the_result(samples: int) -> None:
    data = Inputs.make(rows=300, width=8, items=500, samples=samples, dtype=torch.float32)
    found = []
    for count in (1, 2):
        torch.set_num_threads(count)
        found.append(gradients(data))
    for a, b in zip(*found, strict=True):
        close(a, b)


def test_second_derivative_is_refused() -> None:
    data = Inputs.make()
    for reduction in ("mean", "none"):
        loss = loss_of(*data.all()[:4], reduction=reduction).sum()
        (grad,) = torch.autograd.grad(loss, data.hidden, create_graph=True)
        with pytest.raises(RuntimeError, match="second derivative"):
            grad.sum().backward()
    logits = functional.sampled_logits(*data.all()[:4])
    (grad,) = torch.autograd.grad(logits[:, 0].sum(), data.hidden, create_graph=True)
    with pytest.raises(RuntimeError, match="second derivative"):
        grad.sum().backward()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("backend", ["fused", "reference"])
@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_autocast_rounds_the_rows_and_accumulates_in_float32(
    dtype: torch.dtype, backend: str, reduction: str
) -> None:
    data = Inputs.make(rows=8, dtype=torch.float32)
    with torch.autocast("cpu", dtype=dtype):  # the backward inside it as well
        found = gradients(data, backend=backend, reduction=reduction)
        logits = functional.sampled_logits(*data.all()[:4], **data.keywords(), backend=backend)
    assert {value.dtype for value in (*found, logits)} == {torch.float32}
    exact = gradients(data, reduction=reduction)
    with torch.no_grad():
        data.hidden.copy_(data.hidden.to(dtype))
        data.weight.copy_(data.weight.to(dtype))
    rounded = gradients(data, reduction=reduction)
    close(found[0], rounded[0])
    close(logits, functional.sampled_logits(*data.all()[:4], **data.keywords()))
    for a, b in zip(found[1:], rounded[1:], strict=True):
        close(a, b, dtype)
    assert not torch.equal(found[0], exact[0])


def test_memory_depends_neither_on_the_catalogue_nor_on_rows_times_samples() -> None:
    small = peak_bytes(loss_of, rows=4096, samples=2048, items=10_000)
    assert small > 0
    # four times the rows: the [N, D] tensors grow, the tile does not; [N, S] would be 128 MiB
    assert peak_bytes(loss_of, rows=16384, samples=2048, items=10_000) < small + 4 * 2**20
    # a table of 16 MB: not one more byte of its size is written
    assert peak_bytes(loss_of, rows=4096, samples=2048, items=1_000_000) < small + 2**16


def test_row_gradients_make_nothing_of_the_size_of_the_table() -> None:
    data = Inputs.make(rows=16, width=4, items=100_000, samples=32, dtype=torch.float32)
    with Largest() as largest:
        loss_of(*data.all()[:4], **data.keywords(), sparse_grad=True).backward()
    assert 0 < largest.numel < 100_000
    data.weight.grad = None
    with Largest() as largest:
        loss_of(*data.all()[:4], **data.keywords()).backward()
    assert largest.numel == 400_000


@pytest.mark.parametrize("sparse", [False, True])
def test_compiles_without_a_graph_break(sparse: bool) -> None:
    data = Inputs.make(dtype=torch.float32)

    def step(hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
        drawn = functional.log_uniform_sample(5, 11, min_id=1)
        log_q = functional.log_uniform_log_q(targets, 11, min_id=0, num_tries=drawn.num_tries)
        return loss_of(
            hidden,
            weight,
            targets,
            drawn.ids,
            target_log_q=log_q,
            candidate_log_q=drawn.log_q,
            sparse_grad=sparse,
        )

    compiled = torch.compile(step, fullgraph=True, backend="aot_eager")
    torch.manual_seed(3)
    loss = compiled(*data.all()[:3])
    loss.backward()
    found = loss.detach(), data.hidden.grad, data.weight.grad
    data.hidden.grad = data.weight.grad = None
    torch.manual_seed(3)
    expected = step(*data.all()[:3])
    expected.backward()
    close(found[0], expected.detach())
    assert data.hidden.grad is not None
    assert data.weight.grad is not None
    assert found[2] is not None
    close(found[1], data.hidden.grad)
    assert found[2].is_sparse == sparse
    close(found[2].to_dense(), data.weight.grad.to_dense())


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("backend", ["fused", "reference"])
def test_a_broken_row_breaks_the_corrected_loss(value: float, backend: str) -> None:
    hidden, weight = torch.ones(2, 3), torch.randn(9, 3)
    hidden[1] = value
    targets, candidates = torch.tensor([1, 2]), torch.tensor([3, 4, 5])
    options = {"corrected": True, "reduction": "none", "backend": backend}
    loss = loss_of(hidden, weight, targets, candidates, **options)
    assert loss.isfinite().tolist() == [True, False]
