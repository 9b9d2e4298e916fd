"""The corrected log Q against the full softmax, in expectation over all sets of candidates."""

from __future__ import annotations

import math
from itertools import combinations

import pytest
import torch
from torch import Tensor

from transformers4rec_ext import functional
from transformers4rec_ext.samplers import UniformSampler

V, D, N = 9, 3, 4
TARGETS = torch.tensor([0, 3, 3, 8])
BACKENDS = ["fused", "reference"]


def embeddings() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    return tuple(
        torch.randn(n, D, generator=generator, dtype=torch.float64).requires_grad_() for n in (N, V)
    )


def sampled(ids: Tensor, corrected: bool, backend: str) -> tuple[Tensor, Tensor, Tensor]:
    """Return the losses and the gradients of hidden and weight, for a simple random sample."""
    hidden, weight = embeddings()
    log_q = math.log(len(ids) / V)
    losses = functional.sampled_softmax_loss(
        hidden,
        weight,
        TARGETS,
        ids,
        target_log_q=torch.full((N,), log_q),
        candidate_log_q=torch.full((len(ids),), log_q, dtype=torch.float64),
        corrected=corrected,
        reduction="none",
        backend=backend,
    )
    losses.sum().backward()
    assert hidden.grad is not None
    assert weight.grad is not None
    return losses.detach(), hidden.grad, weight.grad


def in_expectation(samples: int, corrected: bool, backend: str = "fused") -> list[Tensor]:
    """Return the mean over all sets of candidates, which uniform sampling draws alike."""
    each = [
        sampled(torch.tensor(ids), corrected, backend) for ids in combinations(range(V), samples)
    ]
    return [torch.stack(values).mean(0) for values in zip(*each, strict=True)]


def of_the_full_softmax() -> tuple[Tensor, Tensor]:
    hidden, weight = embeddings()
    torch.nn.functional.cross_entropy(hidden @ weight.T, TARGETS, reduction="sum").backward()
    assert hidden.grad is not None
    assert weight.grad is not None
    return hidden.grad, weight.grad


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("samples", [2, 4, 7])
def test_the_expectation_is_that_of_the_formula(samples: int, backend: str) -> None:
    hidden, weight = (x.detach() for x in embeddings())
    scores = hidden @ weight.T
    own = scores.gather(1, TARGETS[:, None])[:, 0]
    losses = torch.zeros(N, dtype=torch.float64)
    of_hidden = torch.zeros(N, D, dtype=torch.float64)
    of_z = torch.zeros(N, dtype=torch.float64)
    sets = list(combinations(range(V), samples))
    for ids in sets:
        for n in range(N):
            kept = [j for j in ids if j != int(TARGETS[n])]
            weights = [math.exp(scores[n, j]) * V / samples for j in kept]
            z, e = sum(weights), math.exp(own[n])
            of_z[n] += z / len(sets)
            losses[n] += z / (e + z) * (math.log(z) - float(own[n])) / len(sets)
            mean = sum(w * weight[j] for w, j in zip(weights, kept, strict=True)) / z
            of_hidden[n] += z / (e + z) * (mean - weight[TARGETS[n]]) / len(sets)
    # what the candidates stand for is the sum over all items but the target
    torch.testing.assert_close(of_z, scores.exp().sum(1) - own.exp())
    found = in_expectation(samples, corrected=True, backend=backend)
    torch.testing.assert_close(found[0], losses)
    torch.testing.assert_close(found[1], of_hidden)


@pytest.mark.parametrize("backend", BACKENDS)
def test_all_items_give_the_gradient_of_the_full_softmax(backend: str) -> None:
    found = in_expectation(V, corrected=True, backend=backend)[1:]
    for a, b in zip(found, of_the_full_softmax(), strict=True):
        torch.testing.assert_close(a, b)


def test_the_bias_of_the_gradient_falls_and_is_below_the_classic_ones() -> None:
    full = torch.cat(of_the_full_softmax())

    def bias(samples: int, corrected: bool) -> float:
        mean = torch.cat(in_expectation(samples, corrected)[1:])
        return ((mean - full).norm() / full.norm()).item()

    corrected = [bias(samples, True) for samples in (2, 4, 6, 8)]
    classic = [bias(samples, False) for samples in (2, 4, 6, 8)]
    assert corrected == sorted(corrected, reverse=True)
    for new, old in zip(corrected, classic, strict=True):
        assert new < 0.7 * old


def test_the_samplers_own_draws_have_that_expectation() -> None:
    """Monte Carlo with the module's candidates, against the enumeration."""
    exact = in_expectation(4, corrected=True)[1]
    sampler = UniformSampler(4, max_id=V, seed=1)
    draws = torch.stack(
        [sampled(sampler.draw(TARGETS)[0].ids, True, "fused")[1] for _ in range(4000)]
    )
    error = draws.std(0) / math.sqrt(len(draws))
    # 12 numbers within 6.6 standard errors: a false alarm in 2e9 runs
    assert ((draws.mean(0) - exact).abs() < 6.6 * error).all()
    # classic and corrected are told apart at this precision
    classic = in_expectation(4, corrected=False)[1]
    assert ((draws.mean(0) - classic).abs() > 6.6 * error).any()
