"""clip_grad_norm_ against torch's on the gradients in dense form."""

from __future__ import annotations

import math

import pytest
import torch
from optim_helpers import sparse
from torch import Tensor, nn

from transformers4rec_ext.optim import clip_grad_norm_


def parameters(dtype: torch.dtype = torch.float32) -> list[nn.Parameter]:
    """Return parameters with dense, sparse (repeated ids), coalesced and no gradients."""
    generator = torch.Generator().manual_seed(3)

    def normal(*size: int) -> Tensor:
        return torch.randn(*size, generator=generator).to(dtype)

    params = [nn.Parameter(normal(13, 5)) for _ in range(4)]
    params[0].grad = normal(13, 5)
    ids = torch.randint(13, (30,), generator=generator)
    params[1].grad = sparse(ids, normal(30, 5), 13)
    params[2].grad = sparse(ids[:4], normal(4, 5), 13).coalesce()
    return params


def densified(params: list[nn.Parameter]) -> list[nn.Parameter]:
    """Return copies with every gradient in dense form."""
    copies = [nn.Parameter(param.detach().clone()) for param in params]
    for copy, param in zip(copies, params, strict=True):
        copy.grad = None if param.grad is None else param.grad.to_dense().clone()
    return copies


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("norm_type", [1.0, 2.0, 3, math.inf])
@pytest.mark.parametrize("max_norm", [0.5, 1e6, math.inf])
def test_equal_to_torchs_on_dense_gradients(
    dtype: torch.dtype, norm_type: float, max_norm: float
) -> None:
    params, dense = parameters(dtype), densified(parameters(dtype))
    norm = clip_grad_norm_(params, max_norm, norm_type)
    wanted = nn.utils.clip_grad_norm_(dense, max_norm, norm_type)
    tolerance = 4 * torch.finfo(dtype).eps
    torch.testing.assert_close(norm, wanted, rtol=tolerance, atol=0)
    for param, twin in zip(params, dense, strict=True):
        if param.grad is None:
            assert twin.grad is None
            continue
        torch.testing.assert_close(param.grad.to_dense(), twin.grad, rtol=tolerance, atol=tolerance)
    assert params[1].grad is not None
    assert params[1].grad.is_coalesced() == (max_norm < math.inf)


def test_repetitions_are_summed_before_the_norm_is_taken() -> None:
    param = nn.Parameter(torch.zeros(3, 1))
    param.grad = sparse(torch.tensor([1, 1]), torch.tensor([[3.0], [-3.0]]), 3)
    assert clip_grad_norm_(param, 1.0) == 0
    param.grad = sparse(torch.tensor([1, 1]), torch.tensor([[3.0], [1.0]]), 3)
    assert clip_grad_norm_([param], 2.0) == 4
    torch.testing.assert_close(param.grad.to_dense(), torch.tensor([[0.0], [2.0], [0.0]]))


def test_what_autograd_shares_is_left_alone() -> None:
    embedding = nn.Embedding(5, 2, sparse=True)
    upstream = torch.full((2, 2), 10.0)
    for ids in (torch.tensor([1, 1]), torch.tensor([1, 3])):
        embedding.weight.grad = None
        embedding(ids).backward(upstream)
        clip_grad_norm_(embedding.parameters(), 1.0)
        assert torch.equal(upstream, torch.full((2, 2), 10.0))
    assert embedding.weight.grad is not None
    assert embedding.weight.grad.to_dense().norm() == pytest.approx(1.0, rel=1e-5)


def test_no_gradients_and_generators() -> None:
    assert clip_grad_norm_([], 1.0) == 0
    assert clip_grad_norm_([nn.Parameter(torch.ones(2))], 1.0) == 0
    params = parameters()
    norm = clip_grad_norm_((param for param in params), 0.1)
    assert norm > 0.1
    assert clip_grad_norm_(iter(params), 1.0) == pytest.approx(0.1, rel=1e-3)
    empty = nn.Parameter(torch.ones(2, 3))
    empty.grad = sparse(torch.empty(0, dtype=torch.int64), torch.empty(0, 3), 2)
    assert clip_grad_norm_(empty, 1.0) == 0


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_a_norm_that_is_not_finite(bad: float) -> None:
    params = parameters()
    assert params[1].grad is not None
    params[1].grad._values()[3, 2] = bad
    with pytest.raises(RuntimeError, match="non-finite"):
        clip_grad_norm_(params, 1.0, error_if_nonfinite=True)
    assert not clip_grad_norm_(params, 1.0).isfinite()


def test_bad_input() -> None:
    with pytest.raises(TypeError, match="clip_grad_norm_: parameters must be tensors; got int"):
        clip_grad_norm_([3], 1.0)
    with pytest.raises(TypeError, match="clip_grad_norm_: max_norm must be a number; got str"):
        clip_grad_norm_(parameters(), "1")
    with pytest.raises(ValueError, match="max_norm must lie in"):
        clip_grad_norm_(parameters(), -1.0)
    param = nn.Parameter(torch.ones(2, 3))
    param.grad = torch.sparse_coo_tensor([[0], [1]], [1.0], (2, 3), check_invariants=True)
    with pytest.raises(ValueError, match="gradients must be dense or sparse COO of rows"):
        clip_grad_norm_(param, 1.0)
