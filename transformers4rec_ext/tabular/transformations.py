"""Noise, layer norm and dropout of columns."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from transformers4rec_ext._checks import fraction
from transformers4rec_ext._errors import type_error, value_error
from transformers4rec_ext.schema import Schema
from transformers4rec_ext.tabular.columns import ColumnModules
from transformers4rec_ext.tabular.steps import (
    TabularTransformation,
    tabular_transformation_registry,
)

LOG = logging.getLogger("transformers4rec_ext")

_AFTER = "Of ids it can be the post of their block, which sees vectors; pre sees the ids."


@tabular_transformation_registry.register_with_multiple_names("stochastic-swap-noise", "ssn")
class StochasticSwapNoise(TabularTransformation):
    """Replace values of a column, each with a probability, by others of the same column.

    In training mode only (``.train()``). What replaces a value is another value of the batch, no
    two the same one; padding is neither replaced nor swapped in.

    Parameters
    ----------
    schema : Schema, optional
        Tells which column is the item id: what it pads is padding in all columns. That of the
        block it belongs to when not given; where no column is the item id, what equals
        ``pad_token`` is padding.
    pad_token : int
    replacement_prob : float
        In [0, 1].

    Notes
    -----
    Random numbers come from torch's default generator: ``torch.manual_seed`` repeats a run. No
    host synchronisation.

    Examples
    --------
    >>> noise = StochasticSwapNoise(replacement_prob=1.0)
    >>> sorted(noise({"a": torch.tensor([[7, 5, 0], [6, 0, 0]])})["a"].flatten().tolist())
    [0, 0, 0, 5, 6, 7]
    """

    def __init__(
        self, schema: Schema | None = None, pad_token: int = 0, replacement_prob: float = 0.1
    ) -> None:
        super().__init__()
        self.schema = schema
        self.pad_token = pad_token
        self.replacement_prob = fraction(
            "StochasticSwapNoise", "replacement_prob", replacement_prob
        )

    def forward(self, inputs: Any, input_mask: Tensor | None = None, **kwargs: Any) -> Any:
        """Return ``inputs``, a dict of columns or one tensor, with noise.

        Parameters
        ----------
        inputs : dict of tensors [B, T] or [B], or a tensor
        input_mask : Tensor, bool, [B, T], optional
            False at padding; taken from the item ids when not given.

        Raises
        ------
        ValueError   if a column has not the B (and T) of the mask.
        """
        if not self.training:
            return inputs
        if not isinstance(inputs, Mapping):
            return self.augment(inputs, input_mask)
        if input_mask is None and self.schema is not None and self.schema.item_id_column_name:
            input_mask = self.get_padding_mask_from_item_id(inputs, self.pad_token)
        return {
            name: self.augment(column, self._mask_of(name, column, input_mask))
            for name, column in inputs.items()
        }

    def _mask_of(self, name: str, column: Tensor, mask: Tensor | None) -> Tensor | None:
        """Return the mask [B] of rows for a column of one value, or vector, per row."""
        if mask is None or mask.ndim < 2 or self.schema is None or name not in self.schema:
            return mask
        return mask if self.schema[name].is_list or column.ndim > 2 else mask.any(dim=1)

    def augment(self, input_tensor: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return one column with noise; ``mask`` is bool, False at padding.

        Of a mask [B, T] a column [B] takes the rows that have an item; a column with more
        dimensions is swapped in whole vectors.
        """
        if not self.training:
            return input_tensor
        real = self._real(input_tensor, mask)
        values = input_tensor.flatten(end_dim=real.ndim - 1)
        flat = real.flatten()
        # A random order of the real positions: padding is sorted behind them.
        keys = torch.rand(flat.shape, device=flat.device)
        order = torch.where(flat, keys, 2.0).argsort()
        others = values[order[(flat.cumsum(0) - 1).clamp(min=0)]]
        replaced = flat & (torch.rand(flat.shape, device=flat.device) < self.replacement_prob)
        replaced = replaced.reshape(-1, *[1] * (values.ndim - 1))
        return torch.where(replaced, others, values).reshape(input_tensor.shape)

    def _real(self, column: Tensor, mask: Tensor | None) -> Tensor:
        """Return bool [B, T] or [B], True at what may be swapped."""
        if mask is not None and column.ndim < mask.ndim:
            mask = mask.any(dim=1)
        positions = min(column.ndim, 2) if mask is None else mask.ndim
        not_pad = column != self.pad_token
        if column.ndim > positions:
            not_pad = not_pad.flatten(positions).any(dim=positions)
        if mask is None:
            return not_pad
        if not_pad.shape != mask.shape:
            raise value_error(
                "StochasticSwapNoise",
                "inputs",
                f"have the shape of the mask, {list(mask.shape)}",
                list(column.shape),
            )
        # Of ids, padding is padding wherever it stands; a real number may be 0.
        return mask if column.is_floating_point() else mask & not_pad


@tabular_transformation_registry.register("layer-norm")
class TabularLayerNorm(TabularTransformation):
    """Layer norm of every column over its last dimension.

    Parameters
    ----------
    features_dim : dict from column name to width, optional
        The columns to normalise; those of the block it belongs to when not given. Columns of
        width 1 are left as they are: their norm would be a constant.

    Examples
    --------
    >>> TabularLayerNorm({"a": 2})({"a": torch.tensor([[0.0, 2.0]])})["a"].round().tolist()
    [[-1.0, 1.0]]
    """

    needs_build = True

    def __init__(self, features_dim: Mapping[str, int] | None = None) -> None:
        super().__init__()
        self.feature_layer_norm = ColumnModules()
        for name in self._add(features_dim or {}):
            LOG.warning(
                "Layer norm can only be applied on features with more than 1 dim; %s has 1", name
            )

    def _add(self, features_dim: Mapping[str, int]) -> list[str]:
        """Make the norms of new columns; return the names of those of width 1."""
        for name, dim in features_dim.items():
            if dim != 1 and name not in self.feature_layer_norm:
                self.feature_layer_norm[name] = nn.LayerNorm(dim)
        return [name for name, dim in features_dim.items() if dim == 1]

    @classmethod
    def from_feature_config(cls, feature_config: Mapping[str, Any]) -> TabularLayerNorm:
        """Return the norms of the columns of a mapping from name to ``FeatureConfig``."""
        return cls({name: feature.table.dim for name, feature in feature_config.items()})

    def forward(self, inputs: Any, **kwargs: Any) -> Any:
        """Return the columns, normalised where there is a norm."""
        norms = self.feature_layer_norm
        for name in norms.keys() & inputs.keys():
            _check_real(type(self).__name__, name, inputs[name])
        return {
            name: norms[name](column) if name in norms else column
            for name, column in inputs.items()
        }

    def build(self, input_size: Any, schema: Schema | None = None, **kwargs: Any) -> Any:
        """Make norms for the columns that have none yet; return the transformation.

        Raises
        ------
        ValueError   if the width of a column is not known, as that of ids is before their lookup.
        """
        if isinstance(input_size, Mapping):
            unknown = sorted(name for name, size in input_size.items() if size[-1] < 1)
            if unknown:
                raise value_error(
                    type(self).__name__, "inputs", "be of known width", f"columns {unknown}", _AFTER
                )
            self._add({name: size[-1] for name, size in input_size.items()})
        return super().build(input_size, schema=schema, **kwargs)


@tabular_transformation_registry.register("dropout")
class TabularDropout(TabularTransformation):
    """Dropout of every column, in training mode only.

    Parameters
    ----------
    dropout_rate : float
        In [0, 1].
    """

    def __init__(self, dropout_rate: float = 0.0) -> None:
        super().__init__()
        self.dropout = nn.Dropout(fraction("TabularDropout", "dropout_rate", dropout_rate))

    def forward(self, inputs: Any, **kwargs: Any) -> Any:
        """Return ``inputs``, a dict of columns or one tensor, with dropout."""
        if not isinstance(inputs, Mapping):
            return self.dropout(inputs)
        if self.training and self.dropout.p > 0:
            for name, column in inputs.items():
                _check_real(type(self).__name__, name, column)
        return {name: self.dropout(column) for name, column in inputs.items()}


def _check_real(function: str, name: str, column: Tensor) -> None:
    if not column.is_floating_point():
        raise type_error(
            function, f"inputs[{name!r}]", "be a tensor of real numbers", column.dtype, _AFTER
        )
