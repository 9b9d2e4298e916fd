"""Rows without a target in the sampled losses: as if they were not there."""

from __future__ import annotations

import functools
from dataclasses import replace
from typing import Any

import pytest
import torch
from loss_helpers import DTYPES, Loss, loss_gradients
from op_table import Inputs

from transformers4rec_ext import functional

LOSSES: dict[str, Loss] = {
    "softmax": functional.sampled_softmax_loss,
    "corrected": functools.partial(functional.sampled_softmax_loss, corrected=True),
    "bce": functools.partial(functional.sampled_bce_loss, t=0.5),
}
every_loss = pytest.mark.parametrize("name", LOSSES)
KEPT = torch.tensor([0, 2, 3, 6])


def _with_ignored(data: Inputs, index: int = -100) -> Inputs:
    """Ignore all rows but four, and make nonsense of what belongs to them."""
    lost = torch.ones(data.hidden.shape[0], dtype=torch.bool)
    lost[KEPT] = False
    hidden = data.hidden.detach().masked_fill(lost[:, None], torch.nan).requires_grad_()
    log_q = data.target_log_q
    return replace(
        data,
        hidden=hidden,
        targets=data.targets.masked_fill(lost, index),
        target_log_q=None if log_q is None else log_q.masked_fill(lost, torch.nan),
    )


def _only_kept(data: Inputs) -> Inputs:
    return replace(
        data,
        hidden=data.hidden.detach()[KEPT].requires_grad_(),
        targets=data.targets[KEPT],
        target_log_q=None if data.target_log_q is None else data.target_log_q[KEPT],
    )


@every_loss
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("backend", ["auto", "reference"])
@pytest.mark.parametrize("options", [{}, {"reduction": "sum"}], ids=["mean", "sum"])
def test_loss_and_gradients(
    name: str, dtype: torch.dtype, backend: str, options: dict[str, Any]
) -> None:
    data = Inputs.make(9, 4, 30, 8, dtype=dtype)
    expected = loss_gradients(LOSSES[name], _only_kept(data), backend=backend, **options)
    ignored = _with_ignored(data)
    mine = loss_gradients(LOSSES[name], ignored, backend=backend, ignore_index=-100, **options)
    tolerance = {"rtol": 4 * torch.finfo(dtype).eps, "atol": 4 * torch.finfo(dtype).eps}
    torch.testing.assert_close(mine[0], expected[0], **tolerance)
    torch.testing.assert_close(mine[1][KEPT], expected[1], **tolerance)
    torch.testing.assert_close(mine[2], expected[2], **tolerance)
    others = torch.ones(9, dtype=torch.bool)
    others[KEPT] = False
    assert not mine[1][others].any()


@every_loss
def test_rows_of_losses_and_evaluation(name: str) -> None:
    data = Inputs.make(9, 4, 30, 8)
    kept, ignored = _only_kept(data), _with_ignored(data, index=7_000)
    rows = LOSSES[name](
        *ignored.all()[:4], **ignored.keywords(), ignore_index=7_000, reduction="none"
    )
    expected = LOSSES[name](*kept.all()[:4], **kept.keywords(), reduction="none")
    assert torch.equal(rows[KEPT], expected)
    assert rows.count_nonzero() <= len(KEPT)
    with torch.no_grad():
        mean = LOSSES[name](*ignored.all()[:4], **ignored.keywords(), ignore_index=7_000)
    torch.testing.assert_close(mean, expected.mean().detach())


@every_loss
def test_no_row_counts(name: str) -> None:
    data = Inputs.make(9, 4, 30, 8)
    data = replace(data, targets=torch.full_like(data.targets, -1))
    loss, grad_hidden, grad_weight = loss_gradients(LOSSES[name], data, ignore_index=-1)
    assert loss == 0
    assert not grad_hidden.any()
    assert not grad_weight.any()


@every_loss
def test_only_touched_rows_have_a_gradient(name: str) -> None:
    data = _with_ignored(Inputs.make(9, 4, 30, 8))
    loss = LOSSES[name](*data.all()[:4], **data.keywords(), ignore_index=-100, sparse_grad=True)
    loss.backward()
    touched = set(data.weight.grad.coalesce().indices()[0].tolist())
    assert touched <= {*data.targets[KEPT].tolist(), *data.candidate_ids.tolist()}


@every_loss
def test_candidates_stand_in_turn_by_turn(name: str) -> None:
    """A GPU sums the gradients of one item one after the other: none is to have them all."""
    data = Inputs.make(400, 4, 30, 8, dtype=torch.float32)
    targets = torch.full_like(data.targets, -100)
    loss = LOSSES[name](
        data.hidden,
        data.weight,
        targets,
        torch.arange(5, 13),
        **data.keywords(),
        ignore_index=-100,
        sparse_grad=True,
        reduction="sum",
    )
    loss.backward()
    assert data.weight.grad is not None
    times = data.weight.grad._indices().flatten().bincount()
    assert times.max() == 51  # the candidate itself, and its part of the rows
    assert times.nonzero()[:, 0].tolist() == list(range(5, 13))


@every_loss
def test_a_number_for_ignore_index(name: str) -> None:
    data = Inputs.make(9, 4, 30, 8)
    with pytest.raises(TypeError, match="ignore_index must be an int"):
        LOSSES[name](*data.all()[:4], **data.keywords(), ignore_index=1.5)
    with pytest.raises(TypeError, match="hidden must be a Tensor; got list"):
        LOSSES[name]([1.0], *data.all()[1:4], **data.keywords(), ignore_index=-1)
    with pytest.raises(ValueError, match=r"targets must .*-100"):
        LOSSES[name](*_with_ignored(data).all()[:4], **data.keywords())
