"""Whole recorded models of seven architectures: testing, serving, training with all gradients.

What is recorded of GPT-2 alone is in test_parity_e2e_gpt2.py. Cases that show a position its target
(D13) are compared with the transformer left alone; test_parity_transformer.py asserts how ours
differs.
"""

from __future__ import annotations

import pytest
import torch
import transformers
from packaging.version import Version
from recorded_models import CUT_OFFS, RecordedModel, metrics_by_rank

CASES = {
    "e2e_gpt2": ("clm",),
    "e2e_xlnet": ("mlm", "clm", "plm", "rtd"),
    "e2e_bert": ("mlm",),
    "e2e_roberta": ("mlm",),
    "e2e_electra": ("mlm", "clm"),
    "e2e_albert": ("mlm", "clm"),
    "e2e_longformer": ("mlm", "clm"),
}
#: Before 5.15 transformers does not scale what GPT-2 adds to its residuals by 1 / sqrt(2 n_layer).
UNSCALED = Version(transformers.__version__) < Version("5.15")
PAIRS = [(group, masking) for group, maskings in CASES.items() for masking in maskings]


@pytest.fixture(params=PAIRS, ids="-".join)
def case(request, parity):
    """Return (the record, the model, the masking's name)."""
    group, masking = request.param
    recorded = RecordedModel(parity, group)
    leaks = masking == "clm" and group != "e2e_gpt2"
    return recorded, recorded.model(masking, bare=leaks), masking


@pytest.mark.parametrize(("group", "masking"), PAIRS)
def test_keys_are_upstreams(parity, group, masking):
    """But for the position numbers that transformers 5 no longer keeps."""
    recorded = RecordedModel(parity, group)
    upstreams = {k for k in recorded.meta["state_dict_keys"] if not k.endswith(".position_ids")}
    assert set(recorded.model(masking).state_dict()) == upstreams


@pytest.mark.parametrize("group", CASES)
def test_weights_are_initialised_as_upstreams(parity, group):
    """By mean and standard deviation, each within six standard errors."""
    recorded = RecordedModel(parity, group)
    model = recorded.model(CASES[group][0], fresh=True)
    stats = recorded.meta["init_stats"]
    named = dict(model.named_parameters(remove_duplicate=False))
    assert set(stats) <= set(named)
    for name, upstream in stats.items():
        if UNSCALED and name.endswith("c_proj.weight"):
            continue
        weight, error = named[name].detach().double(), 6 * upstream["std"] * 2**0.5
        assert list(weight.shape) == upstream["shape"]
        error /= weight.numel() ** 0.5
        assert abs(float(weight.mean()) - upstream["mean"]) <= error + 1e-7, name
        assert abs(float(weight.std(correction=0)) - upstream["std"]) <= error + 1e-7, name


def test_testing(case):
    recorded, model, masking = case
    name, batch = f"{masking}/testing", recorded.below("batch")
    body = model.heads[0].body
    recorded.close(body[:2](batch, testing=True), f"{name}/mlp_out")
    recorded.close(body(batch, testing=True), f"{name}/body_out")
    output = model(batch, testing=True, returns="predictions")
    recorded.close(output["loss"], f"{name}/loss")
    recorded.close(output["predictions"], f"{name}/predictions")
    assert torch.equal(output["labels"], recorded.tensors[f"{name}/labels"])
    for what in ("mask_schema", "masked_targets"):
        assert torch.equal(getattr(body[0].masking, what), recorded.tensors[f"{name}/{what}"])


def test_metrics(case):
    """Upstream counts the padding item among those above the target; here it has no rank."""
    recorded, model, masking = case
    output = model(recorded.below("batch"), testing=True, returns="predictions")
    scores, labels = output["predictions"], output["labels"]
    upstream = recorded.meta["cases"][masking]["testing_metrics"]
    for name, values in metrics_by_rank(scores, labels).items():
        assert values == pytest.approx(upstream[name], abs=1e-6), name

    metrics = model.calculate_metrics(scores, labels)
    computed = model.compute_metrics(mode="eval")
    assert set(computed) == set(recorded.meta["cases"][masking]["testing_compute_metrics"])
    without_padding = scores.clone()
    without_padding[:, 0] = -torch.inf
    for name, values in metrics_by_rank(without_padding, labels).items():
        assert metrics[name].tolist() == pytest.approx(values, abs=1e-6), name
        of_all = [float(computed[f"{name}_{k}"]) for k in CUT_OFFS]
        assert of_all == pytest.approx(values, abs=1e-6), name


def test_serving(case):
    recorded, model, masking = case
    name, batch = f"{masking}/inference", recorded.below("batch")
    if masking == "plm":  # recorded without a position for what is asked; see the test below
        recorded.put_in(model, name, hide=False)
    body = model.heads[0].body
    recorded.close(body[:2](batch), f"{name}/mlp_out")
    masked = body.masked_items(batch)
    recorded.close(body(batch, masked=masked), f"{name}/body_out")
    recorded.close(model(batch), f"{name}/scores")
    ids, scores = (recorded.tensors[f"{masking}/inference_topk/{n}"] for n in ("ids", "scores"))
    got_scores, got_ids = model(batch, top_k=ids.shape[1])
    assert not (got_ids == 0).any(), "the padding item is never recommended here"
    for row, wanted in enumerate(ids != 0):
        count = int(wanted.sum())
        assert torch.equal(got_ids[row, :count], ids[row, wanted])
        torch.testing.assert_close(
            got_scores[row, :count], scores[row, wanted], rtol=1e-4, atol=2e-5
        )


@pytest.mark.parametrize("returns", ["predictions", "loss"])
def test_training(case, returns):
    """With all scores, and with the fused loss, which is the default."""
    recorded, model, masking = case
    name, batch = f"{masking}/training", recorded.below("batch")
    if masking != "clm":
        recorded.put_in(model, name)
    output = model(batch, training=True, returns=returns)
    recorded.close(output["loss"], f"{name}/loss")
    assert torch.equal(output["labels"], recorded.tensors[f"{name}/labels"])
    if returns == "predictions":
        recorded.close(output["predictions"], f"{name}/predictions")
    else:
        assert output["predictions"] is None
    output["loss"].backward()
    stats = recorded.meta["cases"][masking]["training_grad_stats"]
    recorded.gradients_close(model, f"{masking}/training/grad", stats)


def test_recorded_fault_permutation_serving_ignores_the_last_item(parity):
    """Ours serves what it tests: the scores of a session without its last item are those tested."""
    recorded = RecordedModel(parity, "e2e_xlnet")
    model, batch = recorded.model("plm"), recorded.below("batch")
    ids = batch["item_id/list"]
    last = (ids != 0).sum(1) - 1
    before_last = torch.arange(ids.shape[1]) < last.unsqueeze(1)
    shorter = {
        name: torch.where(before_last, column, 0) if column.ndim == 2 else column
        for name, column in batch.items()
    }
    tested = model(batch, testing=True)["predictions"]
    served = model(shorter)
    keep = last > 0
    torch.testing.assert_close(served[keep], tested[keep], rtol=1e-4, atol=2e-5)
    assert (model(batch) - recorded.tensors["plm/inference/scores"]).abs().amax(1).min() > 0.01
