"""Train and eval mode, the default dtype, how weights begin: for the time of a ``with``."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch

_to_come: ContextVar[bool] = ContextVar("weights_to_come", default=False)
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


@contextmanager
def weights_to_come() -> Iterator[None]:
    """Build a model whose weights are read next: nothing is drawn into its tables of embeddings."""
    token = _to_come.set(True)
    try:
        yield
    finally:
        _to_come.reset(token)


def weights_are_to_come() -> bool:
    """Whether this is within :func:`weights_to_come`."""
    return _to_come.get()


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
