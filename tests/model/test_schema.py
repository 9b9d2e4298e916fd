"""Schemas: names, tags, id ranges and what they refuse."""

from __future__ import annotations

import pytest

from transformers4rec_ext.schema import ColumnSchema, IntDomain, Schema, Tags, tag_names


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
    assert schema.select_by_tag(["continuous", Tags.ITEM_ID]).column_names == ["item_id", "age"]
    assert schema.select_by_tag(None).column_names == []
    assert schema.select_by_name(["age", "item_id"]).column_names == ["item_id", "age"]
    assert schema.select_by_name("age").column_names == ["age"]
    assert schema.excluding_by_name("age").column_names == ["item_id", "category"]


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
    with pytest.raises(TypeError):
        schema + 1


def test_cardinalities_and_embedding_sizes():
    assert _schema().cardinalities() == {"item_id": 51, "category": 10}
    assert _schema().embedding_sizes() == {"item_id": 6, "category": 4}
    assert _schema().embedding_sizes(3.0) == {"item_id": 9, "category": 6}


def test_tags_are_strings():
    assert tag_names(Tags.ITEM_ID) == tag_names("ITEM_ID") == ("item_id",)
    assert ColumnSchema("a", Tags.ITEM).has_tag("item")
    assert not ColumnSchema("a", Tags.ITEM_ID).has_tag("item")


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
        (lambda: ColumnSchema("a", dtype="int32"), ValueError, "dtype must be one of"),
        (lambda: ColumnSchema("a", max_length=0), ValueError, "max_length must be at least 1"),
        (lambda: ColumnSchema("a").cardinality, ValueError, "int_domain must be set; got None"),
        (lambda: Schema(["a"]), TypeError, "columns must be ColumnSchema objects; got str"),
        (lambda: _schema() + _schema(), ValueError, "columns must have unique names"),
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
