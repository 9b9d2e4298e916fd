"""A whole GPT-2 model over recorded weights: testing, serving, training, ragged and sampled."""

from __future__ import annotations

import json

import pytest
import torch

from transformers4rec_ext import (
    Candidates,
    GPT2Config,
    Head,
    MLPBlock,
    Model,
    NextItemPredictionTask,
    Schema,
    SequentialBlock,
    TabularSequenceFeatures,
    TransformerBlock,
)
from transformers4rec_ext.ranking_metric import AvgPrecisionAt, NDCGAt, RecallAt


class Recorded:
    """The numbers of one group, and the model that they are of."""

    def __init__(self, parity) -> None:
        self.meta, self.tensors = parity("e2e_gpt2")

    def below(self, prefix: str) -> dict[str, torch.Tensor]:
        prefix = f"{prefix}/"
        return {k[len(prefix) :]: v for k, v in self.tensors.items() if k.startswith(prefix)}

    def state_dict(self) -> dict[str, torch.Tensor]:
        weights = self.below("weights")
        aliases = self.meta["aliases"]["weights"]
        return weights | {alias: weights[name] for alias, name in aliases.items()}

    def model(self, **task) -> Model:
        given = self.meta["model"]
        inputs = TabularSequenceFeatures.from_schema(
            Schema.from_json(json.dumps(self.meta["schema"])), masking="clm", **given["features"]
        )
        transformer = TransformerBlock(GPT2Config.build(**given["build"]), masking=inputs.masking)
        body = SequentialBlock(inputs, MLPBlock(given["mlp"]), transformer)
        ks = {"top_ks": [10, 20, 50, 90], "labels_onehot": True}
        metrics = [NDCGAt(**ks), AvgPrecisionAt(**ks), RecallAt(**ks)]
        task = NextItemPredictionTask(weight_tying=True, metrics=metrics, **task)
        model = Model(Head(body, task, inputs=inputs))
        model.load_state_dict(self.state_dict(), strict=True)
        return model.eval()

    def close(self, actual: torch.Tensor, name: str) -> None:
        tolerance = {key: self.meta["tolerance"][key] for key in ("rtol", "atol")}
        torch.testing.assert_close(actual, self.tensors[name], **tolerance)

    def gradients_close(self, model: Model, prefix: str) -> None:
        recorded = self.below(prefix)
        named = dict(model.named_parameters())
        assert set(recorded) == {name for name, p in named.items() if p.grad is not None}
        for name, gradient in recorded.items():
            bound = self.meta["tolerance"]["grad_rtol_of_max"] * gradient.abs().max() + 1e-7
            assert (named[name].grad - gradient).abs().max() <= bound, name


@pytest.fixture
def recorded(parity) -> Recorded:
    return Recorded(parity)


def test_keys_are_upstreams(recorded):
    model = recorded.model()
    # The sampler's tables are not saved here; upstream saves none without sampling.
    assert sorted(model.state_dict()) == sorted(recorded.meta["state_dict_keys"])


def test_testing(recorded):
    model = recorded.model()
    batch = recorded.below("batch")
    body = model.heads[0].body
    for name, actual in (
        ("input_out", body[0](batch, testing=True)),
        ("mlp_out", body[:2](batch, testing=True)),
        ("body_out", body(batch, testing=True)),
    ):
        recorded.close(actual, f"clm/testing/{name}")
    output = model(batch, testing=True, returns="predictions")
    recorded.close(output["loss"], "clm/testing/loss")
    recorded.close(output["predictions"], "clm/testing/predictions")
    masking = body[0].masking
    for name, actual in (
        ("labels", output["labels"]),
        ("mask_schema", masking.mask_schema),
        ("masked_targets", masking.masked_targets),
    ):
        assert torch.equal(actual, recorded.tensors[f"clm/testing/{name}"]), name


def _metrics(scores: torch.Tensor, labels: torch.Tensor) -> dict[str, list[float]]:
    """Return upstream's three metrics at four cut-offs from the rank of each label."""
    ranks = (scores > scores.gather(1, labels[:, None])).sum(1).double()
    values: dict[str, list[float]] = {}
    for name, gain in (
        ("ndcg_at", 1 / torch.log2(ranks + 2)),
        ("avg_precision_at", 1 / (ranks + 1)),
        ("recall_at", torch.ones_like(ranks)),
    ):
        values[f"next-item/{name}"] = [
            float(torch.where(ranks < k, gain, 0.0).mean()) for k in (10, 20, 50, 90)
        ]
    return values


def test_metrics(recorded):
    """Upstream counts the padding item among those above the target; here it has no rank."""
    model = recorded.model()
    output = model(recorded.below("batch"), testing=True, returns="predictions")
    scores, labels = output["predictions"], output["labels"]
    upstream = recorded.meta["cases"]["clm"]["testing_metrics"]
    for name, values in _metrics(scores, labels).items():
        assert values == pytest.approx(upstream[name], abs=1e-6), name

    metrics = model.calculate_metrics(scores, labels)
    computed = model.compute_metrics(mode="eval")
    assert set(computed) == set(recorded.meta["cases"]["clm"]["testing_compute_metrics"])
    without_padding = scores.clone()
    without_padding[:, 0] = -torch.inf
    for name, values in _metrics(without_padding, labels).items():
        assert metrics[name].tolist() == pytest.approx(values, abs=1e-6), name
        of_all = [float(computed[f"{name}_{k}"]) for k in (10, 20, 50, 90)]
        assert of_all == pytest.approx(values, abs=1e-6), name


def test_serving(recorded):
    model = recorded.model()
    batch = recorded.below("batch")
    recorded.close(model.heads[0].body[:2](batch), "clm/inference/mlp_out")
    recorded.close(model.heads[0].body(batch), "clm/inference/body_out")
    recorded.close(model(batch), "clm/inference/scores")


def test_top_k(recorded):
    """Upstream recommends the padding item where its score is high; here it never is."""
    model = recorded.model()
    tensors = recorded.tensors
    recorded_ids = tensors["clm/inference_topk/ids"]
    k = recorded_ids.shape[1]
    scores, ids = model(recorded.below("batch"), top_k=k)
    padding = recorded_ids == 0
    assert padding.any()
    assert not (ids == 0).any()
    for row in range(len(ids)):
        items = recorded_ids[row][~padding[row]]
        assert torch.equal(ids[row][: len(items)], items)
        want = tensors["clm/inference_topk/scores"][row][~padding[row]]
        torch.testing.assert_close(scores[row][: len(items)], want, rtol=1e-4, atol=2e-5)


def test_training(recorded):
    model = recorded.model()
    output = model(recorded.below("batch"), training=True, returns="predictions")
    recorded.close(output["loss"], "clm/training/loss")
    recorded.close(output["predictions"], "clm/training/predictions")
    assert torch.equal(output["labels"], recorded.tensors["clm/training/labels"])
    output["loss"].backward()
    recorded.gradients_close(model, "clm/training/grad")


def test_training_without_the_scores(recorded):
    """The fused loss, which is the default, has the recorded gradients as well."""
    model = recorded.model()
    output = model(recorded.below("batch"), training=True)
    assert output["predictions"] is None
    recorded.close(output["loss"], "clm/training/loss")
    output["loss"].backward()
    recorded.gradients_close(model, "clm/training/grad")


def test_ragged_batches(recorded):
    model = recorded.model()
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
        sampled_softmax=True, sampler=sampler, return_predictions=return_predictions
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
