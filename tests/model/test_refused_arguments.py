"""Lengths, column names and fields of a configuration that would be passed over, in words."""

from __future__ import annotations

import pytest
import torch

import transformers4rec_ext as tr
from transformers4rec_ext.utils.padding import pad_batch, pad_inputs
from transformers4rec_ext.utils.torch_utils import get_output_sizes_from_schema

SCHEMA = tr.Schema.from_item_column("item_id", num_items=20, max_length=6)
RAGGED = {"a__values": torch.tensor([1, 2, 3, 4]), "a__offsets": torch.tensor([0, 3, 3, 4])}
TABLE = tr.FeatureConfig(tr.TableConfig(3, 4))

LENGTHS = {
    "SequenceEmbeddingFeatures.from_schema: max_sequence_length": lambda length: (
        tr.TabularSequenceFeatures.from_schema(SCHEMA, max_sequence_length=length, d_output=8)
    ),
    "EmbeddingFeatures.from_schema: max_sequence_length": lambda length: (
        tr.TabularFeatures.from_schema(SCHEMA, max_sequence_length=length, automatic_build=False)
    ),
    "SoftEmbeddingFeatures.from_schema: max_sequence_length": lambda length: (
        tr.SoftEmbeddingFeatures.from_schema(
            tr.Schema([tr.ColumnSchema.create_continuous("price")]), max_sequence_length=length
        )
    ),
    "get_output_sizes_from_schema: max_sequence_length": lambda length: (
        get_output_sizes_from_schema(SCHEMA, max_sequence_length=length)
    ),
    "pad_inputs: max_sequence_length": lambda length: pad_inputs(RAGGED, length),
    r"pad_batch: padding_lengths\['a'\]": lambda length: pad_batch(RAGGED, {"a": length}),
}


@pytest.mark.parametrize("who", LENGTHS)
def test_a_length_is_a_positive_int(who):
    with pytest.raises(ValueError, match=f"{who} must be at least 1; got 0"):
        LENGTHS[who](0)
    for length in (2.5, "a", True):
        with pytest.raises(TypeError, match=f"{who} must be an int; got {type(length).__name__}"):
            LENGTHS[who](length)
    LENGTHS[who](4)


def test_a_length_of_a_feature_may_be_unknown():
    assert tr.FeatureConfig(TABLE.table, max_sequence_length=0).max_sequence_length == 0
    with pytest.raises(ValueError, match="FeatureConfig: max_sequence_length must be at least 0"):
        tr.FeatureConfig(TABLE.table, max_sequence_length=-1)


def model() -> tr.Model:
    inputs = tr.TabularSequenceFeatures.from_schema(SCHEMA, d_output=8, masking="clm")
    return tr.NextItemPredictionTask().to_model(tr.SequentialBlock(inputs, tr.MLPBlock([8])))


MIXED = {1: torch.ones(2, 3), "a": torch.ones(2, 3)}
NAMES = {
    "Model.forward: inputs must have column names that are str; got .1.": lambda: model()(
        {1: torch.tensor([[1]]), "item_id": torch.tensor([[1]])}
    ),
    "pad_batch: inputs must have column names that are str": lambda: pad_batch(MIXED, {"a": 3}),
    "TabularAggregation: inputs must be a dict from column name to tensor; got names .1, 'a'": (
        lambda: tr.ConcatFeatures()(MIXED)
    ),
    "feature_config must be a mapping from column name to FeatureConfig; got names .1.": (
        lambda: tr.EmbeddingFeatures({1: TABLE})
    ),
    "embedding_dims must name columns among .'item_id'.; got .1, 'b'": (
        lambda: tr.EmbeddingFeatures.from_schema(SCHEMA, embedding_dims={1: 3, "b": 3})
    ),
    "inputs must have the column 'a'; got columns .1, 'b'": lambda: tr.ContinuousFeatures(["a"])(
        {1: torch.ones(2), "b": torch.ones(2)}
    ),
    "names must be str, not empty and without a dot": lambda: tr.TabularLayerNorm().build(
        {1: torch.Size([-1, 3])}
    ),
    "MLPBlock: filter_features must be a list of column names; got .1.": lambda: tr.MLPBlock(
        [4], filter_features=[1]
    ),
    "Schema.select_by_name: names must be a column name, or several; got 1": (
        lambda: SCHEMA.select_by_name(1)
    ),
    r"Schema.select_by_name: names must be a column name, or several; got \[1, 'b'\]": (
        lambda: SCHEMA.select_by_name([1, "b"])
    ),
    r"Schema.remove_by_name: names must be a column name, or several; got \[1\]": (
        lambda: SCHEMA.remove_by_name([1])
    ),
}


@pytest.mark.parametrize("text", NAMES)
def test_column_names_are_str(text):
    with pytest.raises((TypeError, ValueError), match=text):
        NAMES[text]()


CONFIGS = (
    *(tr.GPT2Config, tr.XLNetConfig, tr.BertConfig, tr.RobertaConfig, tr.ElectraConfig),
    *(tr.AlbertConfig, tr.LongformerConfig, tr.ReformerConfig),
)


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config.__name__)
def test_a_configuration_has_the_field_that_is_given(config):
    sizes = {"d_model": 8, "n_head": 2, "n_layer": 1, "total_seq_length": 12}
    text = rf"{config.__name__}.build: arguments must be its own or fields of transformers.\w+; got"
    with pytest.raises(TypeError, match=rf"{text} \['n_layers'\]. Did you mean 'n_layer'\?"):
        config.build(**sizes, n_layers=3)
    with pytest.raises(TypeError, match=rf"{text} \['zzzz', 'dropuot'\]\.$"):
        config.build(**sizes, zzzz=1, dropuot=0.1)
    built = config.build(**sizes, num_labels=3, output_hidden_states=True, dtype="float64")
    assert (built.num_labels, built.output_hidden_states, built.dtype) == (3, True, torch.float64)


def test_names_of_other_architectures_for_a_field_and_the_attention():
    config = tr.GPT2Config.build(8, 2, 1, 12, attn_implementation="eager", num_labels=4)
    assert config._attn_implementation == "eager"
    assert tr.BertConfig.build(8, 2, 1, 12, intermediate_size=16).intermediate_size == 16
