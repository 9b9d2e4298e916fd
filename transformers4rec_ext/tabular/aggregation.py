"""From several columns to one tensor."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from transformers4rec_ext._errors import type_error, value_error
from transformers4rec_ext.config.schema import requires_schema
from transformers4rec_ext.schema import Schema
from transformers4rec_ext.tabular.steps import TabularAggregation, tabular_aggregation_registry
from transformers4rec_ext.typing import TabularData

__all__ = [
    "ConcatFeatures",
    "ElementwiseFeatureAggregation",
    "ElementwiseSum",
    "ElementwiseSumItemMulti",
    "StackFeatures",
]


def along_time(inputs: TabularData) -> dict[str, Tensor]:
    """Return the columns with those of whole rows [B, D] repeated at every position [B, T, D].

    Ordered by name. Without a sequence [B, T, ...] among them nothing is repeated.

    Raises
    ------
    ValueError   if there is no column, two sequences differ in B or T, or a column has another B.
    TypeError    if a name is no str.
    """
    if not inputs:
        raise value_error("TabularAggregation", "inputs", "have at least one column", "none")
    if not all(isinstance(name, str) for name in inputs):
        expectation = "be a dict from column name to tensor"
        raise type_error("TabularAggregation", "inputs", expectation, f"names {list(inputs)}")
    sequences = {name: column for name, column in inputs.items() if column.ndim >= 3}
    first = next(iter(sequences.values()), None)
    if first is None:
        return {name: inputs[name] for name in sorted(inputs)}
    if not torch.jit.is_tracing():
        _check_same_rows(sequences, first.shape[:2])
    length = first.shape[1]
    return {
        name: inputs[name]
        if name in sequences
        else inputs[name].unsqueeze(1).expand(-1, length, *inputs[name].shape[1:])
        for name in sorted(inputs)
    }


def _check_same_rows(sequences: TabularData, shape: Any) -> None:
    # Compared one by one: sizes that are still symbols cannot be put into a set.
    if any(column.shape[:2] != shape for column in sequences.values()):
        shapes = {name: tuple(column.shape[:2]) for name, column in sequences.items()}
        raise ValueError(
            "All sequential features must share the same shape in the first two dims "
            f"(batch_size, seq_length): {shapes}"
        )


def time_size(sizes: Mapping[str, Any]) -> list[int]:
    """Return [B, T] of the columns' sizes, or [B] if none is a sequence; -1 where unknown."""
    sequences = {name: size for name, size in sizes.items() if len(size) >= 3}
    known = {size[1] for size in sequences.values() if size[1] != -1}
    if len(known) > 1:
        shapes = {name: tuple(size[:2]) for name, size in sequences.items()}
        raise ValueError(
            "All sequential features must share the same shape in the first two dims "
            f"(batch_size, seq_length): {shapes}"
        )
    batch = next(iter(sizes.values()))[0]
    return [batch, *(known or {-1})] if sequences else [batch]


@tabular_aggregation_registry.register("concat")
class ConcatFeatures(TabularAggregation):
    """The columns side by side, ordered by name: [B, T, sum of D], or [B, sum of D].

    Columns of whole rows [B, D] are repeated at every position if there is a sequence.

    Examples
    --------
    >>> ConcatFeatures()({"b": torch.zeros(2, 3, 4), "a": torch.ones(2, 1)})[0, 0].tolist()
    [1.0, 0.0, 0.0, 0.0, 0.0]
    """

    def forward(self, inputs: TabularData) -> Tensor:
        """Return the columns of ``inputs`` concatenated along their last dimension."""
        columns = along_time(inputs)
        tensors = list(columns.values())
        if not torch.jit.is_tracing() and any(
            tensor.shape[:-1] != tensors[0].shape[:-1] for tensor in tensors
        ):
            shapes = {name: tuple(column.shape) for name, column in columns.items()}
            raise ValueError(f"All features dimensions except the last one must match: {shapes}")
        return tensors[0] if len(tensors) == 1 else torch.cat(tensors, dim=-1)

    def forward_output_size(self, input_size: Any) -> torch.Size:
        """Return [-1, T, sum of D] or [-1, sum of D]."""
        return torch.Size([*time_size(input_size), sum(size[-1] for size in input_size.values())])


class ElementwiseFeatureAggregation(TabularAggregation):
    """Base of the aggregations of columns of one width D."""

    def _columns(self, inputs: TabularData) -> dict[str, Tensor]:
        """Return the columns along time; ValueError unless they are of one shape."""
        columns = along_time(inputs)
        tensors = list(columns.values())
        if not torch.jit.is_tracing() and any(
            tensor.shape != tensors[0].shape for tensor in tensors
        ):
            shapes = {name: tuple(column.shape) for name, column in columns.items()}
            raise ValueError(
                "The shapes of all input features are not equal, which is required for "
                f"element-wise aggregation: {shapes}"
            )
        return columns

    def forward_output_size(self, input_size: Any) -> torch.Size:
        """Return [-1, T, D] or [-1, D]; ValueError unless all columns have one width D."""
        widths = {size[-1] for size in input_size.values()}
        if len(widths) > 1:
            raise ValueError(
                "The last dim of all input features is not equal, which is required for "
                f"element-wise aggregation: {dict(input_size)}"
            )
        return torch.Size([*time_size(input_size), *widths])


@tabular_aggregation_registry.register("stack")
class StackFeatures(ElementwiseFeatureAggregation):
    """The columns in a new dimension, ordered by name: [B, T, D, n] of n columns.

    Parameters
    ----------
    axis : int
        Where the new dimension lies.

    Examples
    --------
    >>> StackFeatures()({"b": torch.zeros(2, 3), "a": torch.ones(2, 3)})[0, 0].tolist()
    [1.0, 0.0]
    """

    def __init__(self, axis: int = -1) -> None:
        super().__init__()
        self.axis = axis

    def forward(self, inputs: TabularData) -> Tensor:
        """Return the columns of ``inputs``, which must be of one shape, stacked."""
        return torch.stack(list(self._columns(inputs).values()), dim=self.axis)

    def forward_output_size(self, input_size: Any) -> torch.Size:
        """Return the size of one column with n inserted at ``axis``."""
        size = list(super().forward_output_size(input_size))
        size.insert(self.axis % (len(size) + 1), len(input_size))
        return torch.Size(size)


@tabular_aggregation_registry.register("element-wise-sum")
class ElementwiseSum(ElementwiseFeatureAggregation):
    """The sum of columns of one shape [B, T, D] or [B, D].

    Examples
    --------
    >>> ElementwiseSum()({"a": torch.ones(1, 2), "b": torch.ones(1, 2)}).tolist()
    [[2.0, 2.0]]
    """

    def forward(self, inputs: TabularData) -> Tensor:
        """Return the sum of the columns of ``inputs``."""
        return _sum(list(self._columns(inputs).values()))


@tabular_aggregation_registry.register("element-wise-sum-item-multi")
@requires_schema
class ElementwiseSumItemMulti(ElementwiseFeatureAggregation):
    """The item id's column times the sum of the others.

    Parameters
    ----------
    schema : Schema, optional
        Tells which column is the item id; that of the block it belongs to when not given.

    Raises
    ------
    ValueError
        When called without a schema, with one that tags no item id, without another column, or
        with columns of different shapes.
    """

    def __init__(self, schema: Schema | None = None) -> None:
        super().__init__()
        self.schema = schema

    def forward(self, inputs: TabularData) -> Tensor:
        """Return ``item * sum(others)`` of the columns of ``inputs``."""
        name = self.item_id_name()
        self.get_item_ids_from_inputs(inputs)
        columns = self._columns(inputs)
        item = columns.pop(name)
        if not columns:
            raise value_error(
                "ElementwiseSumItemMulti", "inputs", f"have a column besides {name!r}", "none"
            )
        return item * _sum(list(columns.values()))


def _sum(tensors: list[Tensor]) -> Tensor:
    total = tensors[0]
    for tensor in tensors[1:]:
        total = total + tensor
    return total
