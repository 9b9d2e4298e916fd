"""Embedding tables of categorical columns."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from transformers4rec_ext._errors import type_error, value_error
from transformers4rec_ext.features.base import InputBlock
from transformers4rec_ext.schema import Schema, Tag, as_schema

Initializer = Callable[[Tensor], Any]

_INTEGERS = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)


class TableConfig:
    """The size and initialisation of an embedding table.

    Parameters
    ----------
    vocabulary_size : int
        Rows V, the padding row included.
    dim : int
        Width D.
    initializer : callable, optional
        Fills the weight [V, D] in place; N(0, 0.05) when not given.
    combiner : {"mean", "sum", "sqrtn"}
        How a table that gives one vector per row of the batch combines a list of ids. A sequence
        keeps one vector per position and combines nothing.
    name : str, optional

    Examples
    --------
    >>> TableConfig(vocabulary_size=100, dim=8, name="item_id")
    TableConfig(vocabulary_size=100, dim=8, combiner='mean', name='item_id')
    """

    def __init__(
        self,
        vocabulary_size: int,
        dim: int,
        initializer: Initializer | None = None,
        combiner: str = "mean",
        name: str | None = None,
    ) -> None:
        if not isinstance(vocabulary_size, int) or vocabulary_size < 1:
            raise ValueError(f"Invalid vocabulary_size {vocabulary_size}.")
        if not isinstance(dim, int) or dim < 1:
            raise ValueError(f"Invalid dim {dim}.")
        if combiner not in ("mean", "sum", "sqrtn"):
            raise ValueError(f"Invalid combiner {combiner}")
        if initializer is not None and not callable(initializer):
            raise ValueError("initializer must be callable if specified.")
        self.vocabulary_size = vocabulary_size
        self.dim = dim
        self.initializer = initializer or partial(nn.init.normal_, mean=0.0, std=0.05)
        self.combiner = combiner
        self.name = name

    def __repr__(self) -> str:
        return (
            f"TableConfig(vocabulary_size={self.vocabulary_size!r}, dim={self.dim!r}, "
            f"combiner={self.combiner!r}, name={self.name!r})"
        )


class FeatureConfig:
    """A column and the table it is looked up in.

    Parameters
    ----------
    table : TableConfig
    max_sequence_length : int
    name : str, optional
    """

    def __init__(
        self, table: TableConfig, max_sequence_length: int = 0, name: str | None = None
    ) -> None:
        if not isinstance(table, TableConfig):
            raise type_error("FeatureConfig", "table", "be a TableConfig", type(table).__name__)
        self.table = table
        self.max_sequence_length = max_sequence_length
        self.name = name

    def __repr__(self) -> str:
        return (
            f"FeatureConfig(table={self.table!r}, "
            f"max_sequence_length={self.max_sequence_length!r}, name={self.name!r})"
        )


class SequenceEmbeddingFeatures(InputBlock):
    """One vector per position: ``{column: ids [B, T]}`` to ``{column: vectors [B, T, D]}``.

    Parameters
    ----------
    feature_config : mapping from column name to FeatureConfig
        Every column gets a table of its own, as upstream (a TableConfig used twice included).
    item_id : str, optional
        The column of item ids.
    padding_idx : int
        Row of the padding id: zeros at the start, and without a gradient.
    schema : Schema, optional
    sparse_grad : bool
        Whether the tables get row gradients (sparse COO) instead of dense [V, D] ones, for an
        optimizer that takes them, such as :class:`~transformers4rec_ext.optim.LazyAdam`.

    Notes
    -----
    A column of one id per session ([B]) gives the same vector at every position.
    ``item_seq`` keeps the item ids of the last batch, for code written for upstream.
    """

    item_seq: Tensor | None

    def __init__(
        self,
        feature_config: Mapping[str, FeatureConfig],
        item_id: str | None = None,
        padding_idx: int = 0,
        schema: Schema | None = None,
        sparse_grad: bool = False,
    ) -> None:
        super().__init__(schema)
        if not isinstance(sparse_grad, bool):
            raise type_error(
                type(self).__name__, "sparse_grad", "be a bool", type(sparse_grad).__name__
            )
        if not feature_config:
            raise value_error(
                type(self).__name__, "feature_config", "have at least one column", "none"
            )
        if item_id is not None and item_id not in feature_config:
            raise value_error(
                type(self).__name__,
                "item_id",
                f"be one of the columns {list(feature_config)}",
                repr(item_id),
            )
        self.feature_config = dict(feature_config)
        self.item_id = item_id
        self.padding_idx = padding_idx
        self.sparse_grad = sparse_grad
        self.item_seq = None
        self.embedding_tables = nn.ModuleDict(
            {
                _checked_name(name): self.table_to_embedding_module(feature.table)
                for name, feature in self.feature_config.items()
            }
        )

    @classmethod
    def from_schema(
        cls,
        schema: Schema,
        embedding_dims: Mapping[str, int] | None = None,
        embedding_dim_default: int = 64,
        infer_embedding_sizes: bool = False,
        infer_embedding_sizes_multiplier: float = 2.0,
        embeddings_initializers: Mapping[str, Initializer] | None = None,
        tags: Tag | tuple[Tag, ...] | None = None,
        item_id: str | None = None,
        max_sequence_length: int | None = None,
        padding_idx: int = 0,
        sparse_grad: bool = False,
    ) -> SequenceEmbeddingFeatures | None:
        """Return the embeddings of the columns of ``schema`` that have an id domain.

        Parameters
        ----------
        schema : Schema
        embedding_dims : mapping from column name to width, optional
        embedding_dim_default : int
            Width of the columns not named in ``embedding_dims``.
        infer_embedding_sizes : bool
            Choose widths by ``ceil(V ** 0.25 * infer_embedding_sizes_multiplier)`` instead.
        infer_embedding_sizes_multiplier : float
        embeddings_initializers : mapping from column name to callable, optional
        tags : tag or tags, optional
            Take the columns with one of these tags only.
        item_id : str, optional
            The column of item ids; the one tagged ``item_id`` when not given.
        max_sequence_length : int, optional
            The T of :meth:`output_size`.
        padding_idx : int
        sparse_grad : bool
            Whether the tables get row gradients; see the class.

        Returns
        -------
        SequenceEmbeddingFeatures or None
            None if no column was selected.
        """
        schema = as_schema(schema, cls.__name__)
        if tags is not None:
            schema = schema.select_by_tag(tags)
        item_id = item_id or schema.item_id_column_name
        cardinalities = schema.categorical_cardinalities()
        if infer_embedding_sizes:
            embedding_dims = schema.embedding_sizes(infer_embedding_sizes_multiplier)
        dims = dict.fromkeys(cardinalities, embedding_dim_default) | dict(embedding_dims or {})
        initializers = embeddings_initializers or {}
        for argument, given in (
            ("embedding_dims", dims),
            ("embeddings_initializers", initializers),
        ):
            _check_columns(cls.__name__, argument, given, cardinalities)
        if not cardinalities:
            return None
        config = {
            name: FeatureConfig(
                TableConfig(size, dims[name], initializers.get(name), name=name),
                max_sequence_length=max_sequence_length or 0,
                name=name,
            )
            for name, size in cardinalities.items()
        }
        return cls(
            config,
            item_id=item_id,
            padding_idx=padding_idx,
            schema=schema,
            sparse_grad=sparse_grad,
        )

    @property
    def item_embedding_table(self) -> nn.Module | None:
        """The table of the item ids, or None."""
        return None if self.item_id is None else self.embedding_tables[self.item_id]

    def table_to_embedding_module(self, table: TableConfig) -> nn.Embedding:
        """Return a freshly initialised table; its padding row is zeros."""
        if self.padding_idx >= table.vocabulary_size:
            raise value_error(
                type(self).__name__,
                "padding_idx",
                f"be a row of every table, of {table.name!r} below {table.vocabulary_size}",
                self.padding_idx,
            )
        # Built on an empty weight: nn.Embedding would first draw V * D normals of its own.
        weight = torch.empty(table.vocabulary_size, table.dim)
        embedding = nn.Embedding(
            table.vocabulary_size,
            table.dim,
            padding_idx=self.padding_idx,
            sparse=self.sparse_grad,
            _weight=weight,
        )
        with torch.no_grad():
            table.initializer(embedding.weight)
            embedding.weight[self.padding_idx] = 0.0
        return embedding

    def item_ids(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """Return the item ids int64 [B, T] of a batch."""
        if self.item_id is None:
            raise value_error(
                f"{type(self).__name__}.item_ids",
                "item_id",
                "be set",
                "None",
                "Tag one column of the schema with Tags.ITEM_ID.",
            )
        return self._ids(inputs, self.item_id)

    def forward(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return ``{column: vectors [B, T, D]}``."""
        ids = {name: self._ids(inputs, name) for name in self.feature_config}
        if self.item_id is not None:
            self.item_seq = ids[self.item_id]
        vectors = {name: self._lookup(name, column) for name, column in ids.items()}
        return _along_time(vectors)

    def _ids(self, inputs: Mapping[str, Tensor], name: str) -> Tensor:
        function = type(self).__name__
        if name not in inputs:
            raise value_error(
                function, "inputs", f"have the column {name!r}", f"columns {sorted(inputs)}"
            )
        ids = inputs[name]
        if not isinstance(ids, Tensor) or ids.dtype not in _INTEGERS:
            got = ids.dtype if isinstance(ids, Tensor) else type(ids).__name__
            raise type_error(function, f"inputs[{name!r}]", "be an int64 tensor", got)
        if ids.ndim not in (1, 2):
            raise value_error(
                function,
                f"inputs[{name!r}]",
                "be [B, T], or [B] for the whole session",
                list(ids.shape),
            )
        return ids.to(torch.int64)

    def _lookup(self, name: str, ids: Tensor) -> Tensor:
        try:
            vectors: Tensor = self.embedding_tables[name](ids)
        except IndexError:  # CPU only, and free of charge; CUDA asserts on the device
            rows = self.feature_config[name].table.vocabulary_size
            raise value_error(
                type(self).__name__,
                f"inputs[{name!r}]",
                f"hold ids from 0 to {rows - 1}",
                f"{int(ids.min())} to {int(ids.max())}",
                "The table has int_domain.max + 1 rows; correct the schema or the ids.",
            ) from None
        return vectors

    def forward_output_size(self, input_size: Any) -> dict[str, torch.Size]:
        """Return ``{column: [-1, T, D]}``."""
        return {
            name: torch.Size([-1, feature.max_sequence_length or -1, feature.table.dim])
            for name, feature in self.feature_config.items()
        }


def _checked_name(name: str) -> str:
    if "." in name:
        raise value_error(
            "SequenceEmbeddingFeatures",
            "feature_config",
            "have column names without a dot, which torch uses to separate modules",
            repr(name),
            "Rename the column.",
        )
    return name


def _check_columns(
    function: str, argument: str, given: Mapping[str, Any], columns: Mapping[str, int]
) -> None:
    unknown = sorted(set(given) - set(columns))
    if unknown:
        raise value_error(function, argument, f"name columns among {list(columns)}", unknown)


def _along_time(vectors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Repeat the vectors [B, D] of whole sessions at every position of the others [B, T, D]."""
    lengths = {name: v.shape[1] for name, v in vectors.items() if v.ndim == 3}
    if len(set(lengths.values())) > 1:
        raise value_error(
            "SequenceEmbeddingFeatures", "inputs", "have sequences of one length T", lengths
        )
    length = next(iter(lengths.values()), 1)
    return {
        name: v if v.ndim == 3 else v.unsqueeze(1).expand(-1, length, -1)
        for name, v in vectors.items()
    }
