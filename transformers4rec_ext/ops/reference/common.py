"""What the formulas share: dtypes of accumulation, rows of a table, autocast off."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import torch
from torch import Tensor

_P = ParamSpec("_P")
_R = TypeVar("_R")


def outside_autocast(function: Callable[_P, _R]) -> Callable[_P, _R]:
    """Run ``function`` with autocast off: its dtypes are chosen already, and sums stay wide."""

    @functools.wraps(function)
    def run(*args: _P.args, **kwargs: _P.kwargs) -> _R:
        device = next(arg for arg in args if isinstance(arg, Tensor)).device.type
        # meta has no autocast, and asking whether it is enabled there is an error
        if device == "meta" or not torch.is_autocast_enabled(device):
            return function(*args, **kwargs)
        with torch.autocast(device, enabled=False):
            return function(*args, **kwargs)

    return run


def accumulate_dtype(dtype: torch.dtype) -> torch.dtype:
    """float64 for float64, else float32: the type in which sums are formed."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def rows_like(hidden: Tensor, weight: Tensor, ids: Tensor) -> Tensor:
    """``weight[ids]``, rounded to the dtype of ``hidden`` and widened for accumulation."""
    rows = weight.index_select(0, ids).to(hidden.dtype)
    return rows.to(accumulate_dtype(hidden.dtype))
