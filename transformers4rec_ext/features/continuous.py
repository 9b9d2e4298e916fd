"""Columns of real numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from transformers4rec_ext._recipe import builder
from transformers4rec_ext.features.base import (
    InputBlock,
    arguments_of,
    keep_dtype,
    known_arguments,
    refuse_unknown,
)
from transformers4rec_ext.schema import Schema, Tag, as_schema
from transformers4rec_ext.tabular.base import (
    FilterFeatures,
    TabularAggregationType,
    TabularTransformationsType,
)
from transformers4rec_ext.tabular.columns import column_names, columns_of, numbers_of

if TYPE_CHECKING:
    from typing_extensions import Self


class ContinuousFeatures(InputBlock):
    """Numbers as vectors of width 1: ``{column: x [B, T]}`` to ``{column: x [B, T, 1]}``.

    Parameters
    ----------
    features : list of str
        The columns; a batch must have them all. They are converted to the dtype of the block:
        float32, unless it is moved to another.
    pre, post, aggregation
        See :class:`~transformers4rec_ext.TabularModule`.
    schema : Schema, optional

    Raises
    ------
    ValueError   when called, if a column is missing.
    TypeError    when called, if a column is no tensor of real numbers.

    Examples
    --------
    >>> ContinuousFeatures(["price"])({"price": torch.ones(2, 3)})["price"].shape
    torch.Size([2, 3, 1])
    """

    dtype_of: Tensor

    def __init__(
        self,
        features: Sequence[str],
        pre: TabularTransformationsType | None = None,
        post: TabularTransformationsType | None = None,
        aggregation: TabularAggregationType | None = None,
        schema: Schema | None = None,
    ) -> None:
        super().__init__(pre=pre, post=post, aggregation=aggregation, schema=schema)
        self.filter_features = FilterFeatures(
            column_names(type(self).__name__, "features", features)
        )
        keep_dtype(self)

    @classmethod
    @builder
    def from_schema(
        cls, schema: Schema, tags: Tag | Sequence[Tag] | None = None, **kwargs: Any
    ) -> Self | None:
        """Return the block of the columns of ``schema`` with ``tags``; None if there are none.

        Parameters
        ----------
        schema : Schema
        tags : tag or tags, optional
        **kwargs
            Further arguments of the class; those of the other column blocks are passed over.
        """
        schema = as_schema(schema, cls.__name__)
        refuse_unknown(f"{cls.__name__}.from_schema", kwargs, known_arguments())
        own = {name: value for name, value in kwargs.items() if name in arguments_of(cls)}
        return super().from_schema(schema, tags=tags, **own)

    @classmethod
    def from_features(  # type: ignore[override]  # the base filters; this block selects
        cls, features: Sequence[str], **kwargs: Any
    ) -> Self:
        """Return the block of the columns ``features``."""
        return cls(features, **kwargs)

    def forward(self, inputs: Any, **kwargs: Any) -> Any:
        """Return the columns with a last dimension of 1."""
        function = type(self).__name__
        columns = columns_of(function, inputs, self.filter_features.to_include)
        return {
            name: numbers_of(function, name, column, self.dtype_of.dtype).unsqueeze(-1)
            for name, column in columns.items()
        }

    def forward_output_size(self, input_sizes: Any) -> Any:
        """Return the sizes of the columns with 1 appended; None if they are unknown."""
        sizes = self.filter_features.forward_output_size(input_sizes)
        if not isinstance(sizes, Mapping):
            return None
        return {name: torch.Size([*size, 1]) for name, size in sizes.items()}
