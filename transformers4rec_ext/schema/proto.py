"""Schemas as messages of ``tensorflow_metadata``: its JSON, its text, and its objects.

Of a feature the name, type, domain, number of values, shape and annotations are read and written;
the statistics that ``tensorflow_data_validation`` keeps beside them are not.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from typing import Any

from google.protobuf import json_format, struct_pb2, text_format
from tensorflow_metadata.proto.v0 import schema_pb2

from transformers4rec_ext._errors import value_error
from transformers4rec_ext.schema.columns import TYPES, ColumnSchema, FloatDomain, IntDomain
from transformers4rec_ext.schema.tags import Tags, tag_names

#: The property in which merlin keeps what a message cannot say of a list of vectors: (least,
#: largest) of the batch and of the list, and the width.
_DIMS = "_dims"
_STRUCT = "type.googleapis.com/google.protobuf.Struct"
_DTYPES = {int(number): dtype for dtype, number in TYPES.items()}


def parse_json(value: str | bytes | os.PathLike[str]) -> Any:
    """Return the message of a JSON file or text."""
    text = _text_of(value)
    try:
        fields = json.loads(text)
        for feature in fields.get("feature", []):
            _type_metadata(feature.get("annotation", {}))
        return json_format.ParseDict(fields, schema_pb2.Schema(), ignore_unknown_fields=True)
    except (json.JSONDecodeError, json_format.ParseError, AttributeError) as error:
        raise _unreadable("from_json", "JSON", value, error) from None


def _type_metadata(annotation: dict[str, Any]) -> None:
    """Say of the properties of merlin's files, which leave it out, that they are a Struct."""
    for key in ("extraMetadata", "extra_metadata"):
        if key in annotation:
            annotation[key] = [
                extra if "@type" in extra else {"@type": _STRUCT, "value": extra}
                for extra in annotation[key]
            ]


def parse_text(value: str | os.PathLike[str]) -> Any:
    """Return the message of a protobuf text file or text."""
    try:
        return text_format.Parse(_text_of(value), schema_pb2.Schema())
    except text_format.ParseError as error:
        raise _unreadable("from_proto_text", "protobuf text", value, error) from None


def text(message: Any) -> str:
    """Return a message as protobuf text."""
    return str(text_format.MessageToString(message))


def json_text(message: Any) -> str:
    """Return a message as JSON."""
    return str(json_format.MessageToJson(message))


def feature_text(column: ColumnSchema) -> str:
    """Return a column as protobuf text."""
    return text(_feature(column))


def columns(message: Any) -> list[ColumnSchema]:
    """Return the columns of a ``schema_pb2.Schema``."""
    return [_column(feature) for feature in message.feature]


def message(columns: Iterable[ColumnSchema]) -> Any:
    """Return the ``schema_pb2.Schema`` of columns."""
    return schema_pb2.Schema(feature=[_feature(column) for column in columns])


def _column(feature: Any) -> ColumnSchema:
    properties: dict[str, Any] = {}
    for extra in feature.annotation.extra_metadata:
        values = struct_pb2.Struct()
        if extra.Unpack(values):
            properties.update(json_format.MessageToDict(values))
    counts = feature.value_count if feature.HasField("value_count") else None
    tags = tag_names(feature.annotation.tag)
    is_list = properties.pop("is_list", False) is True or counts is not None
    shape = tuple(dim.size for dim in feature.shape.dim) if feature.HasField("shape") else None
    dims: Any = properties.pop(_DIMS, None) or ()
    if len(dims) > 2 and all(isinstance(dim, float) for dim in dims[2:]):
        is_list, shape = True, tuple(int(dim) for dim in dims[2:])
    elif Tags.EMBEDDING in tags and len(dims) == 2 and isinstance(dims[1], float):
        is_list, shape, counts = False, (int(dims[1]),), None
    return ColumnSchema(
        feature.name,
        tags=tags,
        dtype=_DTYPES.get(feature.type),
        is_list=is_list,
        int_domain=_int_domain(feature),
        max_length=counts.max or None if counts else None,
        min_length=counts.min or None if counts else None,
        float_domain=_float_domain(feature),
        shape=shape,
        properties=properties,
    )


def _int_domain(feature: Any) -> IntDomain | None:
    if not feature.HasField("int_domain"):
        return None
    domain = feature.int_domain
    if not domain.HasField("max"):  # without a bound
        return None
    if domain.is_categorical and not 0 <= domain.min <= domain.max:
        raise value_error(
            "Schema",
            f"int_domain of column {feature.name!r}",
            "satisfy 0 <= min <= max",
            f"{domain.min}, {domain.max}",
            "Its max is the largest id; the embedding table has max + 1 rows.",
        )
    return IntDomain(domain.min, domain.max, domain.is_categorical, domain.name or None)


def _float_domain(feature: Any) -> FloatDomain | None:
    if not feature.HasField("float_domain"):
        return None
    domain = feature.float_domain
    if not domain.HasField("max"):  # without a bound; a least value that is left out is 0
        return None
    return FloatDomain(domain.min, domain.max, domain.name or None)


def _feature(column: ColumnSchema) -> Any:
    feature = schema_pb2.Feature(name=column.name, type=int(column.type))
    if column.tags:
        feature.annotation.tag.extend(column.tags)
    properties = dict(column.properties)
    if column.is_list and column.shape is not None:
        properties[_DIMS] = [[0, None], [column.min_length or 0, column.max_length], *column.shape]
    if properties:
        values = struct_pb2.Struct()
        values.update(properties)
        feature.annotation.extra_metadata.add().Pack(values)
    if column.is_list:
        feature.value_count.SetInParent()
        feature.value_count.min = column.min_length or 0
        feature.value_count.max = column.max_length or 0
    elif column.shape is not None:
        feature.shape.dim.extend(schema_pb2.FixedShape.Dim(size=size) for size in column.shape)
    if column.int_domain is not None:
        domain = column.int_domain
        feature.int_domain.min, feature.int_domain.max = domain.min, domain.max
        feature.int_domain.is_categorical = domain.is_categorical
        feature.int_domain.name = domain.name or ""
    elif column.float_domain is not None:
        feature.float_domain.min = column.float_domain.min
        feature.float_domain.max = column.float_domain.max
        feature.float_domain.name = column.float_domain.name or ""
    return feature


def _text_of(value: str | bytes | os.PathLike[str]) -> str:
    if isinstance(value, bytes):
        return value.decode()
    # A schema as text holds a newline or a brace, which a path hardly does.
    if isinstance(value, os.PathLike) or not set(value) & set("{\n"):
        with open(value, encoding="utf-8") as file:
            return file.read()
    return value


def _unreadable(function: str, kind: str, value: Any, error: Exception) -> ValueError:
    got = " ".join(str(error).split())
    where = "" if isinstance(value, bytes) or "\n" in str(value) else f" in {str(value)[:200]!r}"
    return value_error(
        f"Schema.{function}", "value", f"be the {kind} of a schema, or its path", f"{got}{where}"
    )
