"""Columns of vectors that were made elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from transformers4rec_ext._errors import type_error, value_error
from transformers4rec_ext._numbers import is_integer
from transformers4rec_ext._recipe import builder
from transformers4rec_ext.features.base import (
    InputBlock,
    keep_dtype,
    known_arguments,
    refuse_unknown,
    refuse_unknown_columns,
)
from transformers4rec_ext.schema import Schema, Tag, as_schema
from transformers4rec_ext.tabular.base import TabularAggregationType, TabularTransformationsType
from transformers4rec_ext.tabular.columns import ColumnModules, column_names, columns_of, numbers_of
from transformers4rec_ext.tabular.steps import flat

if TYPE_CHECKING:
    from typing_extensions import Self

_COMBINERS: dict[str, Callable[..., Tensor]] = {
    "mean": torch.mean,
    "sum": torch.sum,
    "max": torch.amax,
    "min": torch.amin,
}


class PretrainedEmbeddingFeatures(InputBlock):
    """Vectors that come with the batch: ``{column: [B, T, D] or [B, D]}``, projected and combined.

    Parameters
    ----------
    features : list of str
        The columns; those tagged ``embedding``.
    pretrained_output_dims : int or mapping from column name to int, optional
        Widths to project to, with a bias. With a mapping, columns that it does not name are left
        as they are. The projections are made by :meth:`build`.
    sequence_combiner : {"mean", "sum", "max", "min"} or callable, optional
        Makes one vector [B, D] of the T of a sequence, padding (what are zeros after ``pre``) left
        out; a callable is called as ``combiner(vectors, axis=1)``, padding included.
    pre, post, aggregation
        See :class:`~transformers4rec_ext.TabularModule`.
    normalizer : str or TabularTransformation, optional
        Applied before ``post``, such as "layer-norm".
    schema : Schema, optional

    Raises
    ------
    ValueError
        If ``pretrained_output_dims`` names another column, the combiner is unknown, or, when
        called, a column is missing, has another width than it was built for, or no build came
        before a projection.
    TypeError
        When called, if a column is no tensor of real numbers.

    Examples
    --------
    >>> block = PretrainedEmbeddingFeatures(["title"], sequence_combiner="mean")
    >>> block({"title": torch.ones(2, 5, 3)})["title"].shape
    torch.Size([2, 3])
    """

    dtype_of: Tensor

    def __init__(
        self,
        features: Sequence[str],
        pretrained_output_dims: int | Mapping[str, int] | None = None,
        sequence_combiner: str | Callable[..., Tensor] | None = None,
        pre: TabularTransformationsType | None = None,
        post: TabularTransformationsType | None = None,
        aggregation: TabularAggregationType | None = None,
        normalizer: TabularTransformationsType | None = None,
        schema: Schema | None = None,
    ) -> None:
        if normalizer is not None:
            post = normalizer if post is None else flat([normalizer, post])
        super().__init__(pre=pre, post=post, aggregation=aggregation, schema=schema)
        self.features = column_names(type(self).__name__, "features", features)
        keep_dtype(self)
        self.pretrained_output_dims = pretrained_output_dims
        if isinstance(pretrained_output_dims, Mapping):
            self._dims = dict(pretrained_output_dims)
        else:
            dim = pretrained_output_dims
            self._dims = {} if dim is None else dict.fromkeys(self.features, dim)
        function = type(self).__name__
        refuse_unknown_columns(function, "pretrained_output_dims", self._dims, self.features)
        for dim in self._dims.values():
            if not is_integer(dim) or dim < 1:
                raise value_error(function, "pretrained_output_dims", "be positive ints", repr(dim))
        self.sequence_combiner = self.parse_combiner(sequence_combiner)
        self._leaves_padding_out = isinstance(sequence_combiner, str)
        if self._dims:
            self.projection = ColumnModules()

    @classmethod
    @builder
    def from_schema(
        cls,
        schema: Schema,
        tags: Tag | Sequence[Tag] | None = None,
        pretrained_output_dims: int | Mapping[str, int] | None = None,
        sequence_combiner: str | Callable[..., Tensor] | None = None,
        normalizer: TabularTransformationsType | None = None,
        pre: TabularTransformationsType | None = None,
        post: TabularTransformationsType | None = None,
        aggregation: TabularAggregationType | None = None,
        **kwargs: Any,
    ) -> Self | None:
        """Return the block of the columns of ``schema`` with ``tags``; None if there are none.

        Parameters
        ----------
        schema : Schema
        tags : tag or tags, optional
        pretrained_output_dims, sequence_combiner, normalizer, pre, post, aggregation
            See the class.
        **kwargs
            Arguments of the other column blocks are passed over.
        """
        schema = as_schema(schema, cls.__name__)
        refuse_unknown(f"{cls.__name__}.from_schema", kwargs, known_arguments())
        if tags is not None:
            schema = schema.select_by_tag(tags)
        if not len(schema):
            return None
        return cls(
            schema.column_names,
            pretrained_output_dims=pretrained_output_dims,
            sequence_combiner=sequence_combiner,
            normalizer=normalizer,
            pre=pre,
            post=post,
            aggregation=aggregation,
            schema=schema,
        )

    def build(self, input_size: Any, schema: Schema | None = None, **kwargs: Any) -> Self:
        """Make the projections that there are none of yet, for columns of ``input_size``."""
        if isinstance(input_size, Mapping):
            for name, dim in self._dims.items():
                if name not in self.projection:
                    self.projection[name] = nn.Linear(self._width(input_size, name), int(dim))
        return super().build(input_size, schema=schema, **kwargs)

    def _width(self, sizes: Mapping[str, Any], name: str) -> int:
        size = columns_of(f"{type(self).__name__}.build", sizes, [name])[name]
        if len(size) < 2 or size[-1] < 1:
            raise value_error(
                type(self).__name__,
                f"schema[{name!r}]",
                "say how wide its vectors are",
                f"size {list(size)}",
                "Give the column a shape: ColumnSchema(..., shape=(D,)).",
            )
        return int(size[-1])

    def forward(self, inputs: Any, **kwargs: Any) -> Any:
        """Return ``{column: vectors}``, projected, then combined."""
        columns = columns_of(type(self).__name__, inputs, self.features)
        return {name: self._vectors(name, column) for name, column in columns.items()}

    def _vectors(self, name: str, column: Any) -> Tensor:
        function = type(self).__name__
        vectors = numbers_of(function, name, column, self.dtype_of.dtype)
        if vectors.ndim not in (2, 3):
            raise value_error(
                function, f"inputs[{name!r}]", "be [B, T, D] or [B, D]", list(vectors.shape)
            )
        given = vectors
        if name in self._dims:
            vectors = self._projected(name, vectors)
        if self.sequence_combiner is None or vectors.ndim == 2:
            return vectors
        if self._leaves_padding_out:
            real = (given != 0).any(-1, keepdim=True)
            return _combined(self.sequence_combiner, vectors, real)
        combined: Tensor = self.sequence_combiner(vectors, axis=1)
        return combined

    def _projected(self, name: str, vectors: Tensor) -> Tensor:
        function = type(self).__name__
        if name not in self.projection:
            raise value_error(
                function,
                "pretrained_output_dims",
                "be followed by build(sizes) before the first batch",
                "no build",
            )
        projection = self.projection[name]
        if vectors.shape[-1] != projection.in_features:
            raise value_error(
                function,
                f"inputs[{name!r}]",
                f"have vectors of width {projection.in_features}",
                list(vectors.shape),
            )
        projected: Tensor = projection(vectors)
        return projected

    def forward_output_size(self, input_sizes: Any) -> Any:
        """Return the sizes of the columns, projected and combined; None if they are unknown."""
        if not isinstance(input_sizes, Mapping):
            return None
        sizes = {}
        for name in self.features:
            time = list(input_sizes[name][:-1])
            if self.sequence_combiner is not None:
                time = time[:1]
            width = self._dims[name] if name in self._dims else self._width(input_sizes, name)
            sizes[name] = torch.Size([*time, width])
        return sizes

    def parse_combiner(self, combiner: Any) -> Any:
        """Return the function that a name stands for; a callable unchanged."""
        if combiner is None:
            return None
        if isinstance(combiner, str) and combiner in _COMBINERS:
            return _COMBINERS[combiner]
        if isinstance(combiner, str):
            raise value_error(
                type(self).__name__,
                "sequence_combiner",
                f"be one of {sorted(_COMBINERS)} or a callable",
                repr(combiner),
            )
        if not callable(combiner):
            raise type_error(
                type(self).__name__, "sequence_combiner", "be callable", type(combiner).__name__
            )
        return combiner


def _combined(combiner: Callable[..., Tensor], vectors: Tensor, real: Tensor) -> Tensor:
    """Return [B, D] of vectors [B, T, D] where ``real`` [B, T, 1]; zeros where there is none."""
    if combiner in (torch.amax, torch.amin):
        last = -torch.inf if combiner is torch.amax else torch.inf
        found = combiner(torch.where(real, vectors, last), dim=1)
        return torch.where(real.any(1), found, 0)
    total = torch.where(real, vectors, 0).sum(1)
    return total if combiner is torch.sum else total / real.sum(1).clamp(min=1)
