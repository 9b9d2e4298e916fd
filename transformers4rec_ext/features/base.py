"""What all input blocks share, and how the vectors of several columns become one."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from transformers4rec_ext._errors import value_error
from transformers4rec_ext.block.base import BlockBase
from transformers4rec_ext.schema import Schema, as_schema


class InputBlock(BlockBase):
    """Base of the blocks that take a batch: a dict from column name to tensor.

    Parameters
    ----------
    schema : Schema, optional
        The columns it reads.
    """

    is_input = True

    def __init__(self, schema: Schema | None = None) -> None:
        super().__init__()
        self._schema = None if schema is None else as_schema(schema, type(self).__name__)

    @property
    def schema(self) -> Schema:
        """The columns this block reads; ValueError when it was made without a schema."""
        if self._schema is None:
            raise ValueError(f"{type(self).__name__} requires a schema.")
        return self._schema


def concat(inputs: dict[str, Tensor]) -> Tensor:
    """Return the tensors side by side, [B, T, sum of D], ordered by column name.

    Examples
    --------
    >>> concat({"b": torch.zeros(2, 3, 4), "a": torch.ones(2, 3, 1)})[0, 0].tolist()
    [1.0, 0.0, 0.0, 0.0, 0.0]
    """
    tensors = [inputs[name] for name in sorted(inputs)]
    return tensors[0] if len(tensors) == 1 else torch.cat(tensors, dim=-1)


def element_wise_sum(inputs: dict[str, Tensor]) -> Tensor:
    """Return the sum of tensors of one shape [B, T, D].

    Examples
    --------
    >>> element_wise_sum({"a": torch.ones(1, 1, 2), "b": torch.ones(1, 1, 2)}).tolist()
    [[[2.0, 2.0]]]
    """
    tensors = [inputs[name] for name in sorted(inputs)]
    total = tensors[0]
    for tensor in tensors[1:]:
        total = total + tensor
    return total


def _concat_width(widths: dict[str, int]) -> int:
    return sum(widths.values())


def _sum_width(widths: dict[str, int]) -> int:
    if len(set(widths.values())) != 1:
        raise ValueError(
            "The last dim of all input features is not equal, which is required for element-wise "
            f"aggregation: {widths}"
        )
    return next(iter(widths.values()))


#: name -> (function of the tensors, function of their widths)
AGGREGATIONS: dict[
    str, tuple[Callable[[dict[str, Tensor]], Tensor], Callable[[dict[str, int]], int]]
] = {
    "concat": (concat, _concat_width),
    "element-wise-sum": (element_wise_sum, _sum_width),
}


def check_aggregation(function: str, aggregation: str | None) -> str | None:
    """Return ``aggregation`` if it names one, or is None."""
    if aggregation is not None and aggregation not in AGGREGATIONS:
        raise value_error(
            function, "aggregation", f"be one of {sorted(AGGREGATIONS)} or None", repr(aggregation)
        )
    return aggregation
