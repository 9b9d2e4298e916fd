"""Dense layers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from transformers4rec_ext._errors import type_error, value_error
from transformers4rec_ext._numbers import is_integer
from transformers4rec_ext.block.base import BuildableBlock, SequentialBlock
from transformers4rec_ext.block.sizes import as_size
from transformers4rec_ext.tabular.aggregation import ConcatFeatures
from transformers4rec_ext.tabular.columns import column_names
from transformers4rec_ext.tabular.steps import FilterFeatures


class FeatureBatchNorm(nn.BatchNorm1d):
    """Batch norm of the last dimension, over all the others."""

    def forward(self, input: Tensor) -> Tensor:
        """Return the normalised ``input [..., D]``."""
        return super().forward(input.reshape(-1, input.shape[-1])).reshape(input.shape)


NORMALIZATIONS: dict[str, Callable[[int], nn.Module]] = {
    "batch_norm": FeatureBatchNorm,
    "layer_norm": nn.LayerNorm,
}


class MLPBlock(BuildableBlock):
    """Recipe for dense layers: Linear, activation, normalization, dropout.

    Parameters
    ----------
    dimensions : int or sequence of int
        The widths of the layers.
    activation : callable returning a module, optional
        A class such as ``torch.nn.ReLU``; None for linear layers.
    use_bias : bool
    dropout : float, optional
    normalization : {"batch_norm", "layer_norm"}, optional
        Applied to the last dimension, whatever the number of dimensions before it.
    filter_features : sequence of str, optional
        For an input that is a dictionary: the columns to take, which are put side by side as by
        :class:`~transformers4rec_ext.ConcatFeatures`.

    Raises
    ------
    TypeError    if ``activation`` is a module instead of its class.
    ValueError   if a width, the dropout or the normalization is none.

    Examples
    --------
    >>> MLPBlock([16, 4]).build([-1, 8])(torch.zeros(3, 8)).shape
    torch.Size([3, 4])
    """

    def __init__(
        self,
        dimensions: int | Sequence[int],
        activation: Callable[[], nn.Module] | None = nn.ReLU,
        use_bias: bool = True,
        dropout: float | None = None,
        normalization: str | None = None,
        filter_features: Sequence[str] | None = None,
    ) -> None:
        if isinstance(activation, nn.Module) or not (activation is None or callable(activation)):
            example = type(activation).__name__ if isinstance(activation, nn.Module) else "ReLU"
            raise type_error(
                "MLPBlock",
                "activation",
                "be a class or function that makes a module",
                repr(activation),
                f"Every layer gets its own: pass torch.nn.{example}.",
            )
        sizes: list[Any] = [*dimensions] if isinstance(dimensions, Iterable) else [dimensions]
        if not sizes or any(not is_integer(size) or size < 1 for size in sizes):
            raise value_error(
                "MLPBlock", "dimensions", "be one or more positive ints", repr(dimensions)
            )
        if dropout is not None and not 0.0 <= dropout < 1.0:
            raise value_error("MLPBlock", "dropout", "lie in [0, 1)", dropout)
        if normalization is not None and normalization not in NORMALIZATIONS:
            raise value_error(
                "MLPBlock",
                "normalization",
                f"be one of {sorted(NORMALIZATIONS)} or None",
                repr(normalization),
            )
        if filter_features is not None:
            filter_features = column_names("MLPBlock", "filter_features", filter_features)
        if filter_features == []:
            raise value_error(
                "MLPBlock", "filter_features", "name at least one column, or be None", "none"
            )
        self.dimensions = [int(size) for size in sizes]
        self.activation = activation
        self.use_bias = use_bias
        self.dropout = dropout
        self.normalization = normalization
        self.filter_features = filter_features

    def build(self, input_shape: Any) -> SequentialBlock:
        """Return the layers for inputs whose last dimension is ``input_shape[-1]``.

        With ``filter_features`` the first of them puts the columns side by side.
        """
        names = self.filter_features
        columns = [] if names is None else [_side_by_side(names, input_shape)]
        size = columns[0].output_size(input_shape) if columns else input_shape
        if size is None or isinstance(size, Mapping):
            raise value_error(
                "MLPBlock.build",
                "input_shape",
                "be the size of one tensor",
                input_shape,
                'Give the input block an aggregation, such as aggregation="concat".',
            )
        size = as_size(size)
        widths = [size[-1], *self.dimensions]
        block = SequentialBlock(
            *columns,
            *(
                DenseBlock(
                    torch.Size([*size[:-1], in_features]),
                    in_features,
                    out_features,
                    activation=self.activation,
                    use_bias=self.use_bias,
                    dropout=self.dropout,
                    normalization=self.normalization,
                )
                for in_features, out_features in zip(widths, self.dimensions, strict=False)
            ),
        )
        block.input_size = input_shape if columns else size
        return block


def _side_by_side(names: list[str], sizes: Any) -> SequentialBlock:
    """Return what makes one tensor of the named columns; ValueError if ``sizes`` lacks one."""
    if not isinstance(sizes, Mapping) or not set(names) <= set(sizes):
        raise value_error("MLPBlock.build", "input_shape", f"hold the columns {names}", sizes)
    return SequentialBlock(FilterFeatures(names), ConcatFeatures()).build(sizes)


class DenseBlock(SequentialBlock):
    """One dense layer.

    Parameters
    ----------
    input_shape : size
        Of the input, ``[..., in_features]``.
    in_features, out_features : int
    activation, use_bias, dropout, normalization
        See :class:`MLPBlock`.
    """

    def __init__(
        self,
        input_shape: Any,
        in_features: int,
        out_features: int,
        activation: Callable[[], nn.Module] | None = nn.ReLU,
        use_bias: bool = True,
        dropout: float | None = None,
        normalization: str | None = None,
    ) -> None:
        modules: list[nn.Module] = [nn.Linear(in_features, out_features, bias=use_bias)]
        if activation is not None:
            modules.append(activation())
        if normalization is not None:
            modules.append(NORMALIZATIONS[normalization](out_features))
        if dropout:
            modules.append(nn.Dropout(dropout))
        super().__init__(*modules)
        self.input_size = torch.Size(input_shape)
        self.out_features = out_features

    def forward_output_size(self, input_size: Any) -> Any:
        """Return ``input_size`` with the last dimension replaced."""
        return None if input_size is None else torch.Size([*input_size[:-1], self.out_features])
