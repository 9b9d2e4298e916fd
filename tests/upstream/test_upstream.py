"""Inside the real Transformers4Rec: ``make test-upstream`` makes its environment and runs this."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch

import transformers4rec_ext as tr

upstream = pytest.importorskip(
    "transformers4rec.torch", reason="Transformers4Rec is not installed; run make test-upstream"
)

T, D = 20, 32
OPTIONS = [
    {},
    {"weight_tying": True},
    {"sampled_softmax": True, "max_n_samples": 50},
    {"weight_tying": True, "sampled_softmax": True, "softmax_temperature": 2},
]


def _model(task: Any, masking: str = "causal", body: str = "GPT2Config") -> Any:
    torch.manual_seed(0)
    schema = upstream.data.tabular_sequence_testing_data.schema
    inputs = upstream.TabularSequenceFeatures.from_schema(
        schema, max_sequence_length=T, d_output=D, masking=masking
    )
    config = getattr(upstream, body).build(d_model=D, n_head=2, n_layer=1, total_seq_length=T)
    transformer = upstream.TransformerBlock(config, masking=inputs.masking)
    body = upstream.SequentialBlock(inputs, upstream.MLPBlock([D]), transformer)
    return upstream.Model(upstream.Head(body, task, inputs=inputs)).eval()


@pytest.fixture(scope="module")
def batch() -> Any:
    torch.manual_seed(0)
    data = upstream.data.tabular_sequence_testing_data.torch_synthetic_data(
        num_rows=16, min_session_length=5, max_session_length=T
    )
    # Upstream's models write into the batch.
    return lambda: {name: column.clone() for name, column in data.items()}


def _pair(**options: Any) -> tuple[Any, Any]:
    theirs = _model(upstream.NextItemPredictionTask(**options))
    ours = copy.deepcopy(theirs)
    assert tr.accelerate(ours) == (6 if options.get("sampled_softmax") else 5)
    return theirs, ours


@pytest.mark.parametrize("options", OPTIONS)
def test_parameters_and_keys_stay(options: dict[str, Any]) -> None:
    model = _model(upstream.NextItemPredictionTask(**options))
    parameters, keys = list(model.parameters()), list(model.state_dict())
    tr.accelerate(model)
    assert all(a is b for a, b in zip(parameters, model.parameters(), strict=True))
    assert list(model.state_dict()) == keys
    before = _model(upstream.NextItemPredictionTask(**options))
    before.load_state_dict(model.state_dict(), strict=True)
    model.load_state_dict(before.state_dict(), strict=True)


@pytest.mark.parametrize("options", OPTIONS)
def test_numbers_stay(options: dict[str, Any], batch: Any) -> None:
    theirs, ours = _pair(**options)
    expected, found = (model(batch(), testing=True) for model in (theirs, ours))
    for key in ("loss", "labels", "predictions"):
        torch.testing.assert_close(found[key], expected[key])
    torch.testing.assert_close(ours(batch()), theirs(batch()))
    expected, found = (
        model.calculate_metrics(output["predictions"], output["labels"])
        for model, output in ((theirs, expected), (ours, found))
    )
    assert list(found) == list(expected)
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value)
    assert list(ours.compute_metrics()) == list(theirs.compute_metrics())


@pytest.mark.parametrize("options", OPTIONS[:2])
def test_gradients_stay(options: dict[str, Any], batch: Any) -> None:
    theirs, ours = _pair(**options)
    for model in (theirs, ours):
        model(batch(), training=True)["loss"].backward()
    for (name, p), (_, q) in zip(theirs.named_parameters(), ours.named_parameters(), strict=True):
        if p.grad is not None:
            torch.testing.assert_close(q.grad, p.grad, rtol=1e-4, atol=1e-6, msg=name)


@pytest.mark.parametrize("options", OPTIONS)
def test_top_k(options: dict[str, Any], batch: Any) -> None:
    theirs, ours = _pair(**options)
    with torch.no_grad():
        scores = theirs(batch())
    scores[:, 0] = -torch.inf  # padding, which upstream recommends like any other
    ours.top_k = 7
    found = ours(batch())
    torch.testing.assert_close(found[0], scores.topk(7).values)
    assert torch.equal(found[1], scores.topk(7).indices)


@pytest.mark.parametrize("masking", ["causal", "mlm", "plm", "rtd"])
def test_every_masking(masking: str, batch: Any) -> None:
    theirs = _model(upstream.NextItemPredictionTask(), masking, "XLNetConfig")
    ours = copy.deepcopy(theirs)
    tr.accelerate(ours)
    torch.testing.assert_close(ours(batch()), theirs(batch()))
    expected, found = (model(batch(), testing=True)["loss"] for model in (theirs, ours))
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("options", OPTIONS)
def test_our_task_in_upstreams_model(options: dict[str, Any], batch: Any) -> None:
    model = _model(tr.NextItemPredictionTask(**options))
    scores = model(batch())
    scores[:, 0] = -torch.inf
    model.top_k = 7
    values, ids = model(batch())
    torch.testing.assert_close(values, scores.topk(7).values)
    assert torch.equal(ids, scores.topk(7).indices)
    copied = copy.deepcopy(model)
    assert torch.equal(copied(batch())[1], ids)
    theirs = _model(upstream.NextItemPredictionTask(**options))
    theirs.load_state_dict(model.state_dict(), strict=not options.get("sampled_softmax"))
    model.load_state_dict(theirs.state_dict(), strict=True)


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("own", [True, False])
def test_fit_and_evaluate(options: dict[str, Any], own: bool, batch: Any) -> None:
    model = _model((tr if own else upstream).NextItemPredictionTask(**options))
    if not own:
        tr.accelerate(model)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    losses = model.fit([(batch(), {})], optimizer, num_epochs=4, verbose=False)
    assert losses[-1] < losses[0] - 0.05
    metrics = model.evaluate([(batch(), {})], verbose=False)
    assert "next-item/ndcg_at_10" in metrics


def test_row_gradients_in_upstreams_model(batch: Any) -> None:
    task = tr.NextItemPredictionTask(sampled_softmax=True, sparse_grad=True)
    model = _model(task)
    optimizer = tr.optim.LazyAdam(model.parameters(), lr=1e-2)
    model(batch(), training=True)["loss"].backward()
    assert task.item_weights.grad.is_sparse
    before = task.item_weights.detach().clone()
    optimizer.step()
    changed = (task.item_weights != before).any(dim=1).sum()
    assert 0 < changed <= 100 + 16 * T
