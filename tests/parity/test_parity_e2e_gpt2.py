"""What is recorded of GPT-2 alone: ragged batches and sampled softmax; see test_parity_e2e.py."""

from __future__ import annotations

import pytest
import torch
from recorded_models import RecordedModel

from transformers4rec_ext import Candidates


@pytest.fixture
def recorded(parity) -> RecordedModel:
    return RecordedModel(parity, "e2e_gpt2")


def test_ragged_batches(recorded):
    model = recorded.model("clm")
    batch = recorded.below("batch_ragged")
    recorded.close(model(batch), "ragged/inference")
    recorded.close(model(batch, testing=True)["loss"], "ragged/testing_loss")


class FixedSampler:
    """Draws the recorded negatives."""

    def __init__(self, table: torch.Tensor, negatives: torch.Tensor) -> None:
        self.log_table, self.negatives = table.log(), negatives

    def draw(self, targets, generator=None):
        size = torch.tensor(len(self.negatives))
        candidates = Candidates(self.negatives, self.log_table[self.negatives], size, size)
        return candidates, self.log_table[targets]


@pytest.mark.parametrize("return_predictions", [True, False])
def test_sampled(recorded, return_predictions):
    sampler = FixedSampler(recorded.tensors["sampled/q_table"], recorded.tensors["sampled/neg_ids"])
    model = recorded.model(
        "clm", sampled_softmax=True, sampler=sampler, return_predictions=return_predictions
    )
    output = model(recorded.below("batch"), training=True)
    recorded.close(output["loss"], "sampled/loss")
    output["loss"].backward()
    stats = recorded.meta["cases"]["sampled"]["grad_stats"]
    for name, parameter in model.named_parameters():
        if stats[name] is None:
            assert parameter.grad is None
            continue
        assert float(parameter.grad.norm()) == pytest.approx(stats[name]["l2"], rel=1e-4, abs=1e-6)
        largest = float(parameter.grad.abs().max())
        assert largest == pytest.approx(stats[name]["absmax"], rel=1e-4, abs=1e-6)
    if not return_predictions:
        assert output["predictions"] is None
        return
    # Upstream gives a negative that is the row's target the logit -655.04; here it is excluded.
    want = recorded.tensors["sampled/predictions"]
    want = torch.where(want < -600, -torch.inf, want)
    torch.testing.assert_close(output["predictions"], want, rtol=1e-4, atol=2e-5)
    assert torch.equal(output["labels"], recorded.tensors["sampled/labels"])
