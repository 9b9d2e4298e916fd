"""The formulas that the benchmarks call upstream's are those of the real Transformers4Rec."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from benchmarks.peers import upstream as restated

tasks: Any = pytest.importorskip(
    "transformers4rec.torch.model.prediction_task",
    reason="Transformers4Rec is not installed; run make test-upstream",
)


@pytest.mark.parametrize(
    ("items", "samples"), [(50, 100), (3416, 100), (100_000, 1000), (10_000_000, 8192)]
)
def test_candidates_and_their_probabilities(items: int, samples: int) -> None:
    theirs = tasks.LogUniformSampler(max_n_samples=samples, max_id=items)
    ours = restated.UpstreamSampler(items, samples)
    assert torch.equal(ours.probabilities, theirs.dist)
    assert torch.equal(ours.inclusion, theirs.unique_sampling_dist)
    targets = torch.tensor([0, 7, items // 2, items - 1])
    torch.manual_seed(3)
    ids, of_targets, of_ids = theirs.sample(targets)
    torch.manual_seed(3)
    found = ours(targets)
    assert torch.equal(found[0], ids)
    torch.testing.assert_close(found[1], (of_targets + 1e-16).log(), rtol=0, atol=0)
    torch.testing.assert_close(found[2], (of_ids + 1e-16).log(), rtol=0, atol=0)


def test_loss_and_gradients() -> None:
    items, rows, width = 300, 40, 8
    torch.manual_seed(1)
    layer = tasks._NextItemPredictionTask(
        [rows, width], items, softmax_temperature=1, sampled_softmax=True, max_n_samples=50
    )
    hidden = torch.randn(rows, width, requires_grad=True)
    targets = torch.randint(0, items, (rows,))
    torch.manual_seed(2)
    logits, zeros = layer(hidden, targets, training=True)
    loss = torch.nn.functional.cross_entropy(logits, zeros)
    expected = torch.autograd.grad(loss, (hidden, layer.output_layer))

    weight = layer.output_layer.detach().clone().requires_grad_()
    sampler = restated.UpstreamSampler(items, 50)
    torch.manual_seed(2)
    own = restated.sampled_softmax(hidden, weight, targets, *sampler(targets))
    found = torch.autograd.grad(own, (hidden, weight))
    torch.testing.assert_close(own, loss)
    torch.testing.assert_close(found, expected)
