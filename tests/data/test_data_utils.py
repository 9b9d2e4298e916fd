"""Upstream's loaders by their own arguments and names."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

import transformers4rec_ext as tr
from transformers4rec_ext.schema import Tags
from transformers4rec_ext.utils import data_utils
from transformers4rec_ext.utils.data_utils import (
    MerlinDataLoader,
    PyarrowDataLoader,
    T4RecDataLoader,
)

MUSIC = tr.data.music_streaming_testing_data


def test_from_schema_reads_the_tagged_columns():
    loader = MerlinDataLoader.from_schema(MUSIC.schema, MUSIC.path, 64, max_sequence_length=8)
    assert isinstance(loader, torch.utils.data.DataLoader)
    inputs, targets = next(iter(loader))
    assert set(targets) == {"click", "play_percentage", "like"}
    assert set(inputs) == set(MUSIC.schema.column_names) - set(targets)
    assert inputs["item_id"].shape == (64, 8)
    assert inputs["country"].shape == (64,)
    assert set(loader.output_schema.column_names) == set(MUSIC.schema.column_names)
    file = pq.read_table(MUSIC.path)["user_id"].to_pylist()
    assert inputs["user_id"].tolist() != file[:64]  # shuffled by default
    in_order = MerlinDataLoader.from_schema(MUSIC.schema, MUSIC.path, 64, shuffle=False)
    assert next(iter(in_order))[0]["user_id"].tolist() == file[:64]


def test_named_columns():
    loader = MerlinDataLoader.from_schema(
        MUSIC.schema,
        MUSIC.path,
        32,
        8,
        ["item_recency"],
        ["item_id", "country"],
        targets=["click"],
    )
    inputs, targets = next(iter(loader))
    assert (list(inputs), list(targets)) == (["item_id", "country", "item_recency"], ["click"])
    bare = MerlinDataLoader(MUSIC.path, 32, 8, cats=["item_id"], labels="like", drop_last=True)
    assert len(bare) == 1000 // 32
    inputs, targets = next(iter(bare))
    assert (list(inputs), list(targets)) == (["item_id"], ["like"])
    # Without targets there are none.
    schema = MUSIC.schema.remove_by_tag(Tags.TARGET)
    assert next(iter(MerlinDataLoader.from_schema(schema, MUSIC.path, 4)))[1] is None


def test_vectors_in_the_file_are_inputs(tmp_path):
    path = tmp_path / "vectors.parquet"
    pq.write_table(pa.table({"id": [1, 2], "rating": [0.5, 1.5]}), path)
    schema = tr.Schema(
        [
            tr.ColumnSchema.create_categorical("id", 2),
            tr.ColumnSchema("rating", tags=[Tags.EMBEDDING], dtype="float32"),
        ]
    )
    for loader in (MerlinDataLoader, PyarrowDataLoader):
        inputs, _ = next(iter(loader.from_schema(schema, path, 2, shuffle=False)))
        assert inputs["rating"].tolist() == [0.5, 1.5]
        only = loader.from_schema(schema, path, 2, continuous_features=[])
        assert set(next(iter(only))[0]) == {"id"}


def test_pyarrow_loader_reads_as_the_other_does():
    arguments = (MUSIC.schema, MUSIC.path, 64, 8)
    for name in ("pyarrow", "pyarrow_builder"):
        assert T4RecDataLoader.parse(name) is PyarrowDataLoader
    for name in ("merlin", "merlin_dataloader", "nvtabular", "nvtabular_dataloader"):
        assert T4RecDataLoader.parse(name) is MerlinDataLoader
    loader = PyarrowDataLoader.from_schema(*arguments, shuffle_buffer_size=0.1, drop_last=True)
    other = MerlinDataLoader.from_schema(*arguments, shuffle=False, drop_last=True)
    assert len(loader) == len(other) == 1000 // 64
    assert loader.output_schema == other.output_schema
    for got, wanted in zip(loader, other, strict=True):
        for mine, theirs in zip(got, wanted, strict=True):
            assert mine.keys() == theirs.keys()
            assert all(torch.equal(mine[name], theirs[name]) for name in mine)


def test_pyarrow_loader_by_column_names():
    loader = PyarrowDataLoader(
        MUSIC.path, 32, 8, ["item_id", "item_recency", "like"], "like", schema=MUSIC.schema
    )
    inputs, targets = next(iter(loader))
    assert ({*inputs}, {*targets}) == ({"item_id", "item_recency"}, {"like"})
    assert not loader.output_schema["item_recency"].has_tag(Tags.CATEGORICAL)
    wrong = tr.Schema([tr.ColumnSchema.create_categorical("user_id", num_items=5)])
    for schema in (None, wrong):
        of_names = PyarrowDataLoader(MUSIC.path, 32, None, ["user_id"], schema=schema)
        if schema is None:
            assert next(iter(of_names))[1] is None
        else:
            with pytest.raises(ValueError, match="user_id"):
                next(iter(of_names))


@pytest.mark.parametrize(("buffer", "shuffled"), [(0, False), (100, True)])
def test_pyarrow_loader_shuffles_with_a_buffer(buffer, shuffled):
    loader = PyarrowDataLoader(
        MUSIC.path, 64, None, ["user_id"], shuffle=True, shuffle_buffer_size=buffer
    )
    file = pq.read_table(MUSIC.path)["user_id"].to_pylist()
    assert (next(iter(loader))[0]["user_id"].tolist() != file[:64]) is shuffled


def test_set_dataset_reads_other_files(tmp_path):
    path = tmp_path / "other.parquet"
    pq.write_table(pa.table({"user_id": [7, 8, 9]}), path)
    loader = MerlinDataLoader(MUSIC.path, 2, cats=["user_id"], shuffle=True)
    next(iter(loader))
    loader.set_dataset(path)
    assert len(loader) == 2
    assert sorted(torch.cat([x["user_id"] for x, _ in loader]).tolist()) == [7, 8, 9]


def test_processes_share_a_batch():
    whole = next(iter(MerlinDataLoader(MUSIC.path, 8, cats=["user_id"])))[0]["user_id"]
    parts = [
        next(iter(MerlinDataLoader(MUSIC.path, 4, cats=["user_id"], global_size=2, global_rank=r)))
        for r in (0, 1)
    ]
    assert torch.equal(torch.cat([part[0]["user_id"] for part in parts]), whole)


def test_it_feeds_a_model():
    inputs = tr.TabularSequenceFeatures.from_schema(
        MUSIC.schema.select_by_name("item_id"), d_output=8, masking="causal"
    )
    body = tr.SequentialBlock(inputs, tr.MLPBlock([8]))
    tasks = [tr.NextItemPredictionTask(), tr.BinaryClassificationTask("click")]
    model = tr.Model(tr.Head(body, tasks))
    loader = MerlinDataLoader.from_schema(
        MUSIC.schema, MUSIC.path, 500, categorical_features=["item_id"], continuous_features=[]
    )
    assert model.fit(loader, verbose=False).shape == (1,)
    assert set(model.evaluate(loader, verbose=False)) == {
        "eval_next-item",
        "eval_click/binary_classification_task",
    }


@pytest.mark.parametrize(
    ("make", "error", "text"),
    [
        (
            lambda: MerlinDataLoader(MUSIC.path, 4, cats=["item_id"], buffer_size=0.1),
            TypeError,
            "got 'buffer_size'. Leave it out: use shuffle_buffer_size, in rows",
        ),
        (
            lambda: MerlinDataLoader(MUSIC.path, 4),
            ValueError,
            "schema must tag at least one column",
        ),
        (
            lambda: PyarrowDataLoader(MUSIC.path, 4, 8),
            ValueError,
            "schema must tag at least one column",
        ),
        (
            lambda: PyarrowDataLoader.from_schema(MUSIC.schema, MUSIC.path, 4, 8, seed_fn=None),
            TypeError,
            "PyarrowDataLoader: arguments must be of files and batches; got 'seed_fn'",
        ),
        (
            lambda: PyarrowDataLoader(
                MUSIC.path, 4, cols_to_read=["user_id"], shuffle=True, shuffle_buffer_size=0.1
            ),
            TypeError,
            "shuffle_buffer_size must be an int; got float",
        ),
        (
            lambda: MerlinDataLoader(
                MUSIC.path, 4, cats=["user_id"], num_workers=1, persistent_workers=True
            ).set_dataset(MUSIC.path),
            ValueError,
            "persistent_workers must be False; got True",
        ),
        (lambda: T4RecDataLoader.parse("csv"), ValueError, "Known names: merlin, .*pyarrow_build"),
        (
            lambda: T4RecDataLoader.from_schema(MUSIC.schema, MUSIC.path, 4),
            NotImplementedError,
            "T4RecDataLoader must define from_schema",
        ),
        (lambda: T4RecDataLoader().set_dataset(""), NotImplementedError, "must define set_dataset"),
        (
            lambda: data_utils.DLDataLoader,
            AttributeError,
            "has no 'DLDataLoader'. It is upstream's; use torch.utils.data.DataLoader",
        ),
        (
            lambda: data_utils.NVTabularDataLoader,
            AttributeError,
            "has no 'NVTabularDataLoader'. It is upstream's; use MerlinDataLoader, as it is called",
        ),
        (
            lambda: data_utils.session_aggregator,
            AttributeError,
            "prepare tables with the library they are in, such as pandas",
        ),
        (lambda: data_utils.nothing, AttributeError, "has no attribute 'nothing'"),
    ],
)
def test_bad_input(make, error, text):
    with pytest.raises(error, match=text):
        make()
