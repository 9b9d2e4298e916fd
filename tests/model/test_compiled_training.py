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
    "task",
    [
        {},
        {"weight_tying": True},
        SAMPLED,
        {**SAMPLED, "weight_tying": True},
        {"cosine_scale": 16},
        {**SAMPLED, "weight_tying": True, "cosine_scale": 16},
    ],
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


@pytest.mark.parametrize("masking", ["causal", "rtd"])
@pytest.mark.parametrize("loss", [torch.nn.CrossEntropyLoss(), torch.nn.MultiMarginLoss()])
def test_testing_with_scores(masking: str, loss: torch.nn.Module) -> None:
    """Of batches of several numbers of labels, none among them."""
    inputs = sequence_inputs(masking=masking, d_output=D)
    body = tr.SequentialBlock(inputs, tr.MLPBlock([D]))
    model = tr.Model(tr.Head(body, tr.NextItemPredictionTask(loss)))
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    for ids in (batch()["item_id"], torch.zeros(4, T, dtype=torch.int64)):
        expected, found = (each({"item_id": ids}, testing=True) for each in (model, compiled))
        for key in ("loss", "labels", "predictions"):
            torch.testing.assert_close(found[key], expected[key], rtol=1e-6, atol=0)
            assert found[key].isfinite().all()


def _batches_of_labels(*labels: int) -> list[dict[str, torch.Tensor]]:
    """Return batches of one shape, each with one session of that many labels."""
    ids = [torch.zeros(2, T, dtype=torch.int64) for _ in labels]
    for each, count in zip(ids, labels, strict=True):
        each[0, : count + 1] = torch.arange(1, count + 2)
    return [{"item_id": each} for each in ids]


@pytest.mark.parametrize(
    "task", [{}, SAMPLED, {"weight_tying": True, "sparse_grad": True, **SAMPLED}]
)
def test_static_shapes_are_one_graph(task: dict[str, Any]) -> None:
    """Of whatever number of labels, and none of its shapes depends on that number."""
    graphs = []

    def keep(graph: torch.fx.GraphModule, inputs: Any) -> Any:
        graphs.append(graph)
        return graph.forward

    inputs = sequence_inputs()
    body = tr.SequentialBlock(inputs, tr.MLPBlock([D]))
    static = tr.Model(tr.Head(body, tr.NextItemPredictionTask(**task, static_shapes=True)))
    counted = tr.Model(tr.Head(body, tr.NextItemPredictionTask(**task)))
    counted.load_state_dict(static.state_dict())
    compiled = torch.compile(static, fullgraph=True, backend=keep)
    for each in _batches_of_labels(5, 1, 0, 3):
        torch.manual_seed(1)
        found = compiled(each, training=True)
        assert found["labels"].shape == (2 * T,)
        torch.manual_seed(1)
        torch.testing.assert_close(found["loss"], counted(each, training=True)["loss"])
    assert len(graphs) == 1
    assert "nonzero" not in graphs[0].code


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


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")  # as above
def test_row_gradients_go_with_a_graph_that_breaks() -> None:
    """As torch.compile(model) makes it, and the Trainer's torch_compile=True."""
    plain, model = (_model(**SAMPLED, weight_tying=True, sparse_grad=True) for _ in range(2))
    compiled = torch.compile(model, backend="aot_eager")
    for one in (plain, compiled):
        _loss(one).backward()
    for (name, p), (_, expected) in zip(
        model.named_parameters(), plain.named_parameters(), strict=True
    ):
        if expected.grad is None:
            continue
        assert p.grad.is_sparse == expected.grad.is_sparse, name
        found, wanted = (g.to_dense() if g.is_sparse else g for g in (p.grad, expected.grad))
        torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-7, msg=name)
