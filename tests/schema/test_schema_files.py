"""Schemas as JSON, as protobuf text, and as objects of other libraries."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import Enum
from types import SimpleNamespace
from typing import Any

import pytest
from tensorflow_metadata.proto.v0 import schema_pb2

from transformers4rec_ext.config.schema import SchemaMixin, requires_schema
from transformers4rec_ext.features.sequence import TabularSequenceFeatures
from transformers4rec_ext.schema import (
    ColumnSchema,
    FeatureType,
    FloatDomain,
    IntDomain,
    Schema,
    Tags,
    as_schema,
)

# The form of files that users have: NVTabular's, with its properties, and older ones without.
TEXT = """
feature {
  name: "item_id/list"
  type: INT
  value_count { min: 2 max: 20 }
  int_domain { name: "item_id/list" min: 1 max: 500 is_categorical: true }
  annotation {
    tag: "item_id" tag: "LIST" tag: "categorical"
    extra_metadata {
      [type.googleapis.com/google.protobuf.Struct] {
        fields { key: "num_buckets" value { number_value: 10 } }
      }
    }
  }
}
feature {
  name: "genres"
  type: INT
  annotation {
    extra_metadata {
      [type.googleapis.com/google.protobuf.Struct] {
        fields { key: "is_list" value { bool_value: true } }
      }
    }
  }
}
feature { name: "age_days" type: INT int_domain { min: -2 max: 181 } }
feature { name: "vector" type: FLOAT shape { dim { size: 16 } } annotation { tag: "embedding" } }
feature { name: "price" type: FLOAT float_domain { max: 2.5 } annotation { tag: "continuous" } }
feature { name: "company" type: BYTES domain: "company" presence { min_count: 1 } }
feature { name: "click" annotation { tag: "binary_classification" tag: "target" } }
string_domain { name: "company" value: "a" }
"""


def test_protobuf_text():
    schema = Schema.from_proto_text(TEXT)
    item, genres, age, vector, price, company, click = schema
    assert item == ColumnSchema(
        "item_id/list",
        tags=("item_id", "list", "categorical"),
        is_list=True,
        int_domain=IntDomain(1, 500, True, "item_id/list"),
        max_length=20,
        min_length=2,
        properties={"num_buckets": 10.0},
    )
    assert (genres.is_list, genres.max_length, genres.int_domain) == (True, None, None)
    assert age.int_domain == IntDomain(-2, 181, is_categorical=False)
    assert (vector.shape, vector.dtype) == ((16,), "float32")
    assert price.float_domain == FloatDomain(0.0, 2.5)
    assert (company.dtype, company.type) == ("bytes", FeatureType.BYTES)
    assert (click.dtype, click.type, click.is_list) == (None, FeatureType.TYPE_UNKNOWN, False)
    assert schema.categorical_cardinalities() == {"item_id/list": 501}
    assert schema.item_id_column_name == "item_id/list"


def test_upstreams_spelling_calls_an_empty_schema(tmp_path):
    path = tmp_path / "schema.pbtxt"
    path.write_text(TEXT)
    for source in (TEXT, path, str(path)):
        assert Schema().from_proto_text(source) == Schema.from_proto_text(TEXT)


def test_what_is_written_is_read_again(tmp_path):
    schema = Schema.from_proto_text(TEXT)
    assert Schema.from_proto_text(schema.to_proto_text()) == schema
    path = tmp_path / "schema.json"
    path.write_text(schema.to_json())
    for source in (path, str(path), schema.to_json(), schema.to_json().encode()):
        assert Schema.from_json(source) == schema
    assert 'name: "price"' in schema["price"].to_proto_text()
    assert Schema.from_json("{}") == Schema()


def test_json_with_fields_of_no_message():
    text = """{"feature": [{"name": "item", "type": "INT", "is_list": true,
        "valueCount": {"min": "1", "max": "20"},
        "intDomain": {"max": "100", "isCategorical": true, "is_list": true},
        "annotation": {"tag": ["categorical", "item_id"]}}]}"""
    assert Schema().from_json(text) == Schema(
        [ColumnSchema("item", ("categorical", "item_id"), "int64", True, IntDomain(0, 100), 20, 1)]
    )


def test_json_as_merlin_writes_it():
    """Its properties do not say of which type they are."""
    text = """{"feature": [{"name": "item_id-list", "type": "INT",
        "valueCount": {"min": "10", "max": "10"},
        "intDomain": {"name": "item_id", "max": "293", "isCategorical": true},
        "annotation": {"tag": ["list", "id", "item_id"], "extraMetadata": [
            {"num_buckets": null, "_dims": [[0, null], 10], "is_list": true,
             "embedding_sizes": {"cardinality": 294, "dimension": 39}}]}}]}"""
    (column,) = schema = Schema.from_json(text)
    assert column.int_domain == IntDomain(0, 293, True, "item_id")
    assert column.properties == {
        "num_buckets": None,
        "embedding_sizes": {"cardinality": 294, "dimension": 39},
    }
    assert Schema.from_json(schema.to_json()) == schema


@pytest.mark.parametrize(
    ("make", "error", "text"),
    [
        (
            lambda: Schema.from_json("{feature"),
            ValueError,
            r"Schema\.from_json: value must be the JSON of a schema, or its path; got Expecting",
        ),
        (lambda: Schema.from_json(b"[1]"), ValueError, "be the JSON of a schema, or its path; got"),
        (
            lambda: Schema.from_json('{"feature": [{"name": 1}]}'),
            ValueError,
            "be the JSON of a schema, or its path; got Failed to parse",
        ),
        (
            lambda: Schema.from_proto_text("feature {\n nam: 1 }"),
            ValueError,
            r"from_proto_text: value must be the protobuf text of a schema, or its path; got 2:2",
        ),
        (lambda: Schema.from_json("absent.json"), FileNotFoundError, "absent.json"),
        (
            lambda: Schema.from_proto_text(
                'feature {\n name: "a" int_domain { min: 3 max: 2 is_categorical: true } }'
            ),
            ValueError,
            "int_domain of column 'a' must satisfy 0 <= min <= max; got 3, 2",
        ),
        (lambda: as_schema({"a": 1}), TypeError, "as_schema: schema must be a Schema; got dict"),
    ],
)
def test_bad_files(make, error, text):
    with pytest.raises(error, match=text):
        make()


class MerlinTags(Enum):
    """What ``merlin.schema.Tags`` is: an enumeration that is no string."""

    ITEM_ID = "item_id"
    ITEM = "item"
    CATEGORICAL = "categorical"
    CONTINUOUS = "continuous"


class MerlinTagSet:
    """What ``merlin.schema.TagSet`` is: something to iterate over."""

    def __init__(self, *tags: Any) -> None:
        self.tags = tags

    def __iter__(self) -> Iterator[Any]:
        return iter(self.tags)


@dataclass
class MerlinColumn:
    """The public shape of ``merlin.schema.ColumnSchema``."""

    name: str
    tags: Any
    dtype: Any
    is_list: bool | None = None
    properties: dict[str, Any] = field(default_factory=dict)
    dims: tuple[tuple[int, int | None], ...] | None = None

    @property
    def shape(self) -> Any:
        dims = self.dims and [SimpleNamespace(min=low, max=high) for low, high in self.dims]
        return SimpleNamespace(dims=dims)

    def _range(self, key: str) -> Any:
        found = self.properties.get(key)
        values = {"min": None, "max": None, "name": None, **(found or {})}
        return SimpleNamespace(**values) if found else None

    @property
    def int_domain(self) -> Any:
        return self._range("domain") if self.dtype.is_integer else None

    @property
    def float_domain(self) -> Any:
        return self._range("domain") if self.dtype.is_float else None

    @property
    def value_count(self) -> Any:
        return self._range("value_count")


def _merlin_schema() -> Any:
    ints = SimpleNamespace(is_integer=True, is_float=False)
    floats = SimpleNamespace(is_integer=False, is_float=True)
    domain = {"domain": {"min": 0, "max": 50, "name": "item_id"}}
    counts = {"value_count": {"min": 0, "max": 12}}
    tags = MerlinTagSet(MerlinTags.ITEM_ID, MerlinTags.ITEM, MerlinTags.CATEGORICAL, "mine")
    columns = [
        MerlinColumn("item_id", tags, ints, True, {**domain, **counts, "path": "x"}),
        MerlinColumn("price", MerlinTagSet(MerlinTags.CONTINUOUS), floats),
        MerlinColumn("age", MerlinTagSet(), floats, properties={"domain": {"max": 1.0}}),
        MerlinColumn("open", MerlinTagSet(), ints, properties={"domain": {"max": float("inf")}}),
        MerlinColumn("text", MerlinTagSet(), SimpleNamespace(is_integer=False, is_float=False)),
    ]
    return SimpleNamespace(column_schemas={column.name: column for column in columns})


def test_vectors_of_merlin():
    """Columns that an ``EmbeddingOperator`` adds: merlin calls both of them lists."""
    floats = SimpleNamespace(is_integer=False, is_float=True)
    tags = MerlinTagSet("embedding")
    columns = [
        MerlinColumn("of_items", tags, floats, True, dims=((0, None), (0, None), (32, 32))),
        MerlinColumn("of_users", tags, floats, True, dims=((0, None), (16, 16))),
        MerlinColumn("unknown", tags, floats, True),
    ]
    schema = as_schema(SimpleNamespace(column_schemas={c.name: c for c in columns}))
    assert [(c.is_list, c.shape) for c in schema] == [(True, (32,)), (False, (16,)), (True, None)]


def test_vectors_in_files_of_merlin():
    text = """{"feature": [
        {"name": "items", "valueCount": {"min": "20", "max": "20"}, "type": "FLOAT", "annotation":
            {"tag": ["embedding"], "extraMetadata": [{"_dims": [[0.0, null], 20.0, 16.0]}]}},
        {"name": "user", "valueCount": {"min": "16", "max": "16"}, "type": "FLOAT", "annotation":
            {"tag": ["embedding"],
             "extraMetadata": [{"is_list": true, "_dims": [[0.0, null], 16.0]}]}}]}"""
    items, user = schema = Schema.from_json(text)
    assert (items.is_list, items.max_length, items.shape) == (True, 20, (16,))
    assert (user.is_list, user.max_length, user.shape) == (False, None, (16,))
    assert Schema.from_json(schema.to_json()) == schema
    assert Schema.from_proto_text(schema.to_proto_text()) == schema


def test_an_item_id_as_merlin_keeps_it():
    """Its sets of tags hold the parts of a compound tag alone."""
    ints = SimpleNamespace(is_integer=True, is_float=False)
    column = MerlinColumn("items", MerlinTagSet("id", MerlinTags.ITEM), ints)
    schema = as_schema(SimpleNamespace(column_schemas={"items": column}))
    assert schema.item_id_column_name == "items"
    assert schema.select_by_tag(MerlinTags.ITEM_ID).column_names == ["items"]


def test_a_schema_of_merlin():
    schema = as_schema(_merlin_schema())
    item, price, age, unbounded, text = schema
    assert item.tags == ("categorical", "item", "item_id", "mine")
    assert (item.is_list, item.min_length, item.max_length) == (True, None, 12)
    assert item.int_domain == IntDomain(0, 50, True, "item_id")
    assert item.properties == {"path": "x"}
    assert (price.dtype, price.float_domain, price.is_list) == ("float32", None, False)
    assert age.float_domain == FloatDomain(0.0, 1.0)
    assert (unbounded.int_domain, text.dtype) == (None, None)
    assert as_schema(schema) is schema


def test_every_constructor_takes_one_of_merlin():
    inputs = TabularSequenceFeatures.from_schema(
        _merlin_schema(), continuous_tags=None, d_output=8, masking="causal"
    )
    assert inputs.item_id == "item_id"
    assert inputs.item_embedding_table.num_embeddings == 51


def test_messages_are_schemas_too():
    message = schema_pb2.Schema(feature=[schema_pb2.Feature(name="a", type=schema_pb2.INT)])
    assert as_schema(message) == Schema([ColumnSchema("a")]) == Schema.from_proto(message)
    assert Schema([ColumnSchema("a")]).to_proto() == message

    class StandardLibrary:
        """The public shape of ``merlin_standard_lib.Schema``."""

        feature = ()

        def to_json(self) -> str:
            return Schema([ColumnSchema("b", Tags.ITEM)]).to_json()

    assert as_schema(StandardLibrary()) == Schema([ColumnSchema("b", Tags.ITEM)])


def test_schema_mixin():
    import torch

    @requires_schema
    class Wants(SchemaMixin):
        pass

    with pytest.raises(ValueError, match=r"^Wants requires a schema\.$"):
        Wants().set_schema()
    schema = Schema.from_item_column("items", num_items=5)
    wants = Wants().set_schema(schema).set_schema(Schema())
    assert wants.schema == schema
    ids = torch.tensor([[3, 1, 0]])
    assert wants.get_item_ids_from_inputs({"items": ids}) is ids
    assert wants.get_padding_mask_from_item_id({"items": ids}).tolist() == [[True, True, False]]
    with pytest.raises(ValueError, match="expected to have 2 dims, but it has 1 dims"):
        wants.get_padding_mask_from_item_id({"items": ids[0]})
    wants.schema = None
    assert wants.schema is None
    with pytest.raises(ValueError, match="Wants requires a schema"):
        wants.get_item_ids_from_inputs({})
    wants.schema = Schema([ColumnSchema("a", Tags.ITEM)])
    with pytest.raises(ValueError, match=r"no column tagged as item id. Tag one of .*\['a'\]"):
        wants.get_item_ids_from_inputs({})
    wants.schema = schema
    with pytest.raises(ValueError, match=r"have the item id column 'items'; got columns \['a'\]"):
        wants.get_item_ids_from_inputs({"a": ids})
    assert SchemaMixin().set_schema().schema is None


def test_recorded_files_load(shared_data):
    """Upstream's own schema files: what is read of them, by hand."""
    root = shared_data / "t4rec-testing"
    paper = root / "examples" / "t4rec_paper_experiments" / "datasets_configs"
    rees46 = Schema().from_proto_text(str(paper / "ecom_rees46" / "rees46_schema.pbtxt"))
    assert rees46.item_id_column_name == "sess_pid_seq"
    assert rees46.categorical_cardinalities()["sess_pid_seq"] == 390001
    testing = root / "transformers4rec" / "data" / "testing"
    music = Schema().from_json(str(testing / "music_streaming" / "schema.json"))
    assert len(music) == 10
    assert music.select_by_tag(Tags.TARGET).column_names == ["click", "play_percentage", "like"]
    for path in (*root.rglob("*.pbtxt"), *root.rglob("*.json")):
        read = Schema.from_json if path.suffix == ".json" else Schema.from_proto_text
        schema = read(path)
        assert Schema.from_json(schema.to_json()) == schema
        assert Schema.from_proto_text(schema.to_proto_text()) == schema


@pytest.mark.parametrize("tags", [[], [Tags.EMBEDDING], ["mine"]])
@pytest.mark.parametrize("shape", [(16,), (4, 2)])
def test_the_shape_of_a_list_of_vectors_is_kept(tags: list[Any], shape: tuple[int, ...]) -> None:
    column = ColumnSchema(
        "v", tags=tags, dtype="float32", is_list=True, max_length=20, min_length=2, shape=shape
    )
    schema = Schema([column])
    for again in (
        Schema.from_json(schema.to_json()),
        Schema.from_proto_text(schema.to_proto_text()),
    ):
        assert again["v"].shape == shape
        assert (again["v"].min_length, again["v"].max_length) == (2, 20)
        assert again == schema


@pytest.mark.parametrize(
    "kind", ["float_domain { min: 1.0 }", "float_domain { disallow_nan: true }"]
)
def test_a_domain_without_a_bound_is_none(kind: str) -> None:
    schema = Schema.from_proto_text(f'feature {{ name: "a" type: FLOAT {kind} }}')
    assert schema["a"].float_domain is None
    ints = Schema.from_proto_text('feature { name: "a" type: INT int_domain { min: 3 } }')
    assert ints["a"].int_domain is None
