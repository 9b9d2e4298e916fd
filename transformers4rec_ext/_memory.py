"""Memory: huge pages, what is free given back to the system, and whether there was none left.

Of a large table in pages of 4 KiB nearly every row is a miss in the processor's cache of addresses;
in pages of 2 MiB few are. That is advice to Linux: where it is not taken, nothing changes but the
time.
"""

from __future__ import annotations

import ctypes
import mmap
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

_LARGE = 16 * 1024 * 1024  # what the cache of addresses covers in small pages, and some more
_MADV_HUGEPAGE = 14
_MADV_COLLAPSE = 25  # Linux 6.1
_SETTING = Path("/sys/kernel/mm/transparent_hugepage/enabled")


def _advise(tensor: Tensor, advice: int) -> None:
    """Give advice on the whole pages of a large contiguous tensor; others it shares."""
    size = tensor.numel() * tensor.element_size()
    if sys.platform != "linux" or tensor.device.type != "cpu" or size < _LARGE:
        return
    if not tensor.is_contiguous() or not _SETTING.exists() or "[never]" in _SETTING.read_text():
        return
    begin = -(-tensor.data_ptr() // mmap.PAGESIZE) * mmap.PAGESIZE
    end = (tensor.data_ptr() + size) // mmap.PAGESIZE * mmap.PAGESIZE
    madvise = ctypes.CDLL(None).madvise
    madvise(ctypes.c_void_p(begin), ctypes.c_size_t(end - begin), ctypes.c_int(advice))


def empty_large(size: Sequence[int], dtype: torch.dtype, device: torch.device) -> Tensor:
    """``torch.empty``, in huge pages from the beginning.

    The C library returns a freed large tensor to the system, so a step that makes one pays for its
    pages each time; a huge page costs far less than the 512 small ones it stands for.

    Parameters
    ----------
    size : sequence of int
    dtype : torch.dtype
    device : torch.device

    Returns
    -------
    Tensor, contiguous, its values not set
    """
    tensor = torch.empty(size, dtype=dtype, device=device)
    _advise(tensor, _MADV_HUGEPAGE)  # before the first touch, which gives it its pages
    return tensor


def gather_pages(tensor: Tensor) -> None:
    """Move a tensor that exists already into huge pages; it costs about two copies of it, once.

    Parameters
    ----------
    tensor : Tensor
        Keeps its address and its values.
    """
    _advise(tensor.detach(), _MADV_COLLAPSE)


def ran_out(error: BaseException) -> bool:
    """Tell whether a device, torch on the CPU (by a RuntimeError) or numpy had no memory left."""
    kinds = (MemoryError, torch.OutOfMemoryError)
    return isinstance(error, kinds) or "can't allocate memory" in str(error)


def give_back() -> bool:
    """Return free memory to the system, where the C library is glibc; tell whether there was any.

    Before version 2.38 glibc hardly uses an aligned block again after it was freed (its bug 14581),
    and tensors are aligned. A process whose tensors have other sizes from step to step can grow by
    megabytes a step with nothing of it in use.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    return trim is not None and bool(trim(ctypes.c_size_t(0)))
