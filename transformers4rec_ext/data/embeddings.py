"""Vectors that were made elsewhere, looked up for each batch."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import torch
from torch import Tensor

from transformers4rec_ext._checks import integers
from transformers4rec_ext._errors import type_error, value_error
from transformers4rec_ext.schema import ColumnSchema, Schema, Tags, as_schema, tag_names

_PROPAGATED = (Tags.ITEM, Tags.USER, Tags.SESSION, Tags.CONTEXT, Tags.SEQUENCE, Tags.LIST)


class EmbeddingOperator:
    """Adds to the inputs of a batch the vectors of the ids in one of its columns.

    For ``ParquetLoader(transforms=[...])`` and
    :class:`~transformers4rec_ext.PretrainedEmbeddingFeatures`. Ids [B, T] give vectors [B, T, D],
    zeros where the id is 0, which is padding; ids [B] give [B, D].

    Parameters
    ----------
    embeddings : array [V, D], or path of one saved by ``numpy.save``
    lookup_key : str
        The column of ids.
    embedding_name : str
        The column of vectors.
    id_lookup_table : int array [V], or path of one, optional
        The id of each row. Without it row i is of id i.
    mmap : bool
        Read a file's rows when they are asked for, instead of all of it.
    unknown_value : float or array [D]
        The vector of ids that are not in ``id_lookup_table``.

    Raises
    ------
    TypeError    if one is no array of numbers.
    ValueError   if shapes disagree or an id is in the table twice; when called, if the column is
                 missing, that of vectors is there or, without a table, an id is no row.

    Examples
    --------
    >>> operator = EmbeddingOperator(np.eye(3), lookup_key="item", embedding_name="vector")
    >>> operator({"item": torch.tensor([[2, 0]])})["vector"].tolist()
    [[[0.0, 0.0, 1.0], [0.0, 0.0, 0.0]]]
    """

    def __init__(
        self,
        embeddings: np.ndarray | str | os.PathLike[str],
        lookup_key: str = "id",
        embedding_name: str = "embeddings",
        id_lookup_table: np.ndarray | str | os.PathLike[str] | None = None,
        mmap: bool = False,
        unknown_value: float | np.ndarray = 0,
    ) -> None:
        self.embeddings = _array("embeddings", embeddings, 2, "r" if mmap else None)
        self.lookup_key = lookup_key
        self.embedding_name = embedding_name
        num_rows, width = self.embeddings.shape
        unknown = np.asarray(unknown_value, np.float32)
        if unknown.shape not in ((), (width,)):
            expectation = f"be a number or [D={width}]"
            raise value_error(
                "EmbeddingOperator", "unknown_value", expectation, list(unknown.shape)
            )
        self.unknown_value = unknown
        self._ids: np.ndarray | None = None
        if id_lookup_table is not None:
            ids = _array("id_lookup_table", id_lookup_table, 1, None)
            different = len(np.unique(ids)) == len(ids) == num_rows
            if not different or ids.dtype.kind not in "iu":
                raise value_error(
                    "EmbeddingOperator",
                    "id_lookup_table",
                    f"be [V={num_rows}] different ints, one for each row of embeddings",
                    f"{ids.dtype} {list(ids.shape)}",
                )
            ids = integers("EmbeddingOperator", "id_lookup_table", ids)
            self._rows = np.argsort(ids)
            self._ids = ids[self._rows]

    def __call__(self, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return ``inputs`` and the column of vectors, float32."""
        if self.lookup_key not in inputs:
            raise value_error(
                "EmbeddingOperator",
                "lookup_key",
                f"be a column of the batch, which has {sorted(inputs)}",
                repr(self.lookup_key),
            )
        if self.embedding_name in inputs:
            raise value_error(
                "EmbeddingOperator",
                "embedding_name",
                "be the name of a new column",
                repr(self.embedding_name),
            )
        ids = inputs[self.lookup_key].numpy()
        vectors = self._vectors(ids.reshape(-1)).reshape(*ids.shape, self.embeddings.shape[1])
        if ids.ndim > 1:
            vectors[ids == 0] = 0.0
        return {**inputs, self.embedding_name: torch.from_numpy(vectors)}

    def _vectors(self, ids: np.ndarray) -> np.ndarray:
        if self._ids is None:
            if len(ids) and not 0 <= ids.min() <= ids.max() < len(self.embeddings):
                raise value_error(
                    "EmbeddingOperator",
                    f"inputs[{self.lookup_key!r}]",
                    f"hold ids from 0 to {len(self.embeddings) - 1}, the rows of embeddings",
                    f"{ids.min()} to {ids.max()}",
                    "Name the id of each row: id_lookup_table.",
                )
            return self.embeddings[ids].astype(np.float32)
        place = np.searchsorted(self._ids, ids).clip(max=len(self._ids) - 1)
        known = self._ids[place] == ids
        vectors = self.embeddings[self._rows[place]].astype(np.float32)
        vectors[~known] = self.unknown_value
        return vectors

    def output_schema(self, schema: Schema) -> Schema:
        """Return ``schema`` and the column of vectors, tagged embedding.

        Raises
        ------
        KeyError   if it has no column ``lookup_key``.
        """
        ids = as_schema(schema, "EmbeddingOperator.output_schema")[self.lookup_key]
        tags = tag_names((Tags.EMBEDDING, *(tag for tag in _PROPAGATED if ids.has_tag(tag))))
        column = ColumnSchema(
            self.embedding_name,
            tags=tags,
            dtype="float32",
            is_list=ids.is_list,
            max_length=ids.max_length,
            min_length=ids.min_length,
            shape=(self.embeddings.shape[1],),
        )
        return Schema([*schema, column])


def _array(argument: str, value: Any, ndim: int, mode: Any) -> np.ndarray:
    if isinstance(value, str | os.PathLike):
        value = np.load(value, mmap_mode=mode, allow_pickle=False)
    if not isinstance(value, np.ndarray) or value.dtype.kind not in "iuf":
        got = value.dtype if isinstance(value, np.ndarray) else type(value).__name__
        expectation = "be an array of numbers, or the path of one"
        raise type_error("EmbeddingOperator", argument, expectation, got)
    if value.ndim != ndim or 0 in value.shape:
        dims = "[V, D]" if ndim == 2 else "[V]"
        raise value_error("EmbeddingOperator", argument, f"be {dims}", list(value.shape))
    return value
