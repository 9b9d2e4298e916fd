"""The library of operators and what each of them registers.

The implementation registered here (``CompositeExplicitAutograd``) exists with no compiler at all; a
native library shadows those in ``_native.NATIVE_OPS`` for its device.
"""

from __future__ import annotations

import functools
import logging
from typing import Any

import torch
from torch import Tensor

from transformers4rec_ext.ops.schemas.flops import Formula

_NAMESPACE = "transformers4rec_ext"
_library = torch.library.Library(_NAMESPACE, "DEF")

operators = torch.ops.transformers4rec_ext
#: Names of all operators, in the order in which they were defined.
DEFINED: list[str] = []


@functools.cache
def _flop_counter() -> Any:
    # Where there is no Triton its import warns that Triton's kernels are not counted.
    logger = logging.getLogger("torch.utils.flop_counter")
    before, logger.disabled = logger.disabled, True
    try:
        from torch.utils import flop_counter
    finally:
        logger.disabled = before
    return flop_counter


def define(schema: str, implementation: Any, fake: Any, flops: Formula | None = None) -> None:
    """Define an operator: its schema, plain PyTorch implementation, fake kernel and products."""
    name = schema.partition("(")[0]
    _library.define(schema)
    target = f"{_NAMESPACE}::{name}"
    torch.library.impl(target, "CompositeExplicitAutograd", implementation, lib=_library)
    torch.library.register_fake(target, fake, lib=_library)
    if flops is not None:
        _flop_counter().register_flop_formula(getattr(operators, name))(flops)
    DEFINED.append(name)


def autograd(name: str, backward: Any, setup_context: Any) -> None:
    """Register the backward formula of an operator."""
    torch.library.register_autograd(
        f"{_NAMESPACE}::{name}", backward, setup_context=setup_context, lib=_library
    )


def no_second_derivative(ctx: Any, *grads: Tensor | None) -> None:
    """Refuse to differentiate a gradient, in words."""
    raise RuntimeError(
        "transformers4rec_ext: a second derivative was asked for; sampled logits and losses have "
        "none. Use backend='reference', which autograd differentiates as often as you like."
    )


class Refuse(torch.autograd.Function):
    """Pass gradients on; refuse to be differentiated, instead of being taken for a constant."""

    @staticmethod
    def forward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, ...]:
        """Return copies, which alone carry the refusal."""
        return tuple(gradient.clone() for gradient in gradients)

    backward = staticmethod(no_second_derivative)


def save_nothing(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    """Keep nothing for the backward: of operators that refuse to have one."""
    ctx.set_materialize_grads(False)
