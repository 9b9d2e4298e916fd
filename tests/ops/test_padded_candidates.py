"""``candidate_log_q = +inf`` is how candidates are padded: excluded exactly, in every loss."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import pytest
import torch
from loss_helpers import DTYPES, loss_gradients
from op_table import Inputs, close
from torch import Tensor

from transformers4rec_ext import functional

LOSSES = {
    "softmax": functional.sampled_softmax_loss,
    "corrected": partial(functional.sampled_softmax_loss, corrected=True),
    "bce": partial(functional.sampled_bce_loss, t=0.75),
}
BACKENDS = ["fused", "reference"]
both = pytest.mark.parametrize("backend", BACKENDS)
every_loss = pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES.keys())


def padded(samples: int, valid: int, **options: Any) -> Inputs:
    """Return inputs of which the candidates from ``valid`` on are padding."""
    data = Inputs.make(rows=6, items=40, samples=samples, **options)
    assert data.candidate_log_q is not None
    data.candidate_log_q[valid:] = math.inf
    return data


@both
@every_loss
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("reduction", ["mean", "none"])
@pytest.mark.parametrize(("samples", "valid"), [(9, 5), (70, 33), (70, 1)])
def test_padding_is_as_if_it_were_not_there(
    loss: Any, backend: str, dtype: torch.dtype, reduction: str, samples: int, valid: int
) -> None:
    data = padded(samples, valid, dtype=dtype)
    options = {"backend": backend, "reduction": reduction, "temperature": 0.7}
    found = loss_gradients(loss, data, **options)
    assert all(bool(value.isfinite().all()) for value in found)
    assert data.candidate_log_q is not None
    data.candidate_ids = data.candidate_ids[:valid]
    data.candidate_log_q = data.candidate_log_q[:valid]
    for a, b in zip(found, loss_gradients(loss, data, **options), strict=True):
        close(a, b, dtype, scale=10)


@every_loss
@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_the_rows_of_padding_get_exactly_no_gradient(loss: Any, reduction: str) -> None:
    data = padded(70, 33)
    value = loss(*data.all()[:4], **data.keywords(), reduction=reduction, sparse_grad=True)
    value.sum().backward()
    assert data.weight.grad is not None
    of_candidates = data.weight.grad._values()[6:]
    assert of_candidates[:33].any(dim=1).sum() >= 30
    assert not of_candidates[33:].any()


@both
@every_loss
def test_nothing_but_padding(loss: Any, backend: str) -> None:
    data = padded(7, 0)
    value, of_hidden, of_weight = loss_gradients(loss, data, backend=backend, reduction="none")
    if loss is LOSSES["bce"]:  # the target's term is left, with beta = 1 - t
        logits = functional.sampled_logits(*data.all()[:4], **data.keywords())[:, 0]
        close(value, 0.25 * torch.nn.functional.softplus(-logits.detach()))
    else:
        assert value.tolist() == [0.0] * 6
        assert not of_hidden.any()
        assert not of_weight.any()


@both
def test_logits_of_padding_are_excluded_and_have_no_gradient(backend: str) -> None:
    data = padded(9, 5)
    options = data.keywords() | {"backend": backend}
    logits = functional.sampled_logits(*data.all()[:4], **options, remove_accidental_hits=False)
    assert (logits[:, 6:] == -math.inf).all()
    assert logits[:, :6].isfinite().all()
    logits = functional.sampled_logits(*data.all()[:4], **options)
    torch.nn.functional.cross_entropy(logits, torch.zeros(6, dtype=torch.int64)).backward()
    found = data.hidden.grad
    data.hidden.grad = None
    functional.sampled_softmax_loss(*data.all()[:4], **data.keywords()).backward()
    assert found is not None
    assert data.hidden.grad is not None
    close(found, data.hidden.grad)


@both
@pytest.mark.parametrize("name", ["softmax", "bce"])
def test_gradcheck(name: str, backend: str) -> None:
    data = padded(9, 5)

    def loss(hidden: Tensor, weight: Tensor) -> Tensor:
        ids = (data.targets, data.candidate_ids)
        return LOSSES[name](hidden, weight, *ids, **data.keywords(), backend=backend)

    assert torch.autograd.gradcheck(loss, (data.hidden, data.weight))
