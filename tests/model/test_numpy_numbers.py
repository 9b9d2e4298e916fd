"""Numbers of numpy, as a table's columns give them, for the sizes of what a catalogue needs."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from transformers4rec_ext import (
    AlbertConfig,
    BertConfig,
    GPT2Config,
    Head,
    LogUniformSampler,
    MLPBlock,
    Model,
    NextItemPredictionTask,
    PretrainedEmbeddingFeatures,
    SampledSoftmaxLoss,
    Schema,
    SequentialBlock,
    TabularSequenceFeatures,
    XLNetConfig,
)
from transformers4rec_ext.features.tables import TableConfig
from transformers4rec_ext.masking import PermutationLanguageModeling


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
        schema, max_sequence_length=4, d_output=np.int64(8), masking="causal", aggregation="concat"
    )
    body = SequentialBlock(inputs, MLPBlock(np.array([8])))
    task = NextItemPredictionTask(weight_tying=True, softmax_temperature=np.float32(0.5))
    model = Model(Head(body, task, inputs=inputs)).eval()
    hidden = model({"item": ids[None]}, returns="hidden")
    assert len(task.item_weights) == 10
    torch.testing.assert_close(
        model({"item": ids[None]}), hidden @ task.item_weights.T / 0.5, rtol=1e-5, atol=1e-5
    )


def test_the_sizes_of_a_transformer_and_a_masking() -> None:
    eight = np.int64(8)
    for kind in (GPT2Config, XLNetConfig, BertConfig, AlbertConfig):
        config = kind.build(eight, n_head=np.int32(2), n_layer=np.int64(1), total_seq_length=eight)
        assert json.loads(config.to_json_string())
        with pytest.raises(ValueError, match="n_layer must be a positive int; got True"):
            kind.build(8, n_head=2, n_layer=True, total_seq_length=8)
    masking = PermutationLanguageModeling(eight, np.int64(0), max_span_length=np.int64(3))
    assert [type(n) for n in (masking.hidden_size, masking.padding_idx)] == [int, int]
    assert type(masking.max_span_length) is int
    vectors = PretrainedEmbeddingFeatures(["v"], pretrained_output_dims=eight)
    assert vectors.build({"v": torch.Size([-1, 3])}).projection["v"].out_features == 8
