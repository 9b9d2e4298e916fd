"""Vectors that were made elsewhere, from a file or an array to a model."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import transformers4rec_ext as tr
from transformers4rec_ext.data import EmbeddingOperator, ParquetLoader
from transformers4rec_ext.utils.data_utils import MerlinDataLoader

MUSIC = tr.data.music_streaming_testing_data
VECTORS = np.arange(12, dtype=np.float64).reshape(4, 3)


def test_a_vector_for_each_id():
    operator = EmbeddingOperator(VECTORS, "item", "vector")
    inputs = {"item": torch.tensor([[3, 1], [2, 0]]), "price": torch.ones(2)}
    outputs = operator(inputs)
    assert set(inputs) == {"item", "price"}
    assert outputs["price"] is inputs["price"]
    assert outputs["vector"].dtype == torch.float32
    assert outputs["vector"].tolist() == [[[9, 10, 11], [3, 4, 5]], [[6, 7, 8], [0, 0, 0]]]
    shifted = EmbeddingOperator(VECTORS + 1, "item", "vector")
    # Padding of a list is zeros; of one id a row, 0 is an id.
    assert shifted(inputs)["vector"][1, 1].tolist() == [0, 0, 0]
    assert shifted({"item": torch.tensor([0])})["vector"].tolist() == [[1, 2, 3]]


@pytest.mark.parametrize("unknown", [0, 7.0, np.array([1.0, 2.0, 3.0])])
def test_ids_of_the_rows(unknown):
    table = np.array([40, 10, 30, 20])
    operator = EmbeddingOperator(VECTORS, "item", "vector", table, unknown_value=unknown)
    got = operator({"item": torch.tensor([10, 15, 40, 50, 0])})["vector"].numpy()
    other = np.broadcast_to(np.float32(unknown), (3,))
    assert np.array_equal(got, np.stack([VECTORS[1], other, VECTORS[0], other, other]))


@pytest.mark.parametrize("mmap", [False, True])
def test_files(tmp_path, mmap):
    np.save(tmp_path / "vectors.npy", VECTORS)
    np.save(tmp_path / "ids.npy", np.arange(4) + 5)
    files = (tmp_path / "vectors.npy", "item", "vector", str(tmp_path / "ids.npy"))
    operator = EmbeddingOperator(*files, mmap=mmap)
    assert isinstance(operator.embeddings, np.memmap) is mmap
    assert operator({"item": torch.tensor([6])})["vector"].tolist() == [[3, 4, 5]]


def operators() -> list[EmbeddingOperator]:
    rng = np.random.default_rng(0)
    return [
        EmbeddingOperator(rng.random((10_001, 6)), "item_id", "of_item"),
        EmbeddingOperator(rng.random((10_001, 4)), "user_id", "of_user"),
    ]


@pytest.mark.parametrize("workers", [0, 1])
def test_a_loader_adds_them(workers):
    schema = MUSIC.schema.select_by_name(["item_id", "user_id", "click"])
    options = {"transforms": operators(), "shuffle": False, "num_workers": workers}
    loader = MerlinDataLoader.from_schema(schema, MUSIC.path, 8, 5, **options)
    inputs, targets = next(iter(loader))
    assert (set(inputs), set(targets)) == ({"item_id", "user_id", "of_item", "of_user"}, {"click"})
    assert (inputs["of_item"].shape, inputs["of_user"].shape) == ((8, 5, 6), (8, 4))
    item, user = (loader.output_schema[name] for name in ("of_item", "of_user"))
    assert (item.is_list, item.shape, item.max_length) == (True, (6,), 20)
    assert set(item.tags) == {"embedding", "item", "list"}
    assert (user.is_list, user.shape, set(user.tags)) == (False, (4,), {"embedding", "user"})
    plain = ParquetLoader(MUSIC.path, schema, 8, transforms=[lambda inputs: {"n": len(inputs)}])
    assert next(iter(plain))[0] == {"n": 2}


def test_a_model_learns_from_them():
    schema = MUSIC.schema.select_by_name(["item_id", "user_id"])
    loader = MerlinDataLoader.from_schema(schema, MUSIC.path, 500, 5, transforms=operators())
    inputs = tr.TabularSequenceFeatures.from_schema(
        loader.output_schema,
        max_sequence_length=5,
        pretrained_output_dims=8,
        normalizer="layer-norm",
        embedding_dim_default=4,
        d_output=8,
        masking="clm",
    )
    model = tr.NextItemPredictionTask().to_model(tr.SequentialBlock(inputs, tr.MLPBlock([8])))
    weight = inputs.pretrained_module.projection["of_item"].weight
    before = weight.detach().clone()
    model.fit(loader, verbose=False)
    assert not torch.equal(weight, before)
    assert "next-item/ndcg_at_10" in model.evaluate(loader, verbose=False)


@pytest.mark.parametrize(
    ("make", "error", "text"),
    [
        (lambda: EmbeddingOperator([[1.0]]), TypeError, "embeddings must be an array of numbers"),
        (lambda: EmbeddingOperator(np.array(["a"])), TypeError, "embeddings must be .*; got <U1"),
        (lambda: EmbeddingOperator(np.ones(3)), ValueError, r"embeddings must be \[V, D\]; got"),
        (
            lambda: EmbeddingOperator(VECTORS, id_lookup_table=np.array([1, 2, 2, 3])),
            ValueError,
            r"id_lookup_table must be \[V=4\] different ints",
        ),
        (
            lambda: EmbeddingOperator(VECTORS, id_lookup_table=np.arange(3)),
            ValueError,
            r"one for each row of embeddings; got int64 \[3\]",
        ),
        (
            lambda: EmbeddingOperator(VECTORS, "item")({"item": torch.tensor([4])}),
            ValueError,
            "hold ids from 0 to 3, the rows of embeddings; got 4 to 4. Name the id of each row",
        ),
        (
            lambda: EmbeddingOperator(VECTORS, "item")({"price": torch.tensor([4])}),
            ValueError,
            r"lookup_key must be a column of the batch, which has \['price'\]; got 'item'",
        ),
        (
            lambda: EmbeddingOperator(VECTORS, "item", "item")({"item": torch.tensor([1])}),
            ValueError,
            "embedding_name must be the name of a new column; got 'item'",
        ),
        (
            lambda: EmbeddingOperator(VECTORS, unknown_value=np.ones(2)),
            ValueError,
            r"unknown_value must be a number or \[D=3\]; got \[2\]",
        ),
        (
            lambda: EmbeddingOperator(VECTORS, "other").output_schema(MUSIC.schema),
            KeyError,
            "'other' is no column of the schema",
        ),
        (
            lambda: ParquetLoader(MUSIC.path, MUSIC.schema, 4, transforms=[object()]),
            TypeError,
            "transforms must be functions .*; got object. For vectors by id there is",
        ),
    ],
)
def test_bad_input(make, error, text):
    with pytest.raises(error, match=text):
        make()


@pytest.mark.parametrize("shape", [(0,), (0, 4), (3, 0)])
def test_a_batch_without_ids(shape):
    """A process without rows gets one, at the end of an epoch."""
    for table in (None, np.array([40, 10, 30, 20])):
        operator = EmbeddingOperator(VECTORS, "item", "vector", table)
        found = operator({"item": torch.zeros(shape, dtype=torch.long)})["vector"]
        assert found.shape == (*shape, 3)


def test_unsigned_ids_beyond_the_exact_floats():
    ids = np.array([2**60, 2**60 + 1, 5, 6], dtype=np.uint64)
    operator = EmbeddingOperator(VECTORS, "item", "vector", ids, unknown_value=-1)
    got = operator({"item": torch.tensor([2**60 + 1, 2**60 + 2])})["vector"]
    assert got.tolist() == [VECTORS[1].tolist(), [-1, -1, -1]]
    with pytest.raises(ValueError, match="id_lookup_table must fit in 63 bits"):
        EmbeddingOperator(VECTORS, "item", "vector", ids + np.uint64(2**63))
