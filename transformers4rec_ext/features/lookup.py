"""Embedding tables of columns of ids."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from transformers4rec_ext import _checks
from transformers4rec_ext._errors import type_error, value_error
from transformers4rec_ext._recipe import builder
from transformers4rec_ext.features.base import (
    InputBlock,
    arguments_of,
    built,
    known_arguments,
    refuse_unknown,
    refuse_unknown_columns,
)
from transformers4rec_ext.features.tables import (
    EmbeddingBagWrapper,
    FeatureConfig,
    Initializer,
    SequenceTable,
    TableConfig,
    checked_config,
    empty_weight,
    initialize,
)
from transformers4rec_ext.schema import Schema, Tag, as_schema
from transformers4rec_ext.tabular.base import TabularAggregationType, TabularTransformationsType
from transformers4rec_ext.tabular.columns import (
    ColumnModules,
    columns_of,
    holds_ids,
    ids_of,
    is_dense,
)

if TYPE_CHECKING:
    from typing_extensions import Self


class EmbeddingFeatures(InputBlock):
    """One vector per row of the batch: ``{column: ids}`` to ``{column: vectors [B, D]}``.

    Of a list of ids [B, T] the table's ``combiner`` makes one vector of those that are not
    padding (0); see :class:`~transformers4rec_ext.features.embedding.EmbeddingBagWrapper`.

    Parameters
    ----------
    feature_config : mapping from column name to FeatureConfig
        Every column gets a table of its own, as upstream (a TableConfig used twice included).
    item_id : str, optional
        The column of item ids.
    pre, post, aggregation
        See :class:`~transformers4rec_ext.TabularModule`.
    schema : Schema, optional
    sparse_grad : bool
        Whether the tables get row gradients (sparse COO) instead of dense [V, D] ones, for an
        optimizer that takes them, such as :class:`~transformers4rec_ext.optim.LazyAdam`.

    Raises
    ------
    ValueError
        When called, if a column is missing or not [B] or [B, T]; of tensors on the CPU also if an
        id has no row in its table (of tensors that are on a GPU already torch stops at a
        device-side assertion, so ``fit``, ``evaluate`` and the Trainer look at batches on the CPU
        before they move them).
    TypeError
        When called, if a column does not hold integers.

    Notes
    -----
    ``item_seq`` keeps the item ids of the last batch, for code written for upstream. They are the
    ids as they came, before ``pre``: noise in what a model sees is none in what it must predict.
    """

    item_seq: Tensor | None

    def __init__(
        self,
        feature_config: Mapping[str, FeatureConfig],
        item_id: str | None = None,
        pre: TabularTransformationsType | None = None,
        post: TabularTransformationsType | None = None,
        aggregation: TabularAggregationType | None = None,
        schema: Schema | None = None,
        sparse_grad: bool = False,
    ) -> None:
        super().__init__(pre=pre, post=post, aggregation=aggregation, schema=schema)
        self.feature_config = checked_config(type(self).__name__, feature_config)
        if item_id is not None and item_id not in feature_config:
            raise value_error(
                type(self).__name__,
                "item_id",
                f"be one of the columns {list(feature_config)}",
                repr(item_id),
                "A column is among them if its tags select it and it has an int_domain.",
            )
        if not isinstance(sparse_grad, bool):
            raise type_error(
                type(self).__name__, "sparse_grad", "be a bool", type(sparse_grad).__name__
            )
        self.item_id = item_id
        self.sparse_grad = sparse_grad
        self.item_seq = None
        self.embedding_tables = ColumnModules(
            {
                name: self.table_to_embedding_module(feature.table)
                for name, feature in self.feature_config.items()
            }
        )

    @classmethod
    @builder
    def from_schema(  # type: ignore[override]  # upstream's builders differ
        cls,
        schema: Schema,
        embedding_dims: Mapping[str, int] | None = None,
        embedding_dim_default: int = 64,
        infer_embedding_sizes: bool = False,
        infer_embedding_sizes_multiplier: float = 2.0,
        embeddings_initializers: Mapping[str, Initializer] | None = None,
        combiner: str = "mean",
        tags: Tag | tuple[Tag, ...] | None = None,
        item_id: str | None = None,
        automatic_build: bool = True,
        max_sequence_length: int | None = None,
        aggregation: TabularAggregationType | None = None,
        pre: TabularTransformationsType | None = None,
        post: TabularTransformationsType | None = None,
        **kwargs: Any,
    ) -> Self | None:
        """Return the embeddings of the columns of ``schema`` that have an id domain.

        Parameters
        ----------
        schema : Schema
        embedding_dims : mapping from column name to width, optional
        embedding_dim_default : int
            Width of the columns not named in ``embedding_dims``.
        infer_embedding_sizes : bool
            Make it ``ceil(V ** 0.25 * infer_embedding_sizes_multiplier)`` instead.
        infer_embedding_sizes_multiplier : float
        embeddings_initializers : mapping from column name to callable, optional
        combiner : {"mean", "sum", "sqrtn"}
            How a list of ids becomes one vector; a sequence has no use for it.
        tags : tag or tags, optional
            Take the columns with these tags only.
        item_id : str, optional
            The column of item ids; the one tagged ``item_id`` when not given.
        automatic_build : bool
            Whether to infer sizes from the schema.
        max_sequence_length : int, optional
            The T of :meth:`output_size`; that of the schema when not given.
        aggregation, pre, post
            See :class:`~transformers4rec_ext.TabularModule`.
        **kwargs
            Further arguments of the class, and ``batch_size``, the B of :meth:`output_size`; those
            of the other column blocks are passed over, so that one set of arguments serves all.

        Returns
        -------
        EmbeddingFeatures or None
            None if no column was selected.
        """
        schema = as_schema(schema, cls.__name__)
        refuse_unknown(f"{cls.__name__}.from_schema", kwargs, known_arguments())
        if tags is not None:
            schema = schema.select_by_tag(tags)
        item_id = item_id or schema.item_id_column_name
        cardinalities = schema.categorical_cardinalities()
        initializers = embeddings_initializers or {}
        for argument, given in (
            ("embedding_dims", embedding_dims or {}),
            ("embeddings_initializers", initializers),
        ):
            refuse_unknown_columns(cls.__name__, argument, given, cardinalities)
        inferred: dict[str, int] = {}
        if infer_embedding_sizes:
            inferred = schema.embedding_sizes(infer_embedding_sizes_multiplier)
        dims = dict.fromkeys(cardinalities, embedding_dim_default) | inferred
        dims |= dict(embedding_dims or {})
        if not cardinalities:
            return None
        _checks.positive_or_none(
            f"{cls.__name__}.from_schema", "max_sequence_length", max_sequence_length
        )
        config = {
            name: FeatureConfig(
                TableConfig(size, dims[name], initializers.get(name), combiner, name=name),
                max_sequence_length=max_sequence_length or 0,
                name=name,
            )
            for name, size in cardinalities.items()
        }
        own = {name: value for name, value in kwargs.items() if name in arguments_of(cls)}
        steps: dict[str, Any] = {"pre": pre, "post": post, "aggregation": aggregation}
        output = cls(config, item_id=item_id, **steps, **own)
        return built(output, schema, max_sequence_length, automatic_build, kwargs)

    @property
    def item_embedding_table(self) -> nn.Module | None:
        """The table of the item ids, or None."""
        return None if self.item_id is None else self.embedding_tables[self.item_id]

    def table_to_embedding_module(self, table: TableConfig) -> nn.Module:
        """Return a freshly initialised table."""
        module = EmbeddingBagWrapper(
            table.vocabulary_size,
            table.dim,
            mode=table.combiner,
            sparse=self.sparse_grad,
            _weight=empty_weight(table),
        )
        initialize(table, module.weight)
        return module

    def item_ids(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """Return the item ids int64 [B, T] of a batch."""
        function = f"{type(self).__name__}.item_ids"
        if self.item_id is None:
            raise value_error(
                function,
                "item_id",
                "be set",
                "None",
                "Tag one column of the schema with Tags.ITEM_ID.",
            )
        column = columns_of(function, inputs, [self.item_id])[self.item_id]
        return ids_of(function, self.item_id, column)

    def pre_forward(self, inputs: Any, transformations: Any = None) -> Any:
        """Remember the item ids of ``inputs``; return ``inputs`` after the transformations."""
        if isinstance(inputs, Mapping) and self.item_id in inputs:
            self.item_seq = self.item_ids(inputs)
        return super().pre_forward(inputs, transformations)

    def forward(self, inputs: Any, **kwargs: Any) -> Any:
        """Return ``{column: vectors}``; flags for training and testing change nothing."""
        columns = columns_of(type(self).__name__, inputs, self.feature_config)
        return {name: self._lookup(name, column) for name, column in columns.items()}

    def _lookup(self, name: str, column: Any) -> Tensor:
        ids = ids_of(type(self).__name__, name, column)
        try:
            vectors: Tensor = self.embedding_tables[name](ids)
        except (IndexError, RuntimeError):  # CPU only, and free of charge; CUDA asserts
            error = self._without_row(name, name, ids)
            if error is None:
                raise
            raise error from None
        return vectors

    def check_ids(self, inputs: Mapping[str, Any]) -> None:
        """Raise ValueError if an id of a batch that is on the CPU has no row in its table.

        For a batch that is about to go to a GPU, which would name neither column nor id. With a
        ``pre``, which may make other ids, nothing is checked; nor what is no column of ids, which
        the call names.
        """
        if self.pre is not None:
            return
        for name in self.feature_config:
            for key in (name, f"{name}__values"):
                column = inputs.get(key)
                if holds_ids(column) and is_dense(column):
                    error = self._without_row(name, key, column)
                    if error is not None:
                        raise error

    def _without_row(self, name: str, key: str, ids: Tensor) -> ValueError | None:
        """Return the error of ids on the CPU that the table of column ``name`` has no rows for."""
        rows = self.feature_config[name].table.vocabulary_size
        if ids.device.type != "cpu" or ids.numel() == 0:
            return None
        lowest, highest = (int(value) for value in torch.aminmax(ids))
        if lowest >= 0 and highest < rows:
            return None
        return value_error(
            type(self).__name__,
            f"inputs[{key!r}]",
            f"hold ids from 0 to {rows - 1}",
            f"{lowest} to {highest}",
            "The table has int_domain.max + 1 rows; correct the schema or the ids.",
        )

    def forward_output_size(self, input_sizes: Any) -> dict[str, torch.Size]:
        """Return ``{column: [B, D]}``; B is -1 without sizes of the input."""
        known = isinstance(input_sizes, Mapping) and input_sizes
        batch_size = next(iter(input_sizes.values()))[0] if known else -1
        return {
            name: torch.Size([batch_size, feature.table.dim])
            for name, feature in self.feature_config.items()
        }


class SequenceEmbeddingFeatures(EmbeddingFeatures):
    """One vector per id: ``{column: ids [B, T]}`` to ``{column: vectors [B, T, D]}``.

    A column of one id per session, [B], gives [B, D]; an aggregation repeats it at every position.

    Parameters
    ----------
    feature_config : mapping from column name to FeatureConfig
        Every column gets a table of its own, as upstream (a TableConfig used twice included).
    item_id : str, optional
        The column of item ids.
    padding_idx : int
        Row of the padding id: zeros at the start, and without a gradient. Ragged columns, and the
        package's loaders, pad with 0.
    pre, post, aggregation
        See :class:`~transformers4rec_ext.TabularModule`.
    schema : Schema, optional
    sparse_grad : bool
        Whether the tables get row gradients; see :class:`~transformers4rec_ext.EmbeddingFeatures`,
        also for what is raised.
    """

    def __init__(
        self,
        feature_config: Mapping[str, FeatureConfig],
        item_id: str | None = None,
        padding_idx: int = 0,
        pre: TabularTransformationsType | None = None,
        post: TabularTransformationsType | None = None,
        aggregation: TabularAggregationType | None = None,
        schema: Schema | None = None,
        sparse_grad: bool = False,
    ) -> None:
        self.padding_idx = padding_idx
        super().__init__(
            feature_config,
            item_id=item_id,
            pre=pre,
            post=post,
            aggregation=aggregation,
            schema=schema,
            sparse_grad=sparse_grad,
        )

    def table_to_embedding_module(self, table: TableConfig) -> nn.Embedding:
        """Return a freshly initialised table; its padding row is zeros."""
        if not 0 <= self.padding_idx < table.vocabulary_size:
            raise value_error(
                type(self).__name__,
                "padding_idx",
                f"be a row of every table, of {table.name!r} below {table.vocabulary_size}",
                self.padding_idx,
            )
        embedding = SequenceTable(
            table.vocabulary_size,
            table.dim,
            padding_idx=self.padding_idx,
            sparse=self.sparse_grad,
            _weight=empty_weight(table),
        )
        initialize(table, embedding.weight, self.padding_idx)
        return embedding

    def forward_output_size(self, input_sizes: Any) -> dict[str, torch.Size]:
        """Return ``{column: [-1, T, D]}``, or [-1, D] of a column of one id per session.

        Without sizes of the input every column is taken for a sequence, of the length that its
        ``FeatureConfig`` names.
        """
        sizes = {}
        for name, feature in self.feature_config.items():
            of_ids = [-1, feature.max_sequence_length or -1]
            if isinstance(input_sizes, Mapping):
                of_ids = list(input_sizes[name])
            sizes[name] = torch.Size([*of_ids, feature.table.dim])
        return sizes
