"""Embedding tables: their configuration, their modules, and how they start."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from transformers4rec_ext import _checks
from transformers4rec_ext._errors import type_error, value_error
from transformers4rec_ext._modes import weights_are_to_come
from transformers4rec_ext._numbers import is_integer
from transformers4rec_ext._recipe import Recorded

Initializer = Callable[[Tensor], Any]

COMBINERS = ("mean", "sum", "sqrtn")


class TableConfig(Recorded):
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
        if not is_integer(vocabulary_size) or vocabulary_size < 1:
            raise ValueError(f"Invalid vocabulary_size {vocabulary_size}.")
        if not is_integer(dim) or dim < 1:
            raise ValueError(f"Invalid dim {dim}.")
        if combiner not in COMBINERS:
            raise ValueError(f"Invalid combiner {combiner}")
        if initializer is not None and not callable(initializer):
            raise ValueError("initializer must be callable if specified.")
        self.vocabulary_size = int(vocabulary_size)
        self.dim = int(dim)
        self.initializer = initializer or partial(nn.init.normal_, mean=0.0, std=0.05)
        self.combiner = combiner
        self.name = name

    def __repr__(self) -> str:
        return (
            f"TableConfig(vocabulary_size={self.vocabulary_size!r}, dim={self.dim!r}, "
            f"combiner={self.combiner!r}, name={self.name!r})"
        )


class FeatureConfig(Recorded):
    """A column and the table it is looked up in.

    Parameters
    ----------
    table : TableConfig
    max_sequence_length : int
        The T of sizes; 0 where it is unknown.
    name : str, optional
    """

    def __init__(
        self, table: TableConfig, max_sequence_length: int = 0, name: str | None = None
    ) -> None:
        if not isinstance(table, TableConfig):
            raise type_error("FeatureConfig", "table", "be a TableConfig", type(table).__name__)
        _checks.integer("FeatureConfig", "max_sequence_length", max_sequence_length, minimum=0)
        self.table = table
        self.max_sequence_length = max_sequence_length
        self.name = name

    def __repr__(self) -> str:
        return (
            f"FeatureConfig(table={self.table!r}, "
            f"max_sequence_length={self.max_sequence_length!r}, name={self.name!r})"
        )


class SequenceTable(nn.Embedding):
    """``nn.Embedding`` with a padding row, whose row gradients do not wait for a GPU.

    torch leaves the padding out of a sparse gradient, for which it asks the device how many ids
    remain. Here each padded position stands for another id of its session instead, with a gradient
    of zero: no row is touched that the batch does not hold.
    """

    padding_idx: int

    def forward(self, input: Tensor) -> Tensor:
        """Return the vectors [*, D] of ids [*]."""
        if not self.sparse or input.device.type == "cpu" or input.numel() == 0:
            return super().forward(input)
        return self.without_waiting(input)

    def without_waiting(self, input: Tensor) -> Tensor:
        """Return the same, on any device, of at least one id."""
        padded = input == self.padding_idx
        others = torch.where(padded, -1, input).amax(-1, keepdim=True)
        others = torch.where(others < 0, others.amax(), others)  # of an empty session
        others = torch.where(others < 0, self.padding_idx, others)  # of a batch without any item
        ids = torch.where(padded, others, input)
        vectors = nn.functional.embedding(ids, self.weight, sparse=True)
        return torch.where(padded[..., None], self.weight.detach()[self.padding_idx], vectors)


class EmbeddingBagWrapper(nn.EmbeddingBag):
    """A table that gives one vector per row of the batch.

    Of one id per row [B] its row of the table; of a list of ids [B, T], padded with 0, the
    combination of those that are not padding: mean, sum, or sum over the root of their number
    ("sqrtn"). So a row does not depend on how far a batch is padded. Of padding alone: zeros.

    Parameters
    ----------
    num_embeddings, embedding_dim : int
    mode : {"mean", "sum", "sqrtn"}
    sparse : bool
        Whether the table gets row gradients.
    _weight : Tensor, optional
        [V, D], as of ``nn.Embedding``.
    """

    def __init__(
        self,
        num_embeddings: int,
        embedding_dim: int,
        mode: str = "mean",
        sparse: bool = False,
        _weight: Tensor | None = None,
    ) -> None:
        torch_mode = "sum" if mode == "sqrtn" else mode
        super().__init__(
            num_embeddings, embedding_dim, mode=torch_mode, sparse=sparse, _weight=_weight
        )
        self.combiner = mode

    def forward(self, input: Tensor) -> Tensor:  # type: ignore[override]  # no offsets
        """Return the vectors [B, D] of ids [B] or [B, T]."""
        if input.ndim == 1:
            return nn.functional.embedding(input, self.weight, sparse=self.sparse)
        bags = nn.functional.embedding_bag(
            input, self.weight, mode=self.mode, sparse=self.sparse, padding_idx=0
        )
        if self.combiner != "sqrtn":
            return bags
        return bags / (input != 0).sum(dim=1, keepdim=True).clamp(min=1).sqrt()


class SoftEmbedding(nn.Module):
    """A number as a weighted mean of K vectors: ``softmax(w x + b) @ table``.

    Parameters
    ----------
    num_embeddings : int
        K.
    embeddings_dim : int
        Width D.
    emb_initializer : callable, optional
        Fills the table [K, D] in place; N(0, 1) when not given.

    Raises
    ------
    AssertionError   if one of the sizes is not positive.
    TypeError        when called, if the numbers are not floating.

    References
    ----------
    Li et al., Time-dependent representation for neural event sequence prediction,
    arXiv:1708.00065.

    Examples
    --------
    >>> SoftEmbedding(10, 4)(torch.zeros(2, 3)).shape
    torch.Size([2, 3, 4])
    """

    def __init__(
        self,
        num_embeddings: int,
        embeddings_dim: int,
        emb_initializer: Initializer | None = None,
    ) -> None:
        # The words and the type are upstream's.
        for value, what in (
            (num_embeddings, "number of embeddings"),
            (embeddings_dim, "embeddings dim"),
        ):
            if value <= 0:
                raise AssertionError(
                    f"The {what} for soft embeddings needs to be greater than 0; got {value}."
                )
        super().__init__()
        self.embedding_table = nn.Embedding(num_embeddings, embeddings_dim)
        if emb_initializer is not None:
            emb_initializer(self.embedding_table.weight)
        self.projection_layer = nn.Linear(1, num_embeddings)

    def forward(self, input_numeric: Tensor) -> Tensor:
        """Return the vectors [..., D] of numbers [...]."""
        if not input_numeric.is_floating_point():
            raise type_error(
                "SoftEmbedding", "input_numeric", "be floating", str(input_numeric.dtype)
            )
        weights = self.projection_layer(input_numeric.unsqueeze(-1)).softmax(dim=-1)
        # Multiplied and summed, not as a matrix product: so gradients are upstream's to the last
        # bits, of which the sums over a batch cancel most.
        return (weights.unsqueeze(-1) * self.embedding_table.weight).sum(dim=-2)


class PretrainedEmbeddingsInitializer(Recorded, nn.Module):
    """Fills an embedding table with vectors that were trained elsewhere.

    Parameters
    ----------
    weight_matrix : Tensor, array or list of lists, [V, D]
        Row i is the vector of id i; row 0 that of padding. Kept on the CPU.
    trainable : bool
        Whether the table is trained on.

    Examples
    --------
    >>> table = nn.Embedding(2, 3)
    >>> PretrainedEmbeddingsInitializer([[0.0, 0.0, 0.0], [1.0, 2.0, 3.0]])(table.weight)
    >>> table(torch.tensor(1)).tolist(), table.weight.requires_grad
    ([1.0, 2.0, 3.0], False)
    """

    def __init__(self, weight_matrix: Any, trainable: bool = False) -> None:
        super().__init__()
        matrix = torch.as_tensor(weight_matrix, device="cpu").detach()
        if matrix.ndim != 2 or matrix.is_complex() or matrix.dtype == torch.bool:
            raise value_error(
                "PretrainedEmbeddingsInitializer",
                "weight_matrix",
                "be numbers [V, D]",
                f"{matrix.dtype} {list(matrix.shape)}",
            )
        self.weight_matrix = matrix
        self.trainable = trainable

    def forward(self, x: Tensor) -> None:
        """Copy the vectors into the weight ``x`` [V, D]; ValueError if it has another shape."""
        if x.shape != self.weight_matrix.shape:
            raise value_error(
                "PretrainedEmbeddingsInitializer",
                "weight_matrix",
                f"have the table's shape [V={x.shape[0]}, D={x.shape[1]}]",
                list(self.weight_matrix.shape),
                "V is int_domain.max + 1 of the column; D comes from embedding_dims.",
            )
        with torch.no_grad():
            x.copy_(self.weight_matrix)
        x.requires_grad = self.trainable


def checked_config(function: str, feature_config: Any) -> dict[str, FeatureConfig]:
    """Return a mapping from column name to FeatureConfig as a dict, if it is one and not empty."""
    expectation = "be a mapping from column name to FeatureConfig"
    if not isinstance(feature_config, Mapping) or not all(
        isinstance(feature, FeatureConfig) for feature in feature_config.values()
    ):
        raise type_error(function, "feature_config", expectation, type(feature_config).__name__)
    others = [name for name in feature_config if not isinstance(name, str)]
    if others:
        raise type_error(function, "feature_config", expectation, f"names {others}")
    if not feature_config:
        raise value_error(function, "feature_config", "have at least one column", "none")
    return dict(feature_config)


def empty_weight(table: TableConfig) -> Tensor:
    """Return an uninitialised weight [V, D]: ``nn.Embedding`` would draw V * D normals first."""
    return torch.empty(table.vocabulary_size, table.dim)


def initialize(table: TableConfig, weight: Tensor, padding_idx: int | None = None) -> None:
    """Fill ``weight`` as ``table`` says, with zeros in the padding row.

    Vectors that were trained elsewhere are left as they are, like those of a loaded checkpoint.
    Nothing is drawn where the weights are read next.
    """
    drawn = isinstance(table.initializer, partial) and table.initializer.func is nn.init.normal_
    if drawn and weights_are_to_come():
        return
    table.initializer(weight)
    if padding_idx is None or isinstance(table.initializer, PretrainedEmbeddingsInitializer):
        return
    with torch.no_grad():
        weight[padding_idx] = 0.0
