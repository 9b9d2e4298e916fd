"""Train and eval mode, the default dtype, how weights begin: for the time of a ``with``."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

#: From so many elements on, drawing random numbers takes longer than to read a file of them.
_LARGE = 2**22
_INIT = torch.nn.init
_DRAWS = (_INIT.normal_, _INIT.uniform_, _INIT.trunc_normal_, torch.Tensor.normal_)
_default_dtype = threading.RLock()


@contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    """Make tensors of this dtype where none is asked for.

    The process has one such setting: bodies wait for each other, and all threads see it.
    """
    with _default_dtype:
        before = torch.get_default_dtype()
        torch.set_default_dtype(dtype)
        try:
            yield
        finally:
            torch.set_default_dtype(before)


class _LargeAsTheyAre(TorchFunctionMode):
    """Leaves large tensors as they are where random numbers would be drawn into them."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if func in _DRAWS:
            tensor = args[0] if args else kwargs["tensor"]
            if tensor.numel() >= _LARGE:
                return tensor
        return func(*args, **kwargs)


@contextmanager
def weights_to_come() -> Iterator[None]:
    """Build a model whose weights are read next: the numbers in its large tables are any."""
    with _LargeAsTheyAre():
        yield


@contextmanager
def in_mode(model: torch.nn.Module, training: bool) -> Iterator[None]:
    """Set train or eval mode and restore every module's own afterwards."""
    before = [(module, module.training) for module in model.modules()]
    model.train(training)
    try:
        yield
    finally:
        for module, mode in before:
            module.training = mode
