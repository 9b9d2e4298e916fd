"""Input blocks of all kinds of columns: values, sizes, keys, starts and arguments."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch
from torch import nn

import transformers4rec_ext as tr
from transformers4rec_ext.features.embedding import EmbeddingBagWrapper
from transformers4rec_ext.schema import IntDomain, Tags

SCHEMA = tr.Schema(
    [
        tr.ColumnSchema(
            "item", ("item_id", "categorical"), is_list=True, int_domain=IntDomain(1, 9)
        ),
        tr.ColumnSchema("type", "categorical", int_domain=IntDomain(0, 4)),
        tr.ColumnSchema("price", "continuous", dtype="float32", is_list=True, max_length=3),
        tr.ColumnSchema("age", "continuous", dtype="int64"),
        tr.ColumnSchema("text", "embedding", dtype="float32", is_list=True, shape=(5,)),
        tr.ColumnSchema("user", "embedding", dtype="float32", shape=(2,)),
    ]
)
BATCH = {
    "item": torch.tensor([[3, 1, 9], [5, 0, 0]]),
    "type": torch.tensor([0, 4]),
    "price": torch.tensor([[0.5, 0.0, 2.0], [1.0, 0.0, 0.0]]),
    "age": torch.tensor([30, 40]),
    "text": torch.randn(2, 3, 5),
    "user": torch.randn(2, 2),
}


def test_continuous_columns():
    block = tr.ContinuousFeatures.from_schema(SCHEMA, tags=Tags.CONTINUOUS)
    out = block(BATCH, training=True)
    assert list(out) == ["price", "age"]
    assert torch.equal(out["price"], BATCH["price"].unsqueeze(-1))
    assert out["age"].tolist() == [[30.0], [40.0]]
    assert out["age"].dtype == torch.float32
    assert block.schema.column_names == ["price", "age"]
    assert block.output_size() is None
    assert tr.ContinuousFeatures.from_schema(SCHEMA, tags="none") is None
    block = tr.ContinuousFeatures(["price", "age"], aggregation="concat")
    assert block(BATCH).shape == (2, 3, 2)


@pytest.mark.parametrize("combiner", ["mean", "sum", "sqrtn"])
@pytest.mark.parametrize("sparse", [False, True])
def test_lists_are_combined_without_padding(combiner, sparse):
    block = tr.EmbeddingFeatures.from_schema(
        SCHEMA, tags=Tags.CATEGORICAL, combiner=combiner, sparse_grad=sparse
    )
    weight = block.item_embedding_table.weight.detach()
    scale = {"mean": (3.0, 1.0), "sum": (1.0, 1.0), "sqrtn": (3**0.5, 1.0)}[combiner]
    expected = torch.stack([weight[[3, 1, 9]].sum(0) / scale[0], weight[5] / scale[1]])
    out = block(BATCH)
    torch.testing.assert_close(out["item"], expected)
    longer = {**BATCH, "item": nn.functional.pad(BATCH["item"], (0, 4))}
    assert torch.equal(block(longer)["item"], out["item"])
    assert block(dict(BATCH, item=torch.zeros(2, 3, dtype=torch.int64)))["item"].abs().max() == 0
    # Of one id per row 0 is an id like any other.
    assert torch.equal(out["type"], block.embedding_tables["type"].weight[BATCH["type"]])
    out["item"].sum().backward()
    grad = block.item_embedding_table.weight.grad
    assert grad.is_sparse == sparse
    assert torch.count_nonzero(grad.to_dense()[0]) == 0
    assert block.output_size() == {name: torch.Size([-1, 64]) for name in ("item", "type")}


def test_sizes_know_a_batch_size_that_is_given():
    inputs = tr.TabularSequenceFeatures.from_schema(
        SCHEMA.select_by_name(["item", "price"]), batch_size=7, masking="causal"
    )
    assert inputs.output_size() == torch.Size([7, 3, 65])
    ids = SCHEMA.select_by_name(["item", "type"])
    assert tr.EmbeddingFeatures.from_schema(ids, batch_size=7).output_size() == {
        name: torch.Size([7, 64]) for name in ids.column_names
    }
    prices = SCHEMA.select_by_name("price")
    soft = tr.SoftEmbeddingFeatures.from_schema(prices, batch_size=7)
    assert soft.output_size() == {"price": torch.Size([7, 3, 8])}


def test_columns_are_found_by_any_name():
    block = tr.EmbeddingFeatures.from_schema(SCHEMA.select_by_name("type"))
    assert list(block.state_dict()) == ["embedding_tables.type.weight"]
    block.load_state_dict(block.state_dict(), strict=True)


def test_embedding_arguments():
    arguments = {
        "embedding_dims": {"item": 3},
        "embedding_dim_default": 7,
        "infer_embedding_sizes": True,
        "infer_embedding_sizes_multiplier": 3.0,
        "layer_norm": False,  # of soft embeddings: upstream's own tests give it here
    }
    block = tr.EmbeddingFeatures.from_schema(SCHEMA, **arguments)
    assert block.embedding_tables["item"].weight.shape == (10, 3)
    assert block.embedding_tables["type"].weight.shape == (5, 5)  # ceil(5 ** 0.25 * 3)
    assert block.item_id == "item"
    unbuilt = tr.EmbeddingFeatures.from_schema(SCHEMA, automatic_build=False)
    assert unbuilt.input_size is None
    assert unbuilt.schema == SCHEMA
    wrapper = EmbeddingBagWrapper(4, 2)
    assert wrapper(torch.tensor([1])).shape == (1, 2)


@pytest.mark.parametrize("kind", [tr.EmbeddingFeatures, tr.SequenceEmbeddingFeatures])
@pytest.mark.parametrize("trainable", [True, False])
def test_vectors_made_elsewhere_start_a_table(kind, trainable):
    matrix = np.random.default_rng(0).random((10, 4))
    initializer = tr.PretrainedEmbeddingsInitializer(matrix, trainable=trainable)
    block = kind.from_schema(
        SCHEMA, embedding_dims={"item": 4}, embeddings_initializers={"item": initializer}
    )
    table = block.item_embedding_table
    np.testing.assert_allclose(table.weight.detach().numpy(), matrix, rtol=1e-6)
    assert table.weight.requires_grad == trainable
    assert block.embedding_tables["type"].weight.requires_grad
    block(BATCH)["item"].sum()
    text = r"weight_matrix must have the table's shape \[V=10, D=64\]; got \[10, 4\]"
    with pytest.raises(ValueError, match=text):
        kind.from_schema(SCHEMA, embeddings_initializers={"item": initializer})


def test_soft_embeddings():
    soft = tr.SoftEmbedding(6, 3, emb_initializer=partial(nn.init.normal_, mean=1.0, std=0.05))
    x = torch.randn(4, 5)
    weights = torch.softmax(
        x[..., None] * soft.projection_layer.weight[:, 0] + soft.projection_layer.bias, dim=-1
    )
    torch.testing.assert_close(soft(x), weights @ soft.embedding_table.weight)
    assert abs(soft.embedding_table.weight.mean() - 1) < 0.1
    assert tr.SoftEmbedding(500, 8).embedding_table.weight.std() > 0.9
    with pytest.raises(TypeError, match=r"input_numeric must be floating; got torch.int64"):
        tr.SoftEmbedding(6, 3)(torch.ones(2, 3, dtype=torch.int64))


def test_soft_embedding_features():
    block = tr.SoftEmbeddingFeatures.from_schema(
        SCHEMA,
        tags=Tags.CONTINUOUS,
        soft_embedding_cardinalities={"age": 4},
        soft_embedding_dims={"age": 6},
        soft_embedding_cardinality_default=5,
        post=["dropout"],
        max_sequence_length=3,
        embedding_dim_default=4,  # of ids
    )
    assert {
        name: tuple(table.embedding_table.weight.shape)
        for name, table in block.embedding_tables.items()
    } == {"price": (5, 8), "age": (4, 6)}
    out = block(BATCH)
    assert {name: tuple(column.shape) for name, column in out.items()} == {
        "price": (2, 3, 8),
        "age": (2, 6),
    }
    assert block.output_size()["price"] == torch.Size([-1, 3, 8])
    assert out["age"].mean(-1).abs().max() < 1e-5  # normalised, then dropped out at rate 0
    plain = tr.SoftEmbeddingFeatures.from_schema(SCHEMA, tags="continuous", layer_norm=False)
    assert plain.post is None
    assert tr.SoftEmbeddingFeatures.from_schema(SCHEMA, tags="categorical") is None
    assert plain.output_size()["age"] == torch.Size([-1, 8])


def test_pretrained_columns():
    block = tr.PretrainedEmbeddingFeatures.from_schema(SCHEMA, tags=Tags.EMBEDDING)
    assert block(BATCH)["text"] is BATCH["text"]
    assert not list(block.parameters())
    sizes = {"text": torch.Size([-1, 3, 5]), "user": torch.Size([-1, 2])}
    assert block.output_size(sizes) == sizes
    projected = tr.PretrainedEmbeddingFeatures(["text", "user"], pretrained_output_dims=7)
    projected.build(sizes)
    assert sorted(projected.state_dict()) == [
        f"projection.{name}.{part}" for name in ("text", "user") for part in ("bias", "weight")
    ]
    out = projected(BATCH)
    assert torch.equal(out["text"], projected.projection["text"](BATCH["text"]))
    assert projected.output_size()["text"] == torch.Size([-1, 3, 7])
    before = projected.projection["user"]
    assert projected.build(sizes).projection["user"] is before
    one = tr.PretrainedEmbeddingFeatures(["text", "user"], {"text": 4}).build(sizes)
    assert one(BATCH)["text"].shape == (2, 3, 4)
    assert one(BATCH)["user"] is BATCH["user"]
    assert projected({**BATCH, "user": BATCH["user"].double()})["user"].dtype == torch.float32
    assert (
        block({**BATCH, "user": torch.ones(2, 2, dtype=torch.int64)})["user"].dtype == torch.float32
    )


@pytest.mark.parametrize("name", ["mean", "sum", "max", "min"])
def test_pretrained_sequences_are_combined(name):
    block = tr.PretrainedEmbeddingFeatures(
        ["text", "user"], sequence_combiner=name, normalizer="layer-norm", post="dropout"
    ).build({"text": torch.Size([-1, 3, 5]), "user": torch.Size([-1, 2])})
    expected = {
        "mean": BATCH["text"].mean(1),
        "sum": BATCH["text"].sum(1),
        "max": BATCH["text"].max(1)[0],
        "min": BATCH["text"].min(1)[0],
    }[name]
    out = block(BATCH)
    torch.testing.assert_close(out["text"], nn.functional.layer_norm(expected, [5]))
    assert block.output_size() == {"text": torch.Size([-1, 5]), "user": torch.Size([-1, 2])}
    own = tr.PretrainedEmbeddingFeatures(
        ["text"], sequence_combiner=lambda x, axis: x.select(axis, 0)
    )
    assert torch.equal(own(BATCH)["text"], BATCH["text"][:, 0])
    padded = {"text": torch.tensor([[[2.0], [0.0]]])}
    called = tr.PretrainedEmbeddingFeatures(["text"], sequence_combiner=torch.mean)
    assert called(padded)["text"].tolist() == [[1.0]]  # a callable sees all that there is
    named = tr.PretrainedEmbeddingFeatures(["text"], sequence_combiner="mean")
    assert named(padded)["text"].tolist() == [[2.0]]


@pytest.mark.parametrize("name", ["mean", "sum", "max", "min"])
@pytest.mark.parametrize("width", [None, 2])
def test_combined_sequences_do_not_depend_on_their_padding(name, width):
    """Nor on the bias of a projection, which is added to what pads as well."""
    block = tr.PretrainedEmbeddingFeatures(
        ["text"], sequence_combiner=name, pretrained_output_dims=width
    ).build({"text": torch.Size([-1, 3, 5])})
    short = BATCH["text"] - 2.0  # of one sign, so that zeros would be a maximum
    padded = nn.functional.pad(short, (0, 0, 0, 4))
    torch.testing.assert_close(block({"text": padded})["text"], block({"text": short})["text"])
    assert not block({"text": torch.zeros(2, 3, 5)})["text"].any()


@pytest.mark.parametrize("kind", [tr.TabularFeatures, tr.TabularSequenceFeatures])
def test_all_kinds_together(kind):
    inputs = kind.from_schema(
        SCHEMA,
        max_sequence_length=3,
        aggregation="concat",
        embedding_dim_default=4,
        continuous_projection=[8, 6],
        pretrained_output_dims=7,
        sequence_combiner=None if kind is tr.TabularSequenceFeatures else "mean",
    )
    assert inputs.schema.column_names == ["price", "age", "item", "type", "text", "user"]
    out = inputs(BATCH)
    assert out.shape == (2, 3, 6 + 4 + 4 + 7 + 7)
    assert inputs.output_size() == torch.Size([-1, 3, 28])
    assert inputs.is_input
    # Ordered by name: continuous_projection, item, text, type, user.
    assert torch.equal(
        out[..., 6:10], inputs.categorical_module(BATCH)["item"].reshape(2, -1, 4).expand(-1, 3, -1)
    )
    # A table without a list is embedded once per row, and repeated.
    assert torch.equal(out[:, 0, 17:21], out[:, 2, 17:21])
    out.sum().backward()
    unused = {name for name, p in inputs.named_parameters() if p.grad is None}
    assert unused == set()


def test_order_of_a_dict():
    inputs = tr.TabularFeatures.from_schema(SCHEMA)
    assert list(inputs(BATCH)) == ["price", "age", "item", "type", "text", "user"]
    assert list(inputs.output_size()) == list(inputs(BATCH))
    soft = tr.TabularFeatures.from_schema(
        SCHEMA,
        continuous_soft_embeddings=True,
        embeddings_initializers={"age": nn.init.ones_, "item": nn.init.zeros_},
    )
    table = soft.continuous_module.embedding_tables["age"].embedding_table.weight
    assert table.min() == table.max() == 1
    assert soft.categorical_module.embedding_tables["item"].weight.abs().max() == 0
    assert soft.pretrained_module.features == ["text", "user"]
    assert tr.TabularFeatures.from_schema(SCHEMA, continuous_tags=None).continuous_module is None


def test_blocks_built_by_hand():
    parts = {
        "continuous_module": tr.ContinuousFeatures.from_schema(SCHEMA, tags=Tags.CONTINUOUS),
        "categorical_module": tr.SequenceEmbeddingFeatures.from_schema(SCHEMA, tags="categorical"),
    }
    inputs = tr.TabularSequenceFeatures(**parts, aggregation="concat", schema=SCHEMA)
    assert inputs(BATCH).shape == (2, 3, 130)
    assert inputs.schema == SCHEMA
    sequence = tr.SequenceEmbeddingFeatures(
        {"item": tr.FeatureConfig(tr.TableConfig(10, 4), max_sequence_length=3)}, item_id="item"
    )
    projected = tr.TabularSequenceFeatures(
        categorical_module=sequence,
        projection_module=tr.MLPBlock([6]),
        post="dropout",
        masking=tr.masking.CausalLanguageModeling(6),
    )
    assert projected.output_size() == torch.Size([-1, 3, 6])
    assert projected.max_sequence_length == 3
    assert projected(BATCH, training=True).shape == (2, 3, 6)
    plain = tr.TabularSequenceFeatures(
        categorical_module=sequence, projection_module=nn.Linear(4, 2)
    )
    assert plain(BATCH).shape == (2, 3, 2)
    assert plain.output_size() == torch.Size([-1, 3, 2])


def test_post_is_applied_before_masking_and_projection():
    inputs = tr.TabularSequenceFeatures.from_schema(SCHEMA, d_output=4, max_sequence_length=3)

    class Nothing(tr.TabularTransformation):
        def forward(self, inputs, **kwargs):
            return {name: torch.zeros_like(column) for name, column in inputs.items()}

    before = inputs(BATCH)
    inputs.post = Nothing()
    linear = inputs.projection_module[0][0]
    assert not torch.equal(inputs(BATCH), before)
    assert torch.equal(inputs(BATCH)[0, 0], linear.bias.relu())


def test_all_kinds_compile():
    inputs = tr.TabularSequenceFeatures.from_schema(
        SCHEMA, d_output=4, max_sequence_length=3, masking="clm", continuous_soft_embeddings=True
    ).eval()
    compiled = torch.compile(inputs, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(BATCH, training=True), inputs(BATCH, training=True))


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
@pytest.mark.parametrize("soft", [True, False])
def test_everything_is_computed_in_the_dtype_of_the_block(dtype, soft):
    inputs = tr.TabularSequenceFeatures.from_schema(
        SCHEMA,
        d_output=4,
        max_sequence_length=3,
        masking="clm",
        continuous_soft_embeddings=soft,
        continuous_projection=None if soft else 4,
        pretrained_output_dims={"user": 3},
    )
    keys = set(inputs.state_dict())
    assert not any("dtype" in key for key in keys)
    expected = inputs(BATCH, training=True)
    out = inputs.to(dtype)(BATCH, training=True)
    assert out.dtype == dtype
    bound = 1e-5 if dtype == torch.float64 else 0.05
    torch.testing.assert_close(out.float(), expected, atol=bound, rtol=bound)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert inputs.float()(BATCH, training=True).dtype == torch.bfloat16


@pytest.mark.parametrize("combiner", ["mean", "sqrtn"])
@pytest.mark.parametrize("soft", [True, False])
def test_a_step_looks_at_no_value(combiner, soft):
    """Tensors on meta have none, so a look, which on a GPU waits for the device, raises."""
    arguments = {
        "continuous_soft_embeddings": soft,
        "max_sequence_length": 3,
        "pre": tr.StochasticSwapNoise(replacement_prob=0.5),
        "post": "layer-norm",
        "aggregation": "concat",
        "pretrained_output_dims": 3,
    }
    blocks = [
        tr.TabularSequenceFeatures.from_schema(SCHEMA, masking="clm", d_output=4, **arguments),
        tr.TabularFeatures.from_schema(
            SCHEMA, combiner=combiner, sequence_combiner="max", **arguments
        ),
    ]
    batch = {name: column.to("meta") for name, column in BATCH.items()}
    for block in blocks:
        out = block.to("meta")(batch, training=True)
        assert out.device.type == "meta"
        out.sum().backward()


class OldMasking(tr.masking.CausalLanguageModeling):
    """Written before there was ``masked``."""

    def forward(self, inputs, item_ids, training=False, testing=False):
        return super().forward(inputs, item_ids, training=training, testing=testing)


def test_maskings_of_ones_own():
    masking = OldMasking(75)
    inputs = tr.TabularSequenceFeatures.from_schema(
        SCHEMA, masking=masking, embedding_dim_default=33
    )
    assert inputs.masking is masking
    assert inputs.masked_items(BATCH) is None
    out = inputs({**BATCH}, training=True)
    assert masking.masked_targets.tolist() == [[1, 9, 0], [0, 0, 0]]
    assert torch.equal(out[0, 2], masking.masked_item_embedding)
    plain = tr.TabularSequenceFeatures.from_schema(SCHEMA)
    plain.masking = tr.masking.CausalLanguageModeling(75)
    with pytest.raises(ValueError, match="aggregation must be set with a masking or projection"):
        plain(BATCH)
    plain.check_lengths({})
    assert tr.PretrainedEmbeddingFeatures.from_schema(SCHEMA, tags="none") is None
    assert tr.PretrainedEmbeddingFeatures(["text"], 3).build(None).output_size() is None
    assert tr.SoftEmbeddingFeatures.from_schema(SCHEMA, automatic_build=False).output_size() is None
