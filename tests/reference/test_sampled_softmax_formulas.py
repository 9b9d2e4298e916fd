"""The reference loss against plain Python loops, and the identities of the mathematics."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as torch_functional

from transformers4rec_ext.ops import reference

N, D, V, S = 5, 3, 9, 6


def inputs(seed: int = 0) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Return float64 arguments with a hit in the first row."""
    generator = torch.Generator().manual_seed(seed)
    hidden, weight = (
        torch.randn(n, D, generator=generator, dtype=torch.float64).requires_grad_() for n in (N, V)
    )
    targets = torch.randint(V, (N,), generator=generator)
    ids = torch.randint(V, (S,), generator=generator)
    ids[2] = targets[0]
    log_q = (-torch.rand(n, generator=generator, dtype=torch.float64) for n in (N, S))
    return hidden, weight, targets, ids, *log_q


def by_hand(temperature: float, remove: bool, corrected: bool) -> list[float]:
    """Return the losses, one number at a time."""
    hidden, weight, targets, ids, target_log_q, log_q = (x.detach() for x in inputs())
    losses = []
    for n in range(N):
        t = int(targets[n])

        def score(item: int, row: int = n) -> float:
            products = (float(hidden[row, d]) * float(weight[item, d]) for d in range(D))
            return sum(products) / temperature

        kept = [s for s in range(S) if not (remove and int(ids[s]) == t)]
        logits = [score(int(ids[s])) - float(log_q[s]) for s in kept]
        z = sum(map(math.exp, logits))
        if corrected:
            p = math.exp(score(t)) / (math.exp(score(t)) + z)
            losses.append((1 - p) * (math.log(z) - score(t)))
        else:
            own = score(t) - float(target_log_q[n])
            losses.append(math.log(math.exp(own) + z) - own)
    return losses


@pytest.mark.parametrize("temperature", [0.1, 1.0, 3.0])
@pytest.mark.parametrize("remove", [True, False])
@pytest.mark.parametrize("corrected", [True, False])
def test_loss_by_hand(temperature: float, remove: bool, corrected: bool) -> None:
    found = reference.sampled_softmax_loss(*inputs(), temperature, remove, corrected)
    wanted = by_hand(temperature, remove, corrected)
    assert found.tolist() == pytest.approx(wanted, rel=1e-11)


def gradients(loss: Tensor, *tensors: Tensor) -> list[Tensor]:
    """Return the gradients of the summed loss."""
    return list(torch.autograd.grad(loss.sum(), tensors))


def test_tile_writes_the_gradients_of_autograd() -> None:
    hidden, weight, targets, ids, target_log_q, log_q = inputs()
    row_grad = torch.arange(1.0, N + 1, dtype=torch.float64)
    for corrected in (False, True):
        loss = reference.sampled_softmax_loss(
            hidden, weight, targets, ids, target_log_q, log_q, 0.7, True, corrected
        )
        wanted = gradients(loss * row_grad, hidden)[0]
        scores = (hidden @ weight[ids].T).detach()
        own = (hidden * weight[targets]).sum(1).detach()
        sorted_ids, order = ids.sort()
        out, of_target = torch.empty(2, N, dtype=torch.float64)
        reference.sampled_softmax_tile(
            scores,
            own,
            targets,
            sorted_ids,
            order,
            target_log_q,
            log_q,
            0.7,
            corrected,
            row_grad,
            True,
            out,
            of_target,
        )
        torch.testing.assert_close(out, loss.detach())
        found = scores @ weight[ids] + of_target[:, None] * weight[targets]
        torch.testing.assert_close(found.detach(), wanted)


def test_corrected_gradient_is_the_classic_one_without_the_targets_log_q() -> None:
    hidden, weight, targets, ids, target_log_q, log_q = inputs()
    rest = (0.7, True)
    corrected = reference.sampled_softmax_loss(
        hidden, weight, targets, ids, target_log_q, log_q, *rest, True
    )
    classic = reference.sampled_softmax_loss(
        hidden, weight, targets, ids, None, log_q, *rest, False
    )
    for a, b in zip(
        gradients(corrected, hidden, weight), gradients(classic, hidden, weight), strict=True
    ):
        torch.testing.assert_close(a, b)
    assert not torch.allclose(corrected, classic)


@pytest.mark.parametrize("corrected", [True, False])
def test_all_items_give_the_gradient_of_the_full_softmax(corrected: bool) -> None:
    hidden, weight, targets, *_ = inputs()
    loss = reference.sampled_softmax_loss(
        hidden, weight, targets, torch.arange(V), None, None, 1.0, True, corrected
    )
    full = torch_functional.cross_entropy(hidden @ weight.T, targets, reduction="none")
    for a, b in zip(gradients(loss, hidden, weight), gradients(full, hidden, weight), strict=True):
        torch.testing.assert_close(a, b)
    if not corrected:
        torch.testing.assert_close(loss, full)


def test_a_constant_added_to_all_logits_changes_nothing() -> None:
    hidden, weight, targets, ids, target_log_q, log_q = inputs()
    arguments = (hidden, weight, targets, ids)
    loss = reference.sampled_softmax_loss(*arguments, target_log_q, log_q, 1.0, True, False)
    shifted = reference.sampled_softmax_loss(
        *arguments, target_log_q + 100, log_q + 100, 1.0, True, False
    )
    torch.testing.assert_close(loss, shifted)
