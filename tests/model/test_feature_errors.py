"""What input blocks refuse, of schemas, arguments and batches, and that they say what is wrong."""

from __future__ import annotations

import logging

import pytest
import torch
from torch import nn

import transformers4rec_ext as tr
from transformers4rec_ext.schema import IntDomain

ITEM = tr.ColumnSchema(
    "item", ("item_id", "categorical"), is_list=True, int_domain=IntDomain(1, 9), max_length=3
)
TYPE = tr.ColumnSchema("type", "categorical", int_domain=IntDomain(1, 4))
PRICE = tr.ColumnSchema("price", "continuous", dtype="float32", is_list=True, max_length=3)
TEXT = tr.ColumnSchema("text", "embedding", dtype="float32", is_list=True, shape=(5,))
SCHEMA = tr.Schema([ITEM, TYPE, PRICE, TEXT])
BATCH = {
    "item": torch.tensor([[3, 1, 9], [5, 0, 0]]),
    "type": torch.tensor([1, 4]),
    "price": torch.ones(2, 3),
    "text": torch.ones(2, 3, 5),
}


def _inputs(schema=SCHEMA, **arguments):
    return tr.TabularSequenceFeatures.from_schema(schema, **arguments)


def _without(*names):
    return {name: column for name, column in BATCH.items() if name not in names}


@pytest.mark.parametrize("kind", [tr.TabularFeatures, tr.TabularSequenceFeatures])
@pytest.mark.parametrize(
    ("batch", "error", "text"),
    [
        (_without("item"), ValueError, r"have the column 'item'; got columns \['price', 'text',"),
        (_without("item", "type"), ValueError, r"must have \['item', 'type'\]; got columns \['pr"),
        (_without("price"), ValueError, r"ContinuousFeatures: inputs must have the column 'price'"),
        (_without("text"), ValueError, r"PretrainedEmbeddingFeatures: inputs must have the column"),
        ([1], TypeError, "inputs must be a dict from column name to tensor; got list"),
        ({**BATCH, "type": torch.ones(2)}, TypeError, r"inputs\['type'\] must be an int64 tensor"),
        (
            {**BATCH, "item": [[1]]},
            TypeError,
            r"inputs\['item'\] must be an int64 tensor; got list",
        ),
        ({**BATCH, "price": "x"}, TypeError, r"inputs\['price'\] must be a tensor of real numbers"),
        ({**BATCH, "text": torch.ones(2)}, ValueError, r"inputs\['text'\] must be \[B, T, D\] or"),
        (
            {**BATCH, "type": torch.tensor([1, 5])},
            ValueError,
            r"inputs\['type'\] must hold ids from 0 to 4; got 1 to 5. The table has int_domain",
        ),
        (
            {**BATCH, "item": BATCH["item"] + 1},
            ValueError,
            r"inputs\['item'\] must hold ids from 0 to 9; got 1 to 10",
        ),
        (
            {**BATCH, "item": BATCH["item"] - 1},
            ValueError,
            r"inputs\['item'\] must hold ids from 0 to 9; got -1 to 8",
        ),
        (
            {**BATCH, "item": BATCH["item"][None]},
            ValueError,
            r"inputs\['item'\] must be \[B, T\], or \[B\] for the whole row; got \[1, 2, 3\]",
        ),
    ],
)
def test_bad_batches(kind, batch, error, text):
    inputs = kind.from_schema(SCHEMA, pretrained_output_dims=4, sequence_combiner="mean")
    inputs(BATCH)
    with pytest.raises(error, match=text):
        inputs(batch)


def test_sequences_of_different_lengths():
    inputs = _inputs(aggregation="concat", pretrained_embeddings_tags=None)
    text = r"All sequential features must share .*'price': \(2, 2\), 'item': \(2, 3\)"
    with pytest.raises(ValueError, match=text):
        inputs({**BATCH, "price": torch.ones(2, 2)})
    with pytest.raises(ValueError, match=r"All sequential features .*'price': \(4, 3\)"):
        inputs({**BATCH, "price": torch.ones(4, 3)})


def _ragged(lengths, values):
    offsets = torch.tensor([0, *torch.tensor(lengths).cumsum(0).tolist()])
    return values[: int(offsets[-1])], offsets


def _ragged_batch(**lengths):
    batch = {
        "type": BATCH["type"],
        "other__values": torch.ones(1),
        "other__offsets": torch.arange(2),
    }
    for name, values in (("item", torch.tensor([3, 1, 9, 5, 2])), ("price", torch.ones(5))):
        batch[f"{name}__values"], batch[f"{name}__offsets"] = _ragged(lengths[name], values)
    return batch


def test_ragged_columns_of_different_lengths():
    inputs = _inputs(pretrained_embeddings_tags=None, masking="clm", embedding_dim_default=4)
    body = tr.SequentialBlock(inputs, tr.MLPBlock([4]))
    model = tr.Model(tr.Head(body, tr.NextItemPredictionTask(weight_tying=True)))
    assert model(_ragged_batch(item=[3, 2], price=[3, 2])).shape == (2, 10)
    text = r"sequences of one length in each row; got \{'price': 2, 'item': 3\} in row 0"
    with pytest.raises(ValueError, match=text):
        model(_ragged_batch(item=[3, 2], price=[2, 3]))
    with pytest.raises(ValueError, match=r"for the same rows; got \{'price': 3, 'item': 2\}"):
        model(_ragged_batch(item=[3, 2], price=[3, 1, 1]))
    column = _ragged_batch(item=[3, 2], price=[3, 2])
    column["item__offsets"] = column["item__offsets"][:, None]
    with pytest.raises(
        ValueError, match=r"'item__offsets'\] must be ints \[B\+1\]; got .* \[3, 1\]"
    ):
        model(column)


@pytest.mark.parametrize(
    ("schema", "text"),
    [
        (tr.Schema([TYPE]), r"Tag one of the columns \['type'\] as item_id and categorical"),
        (
            tr.Schema(
                [TYPE, tr.ColumnSchema("id", ("item_id", "list"), int_domain=IntDomain(1, 3))]
            ),
            r"'id' is tagged item_id, but categorical_tags do not select it: its tags are \['item_",
        ),
        (
            tr.Schema([TYPE, tr.ColumnSchema("id", ("item_id", "continuous"))]),
            "The column 'id' is tagged item_id but has no int_domain",
        ),
    ],
)
def test_schemas_without_an_item_id(schema, text):
    leading = "For masking a categorical_module is required including an item_id. "
    with pytest.raises(ValueError, match=f"{leading}.*{text}"):
        _inputs(schema, masking="clm")


def test_columns_without_ids_are_told_of(caplog):
    schema = tr.Schema([ITEM, tr.ColumnSchema("word", "categorical", dtype="float32")])
    with caplog.at_level(logging.WARNING, logger="transformers4rec_ext"):
        assert list(_inputs(schema)(BATCH)) == ["item"]
    assert "leaves out the columns ['word']: they are tagged categorical but have no" in caplog.text


@pytest.mark.parametrize(
    ("make", "error", "text"),
    [
        (
            lambda: _inputs(3),
            TypeError,
            r"TabularSequenceFeatures.from_schema: schema must be a Sc",
        ),
        (
            lambda: _inputs(tr.Schema([tr.ColumnSchema("a", "x")])),
            ValueError,
            r"have a column tagged continuous or categorical or embedding; got columns \['a'\]",
        ),
        (
            lambda: _inputs(
                continuous_tags=None, categorical_tags=None, pretrained_embeddings_tags=()
            ),
            ValueError,
            "have a column tagged by one of the tags",
        ),
        (
            lambda: _inputs(tr.Schema([tr.ColumnSchema("a", "categorical")])),
            ValueError,
            r"have an int_domain on its categorical columns; got columns \['a'\] without",
        ),
        (
            lambda: _inputs(tr.Schema([ITEM.with_tags("continuous")])),
            ValueError,
            r"columns of one kind each.*got \{'item': \['item_id', 'categorical', 'continuous'\]\}",
        ),
        (
            lambda: _inputs(tr.Schema([ITEM, ITEM.with_name("second")])),
            ValueError,
            "Multiple columns with tag ITEM_ID found. Please specify the item_id column name",
        ),
        (lambda: _inputs(dims=3), TypeError, r"arguments must be among .*; got \['dims'\]"),
        (lambda: _inputs(masking="clm", dims=3), TypeError, r"among .*; got \['dims'\]"),
        (
            lambda: _inputs(embeddings_initializers={"x": nn.init.ones_}),
            ValueError,
            r"embeddings_initializers must name columns among \['price', 'item', 'type', 'text'\]",
        ),
        (
            lambda: _inputs(embedding_dims=3),
            TypeError,
            "embedding_dims must be a mapping from column name; got int",
        ),
        (
            lambda: _inputs(embeddings_initializers=nn.init.zeros_),
            TypeError,
            "embeddings_initializers must be a mapping from column name; got function",
        ),
        (
            lambda: tr.PretrainedEmbeddingFeatures("text"),
            TypeError,
            "PretrainedEmbeddingFeatures: features must be a list of column names; got 'text'",
        ),
        (
            lambda: tr.ContinuousFeatures(3),
            TypeError,
            "ContinuousFeatures: features must be a list of c.*; got 3",
        ),
        (
            lambda: _inputs(continuous_soft_embeddings=True, soft_embedding_dims={"item": 3}),
            ValueError,
            r"soft_embedding_dims must name columns among \['price'\]; got \['item'\]",
        ),
        (
            lambda: _inputs(continuous_tags=None, continuous_projection=4),
            ValueError,
            "continuous_projection must be left out where there is no continuous column; got 4",
        ),
        (
            lambda: _inputs(continuous_projection=4, automatic_build=False),
            ValueError,
            "Continuous feature projection can only be done with automatic_build",
        ),
        (lambda: _inputs(continuous_projection=[0]), ValueError, "dimensions must be one or more"),
        (
            lambda: _inputs(d_output=4, automatic_build=False),
            ValueError,
            "projection and d_output must follow columns of known sizes, aggregated; got None",
        ),
        (
            lambda: _inputs(masking="clm", automatic_build=False),
            ValueError,
            "masking must follow columns of known sizes, aggregated; got None",
        ),
        (
            lambda: tr.TabularSequenceFeatures(
                tr.ContinuousFeatures(["price"]), masking=tr.masking.CausalLanguageModeling(1)
            ),
            ValueError,
            "For masking a categorical_module is required including an item_id",
        ),
        (
            lambda: tr.TabularFeatures(),
            ValueError,
            r"TabularFeatures: modules must be at least one of \['continuous_module', 'categorical",
        ),
        (lambda: tr.EmbeddingFeatures({}), ValueError, "have at least one column; got none"),
        (
            lambda: tr.EmbeddingFeatures({"a": tr.TableConfig(3, 3)}),
            TypeError,
            "feature_config must be a mapping from column name to FeatureConfig; got dict",
        ),
        (
            lambda: tr.SoftEmbeddingFeatures([3]),
            TypeError,
            "SoftEmbeddingFeatures: feature_config must be a mapping",
        ),
        (
            lambda: tr.EmbeddingFeatures.from_schema(SCHEMA, combiner="max"),
            ValueError,
            "Invalid combiner max",
        ),
        (
            lambda: tr.EmbeddingFeatures.from_schema(SCHEMA, sparse_grad=1),
            TypeError,
            "EmbeddingFeatures: sparse_grad must be a bool; got int",
        ),
        (
            lambda: tr.EmbeddingFeatures.from_schema(SCHEMA, item_id="price"),
            ValueError,
            r"item_id must be one of the columns \['item', 'type'\]; got 'price'",
        ),
        (
            lambda: tr.SequenceEmbeddingFeatures.from_schema(SCHEMA, padding_idx=-1),
            ValueError,
            "padding_idx must be a row of every table, of 'item' below 10; got -1",
        ),
        (
            lambda: tr.SoftEmbedding(0, 4),
            AssertionError,
            "The number of embeddings for soft embeddings needs to be greater than 0",
        ),
        (
            lambda: tr.SoftEmbedding(4, 0),
            AssertionError,
            "The embeddings dim for soft embeddings needs to be greater than 0",
        ),
        (
            lambda: tr.PretrainedEmbeddingsInitializer([1.0]),
            ValueError,
            r"weight_matrix must be numbers \[V, D\]; got torch.float32 \[1\]",
        ),
        (
            lambda: tr.PretrainedEmbeddingFeatures(["a"], {"b": 3}),
            ValueError,
            r"pretrained_output_dims must name columns among \['a'\]; got \['b'\]",
        ),
        (
            lambda: tr.PretrainedEmbeddingFeatures(["a"], 0),
            ValueError,
            "pretrained_output_dims must be positive ints; got 0",
        ),
        (
            lambda: tr.PretrainedEmbeddingFeatures(["a"], sequence_combiner="median"),
            ValueError,
            r"sequence_combiner must be one of \['max', 'mean', 'min', 'sum'\] or a callable",
        ),
        (
            lambda: tr.PretrainedEmbeddingFeatures(["a"], sequence_combiner=3),
            TypeError,
            "sequence_combiner must be callable; got int",
        ),
        (
            lambda: tr.PretrainedEmbeddingFeatures(["text"], 3)(BATCH),
            ValueError,
            r"pretrained_output_dims must be followed by build\(sizes\) before the first batch",
        ),
        (
            lambda: tr.PretrainedEmbeddingFeatures(["text"], 3).build({"text": [-1, 3, 4]})(BATCH),
            ValueError,
            r"inputs\['text'\] must have vectors of width 4; got \[2, 3, 5\]",
        ),
        (
            lambda: _inputs(tr.Schema([tr.ColumnSchema("v", "embedding")]), aggregation="concat"),
            ValueError,
            r"schema\['v'\] must say how wide its vectors are; got size \[-1, -1\]. Give the col",
        ),
    ],
)
def test_bad_arguments(make, error, text):
    with pytest.raises(error, match=text):
        make()
