"""The operators of a training step, written once for every device and kind of tensor."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from transformers4rec_ext import functional
from transformers4rec_ext.ops.schemas import operators
from transformers4rec_ext.optim import LazyAdagrad, LazyAdam, clip_grad_norm_

ITEMS, ROWS, WIDTH, SAMPLES = 211, 33, 8, 40


def on(device: torch.device | str, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
    """Return the arguments of an operator with copies of the tensors on a device."""
    return tuple(
        a.detach().to(device, copy=True) if isinstance(a, Tensor) else a for a in arguments
    )


def batch(device: torch.device | str) -> tuple[Tensor, torch.nn.Parameter, Tensor]:
    """Return hidden [N, D], the table [V, D] and targets [N]."""
    generator = torch.Generator().manual_seed(3)
    hidden = torch.randn(ROWS, WIDTH, generator=generator)
    weight = torch.randn(ITEMS, WIDTH, generator=generator)
    targets = torch.randint(1, ITEMS, (ROWS,), generator=generator)
    table = torch.nn.Parameter(weight.to(device))
    return hidden.to(device).requires_grad_(), table, targets.to(device)


def sampled_softmax(hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    """Candidates drawn on the device, then sampled softmax with row gradients."""
    drawn, log_q = functional.log_uniform_draw(targets, SAMPLES, ITEMS, min_id=1)
    return functional.sampled_softmax_loss(
        hidden,
        weight,
        targets,
        drawn.ids,
        target_log_q=log_q,
        candidate_log_q=drawn.log_q,
        sparse_grad=True,
    )


def sampled_bce(hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    """Uniform candidates and gBCE."""
    drawn = functional.uniform_sample(SAMPLES, ITEMS, min_id=1, device=targets.device)
    return functional.sampled_bce_loss(
        hidden, weight, targets, drawn.ids, t=0.75, num_items=ITEMS - 1, sparse_grad=True
    )


def full_softmax(hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    """Full softmax with label smoothing; its gradient is dense."""
    return functional.linear_cross_entropy(hidden, weight, targets, label_smoothing=0.1)


LOSSES: list[Callable[[Tensor, Tensor, Tensor], Tensor]] = [
    sampled_softmax,
    sampled_bce,
    full_softmax,
]
OPTIMIZERS = [LazyAdam, LazyAdagrad]


def train(
    loss: Callable[[Tensor, Tensor, Tensor], Tensor],
    rule: torch.optim.Optimizer,
    hidden: Tensor,
    weight: torch.nn.Parameter,
    targets: Tensor,
) -> None:
    """Make one step of ``rule``, an optimizer of ``weight``, on a batch, gradients clipped."""
    rule.zero_grad()
    loss(hidden, weight, targets).backward()
    clip_grad_norm_(weight, 0.1)
    rule.step()


def pure_step(
    seed: Tensor, hidden: Tensor, weight: Tensor, state: tuple[Tensor, ...], targets: Tensor
) -> Tensor:
    """One step without autograd, all of it operators, as a CUDA graph holds it; return the loss.

    ``state``: first and second moment, steps of `adam_rows`. Weight and state change in place.
    """
    ids, log_q, _, _, target_log_q = operators.log_uniform_draw(
        seed, targets, SAMPLES, ITEMS, 1, True
    )
    loss, _, rows = operators.sampled_softmax_sum(
        hidden, weight, targets, ids, target_log_q, log_q, 1.0, True, False, True, None
    )
    touched = torch.cat([targets, ids])
    operators.adam_rows(weight, *state, touched, rows, 0.1, 0.9, 0.999, 1e-8, 0.0)
    return loss


def pure_arguments(device: torch.device | str) -> tuple[Any, ...]:
    """Return the arguments of `pure_step`."""
    hidden, weight, targets = batch(device)
    moments = (torch.zeros_like(weight.detach()), torch.zeros_like(weight.detach()))
    steps = torch.zeros(ITEMS, dtype=torch.int32, device=device)
    seed = torch.tensor(987654321, device=device)
    return seed, hidden.detach(), weight.detach(), (*moments, steps), targets
