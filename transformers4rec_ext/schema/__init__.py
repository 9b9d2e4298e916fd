"""What the columns of a data set are: names, tags, types and the range of their ids."""

from __future__ import annotations

from transformers4rec_ext.schema.columns import (
    DTYPES,
    ColumnSchema,
    FeatureType,
    FloatDomain,
    IntDomain,
    ValueCount,
)
from transformers4rec_ext.schema.convert import as_merlin_schema, as_schema
from transformers4rec_ext.schema.schema import Schema
from transformers4rec_ext.schema.tags import Tag, Tags, tag_names

__all__ = [
    "DTYPES",
    "ColumnSchema",
    "FeatureType",
    "FloatDomain",
    "IntDomain",
    "Schema",
    "Tag",
    "Tags",
    "ValueCount",
    "as_merlin_schema",
    "as_schema",
    "tag_names",
]
