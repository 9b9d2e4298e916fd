"""What a model reads and what it returns, as schemas."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from transformers4rec_ext._errors import value_error
from transformers4rec_ext.schema import ColumnSchema, Schema


def input_schema(heads: Iterable[Any]) -> Schema:
    """Return the columns that the input modules of ``heads`` read, each once."""
    columns = {}
    for head in heads:
        inputs = getattr(head.body, "inputs", None)
        if inputs is None:
            raise value_error(
                "Model.input_schema",
                "body",
                "begin with an input module",
                type(head.body).__name__,
            )
        if inputs.schema is None:
            raise ValueError(f"{type(inputs).__name__} requires a schema.")
        columns.update({column.name: column for column in inputs.schema})
    return Schema(list(columns.values()))


def output_schema(tasks: Iterable[Any], top_k: int | None) -> Schema:
    """Return the columns of inference; a list column's ``max_length`` is its last dimension."""
    columns = []
    for task in tasks:
        if top_k is not None and getattr(task, "supports_top_k", False):
            columns += [
                ColumnSchema("item_id_scores", dtype="float32", is_list=True, max_length=top_k),
                ColumnSchema("item_ids", dtype="int64", is_list=True, max_length=top_k),
            ]
            continue
        is_scalar = task.target_dim is None or task.target_dim == 1
        columns.append(
            ColumnSchema(
                task.task_name,
                dtype="float32",
                is_list=not is_scalar or task.summary_type is None,
                max_length=None if is_scalar else task.target_dim,
            )
        )
    return Schema(columns)
