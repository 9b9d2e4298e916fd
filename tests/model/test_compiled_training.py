"""torch.compile of a training step: one graph, whatever the number of labels."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from task_helpers import D, T, batch, sequence_inputs

import transformers4rec_ext as tr

SAMPLED = {"sampled_softmax": True, "max_n_samples": 9}


def _model(**task: Any) -> tr.Model:
    torch.manual_seed(0)
    inputs = sequence_inputs()
    config = tr.GPT2Config.build(D, 2, 1, T, dropout=0.0)
    body = tr.SequentialBlock(inputs, tr.TransformerBlock(config, masking=inputs.masking))
    return tr.Model(tr.Head(body, tr.NextItemPredictionTask(**task)))


def _loss(model: Any, sessions: int = 4) -> torch.Tensor:
    torch.manual_seed(1)
    output = model({"item_id": batch()["item_id"][:sessions]}, training=True)
    return output["loss"]


@pytest.mark.parametrize(
    "task", [{}, {"weight_tying": True}, SAMPLED, {**SAMPLED, "weight_tying": True}]
)
def test_loss_and_gradients(task: dict[str, Any]) -> None:
    model = _model(**task)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    expected = _loss(model)
    expected.backward()
    gradients = [p.grad for p in model.parameters()]
    model.zero_grad()
    found = _loss(compiled)
    found.backward()
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=0)
    for (name, p), gradient in zip(model.named_parameters(), gradients, strict=True):
        if gradient is None:
            assert p.grad is None or not p.grad.any(), name
        else:
            torch.testing.assert_close(p.grad, gradient, rtol=1e-5, atol=1e-7, msg=name)


def test_steps_with_row_gradients() -> None:
    """The optimizer stays outside, the backward pass is autograd's: see docs/architecture.md."""
    plain, model = (_model(**SAMPLED, weight_tying=True, sparse_grad=True) for _ in range(2))
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    steps = [(each, tr.optim.LazyAdam(each.parameters(), lr=0.01)) for each in (plain, compiled)]
    for sessions in (4, 2, 3):
        losses = []
        for each, optimizer in steps:
            loss = _loss(each, sessions)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(float(loss.detach()))
        assert losses[0] == losses[1]
    for a, b in zip(plain.parameters(), model.parameters(), strict=True):
        assert torch.equal(a, b)


# torch looks at the .grad of what it is given, which here is computed.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")
def test_the_transformer_alone_beside_row_gradients() -> None:
    plain, model = (_model(**SAMPLED, weight_tying=True, sparse_grad=True) for _ in range(2))
    model.heads[0].body[-1].compile(fullgraph=True, backend="aot_eager")
    expected, found = _loss(plain), _loss(model)
    for loss in (expected, found):
        loss.backward()
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=0)
    rows, others = (each.prediction_tasks[0].item_weights.grad for each in (model, plain))
    assert rows.is_sparse
    torch.testing.assert_close(rows.to_dense(), others.to_dense(), rtol=1e-5, atol=1e-7)
