"""Soft embeddings of columns of real numbers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from transformers4rec_ext._recipe import builder
from transformers4rec_ext.features.base import (
    arguments_of,
    built,
    known_arguments,
    refuse_unknown,
    refuse_unknown_columns,
)
from transformers4rec_ext.features.lookup import EmbeddingFeatures
from transformers4rec_ext.features.tables import (
    FeatureConfig,
    Initializer,
    SoftEmbedding,
    TableConfig,
    checked_config,
)
from transformers4rec_ext.schema import Schema, Tag, as_schema
from transformers4rec_ext.tabular.base import TabularAggregationType, TabularTransformationsType
from transformers4rec_ext.tabular.columns import numbers_of
from transformers4rec_ext.tabular.steps import flat
from transformers4rec_ext.tabular.transformations import TabularLayerNorm

if TYPE_CHECKING:
    from typing_extensions import Self


class SoftEmbeddingFeatures(EmbeddingFeatures):
    """Numbers as weighted means of vectors: ``{column: x [...]}`` to ``{column: [..., D]}``.

    Parameters
    ----------
    feature_config : mapping from column name to FeatureConfig
        Of each column the number of vectors (``vocabulary_size``) and their width.
    layer_norm : bool
        Whether to normalise the outputs, before ``post``.
    pre, post, aggregation
        See :class:`~transformers4rec_ext.TabularModule`.
    schema : Schema, optional

    See Also
    --------
    transformers4rec_ext.SoftEmbedding : one column's module, with the equation.
    """

    def __init__(
        self,
        feature_config: Mapping[str, FeatureConfig],
        layer_norm: bool = True,
        pre: TabularTransformationsType | None = None,
        post: TabularTransformationsType | None = None,
        aggregation: TabularAggregationType | None = None,
        schema: Schema | None = None,
    ) -> None:
        if layer_norm:
            norm = TabularLayerNorm.from_feature_config(
                checked_config(type(self).__name__, feature_config)
            )
            post = norm if post is None else flat([norm, post])
        super().__init__(feature_config, pre=pre, post=post, aggregation=aggregation, schema=schema)

    @classmethod
    @builder
    def from_schema(  # type: ignore[override]  # upstream's builders differ in their arguments
        cls,
        schema: Schema,
        soft_embedding_cardinalities: Mapping[str, int] | None = None,
        soft_embedding_cardinality_default: int = 10,
        soft_embedding_dims: Mapping[str, int] | None = None,
        soft_embedding_dim_default: int = 8,
        embeddings_initializers: Mapping[str, Initializer] | None = None,
        layer_norm: bool = True,
        combiner: str = "mean",
        tags: Tag | tuple[Tag, ...] | None = None,
        automatic_build: bool = True,
        max_sequence_length: int | None = None,
        **kwargs: Any,
    ) -> Self | None:
        """Return the soft embeddings of the columns of ``schema`` that have no id domain.

        Parameters
        ----------
        schema : Schema
        soft_embedding_cardinalities : mapping from column name to number of vectors, optional
        soft_embedding_cardinality_default : int
            Of the columns not named.
        soft_embedding_dims : mapping from column name to width, optional
        soft_embedding_dim_default : int
            Of the columns not named.
        embeddings_initializers : mapping from column name to callable, optional
        layer_norm : bool
        combiner : {"mean", "sum", "sqrtn"}
            Checked; a number is one vector already.
        tags : tag or tags, optional
            Take the columns with these tags only.
        automatic_build : bool
            Whether to infer sizes from the schema.
        max_sequence_length : int, optional
            The T of :meth:`output_size`; that of the schema when not given.
        **kwargs
            Further arguments of the class; those of the other column blocks are passed over.

        Returns
        -------
        SoftEmbeddingFeatures or None
            None if no column was selected.
        """
        schema = as_schema(schema, cls.__name__)
        refuse_unknown(f"{cls.__name__}.from_schema", kwargs, known_arguments())
        if tags is not None:
            schema = schema.select_by_tag(tags)
        of_ids = schema.categorical_cardinalities()
        names = [name for name in schema.column_names if name not in of_ids]
        sizes, dims = soft_embedding_cardinalities or {}, soft_embedding_dims or {}
        initializers = embeddings_initializers or {}
        for argument, given in (
            ("soft_embedding_cardinalities", sizes),
            ("soft_embedding_dims", dims),
            ("embeddings_initializers", initializers),
        ):
            refuse_unknown_columns(cls.__name__, argument, given, names)
        if not names:
            return None
        config = {
            name: FeatureConfig(
                TableConfig(
                    sizes.get(name, soft_embedding_cardinality_default),
                    dims.get(name, soft_embedding_dim_default),
                    initializers.get(name),
                    combiner,
                    name=name,
                ),
                name=name,
            )
            for name in names
        }
        own = {name: value for name, value in kwargs.items() if name in arguments_of(cls)}
        output = cls(config, layer_norm=layer_norm, **own)
        return built(output, schema, max_sequence_length, automatic_build, kwargs)

    def table_to_embedding_module(self, table: TableConfig) -> SoftEmbedding:
        """Return a freshly initialised soft embedding."""
        return SoftEmbedding(table.vocabulary_size, table.dim, table.initializer)

    def check_ids(self, inputs: Mapping[str, Any]) -> None:
        """Do nothing: numbers are no ids, and any will do."""

    def _lookup(self, name: str, column: Any) -> Tensor:
        table: Any = self.embedding_tables[name]
        dtype = table.embedding_table.weight.dtype
        vectors: Tensor = table(numbers_of(type(self).__name__, name, column, dtype))
        return vectors

    def forward_output_size(self, input_sizes: Any) -> Any:
        """Return the sizes of the columns with D appended; None if they are unknown."""
        if not isinstance(input_sizes, Mapping):
            return None
        return {
            name: torch.Size([*input_sizes[name], feature.table.dim])
            for name, feature in self.feature_config.items()
        }
