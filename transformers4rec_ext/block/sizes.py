"""Modules that know the size of what they return.

Sizes are ``torch.Size`` with -1 for what only a batch tells: ``[-1, T, D]``; of several columns
they are a dict of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from transformers4rec_ext._errors import value_error
from transformers4rec_ext._recipe import Recorded
from transformers4rec_ext.config.schema import SchemaMixin
from transformers4rec_ext.schema import Schema

if TYPE_CHECKING:
    from typing_extensions import Self

#: Modules of torch that return what they get, in shape.
_SAME_SIZE = (
    nn.Identity,
    nn.Dropout,
    nn.LayerNorm,
    nn.ReLU,
    nn.GELU,
    nn.SiLU,
    nn.Tanh,
    nn.Sigmoid,
    nn.ELU,
    nn.LeakyReLU,
)


class OutputSizeMixin(Recorded, SchemaMixin):
    """A module with ``build(input_size)`` and ``output_size()``."""

    input_size: Any = None

    def build(self, input_size: Any, schema: Schema | None = None, **kwargs: Any) -> Self:
        """Remember ``input_size`` and, unless there is one, ``schema``; return the module."""
        self.set_schema(schema)
        self.input_size = input_size
        return self

    def output_size(self, input_size: Any = None) -> Any:
        """Return the size of the output, given that of the input or the one built for."""
        return self.forward_output_size(self.input_size if input_size is None else input_size)

    def forward_output_size(self, input_size: Any) -> Any:
        """Return the size of the output for ``input_size``; None where it is unknown."""
        return None


def as_size(size: Sequence[int | None]) -> torch.Size:
    """Return ``size``, in which None stands for what only a batch tells, as the others are."""
    return torch.Size([-1 if dim is None else dim for dim in size])


def module_output_size(module: nn.Module, input_size: Any) -> Any:
    """Return the size of ``module``'s output for ``input_size``, or None where it is unknown.

    Raises
    ------
    ValueError
        If it is a ``Linear`` of another width than the input's.
    """
    if isinstance(module, OutputSizeMixin):
        size = module.output_size(input_size)
        return as_size(size) if isinstance(size, list | tuple) else size
    if input_size is None or isinstance(input_size, Mapping):
        return None
    if isinstance(module, nn.Linear):
        width = input_size[-1]
        if width not in (-1, None, module.in_features):
            got = f"in_features={module.in_features}"
            raise value_error("Linear", "in_features", f"be D={width}, the width it is given", got)
        return torch.Size([*input_size[:-1], module.out_features])
    return torch.Size(input_size) if isinstance(module, _SAME_SIZE) else None
