"""What all input blocks share."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

import torch
from torch import nn

from transformers4rec_ext import _checks
from transformers4rec_ext._errors import type_error, value_error
from transformers4rec_ext.schema import Schema
from transformers4rec_ext.tabular.base import TabularBlock
from transformers4rec_ext.utils.torch_utils import get_output_sizes_from_schema

BlockT = TypeVar("BlockT", bound=TabularBlock)


class InputBlock(TabularBlock):
    """Base of the blocks that take a batch: a dict from column name to tensor.

    Parameters
    ----------
    pre, post, aggregation
        See :class:`~transformers4rec_ext.TabularModule`.
    schema : Schema, optional
        The columns it reads.
    """

    is_input = True


def keep_dtype(block: nn.Module) -> None:
    """Let ``block`` know the dtype that it is moved to, in ``dtype_of``, though it has no weights.

    Numbers of a batch are converted to it: what a model computes with in float64 or bfloat16, its
    columns are, too.
    """
    block.register_buffer("dtype_of", torch.empty(0), persistent=False)


def built(
    block: BlockT,
    schema: Schema,
    max_sequence_length: int | None,
    automatic_build: bool,
    arguments: Mapping[str, Any],
) -> BlockT:
    """Let a block know its schema and, with ``automatic_build``, the sizes of its columns.

    Of the further ``arguments`` of a builder "batch_size" is the B of the sizes.
    """
    function = f"{type(block).__name__}.from_schema"
    _checks.positive_or_none(function, "max_sequence_length", max_sequence_length)
    block.set_schema(schema)
    if automatic_build:
        batch_size = arguments.get("batch_size", -1)
        sizes = get_output_sizes_from_schema(schema, batch_size, max_sequence_length)
        block.build(sizes, schema=schema)
    return block


def arguments_of(function: Any) -> frozenset[str]:
    """Return the names of the arguments of a constructor or builder."""
    return frozenset(
        name
        for name, parameter in inspect.signature(function).parameters.items()
        if parameter.kind is not inspect.Parameter.VAR_KEYWORD
    )


@functools.cache
def known_arguments() -> frozenset[str]:
    """Return the names of the arguments of all column blocks and of their builders."""
    # The blocks build on this module.
    from transformers4rec_ext.features import continuous, lookup, pretrained, soft

    blocks = (
        continuous.ContinuousFeatures,
        pretrained.PretrainedEmbeddingFeatures,
        lookup.SequenceEmbeddingFeatures,
        soft.SoftEmbeddingFeatures,
    )
    functions = [function for block in blocks for function in (block, block.from_schema)]
    own = frozenset().union(*(arguments_of(function) for function in functions))
    return own - {"schema", "features", "feature_config", "tags"} | {"batch_size"}


def refuse_unknown(function: str, given: Iterable[str], known: Iterable[str]) -> None:
    """Raise TypeError if an argument in ``given`` is none of ``known``."""
    unknown = sorted(set(given) - set(known))
    if unknown:
        raise type_error(function, "arguments", f"be among {sorted(known)}", unknown)


def refuse_unknown_columns(
    function: str, argument: str, given: Mapping[str, Any], columns: Iterable[str]
) -> None:
    """Raise TypeError if ``given`` maps no columns, ValueError if one is none of ``columns``."""
    if not isinstance(given, Mapping):
        expectation = "be a mapping from column name"
        raise type_error(function, argument, expectation, type(given).__name__)
    unknown = sorted(set(given) - set(columns), key=str)
    if unknown:
        raise value_error(function, argument, f"name columns among {list(columns)}", unknown)
