"""What the benchmarks time of the real Transformers4Rec computes what ours computes."""

from __future__ import annotations

import pytest
import torch

from benchmarks import bench_step, cases, inputs
from transformers4rec_ext import functional

peer = pytest.importorskip(
    "benchmarks.peers.transformers4rec_peer",
    reason="Transformers4Rec is not installed; run make test-upstream",
    exc_type=ImportError,
)
SOFTMAX = cases.SoftmaxCase(items=300, rows=40, width=8, samples=50)
FULL = cases.FullCase(items=300, rows=40, width=8)
STEP = cases.StepCase(items=300, sessions=4, length=6, width=8, samples=20)


def test_releases() -> None:
    assert peer.versions()["transformers4rec"] == "23.12.0"


def test_candidates() -> None:
    assert 0 < peer.sampler(cases.SamplerCase(1000, 30, 64), "cpu")() <= 30


def test_losses() -> None:
    tensors = inputs.scoring(SOFTMAX)
    ids, log_q, target_log_q = inputs.candidates(SOFTMAX, tensors.targets)
    expected = functional.sampled_softmax_loss(
        *tensors, ids, candidate_log_q=log_q, target_log_q=target_log_q
    )
    assert peer.sampled_softmax(SOFTMAX, "cpu")() == pytest.approx(float(expected), rel=1e-5)
    expected = functional.linear_cross_entropy(*inputs.scoring(FULL))
    assert peer.full_softmax(FULL, "cpu")() == pytest.approx(float(expected), rel=1e-5)


def test_evaluation() -> None:
    ranks = functional.target_rank(*inputs.scoring(FULL))
    run = peer.evaluation(FULL, "cpu")
    expected = float((ranks < cases.TOP_K).double().mean())
    assert run() == pytest.approx(expected, abs=1e-6)
    assert run() == pytest.approx(expected, abs=1e-6)  # no call sees those before it


def test_the_trained_networks_are_the_same() -> None:
    """The same parameters give the same loss over all items, on the same sessions."""
    theirs, ours = peer.model(STEP).eval(), bench_step.model(STEP, sparse=False).eval()
    shapes = [{n: p.shape for n, p in model.named_parameters()} for model in (theirs, ours)]
    assert shapes[0] == shapes[1]
    theirs.load_state_dict(ours.state_dict(), strict=False)
    ids = inputs.sessions(STEP)
    with torch.no_grad():
        losses = [model({"item_id": ids.clone()}, testing=True)["loss"] for model in (theirs, ours)]
    torch.testing.assert_close(*losses)
    number = sum(p.numel() for p in ours.parameters())
    assert peer.step(STEP, "cpu")() == bench_step.parameters(STEP) == number
