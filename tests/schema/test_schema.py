"""Schemas: names, tags, id ranges and what they refuse."""

from __future__ import annotations

import copy
import pickle
from dataclasses import replace
from enum import Enum

import pytest

from transformers4rec_ext.schema import (
    ColumnSchema,
    FeatureType,
    FloatDomain,
    IntDomain,
    Schema,
    Tags,
    ValueCount,
    tag_names,
)


def _schema() -> Schema:
    item = ColumnSchema(
        "item_id", (Tags.ITEM_ID, "categorical"), is_list=True, int_domain=IntDomain(1, 50)
    )
    category = ColumnSchema("category", "categorical", is_list=True, int_domain=IntDomain(1, 9))
    age = ColumnSchema("age", [Tags.CONTINUOUS], dtype="float32")
    return Schema([item, category, age])


def test_item_column_has_a_row_for_padding():
    schema = Schema.from_item_column("items", num_items=1000, max_length=20)
    column = schema["items"]
    assert schema.column_names == ["items"]
    assert schema.item_id_column_name == "items"
    assert (column.cardinality, column.max_length, column.is_list) == (1001, 20, True)
    assert (column.int_domain.min, column.int_domain.max) == (1, 1000)


def test_selection_by_tag_and_name_keeps_the_order():
    schema = _schema()
    assert schema.select_by_tag(Tags.CATEGORICAL).column_names == ["item_id", "category"]
    assert schema.select_by_tag(["categorical", Tags.ITEM_ID]).column_names == ["item_id"]
    either = schema.select_by_tag(["continuous", Tags.ITEM_ID], pred_fn=any)
    assert either.column_names == ["item_id", "age"]
    assert schema.select_by_tag(lambda tags: len(tags) == 1).column_names == ["category", "age"]
    assert schema.select_by_tag(None).column_names == []
    assert schema.select_by_tag(()).column_names == []
    assert schema.remove_by_tag(Tags.CATEGORICAL).column_names == ["age"]
    assert schema.select_by_name(["age", "item_id"]).column_names == ["item_id", "age"]
    assert schema.select_by_name("age").column_names == ["age"]
    assert schema.select_by_name(lambda name: "a" in name).column_names == ["category", "age"]
    assert schema.remove_by_name("age").column_names == ["item_id", "category"]
    assert schema.remove_by_name(["age", "unknown"]).column_names == ["item_id", "category"]
    assert schema.remove_by_name(lambda name: name == "age").column_names == ["item_id", "category"]


def test_selection_by_type():
    schema = _schema() + Schema.create(["unknown"])
    for floats in (FeatureType.FLOAT, 3, "FLOAT", "float32", ["float32", "bytes"]):
        assert schema.select_by_type(floats).column_names == ["age"]
    assert schema.select_by_type(lambda type: type == FeatureType.INT).column_names == [
        "item_id",
        "category",
    ]
    assert schema.remove_by_type([FeatureType.INT, "float32"]).column_names == ["unknown"]
    with pytest.raises(ValueError, match=r"type must be one of .*; got 'double'"):
        schema.select_by_type("double")


def test_container_protocol():
    schema = _schema()
    assert [column.name for column in schema] == schema.column_names
    assert len(schema) == 3
    assert "age" in schema
    assert "ages" not in schema
    assert (schema.select_by_name("age") + schema.select_by_name("category")).column_names == [
        "age",
        "category",
    ]
    with pytest.raises(KeyError, match="'ages' is no column of the schema"):
        schema["ages"]
    for operation in (lambda: schema + 1, lambda: schema - 1):
        with pytest.raises(TypeError):
            operation()


def test_sums_and_differences():
    schema = _schema()
    assert schema + schema == schema
    tagged = Schema([replace(schema["age"], tags=(Tags.USER,))])
    assert (schema + tagged)["age"].tags == ("continuous", "user")
    assert (schema - tagged).column_names == ["item_id", "category"]
    assert schema.copy() == schema


def test_columns_are_mapped_and_filtered():
    schema = _schema()
    renamed = schema.map_column_schemas(lambda column: column.with_name(f"my_{column.name}"))
    assert renamed.column_names == ["my_item_id", "my_category", "my_age"]
    assert schema.filter_column_schemas(lambda c: c.is_list).column_names == ["item_id", "category"]
    assert schema.filter_column_schemas(lambda c: c.is_list, negate=True).column_names == ["age"]
    assert schema.filter_columns_from_dict({"age": 1, "other": 2}) == {"age": 1}
    assert [str(column) for column in schema.column_schemas] == schema.column_names


def test_columns_are_made_and_tagged():
    item = ColumnSchema.create_categorical(
        "item", 9, value_count=ValueCount(2, 20), min_index=1, tags=[Tags.ITEM_ID]
    )
    assert item.tags == ("item_id", "categorical")
    assert (item.is_list, item.value_count, item.cardinality) == (True, ValueCount(2, 20), 10)
    age = ColumnSchema.create_continuous("age", min_value=0, max_value=1, shape=[4])
    assert (age.dtype, age.float_domain, age.shape) == ("float32", FloatDomain(0, 1, "age"), (4,))
    assert age.tags == ("continuous",)
    vector = ColumnSchema.create_continuous("vector", shape=(100,), is_embedding=True)
    assert (vector.tags, vector.shape, vector.dtype) == (("embedding",), (100,), "float32")
    count = ColumnSchema.create_continuous("count", is_float=False, min_value=-1, max_value=5)
    assert (count.type, count.int_domain.min, count.is_categorical) == (FeatureType.INT, -1, False)
    bare = Schema([replace(column, tags=()) for column in (item, age, count)])
    tagged = bare.with_tags_based_on_properties()
    assert [c.tags for c in tagged] == [("list", "categorical"), ("continuous",), ("continuous",)]
    assert tagged.categorical_cardinalities() == {"item": 10}
    only_lists = bare.with_tags_based_on_properties(using_domain=False)
    assert [c.tags for c in only_lists] == [("list",), (), ()]
    assert item.with_properties({"a": 1}).with_properties({"b": 2}).properties == {"a": 1, "b": 2}
    assert ColumnSchema("a").value_count is None


def test_cardinalities_and_embedding_sizes():
    assert _schema().categorical_cardinalities() == {"item_id": 51, "category": 10}
    assert _schema().embedding_sizes() == {"item_id": 6, "category": 4}
    assert _schema().embedding_sizes(3.0) == {"item_id": 9, "category": 6}


def test_tags_are_strings():
    assert tag_names(Tags.ITEM_ID) == tag_names("ITEM_ID") == ("item_id",)
    assert ColumnSchema("a", Tags.ITEM).has_tag("item")
    assert not ColumnSchema("a", Tags.ITEM).has_tag("item_id")
    assert str(Tags.ITEM_ID) == "item_id"


def test_an_item_id_is_an_item_and_an_id():
    schema = Schema([ColumnSchema("a", Tags.ITEM_ID), ColumnSchema("b", Tags.USER_ID)])
    assert schema["a"].has_tag("item")
    # And the other way round: merlin writes an item id so.
    parts = ColumnSchema("c", (Tags.ITEM, Tags.ID))
    assert parts.has_tag(Tags.ITEM_ID)
    assert not parts.has_tag(Tags.USER_ID)
    assert Schema([parts]).item_id_column_name == "c"
    assert schema.select_by_tag(Tags.ITEM).column_names == ["a"]
    assert schema.select_by_tag([Tags.ID]).column_names == ["a", "b"]


def test_tags_of_another_library():
    class Others(Enum):
        ITEM_ID = "item_id"

    assert tag_names(Others.ITEM_ID) == tag_names([Others.ITEM_ID]) == ("item_id",)
    assert ColumnSchema("a", Tags.ITEM_ID).has_tag(Others.ITEM_ID)


def test_item_id_must_be_unambiguous():
    schema = Schema([ColumnSchema(name, Tags.ITEM_ID) for name in ("a", "b")])
    with pytest.raises(
        ValueError, match=r"Multiple columns with tag ITEM_ID found\. Please specify"
    ):
        _ = schema.item_id_column_name
    assert Schema().item_id_column_name is None


@pytest.mark.parametrize(
    ("make", "error", "text"),
    [
        (lambda: IntDomain(2, 1), ValueError, "IntDomain: min and max must satisfy"),
        (lambda: IntDomain(-1, 1), ValueError, "IntDomain: min and max must satisfy"),
        (lambda: IntDomain(1, 2.0), TypeError, "IntDomain: max must be an int; got 2.0"),
        (lambda: ColumnSchema(""), ValueError, "name must be a non-empty str"),
        (lambda: ColumnSchema("a", 3), TypeError, "tags must be a tag or several, as str; got 3"),
        (lambda: Schema().select_by_tag(3), TypeError, "tags must be a tag or several.*; got 3"),
        (lambda: ColumnSchema("a", dtype="int32"), ValueError, "dtype must be one of"),
        (lambda: ColumnSchema("a", max_length=0), ValueError, "max_length must be at least 1"),
        (
            lambda: ColumnSchema("a", int_domain=(1, 9)),
            TypeError,
            r"int_domain must be of class IntDomain; got \(1, 9\)\. Column 'a'\.",
        ),
        (
            lambda: ColumnSchema("a", float_domain=IntDomain(0, 1)),
            TypeError,
            "float_domain must be of class FloatDomain; got IntDomain",
        ),
        (lambda: ColumnSchema("a").cardinality, ValueError, "int_domain must be set; got None"),
        (lambda: Schema(["a"]), TypeError, "columns must be ColumnSchema objects; got str"),
        (lambda: Schema([ColumnSchema("a")] * 2), ValueError, "columns must have unique names"),
        (
            lambda: _schema() + Schema([ColumnSchema("age")]),
            ValueError,
            "columns must have unique names, or be the same but for their tags",
        ),
        (lambda: FloatDomain(1.0, 0.0), ValueError, "satisfy min <= max; got 1.0, 0.0"),
        (lambda: IntDomain(2, 1, is_categorical=False), ValueError, "satisfy min <= max; got 2, 1"),
        (lambda: ColumnSchema("a", max_length=2, min_length=3), ValueError, "min_length must be"),
        (lambda: _schema().select_by_name("x"), ValueError, "names must be columns of the schema"),
        (
            lambda: Schema.from_item_column("item_id", num_items=0),
            ValueError,
            "num_items must be a positive int; got 0",
        ),
    ],
)
def test_bad_input(make, error, text):
    with pytest.raises(error, match=text):
        make()


@pytest.mark.parametrize(
    ("name", "instead"),
    [
        ("without", "remove_by_name"),
        ("excluding_by_name", "remove_by_name"),
        ("remove_col", "remove_by_name"),
        ("first", "columns"),
    ],
)
def test_a_name_of_merlins_says_what_to_use(name: str, instead: str) -> None:
    schema = Schema.from_item_column("item", num_items=9)
    expected = rf"'Schema' object has no attribute '{name}'.*{instead}"
    with pytest.raises(AttributeError, match=expected):
        getattr(schema, name)
    assert hasattr(schema, instead)
    with pytest.raises(AttributeError, match=r"'Schema' object has no attribute 'colunms'$"):
        _ = schema.colunms
    assert copy.deepcopy(schema) == pickle.loads(pickle.dumps(schema)) == schema
