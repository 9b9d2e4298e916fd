"""SampledSoftmaxLoss and the smoothed cross-entropy with excluded classes."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from transformers4rec_ext import functional
from transformers4rec_ext.losses import (
    CandidateLoss,
    GBCELoss,
    LabelSmoothCrossEntropyLoss,
    SampledSoftmaxLoss,
    smoothed_cross_entropy,
)
from transformers4rec_ext.samplers import InBatchSampler, LogUniformSampler, UniformSampler


def tensors() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    hidden = torch.randn(6, 4, requires_grad=True)
    weight = torch.randn(40, 4, requires_grad=True)
    return hidden, weight, torch.tensor([1, 2, 2, 39, 7, 20])


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_equals_cross_entropy_of_the_sampled_logits(reduction: str) -> None:
    hidden, weight, targets = tensors()
    sampler = LogUniformSampler(12, max_id=40, min_id=1, seed=5)
    loss = SampledSoftmaxLoss(sampler, temperature=0.5, reduction=reduction)(
        hidden, weight, targets
    )
    candidates, target_log_q = LogUniformSampler(12, max_id=40, min_id=1, seed=5).draw(targets)
    logits = functional.sampled_logits(
        hidden,
        weight,
        targets,
        candidates.ids,
        target_log_q=target_log_q,
        candidate_log_q=candidates.log_q,
        temperature=0.5,
    )
    expected = F.cross_entropy(logits, torch.zeros_like(targets), reduction=reduction)
    torch.testing.assert_close(loss, expected)
    gradients = torch.autograd.grad(loss.sum(), (hidden, weight))
    for got, want in zip(
        gradients, torch.autograd.grad(expected.sum(), (hidden, weight)), strict=True
    ):
        torch.testing.assert_close(got, want)


def test_options_reach_the_function() -> None:
    hidden, weight, targets = tensors()

    def loss(**options: object) -> torch.Tensor:
        sampler = LogUniformSampler(30, max_id=40, min_id=1, seed=5)
        return SampledSoftmaxLoss(sampler, **options)(hidden, weight, targets)

    plain = loss()
    assert loss(corrected=True) != plain
    assert loss(remove_accidental_hits=False) > plain
    weight.grad = None
    loss(sparse_grad=True).backward()
    assert weight.grad is not None
    assert weight.grad.is_sparse


def test_options_reach_gbces_function_too() -> None:
    hidden, weight, targets = tensors()

    def loss(**options: object) -> torch.Tensor:
        sampler = UniformSampler(39, max_id=40, min_id=1)  # all of them, every target among them
        return GBCELoss(sampler, **options)(hidden, weight, targets)

    plain = loss()
    assert loss(remove_accidental_hits=False) > plain
    assert loss(prior=0.01) != plain
    assert loss(temperature=0.5) != plain
    assert loss(reduction="none").shape == targets.shape
    loss(sparse_grad=True).backward()
    assert weight.grad is not None
    assert weight.grad.is_sparse


def test_whole_catalogue_is_the_full_softmax() -> None:
    hidden, weight, targets = tensors()
    loss = SampledSoftmaxLoss(LogUniformSampler(100, max_id=40))(hidden, weight, targets)
    torch.testing.assert_close(loss, F.cross_entropy(hidden @ weight.t(), targets))


def test_no_rows_give_zero_with_gradient() -> None:
    hidden = torch.empty(0, 4, requires_grad=True)
    weight = torch.randn(40, 4, requires_grad=True)
    loss = SampledSoftmaxLoss(LogUniformSampler(5, 40))(
        hidden, weight, torch.empty(0, dtype=torch.int64)
    )
    loss.backward()
    assert loss.item() == 0
    assert weight.grad is not None
    assert torch.equal(weight.grad, torch.zeros_like(weight))


def test_loss_is_float32_in_bfloat16() -> None:
    hidden, weight, targets = (tensors()[0].bfloat16(), tensors()[1].bfloat16(), tensors()[2])
    loss = SampledSoftmaxLoss(LogUniformSampler(5, 40))(hidden, weight, targets)
    assert loss.dtype == torch.float32


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("t", [0.0, 0.75, 1.0])
@pytest.mark.parametrize("prior", [0.5, 1 / 39])
def test_gbce_by_hand(prior: float, t: float, reduction: str) -> None:
    hidden, weight, targets = tensors()
    sampler = UniformSampler(12, max_id=40, min_id=1, seed=5)
    criterion = GBCELoss(sampler, t, prior=prior, temperature=0.5, reduction=reduction)
    loss = criterion(hidden, weight, targets)
    ids = UniformSampler(12, max_id=40, min_id=1, seed=5).draw(targets)[0].ids
    alpha = 12 / 38  # of 39 items, one is the target
    beta = alpha * (t * (1 - 1 / alpha) + 1 / alpha)
    scores = hidden @ weight.T / 0.5 + math.log(prior / (1 - prior))
    negatives = F.softplus(scores[:, ids]) * (ids != targets[:, None])
    positives = F.softplus(-scores.gather(1, targets[:, None])[:, 0])
    expected = beta * positives + negatives.sum(1)
    expected = {"mean": expected.mean(), "sum": expected.sum(), "none": expected}[reduction]
    torch.testing.assert_close(loss, expected)
    gradients = torch.autograd.grad(loss.sum(), (hidden, weight))
    wanted = torch.autograd.grad(expected.sum(), (hidden, weight))
    for got, want in zip(gradients, wanted, strict=True):
        torch.testing.assert_close(got, want)


def test_gbce_counts_the_items_that_it_is_told() -> None:
    hidden, weight, targets = tensors()

    def loss(**options: object) -> torch.Tensor:
        return GBCELoss(UniformSampler(12, 40, 1, seed=5), **options)(hidden, weight, targets)

    torch.testing.assert_close(loss(), loss(num_items=39))
    assert loss(num_items=1000) < loss()


def test_a_score_of_zero_has_the_prior() -> None:
    """An untrained model, of scores near 0, then has a loss of a few units whatever V is."""
    size, drawn = 100_001, 256
    sampler = UniformSampler(drawn, size, min_id=1, seed=5)
    hidden, weight, targets = torch.zeros(3, 4), torch.zeros(size, 4), torch.tensor([1, 2, 9])
    plain = GBCELoss(sampler)(hidden, weight, targets)
    torch.testing.assert_close(plain.item(), (1 - 0.75 * (1 - drawn / 1e5) + drawn) * math.log(2))
    loss = GBCELoss(sampler, t=0.0, prior=1e-5)(hidden, weight, targets)
    torch.testing.assert_close(loss.item(), math.log(1e5) - drawn * math.log1p(-1e-5))


def test_the_prior_is_exact_in_float64() -> None:
    hidden, weight, targets = tensors()
    hidden, weight = hidden.double(), weight.double()
    loss = GBCELoss(UniformSampler(100, max_id=40), prior=0.1)
    exact = loss.over_all_items(hidden @ weight.T, targets)
    torch.testing.assert_close(loss(hidden, weight, targets), exact, rtol=1e-12, atol=0)


def test_gbce_does_not_count_padding() -> None:
    hidden, weight, _ = tensors()
    targets = torch.tensor([3, 5, 5, 5, 3, 7])
    loss = GBCELoss(InBatchSampler(torch.ones(40)), t=1.0)(hidden, weight, targets)
    expected = functional.sampled_bce_loss(
        hidden, weight, targets, torch.tensor([3, 5, 7]), t=1.0, num_items=40
    )
    torch.testing.assert_close(loss, expected)


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_over_all_items(reduction: str) -> None:
    hidden, weight, targets = tensors()
    scores = hidden @ weight.T
    everything = UniformSampler(100, max_id=40)
    softmax = SampledSoftmaxLoss(everything, temperature=0.5, reduction=reduction)
    bce = GBCELoss(everything, t=0.3, prior=0.1, temperature=0.5, reduction=reduction)
    for loss in (softmax, bce):
        assert isinstance(loss, CandidateLoss)
        torch.testing.assert_close(
            loss.over_all_items(scores, targets), loss(hidden, weight, targets)
        )


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        ({"t": 2}, ValueError, r"GBCELoss: t must lie in \[0, 1\]; got 2"),
        ({"t": None}, TypeError, "GBCELoss: t must be a number"),
        ({"prior": 0}, ValueError, r"GBCELoss: prior must lie in \(0, 1\); got 0"),
        ({"prior": 1.0}, ValueError, r"GBCELoss: prior must lie in \(0, 1\); got 1"),
        ({"prior": -0.1}, ValueError, "GBCELoss: prior must lie"),
        ({"prior": "x"}, TypeError, "GBCELoss: prior must be a number"),
        ({"num_items": 1}, ValueError, "GBCELoss: num_items must be at least 2; got 1"),
        ({"sampler": 3}, TypeError, "GBCELoss: sampler must have a method draw"),
        ({"sparse_grad": 1}, TypeError, "GBCELoss: sparse_grad must be a bool"),
    ],
)
def test_gbce_refuses(arguments: dict, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        GBCELoss(**{"sampler": UniformSampler(5, 40), **arguments})


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        ({"sampler": object()}, TypeError, r"sampler must have a method draw\(targets\)"),
        ({"temperature": 0}, ValueError, "temperature must be positive and finite; got 0"),
        ({"temperature": float("nan")}, ValueError, "temperature must be positive and finite"),
        ({"temperature": "1"}, TypeError, "temperature must be a number"),
        ({"corrected": 1}, TypeError, "corrected must be a bool; got int"),
        ({"reduction": "max"}, ValueError, "reduction must be one of"),
    ],
)
def test_constructor_refuses(arguments: dict, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        SampledSoftmaxLoss(**{"sampler": LogUniformSampler(5, 40), **arguments})


def test_repr() -> None:
    assert "temperature=2.0" in repr(SampledSoftmaxLoss(LogUniformSampler(5, 40), temperature=2))
    assert "t=0.5" in repr(GBCELoss(LogUniformSampler(5, 40), 0.5))
    assert "prior=0.025" in repr(GBCELoss(LogUniformSampler(5, 40), prior=1 / 40))


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_smoothing_equals_torch_where_all_is_finite(reduction: str) -> None:
    logits, labels = torch.randn(5, 7), torch.tensor([0, 1, 6, 3, 3])
    torch.testing.assert_close(
        smoothed_cross_entropy(logits, labels, 0.1, reduction),
        F.cross_entropy(logits, labels, label_smoothing=0.1, reduction=reduction),
    )


def test_smoothing_leaves_excluded_classes_out() -> None:
    logits = torch.randn(2, 4)
    logits[0, 2] = -torch.inf
    logits.requires_grad_()
    loss = smoothed_cross_entropy(logits, torch.tensor([0, 1]), 0.2)
    rows = [
        F.cross_entropy(logits[:1, [0, 1, 3]], torch.tensor([0]), label_smoothing=0.2),
        F.cross_entropy(logits[1:], torch.tensor([1]), label_smoothing=0.2),
    ]
    torch.testing.assert_close(loss, torch.stack(rows).mean())
    loss.backward()
    assert logits.grad is not None
    assert logits.grad[0, 2] == 0
    assert bool(logits.grad.isfinite().all())


def test_label_smooth_cross_entropy_is_torchs() -> None:
    logits, labels = torch.randn(5, 7), torch.tensor([0, 1, 6, 3, 3])
    weight = torch.rand(7)
    loss = LabelSmoothCrossEntropyLoss(smoothing=0.2, reduction="sum", weight=weight)
    expected = F.cross_entropy(logits, labels, weight=weight, label_smoothing=0.2, reduction="sum")
    assert torch.equal(loss(logits, labels), expected)
    # A plain CrossEntropyLoss, so the next-item task computes it without logits.
    assert type(LabelSmoothCrossEntropyLoss()) is torch.nn.CrossEntropyLoss


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        ({"smoothing": 1.5}, ValueError, r"smoothing must lie in \[0, 1\]; got 1.5"),
        ({"smoothing": "x"}, TypeError, "LabelSmoothCrossEntropyLoss: smoothing must be a number"),
        ({"reduction": "max"}, ValueError, "reduction must be one of .*; got 'max'"),
    ],
)
def test_label_smooth_cross_entropy_refuses(
    arguments: dict, error: type[Exception], text: str
) -> None:
    with pytest.raises(error, match=text):
        LabelSmoothCrossEntropyLoss(**arguments)
