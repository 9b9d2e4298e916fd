"""Training that never asks how many positions have a label."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from task_helpers import TARGETS, V, batch, next_item_model, sequence_inputs

import transformers4rec_ext as tr
from transformers4rec_ext.losses import GBCELoss
from transformers4rec_ext.model import NextItemPredictionTask
from transformers4rec_ext.samplers import (
    InBatchSampler,
    MixedSampler,
    PopularitySampler,
    UniformSampler,
)

COUNTS = torch.ones(V).long()
IN_BATCH = InBatchSampler(COUNTS, 1)

TASKS: dict[str, dict[str, Any]] = {
    "full": {},
    "smoothed": {"loss": torch.nn.CrossEntropyLoss(label_smoothing=0.1)},
    "tied": {"weight_tying": True, "softmax_temperature": 2.0},
    "sampled": {"sampled_softmax": True, "max_n_samples": 20},
    "rows": {"sampled_softmax": True, "max_n_samples": 20, "sparse_grad": True},
    "tied rows": {
        "weight_tying": True,
        "sampled_softmax": True,
        "max_n_samples": 20,
        "sparse_grad": True,
    },
    "uniform": {"sampled_softmax": True, "sampler": UniformSampler(20, V, 1)},
    "cosines": {"cosine_scale": 16},
    "sampled cosines": {"cosine_scale": 16, "sampled_softmax": True, "sparse_grad": True},
    "mixed": {
        "sampled_softmax": True,
        "sampler": MixedSampler([PopularitySampler(9, COUNTS, 1), UniformSampler(9, V, 1)]),
    },
}
every_task = pytest.mark.parametrize("name", TASKS)


def _models(name: str) -> tuple[Any, Any]:
    """Return a model with static shapes and one without, of the same weights."""
    # Of copies: a model takes the sampler along to its device.
    static = next_item_model(**copy.deepcopy(TASKS[name]), static_shapes=True)
    plain = next_item_model(**copy.deepcopy(TASKS[name]))
    plain.load_state_dict(static.state_dict())
    return static, plain


def _step(model: Any, sessions: dict[str, torch.Tensor]) -> tuple[Any, dict[str, torch.Tensor]]:
    torch.manual_seed(5)  # the same candidates
    output = model(sessions, training=True)
    output["loss"].backward()
    gradients = {
        name: parameter.grad.to_dense() if parameter.grad.is_sparse else parameter.grad
        for name, parameter in model.named_parameters()
        if parameter.grad is not None
    }
    return output, gradients


@every_task
def test_loss_and_gradients_are_those_of_the_labelled_positions(name: str) -> None:
    static, plain = _models(name)
    (mine, gradients), (expected, others) = _step(static, batch()), _step(plain, batch())
    torch.testing.assert_close(mine["loss"], expected["loss"])
    assert gradients.keys() == others.keys()
    for parameter, gradient in gradients.items():
        torch.testing.assert_close(gradient, others[parameter], rtol=1e-5, atol=1e-7)


@every_task
def test_a_step_looks_at_no_value(name: str) -> None:
    """On meta, where there is none to look at; with counted rows it cannot be done."""
    static, plain = (model.to("meta") for model in _models(name))
    sessions = {"item_id": batch()["item_id"].to("meta")}
    static(sessions, training=True)["loss"].backward()
    with pytest.raises(NotImplementedError, match="nonzero"):
        plain(sessions, training=True)


@pytest.mark.parametrize("masking", ["clm", "mlm"])
def test_a_transformers_step_looks_at_no_value(masking: str) -> None:
    config = tr.GPT2Config if masking == "clm" else tr.XLNetConfig
    inputs = sequence_inputs(masking=masking, d_output=8)
    block = tr.TransformerBlock(config.build(8, 2, 1, 6), masking=inputs.masking)
    body = tr.SequentialBlock(inputs, tr.MLPBlock([8]), block)
    task = NextItemPredictionTask(sampled_softmax=True, sparse_grad=True, static_shapes=True)
    model = tr.Model(tr.Head(body, task, inputs=inputs))
    assert _step(model, batch())[0]["loss"] > 0
    model.zero_grad()
    sessions = {"item_id": batch()["item_id"].to("meta")}
    model.to("meta")(sessions, training=True)["loss"].backward()


@every_task
def test_labels(name: str) -> None:
    labels = _models(name)[0](batch(), training=True)["labels"]
    assert labels.shape == (24,)
    sampled = "sampled_softmax" in TASKS[name]
    assert labels[labels != -100].tolist() == ([0] * len(TARGETS) if sampled else TARGETS)


def test_a_sampler_of_some_of_the_items() -> None:
    """A table may have more rows, before and after, than there are items to draw."""
    model = next_item_model(
        sampled_softmax=True, sampler=UniformSampler(5, V - 3, 2), static_shapes=True
    )
    sessions = {"item_id": torch.tensor([[5, 6, 7, 0, 0, 0], [4, 2, 0, 0, 0, 0]])}
    assert _step(model, sessions)[0]["loss"].isfinite()


def test_what_returns_more_than_the_loss() -> None:
    full, sampled = (_models(name)[0] for name in ("full", "sampled"))
    output = full(batch(), training=True, returns="ranks")
    assert output["labels"].tolist() == TARGETS
    assert output["predictions"].rank.shape == (8,)
    output = sampled(batch(), training=True, returns="predictions")
    assert output["labels"].tolist() == [0] * 8
    assert output["predictions"].shape == (8, 21)
    # Sampled training has no ranks, so that the default of Model.fit counts nothing either.
    assert sampled(batch(), training=True, returns="ranks")["labels"].shape == (24,)


@every_task
def test_testing_and_serving_do_not_change(name: str) -> None:
    static, plain = (model.eval() for model in _models(name))
    for flags in ({"testing": True}, {}):
        mine, expected = static(batch(), **flags), plain(batch(), **flags)
        if flags:
            assert torch.equal(mine["labels"], expected["labels"])
            mine, expected = mine["predictions"], expected["predictions"]
        assert torch.equal(mine, expected)


@every_task
@pytest.mark.parametrize("sessions", [0, 1])
def test_a_batch_without_labels(name: str, sessions: int) -> None:
    model, _ = _models(name)
    output, _ = _step(model, {"item_id": batch()["item_id"][3:][:sessions]})
    assert output["loss"] == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"loss": torch.nn.MultiMarginLoss()}, "loss must be a plain CrossEntropyLoss"),
        ({"loss": GBCELoss(UniformSampler(5, V, 1))}, "loss must be a plain CrossEntropyLoss"),
        (
            {"loss": torch.nn.CrossEntropyLoss(label_smoothing=0.1), "sampled_softmax": True},
            "loss must be a plain CrossEntropyLoss",
        ),
        ({"return_predictions": True}, "return_predictions must be False"),
        (
            {"loss": torch.nn.CrossEntropyLoss(reduction="none")},
            'loss must have the reduction "mean" or "sum"',
        ),
        (
            {"sampled_softmax": True, "sampler": IN_BATCH},
            "sampler must draw without looking at the targets",
        ),
        (
            {"sampled_softmax": True, "sampler": MixedSampler([IN_BATCH])},
            "sampler must draw without looking at the targets",
        ),
    ],
)
def test_what_needs_the_labelled_positions_alone(arguments: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        NextItemPredictionTask(**arguments, static_shapes=True)


def test_an_output_layer_of_ones_own() -> None:
    model = next_item_model()
    head = model.heads[0]
    task = NextItemPredictionTask(static_shapes=True)
    with pytest.raises(ValueError, match="pre must be None with static_shapes=True"):
        task.build(head.body, [-1, 6, 8], inputs=head.body.inputs, pre=torch.nn.Identity())


def test_a_flag_that_is_none() -> None:
    with pytest.raises(TypeError, match="static_shapes must be a bool"):
        NextItemPredictionTask(static_shapes=1)
