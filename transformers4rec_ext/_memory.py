"""Memory for tensors that are read a few rows at a time, far apart."""

from __future__ import annotations

import ctypes
import mmap
import sys
from collections.abc import Sequence

import torch
from torch import Tensor

_HUGE = 2 * 1024 * 1024


def zeros_for_rows(size: Sequence[int], dtype: torch.dtype, device: torch.device) -> Tensor:
    """``torch.zeros``, on Linux in huge pages if the system grants them.

    Of a large table in pages of 4 KiB nearly every row is a miss in the processor's cache of
    addresses; in pages of 2 MiB few are. It is advice: where it is not taken, nothing changes.

    Parameters
    ----------
    size : sequence of int
    dtype : torch.dtype
    device : torch.device

    Returns
    -------
    Tensor of zeros, contiguous
    """
    tensor = torch.empty(size, dtype=dtype, device=device)
    bytes_ = tensor.numel() * tensor.element_size()
    if sys.platform == "linux" and device.type == "cpu" and bytes_ >= _HUGE:
        # whole pages only: others share theirs; before the first touch, which fixes their size
        begin = -(-tensor.data_ptr() // mmap.PAGESIZE) * mmap.PAGESIZE
        length = tensor.data_ptr() + bytes_ - begin
        madvise = ctypes.CDLL(None).madvise
        madvise(ctypes.c_void_p(begin), ctypes.c_size_t(length), mmap.MADV_HUGEPAGE)
    return tensor.zero_()
