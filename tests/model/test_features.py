"""Embeddings and the input block: values, sizes, keys, and what they refuse."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn

from transformers4rec_ext.block.base import Block
from transformers4rec_ext.block.mlp import MLPBlock
from transformers4rec_ext.features.base import InputBlock
from transformers4rec_ext.features.embedding import (
    FeatureConfig,
    SequenceEmbeddingFeatures,
    TableConfig,
)
from transformers4rec_ext.features.sequence import TabularSequenceFeatures
from transformers4rec_ext.features.tables import SequenceTable
from transformers4rec_ext.masking import CausalLanguageModeling
from transformers4rec_ext.schema import ColumnSchema, IntDomain, Schema, Tags

ITEMS = Schema.from_item_column(num_items=20, max_length=5)
IDS = torch.tensor([[3, 1, 20, 0, 0], [5, 0, 0, 0, 0]])


def _schema() -> Schema:
    category = ColumnSchema("a_category", "categorical", is_list=True, int_domain=IntDomain(1, 9))
    country = ColumnSchema("country", Tags.CATEGORICAL, int_domain=IntDomain(1, 4))
    age = ColumnSchema("age", Tags.CONTINUOUS, dtype="float32")
    return ITEMS + Schema([category, country, age])


def _batch() -> dict[str, torch.Tensor]:
    return {"item_id": IDS, "a_category": IDS.clamp(max=9), "country": torch.tensor([1, 4])}


def _categorical(**kwargs) -> TabularSequenceFeatures:
    arguments = {"continuous_tags": None, "embedding_dim_default": 4, **kwargs}
    return TabularSequenceFeatures.from_schema(_schema(), **arguments)


def test_tables_start_small_with_a_padding_row_of_zeros():
    embedding = SequenceEmbeddingFeatures.from_schema(
        Schema.from_item_column(num_items=5000), embedding_dim_default=16
    )
    weight = embedding.item_embedding_table.weight.detach()
    assert weight.shape == (5001, 16)
    assert weight[0].tolist() == [0.0] * 16
    assert 0.0495 < weight[1:].std() < 0.0505
    other = SequenceEmbeddingFeatures.from_schema(ITEMS, padding_idx=3)
    assert torch.count_nonzero(other.item_embedding_table.weight[3]) == 0
    assert torch.count_nonzero(other.item_embedding_table.weight[0]) > 0


def test_loaded_padding_rows_are_left_as_they_are():
    embedding = SequenceEmbeddingFeatures.from_schema(ITEMS)
    weights = {key: torch.ones_like(value) for key, value in embedding.state_dict().items()}
    embedding.load_state_dict(weights)
    assert embedding({"item_id": IDS})["item_id"][1, 1].tolist() == [1.0] * 64


def test_padding_row_gets_no_gradient():
    inputs = TabularSequenceFeatures.from_schema(ITEMS, aggregation="concat")
    inputs({"item_id": IDS}).sum().backward()
    grad = inputs.item_embedding_table.weight.grad
    assert torch.count_nonzero(grad[0]) == 0
    assert torch.count_nonzero(grad[3]) == 64


def test_initializers_and_dims():
    embedding = SequenceEmbeddingFeatures.from_schema(
        _schema(),
        embedding_dims={"country": 3},
        embedding_dim_default=2,
        embeddings_initializers={"country": nn.init.ones_},
    )
    tables = embedding.embedding_tables
    assert {name: table.weight.shape[1] for name, table in tables.items()} == {
        "item_id": 2,
        "a_category": 2,
        "country": 3,
    }
    assert tables["country"].weight[1].tolist() == [1.0] * 3
    assert tables["country"].weight[0].tolist() == [0.0] * 3


def test_concat_is_in_the_order_of_names():
    inputs = _categorical(aggregation="concat", embedding_dims={"country": 3})
    out = inputs(_batch())
    parts = inputs.categorical_module(_batch())
    assert inputs.output_size() == torch.Size([-1, 5, 11])
    assert out.shape == (2, 5, 11)
    assert torch.equal(out[..., :4], parts["a_category"])
    assert torch.equal(out[..., 4:7], parts["country"].unsqueeze(1).expand(-1, 5, -1))
    assert torch.equal(out[..., 7:], parts["item_id"])


def test_session_columns_have_no_time_until_they_are_aggregated():
    categorical = _categorical().categorical_module
    assert categorical(_batch())["country"].shape == (2, 4)
    assert categorical.output_size()["country"] == torch.Size([-1, 4])


def test_without_aggregation_a_dict():
    inputs = _categorical()
    sizes = inputs.output_size()
    out = inputs(_batch())
    assert set(out) == set(sizes) == {"item_id", "a_category", "country"}
    assert sizes["item_id"] == torch.Size([-1, 5, 4])


def test_element_wise_sum():
    inputs = _categorical(aggregation="element-wise-sum")
    parts = inputs.categorical_module(_batch())
    parts["country"] = parts["country"].unsqueeze(1)
    torch.testing.assert_close(inputs(_batch()), sum(parts.values()))
    assert inputs.output_size() == torch.Size([-1, 5, 4])
    with pytest.raises(ValueError, match="The last dim of all input features is not equal"):
        _categorical(aggregation="element-wise-sum", embedding_dims={"country": 3})


@pytest.mark.parametrize(
    "arguments",
    [
        {"d_output": 6},
        {"projection": MLPBlock([6])},
        {"projection": Block(nn.Linear(64, 6), [-1, 5, 6])},
    ],
)
def test_projection_and_masking(arguments):
    inputs = TabularSequenceFeatures.from_schema(ITEMS, masking="clm", **arguments)
    assert type(inputs.aggregation).__name__ == "ConcatFeatures"
    assert inputs.output_size() == torch.Size([-1, 5, 6])
    out = inputs({"item_id": IDS}, training=True)
    assert out.shape == (2, 5, 6)
    assert inputs.masking.masked_targets.tolist() == [[1, 20, 0, 0, 0], [0] * 5]
    assert torch.equal(out[0, 2], inputs.masking.masked_item_embedding)


def test_keys_with_projection_and_masking():
    inputs = TabularSequenceFeatures.from_schema(ITEMS, d_output=6, masking="clm")
    assert set(inputs.state_dict()) == {
        "to_merge.categorical_module.embedding_tables.item_id.weight",
        "projection_module.0.0.weight",
        "projection_module.0.0.bias",
        "_masking.masked_item_embedding",
    }


def test_masking_can_be_set_later_under_its_own_key():
    inputs = TabularSequenceFeatures.from_schema(ITEMS, aggregation="concat")
    assert inputs.masking is None
    inputs.masking = masking = CausalLanguageModeling(64)
    assert inputs.masking is masking
    assert "_masking.masked_item_embedding" in inputs.state_dict()
    assert copy.deepcopy(inputs).masking is not masking
    with pytest.raises(TypeError, match="masking must be a MaskSequence; got str"):
        inputs.set_masking("clm")


def test_keyword_arguments_reach_embedding_and_masking():
    inputs = TabularSequenceFeatures.from_schema(
        ITEMS,
        masking="causal",
        embedding_dim_default=8,
        padding_idx=2,
        train_on_last_item_seq_only=True,
    )
    assert inputs.masking.train_on_last_item_seq_only
    assert inputs.masking.padding_idx == inputs.categorical_module.padding_idx == 2
    assert inputs.item_embedding_table.weight.shape == (21, 8)
    with pytest.raises(TypeError, match=r"arguments must be among .*; got \['mlm_probability'\]"):
        TabularSequenceFeatures.from_schema(ITEMS, masking="causal", mlm_probability=0.3)


def test_attributes_for_tasks():
    inputs = TabularSequenceFeatures.from_schema(ITEMS, masking="clm", max_sequence_length=7)
    assert inputs.is_input
    assert inputs.item_id == "item_id"
    assert inputs.max_sequence_length == 7
    assert inputs.schema.column_names == ["item_id"]
    table = inputs.categorical_module.embedding_tables["item_id"]
    assert inputs.item_embedding_table is table is inputs.categorical_module.item_embedding_table
    inputs({"item_id": IDS})
    assert inputs.categorical_module.item_seq is IDS
    assert InputBlock().schema is None


def test_items_are_looked_up_once():
    inputs = TabularSequenceFeatures.from_schema(ITEMS, d_output=8, masking="clm")
    calls = []
    inputs.item_embedding_table.register_forward_hook(lambda *args: calls.append(1))
    inputs({"item_id": IDS}, training=True)
    assert len(calls) == 1


def test_the_batch_is_left_alone():
    batch = {"item_id": IDS.clone(), "extra": torch.ones(2)}
    TabularSequenceFeatures.from_schema(ITEMS, masking="clm")(batch, testing=True)
    assert torch.equal(batch["item_id"], IDS)
    assert set(batch) == {"item_id", "extra"}


def test_smaller_integers_are_widened():
    inputs = TabularSequenceFeatures.from_schema(ITEMS, masking="clm")
    inputs({"item_id": IDS.int()}, training=True)
    assert inputs.masking.masked_targets.dtype is torch.int64


@pytest.mark.parametrize(
    ("batch", "error", "text"),
    [
        ({"items": IDS}, ValueError, r"inputs must have the column 'item_id'; got columns \["),
        ({"item_id": IDS.float()}, TypeError, "must be an int64 tensor; got torch.float32"),
        ({"item_id": IDS.tolist()}, TypeError, "must be an int64 tensor; got list"),
        ({"item_id": IDS[None]}, ValueError, r"must be \[B, T\], or \[B\].*; got \[1, 2, 5\]"),
        ({"item_id": IDS + 1}, ValueError, "must hold ids from 0 to 20; got 1 to 21"),
        ({"item_id": IDS - 1}, ValueError, "must hold ids from 0 to 20; got -1 to 19"),
    ],
)
def test_bad_batches(batch, error, text):
    with pytest.raises(error, match=text):
        TabularSequenceFeatures.from_schema(ITEMS, masking="clm")(batch)


def test_sequences_of_different_lengths_are_refused():
    batch = {**_batch(), "a_category": torch.ones(2, 4, dtype=torch.int64)}
    text = r"All sequential features must share the same shape .*'a_category': \(2, 4\)"
    with pytest.raises(ValueError, match=text):
        _categorical(aggregation="concat")(batch)


@pytest.mark.parametrize(
    ("make", "error", "text"),
    [
        (
            lambda: TabularSequenceFeatures.from_schema(ITEMS, categorical_tags="no"),
            ValueError,
            "schema must have a column tagged continuous or no or embedding",
        ),
        (
            lambda: TabularSequenceFeatures.from_schema(
                Schema([ColumnSchema("a", Tags.CATEGORICAL)])
            ),
            ValueError,
            "schema must have an int_domain on its categorical columns",
        ),
        (
            lambda: TabularSequenceFeatures.from_schema(
                ITEMS, d_output=4, projection=MLPBlock([4])
            ),
            ValueError,
            "You cannot specify both d_output and projection at the same time",
        ),
        (
            lambda: TabularSequenceFeatures.from_schema(
                _schema().select_by_name("country"), masking="clm"
            ),
            ValueError,
            "For masking a categorical_module is required including an item_id",
        ),
        (
            lambda: _categorical(aggregation="max"),
            ValueError,
            "a registered tabular aggregation",
        ),
        (
            lambda: TabularSequenceFeatures.from_schema(ITEMS, projection=nn.Linear(1, 1)),
            TypeError,
            r"projection must be a block; got Linear. Wrap a module: Block\(module, output_size\)",
        ),
        (
            lambda: TabularSequenceFeatures.from_schema({"item_id": 3}),
            TypeError,
            "schema must be a Schema; got dict",
        ),
        (lambda: TableConfig(0, 4), ValueError, "Invalid vocabulary_size 0"),
        (lambda: TableConfig(4, 0.5), ValueError, "Invalid dim 0.5"),
        (lambda: TableConfig(4, 4, combiner="max"), ValueError, "Invalid combiner max"),
        (
            lambda: TableConfig(4, 4, initializer=3),
            ValueError,
            "initializer must be callable if specified",
        ),
        (lambda: FeatureConfig(4), TypeError, "table must be a TableConfig; got int"),
        (lambda: SequenceEmbeddingFeatures({}), ValueError, "have at least one column; got none"),
        (
            lambda: SequenceEmbeddingFeatures.from_schema(ITEMS, item_id="x"),
            ValueError,
            r"item_id must be one of the columns \['item_id'\]; got 'x'",
        ),
        (
            lambda: SequenceEmbeddingFeatures.from_schema(ITEMS, embedding_dims={"x": 1}),
            ValueError,
            r"embedding_dims must name columns among \['item_id'\]; got \['x'\]",
        ),
        (
            lambda: SequenceEmbeddingFeatures.from_schema(ITEMS, padding_idx=21),
            ValueError,
            "padding_idx must be a row of every table, of 'item_id' below 21; got 21",
        ),
        (
            lambda: SequenceEmbeddingFeatures({"a.b": FeatureConfig(TableConfig(4, 4))}),
            ValueError,
            "names must be str, not empty and without a dot",
        ),
        (
            lambda: SequenceEmbeddingFeatures({"a": FeatureConfig(TableConfig(4, 4))}).item_ids({}),
            ValueError,
            "item_id must be set; got None",
        ),
    ],
)
def test_bad_arguments(make, error, text):
    with pytest.raises(error, match=text):
        make()


def test_reprs_and_empty_selection():
    config = FeatureConfig(TableConfig(4, 2, name="a"), name="a")
    assert "TableConfig(vocabulary_size=4, dim=2, combiner='mean', name='a')" in repr(config)
    assert SequenceEmbeddingFeatures.from_schema(ITEMS, tags="no") is None


def test_compiles_without_a_break():
    inputs = TabularSequenceFeatures.from_schema(ITEMS, d_output=8, masking="clm")
    compiled = torch.compile(inputs, fullgraph=True, backend="eager")
    batch = {"item_id": IDS}
    torch.testing.assert_close(compiled(batch, training=True), inputs(batch, training=True))


def _gradient(table: SequenceTable, lookup: Any, ids: torch.Tensor) -> torch.Tensor:
    vectors = lookup(ids)
    (torch.arange(vectors.numel()).view_as(vectors) * vectors).sum().backward()
    gradient, table.weight.grad = table.weight.grad, None
    assert gradient is not None
    return gradient


@pytest.mark.parametrize("padding", [0, 3])
@pytest.mark.parametrize(
    "ids",
    [
        [[3, 5, 0, 0], [0, 0, 0, 0], [0, 7, 7, 5]],  # an empty session, padding on the left
        [[0, 0], [0, 0]],
        [[3, 3], [3, 3]],
        [4, 0, 3],  # one id for each session
    ],
)
def test_rows_are_found_without_waiting_as_they_are_by_torch(padding: int, ids: list[Any]) -> None:
    """As on a GPU; the padding's row is one that was trained elsewhere, not of zeros."""
    table = SequenceTable(8, 3, padding_idx=padding, sparse=True)
    torch.nn.init.normal_(table.weight)
    of = torch.tensor(ids)
    assert torch.equal(table.without_waiting(of), table(of))
    expected, found = (_gradient(table, f, of) for f in (table, table.without_waiting))
    assert torch.equal(found.to_dense(), expected.to_dense())
    touched = set(of.flatten().tolist()) - {padding} or {padding}
    assert set(found._indices().flatten().tolist()) == touched
