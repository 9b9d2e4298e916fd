"""The generated tables: upstream's columns, values within their domains, files on demand."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pyarrow.parquet as pq
import pytest
import torch

import transformers4rec_ext as tr
from transformers4rec_ext.schema import ColumnSchema, Schema, Tags
from transformers4rec_ext.utils.data_utils import to_core_schema
from transformers4rec_ext.utils.padding import pad_batch
from transformers4rec_ext.utils.schema_utils import random_data_from_schema

NAMES = {
    "tabular_testing_data": "tabular_data/schema.json",
    "tabular_sequence_testing_data": "schema.json",
    "music_streaming_testing_data": "music_streaming/schema.json",
}


@pytest.mark.parametrize("name", NAMES)
def test_columns_are_upstreams(shared_data, name):
    def told(column: ColumnSchema) -> tuple:
        dtype = column.dtype
        ids = column.int_domain
        lengths = (column.is_list, column.min_length, column.max_length)
        return column.name, set(column.tags), dtype, *lengths, ids and (ids.min, ids.max)

    testing = shared_data / "t4rec-testing" / "transformers4rec" / "data" / "testing"
    upstream = Schema.from_json(testing / NAMES[name])
    ours = getattr(tr.data, name).schema
    assert [told(column) for column in ours] == [told(column) for column in upstream]
    for column, other in zip(ours, upstream, strict=True):
        if column.float_domain is not None:
            assert column.float_domain.min == pytest.approx(other.float_domain.min, abs=2e-3)
            assert column.float_domain.max == pytest.approx(other.float_domain.max, abs=2e-3)


@pytest.mark.parametrize("name", NAMES)
def test_files_hold_the_columns(name):
    data = getattr(tr.data, name)
    table = pq.read_table(data.path)
    assert data.path == data.path
    assert table.num_rows == 1000
    assert table.column_names == data.schema.column_names
    for column in data.schema:
        values = table[column.name].combine_chunks()
        if column.is_list:
            lengths = values.value_lengths().to_numpy()
            assert column.min_length <= lengths.min() <= lengths.max() <= column.max_length
            values = values.flatten()
        domain = column.int_domain or column.float_domain
        if domain is not None:
            values = values.to_numpy()
            assert domain.min - 1e-4 <= values.min() <= values.max() <= domain.max + 1e-4


def test_a_folder_of_ones_own(tmp_path):
    data = tr.data.music_streaming_testing_data
    shutil.copy(data.path, tmp_path / "data.parquet")
    shutil.copy(data.schema_path, tmp_path / "schema.json")
    assert isinstance(data, tr.data.ParquetDataset)
    own = tr.data.ParquetDataset(tmp_path)
    assert own.schema.column_names == data.schema.column_names
    assert own.schema["item_id"] == data.schema["item_id"]
    assert own.path == str(tmp_path / "data.parquet")
    text = tmp_path / "schema.pbtxt"
    text.write_text(data.schema.to_proto_text())
    assert tr.data.ParquetDataset(tmp_path, schema_path=text).schema == own.schema
    assert tr.data.ParquetDataset(tmp_path, schema_file_name="schema.pbtxt").schema == own.schema
    batch = own.torch_synthetic_data(num_rows=4, min_session_length=1, max_session_length=3)
    assert batch["item_id"].shape == (4, 3)


def test_files_are_removed_at_exit():
    code = "import transformers4rec_ext as tr; print(tr.data.tabular_testing_data.path)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    path = Path(run.stdout.strip())
    assert path.name == "data.parquet"
    assert not path.parent.parent.exists()


def test_lists_of_vectors_are_vectors():
    column = ColumnSchema("text", "embedding", dtype="float32", is_list=True, shape=(4,))
    schema = Schema.from_item_column(num_items=9) + Schema([column])
    lengths = {"max_session_length": 6, "min_session_length": 2}
    dense = random_data_from_schema(schema, 3, **lengths)
    assert dense["text"].shape == (3, 6, 4)
    assert torch.equal((dense["text"] != 0).any(dim=-1), dense["item_id"] != 0)
    inputs = tr.TabularSequenceFeatures.from_schema(schema, aggregation="concat")
    assert inputs(dense).shape == (3, 6, 64 + 4)
    ragged = random_data_from_schema(schema, 3, **lengths, ragged=True)
    assert ragged["text__values"].shape == (int(ragged["item_id__offsets"][-1]), 4)
    assert torch.equal(pad_batch(ragged, {"item_id": 6, "text": 6})["text"], dense["text"])


def test_batches_train_upstreams_example():
    data = tr.data.tabular_sequence_testing_data
    schema = data.schema.select_by_tag(Tags.CATEGORICAL)
    inputs = tr.TabularSequenceFeatures.from_schema(
        schema, max_sequence_length=20, d_output=16, masking="causal"
    )
    body = tr.SequentialBlock(inputs, tr.MLPBlock([16]))
    model = tr.Model(tr.Head(body, tr.NextItemPredictionTask(weight_tying=True), inputs=inputs))
    dense = data.torch_synthetic_data(num_rows=10)
    ragged = data.torch_synthetic_data(num_rows=10, ragged=True)
    assert torch.isfinite(model(dense, training=True)["loss"])
    assert model(dense).shape == model(ragged).shape == (10, 51997)


def test_merlins_schema_without_merlin(monkeypatch):
    monkeypatch.setitem(sys.modules, "merlin", None)
    for make in (
        lambda: tr.data.tabular_testing_data.merlin_schema,
        lambda: to_core_schema(tr.data.tabular_testing_data.schema),
    ):
        with pytest.raises(ImportError, match=r"needs merlin-core.* Without it use `\.schema`"):
            make()


def test_merlins_schema_is_made_by_merlin_of_ours(monkeypatch):
    class Message:
        """The public shape of ``merlin.schema.io.tensorflow_metadata.TensorflowMetadata``."""

        def __init__(self, text: str) -> None:
            self.text = text

        from_json = classmethod(lambda cls, text: cls(text))

        def to_merlin_schema(self) -> str:
            return f"merlin's of {self.text}"

    home = "merlin.schema.io.tensorflow_metadata"
    for name in ("merlin", "merlin.schema", "merlin.schema.io", home):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    sys.modules[home].TensorflowMetadata = Message
    data = tr.data.music_streaming_testing_data
    assert data.merlin_schema == f"merlin's of {data.schema.to_json()}"
    assert to_core_schema(data.schema) == data.merlin_schema
