"""Numbers of numpy, as a table's columns give them, for the sizes of what a catalogue needs."""

from __future__ import annotations

import json

import numpy as np
import torch

from transformers4rec_ext import (
    Head,
    LogUniformSampler,
    MLPBlock,
    Model,
    NextItemPredictionTask,
    SampledSoftmaxLoss,
    Schema,
    SequentialBlock,
    TabularSequenceFeatures,
)
from transformers4rec_ext.features.tables import TableConfig


def test_numbers_of_numpy_are_numbers() -> None:
    """As ``frame["item"].max() + 1`` is one."""
    most = np.int64(9)
    schema = Schema.from_item_column("item", num_items=most, max_length=4)
    assert json.loads(schema.to_json())["feature"][0]["intDomain"]["max"] == "9"
    sampler = LogUniformSampler(np.int64(3), most + 1, np.int32(1), seed=np.int64(7))
    plain = LogUniformSampler(3, 10, 1, seed=7)
    assert repr(sampler) == repr(plain)
    ids = torch.tensor([1, 9])
    assert torch.equal(sampler.draw(ids)[0].ids, plain.draw(ids)[0].ids)
    assert repr(TableConfig(most, np.int64(2))) == repr(TableConfig(9, 2))
    loss = SampledSoftmaxLoss(sampler, temperature=np.float32(0.5))
    assert type(loss.temperature) is float
    inputs = TabularSequenceFeatures.from_schema(
        schema, max_sequence_length=4, d_output=8, masking="causal", aggregation="concat"
    )
    body = SequentialBlock(inputs, MLPBlock([8]))
    task = NextItemPredictionTask(weight_tying=True, softmax_temperature=np.float32(0.5))
    model = Model(Head(body, task, inputs=inputs)).eval()
    hidden = model({"item": ids[None]}, returns="hidden")
    assert len(task.item_weights) == 10
    torch.testing.assert_close(
        model({"item": ids[None]}), hidden @ task.item_weights.T / 0.5, rtol=1e-5, atol=1e-5
    )
