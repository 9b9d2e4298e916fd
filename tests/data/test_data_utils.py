"""Upstream's loader by its own arguments."""

from __future__ import annotations

import pyarrow.parquet as pq
import pytest
import torch

import transformers4rec_ext as tr
from transformers4rec_ext.schema import Tags
from transformers4rec_ext.utils import data_utils
from transformers4rec_ext.utils.data_utils import MerlinDataLoader

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
            lambda: data_utils.PyarrowDataLoader,
            AttributeError,
            "has no 'PyarrowDataLoader'. It is upstream's; use MerlinDataLoader",
        ),
        (lambda: data_utils.nothing, AttributeError, "has no attribute 'nothing'"),
    ],
)
def test_bad_input(make, error, text):
    with pytest.raises(error, match=text):
        make()
