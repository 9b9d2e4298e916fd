"""Schemas of other libraries as ours, so that every constructor takes them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from transformers4rec_ext._errors import type_error
from transformers4rec_ext.schema.columns import ColumnSchema, FloatDomain, IntDomain
from transformers4rec_ext.schema.schema import Schema
from transformers4rec_ext.schema.tags import Tags, tag_names


def as_schema(schema: Any, function: str = "as_schema") -> Schema:
    """Return ``schema`` as a :class:`Schema`.

    Parameters
    ----------
    schema : Schema
        Or a ``merlin.schema.Schema``, a ``merlin_standard_lib.Schema``, or the message
        ``tensorflow_metadata.proto.v0.schema_pb2.Schema``; neither library is imported.
    function : str
        Who asks, for the error.

    Raises
    ------
    TypeError   if it is none of them.
    """
    if isinstance(schema, Schema):
        return schema
    columns = getattr(schema, "column_schemas", None)
    if isinstance(columns, Mapping):
        return Schema([_from_merlin(column) for column in columns.values()])
    if hasattr(schema, "SerializeToString") and hasattr(schema, "feature"):
        return Schema.from_proto(schema)
    if hasattr(schema, "to_json") and hasattr(schema, "feature"):
        return Schema.from_json(schema.to_json().encode())
    raise type_error(
        function,
        "schema",
        "be a Schema",
        type(schema).__name__,
        "merlin.schema.Schema and tensorflow_metadata's are taken too; of a file see "
        "Schema.from_json and Schema.from_proto_text.",
    )


def as_merlin_schema(schema: Any) -> Any:
    """Return ``schema`` as a ``merlin.schema.Schema``, for what is left of Merlin.

    Parameters
    ----------
    schema : Schema, or what :func:`as_schema` takes

    Raises
    ------
    ImportError   if Merlin is not installed; everything here takes the schema as it is.
    """
    try:
        from merlin.schema.io.tensorflow_metadata import TensorflowMetadata
    except ImportError as error:
        raise ImportError(
            "as_merlin_schema: a merlin.schema.Schema needs merlin-core, which cannot be imported "
            f"({error}). Without it use `.schema`: every function of transformers4rec_ext takes it."
        ) from error
    text = as_schema(schema, "as_merlin_schema").to_json()
    return TensorflowMetadata.from_json(text).to_merlin_schema()


def _from_merlin(column: Any) -> ColumnSchema:
    """Return a ``merlin.schema.ColumnSchema``, known by its public attributes, as ours."""
    tags = tuple(sorted(tag_names(column.tags)))  # a set, in no order
    dtype = _dtype(column.dtype)
    int_domain = float_domain = None
    domain = column.int_domain or column.float_domain
    if domain is not None and domain.max is not None and math.isfinite(domain.max):
        low = 0 if domain.min is None else domain.min
        if column.int_domain is not None:
            is_categorical = Tags.CATEGORICAL in tags
            int_domain = IntDomain(int(low), int(domain.max), is_categorical, domain.name)
        else:
            float_domain = FloatDomain(float(low), float(domain.max), domain.name)
    counts = column.value_count
    is_list = bool(column.is_list)
    shape = None
    # A dimension of (min, max) for the batch, for the list if it is one, and for the vector.
    dims: Any = getattr(getattr(column, "shape", None), "dims", None) or ()
    if Tags.EMBEDDING in tags and len(dims) > 1:
        is_list, shape = len(dims) > 2, (int(dims[-1].min),)
    return ColumnSchema(
        column.name,
        tags=tags,
        dtype=dtype,
        is_list=is_list,
        int_domain=int_domain,
        max_length=_length(counts.max) if is_list and counts is not None else None,
        min_length=_length(counts.min) if is_list and counts is not None else None,
        float_domain=float_domain,
        shape=shape,
        properties={k: v for k, v in column.properties.items() if k not in _READ},
    )


#: Properties that are read as the column's domain and lengths.
_READ = ("domain", "value_count")


def _length(value: Any) -> int | None:
    return int(value) if value else None


def _dtype(dtype: Any) -> str | None:
    """Return ours for a dtype of merlin's or of numpy's."""
    if getattr(dtype, "is_integer", None) is True or getattr(dtype, "kind", "") in ("i", "u"):
        return "int64"
    if getattr(dtype, "is_float", None) is True or getattr(dtype, "kind", "") == "f":
        return "float32"
    return None
