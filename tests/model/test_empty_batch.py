"""A batch of no sessions, or of sessions without items: a defined result or a clear error."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from task_helpers import D, T, V, batch, next_item_model, regression_model, sequence_inputs

from transformers4rec_ext.block.base import SequentialBlock
from transformers4rec_ext.block.transformer import TransformerBlock
from transformers4rec_ext.config.transformer import GPT2Config, XLNetConfig
from transformers4rec_ext.model import (
    BinaryClassificationTask,
    Head,
    Model,
    NextItemPredictionTask,
    RegressionTask,
)

CONFIGS: dict[str, Any] = {"gpt2": GPT2Config, "xlnet": XLNetConfig, "none": None}
EMPTY = {"item_id": torch.zeros(0, T, dtype=torch.int64)}


def _model(config: str, **arguments: Any) -> Model:
    if CONFIGS[config] is None:
        return next_item_model(**arguments)
    inputs = sequence_inputs()
    block = TransformerBlock(CONFIGS[config].build(D, 2, 1, T), masking=inputs.masking)
    return Model(Head(SequentialBlock(inputs, block), NextItemPredictionTask(**arguments)))


@pytest.mark.parametrize("sampled", [False, True])
@pytest.mark.parametrize("config", CONFIGS)
@pytest.mark.parametrize("length", [T, 1, 0])
def test_no_sessions(config: str, sampled: bool, length: int) -> None:
    model = _model(config, sampled_softmax=sampled, max_n_samples=5)
    empty = {"item_id": torch.zeros(0, length, dtype=torch.int64)}
    for flags in ({"training": True}, {"testing": True}):
        model.zero_grad()
        output = model(empty, **flags)
        assert output["loss"].item() == 0
        assert output["loss"].dtype == torch.float32
        assert output["labels"].shape == (0,)
        assert output["labels"].dtype == torch.int64
        if "testing" in flags:
            assert output["predictions"].shape == (0, V)
        output["loss"].backward()
        gradients = [p.grad for p in model.parameters() if p.grad is not None]
        assert gradients
        assert not any(bool(gradient.any()) for gradient in gradients)
    assert model(empty).shape == (0, V)
    scores, ids = model(empty, top_k=3)
    assert scores.shape == ids.shape == (0, 3)
    assert ids.dtype == torch.int64


@pytest.mark.parametrize("config", ["gpt2", "xlnet"])
def test_no_sessions_train_no_parameter_but_reach_all(config: str) -> None:
    """Whoever needs a gradient from every parameter (as distributed training does) gets it."""
    model = _model(config)
    model(batch(), training=True)["loss"].backward()
    reached = {name for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad(set_to_none=True)
    model(EMPTY, training=True)["loss"].backward()
    assert {name for name, p in model.named_parameters() if p.grad is not None} == reached


def test_fit_and_evaluate_pass_over_it() -> None:
    model = _model("gpt2").eval()
    losses = model.fit([EMPTY], num_epochs=1, verbose=False)
    assert losses.tolist() == [0.0]
    alone = model.evaluate([batch()], verbose=False)
    assert model.evaluate([EMPTY, batch(), EMPTY], verbose=False) == alone
    assert model.evaluate([EMPTY], verbose=False) == {}


def test_ragged() -> None:
    model = _model("gpt2").eval()
    none = {"item_id__values": torch.zeros(0, dtype=torch.int64)}
    offsets = torch.zeros(1, dtype=torch.int64)
    assert model({**none, "item_id__offsets": offsets}).shape == (0, V)
    # Sessions without items are sessions of padding.
    offsets = torch.zeros(3, dtype=torch.int64)
    scores = model({**none, "item_id__offsets": offsets})
    torch.testing.assert_close(scores, model({"item_id": torch.zeros(2, 1, dtype=torch.int64)}))
    with pytest.raises(ValueError, match=r"must be ints \[B\+1\]; got torch.int64 \[0\]"):
        model({**none, "item_id__offsets": offsets[:0]})


@pytest.mark.parametrize("config", CONFIGS)
def test_sessions_without_a_position(config: str) -> None:
    model = _model(config)
    nothing = {"item_id": torch.zeros(2, 0, dtype=torch.int64)}
    assert model(nothing, training=True)["loss"].item() == 0
    text = r"inputs must have at least one position; got \[2, 0, 8\]. Give a session without items"
    with pytest.raises(ValueError, match=text):
        model(nothing)


def test_tasks_of_whole_sessions() -> None:
    output = regression_model()(
        {"x": torch.zeros(0, 5)}, targets={"play": torch.zeros(0)}, training=True
    )
    assert output["loss"].item() == 0
    inputs = sequence_inputs()
    tasks = [BinaryClassificationTask("click"), RegressionTask("play", summary_type="mean")]
    model = Model(Head(SequentialBlock(inputs), tasks))
    targets = {"click": torch.zeros(0), "play": torch.zeros(0)}
    output = model(EMPTY, targets=targets, training=True)
    assert output["loss"].item() == 0
    assert [y.shape for y in output["predictions"].values()] == [(0,), (0,)]
    with pytest.raises(ValueError, match=r"have at least one position; got \[2, 0, 8\]"):
        model({"item_id": torch.zeros(2, 0, dtype=torch.int64)})
