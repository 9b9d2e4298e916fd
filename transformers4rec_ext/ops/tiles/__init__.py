"""The loops over tiles: GEMMs by the BLAS and one pass over each tile while it is in cache."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

_lock = threading.Lock()
_in_full_precision = 0  # bodies that are running
_lowered: list[tuple[Any, str]] = []  # what they found

_LINE = 16  # elements: 64 bytes of float32, a line of the cache


def new_tile(like: Tensor, num_rows: int, size: int) -> Tensor:
    """Return room for scores [num_rows, size] whose rows lie an odd number of lines apart.

    Rows a power of two apart fall into the same few sets of the cache; products that read a tile
    by its columns, such as the gradient of its items, then take up to 1.4 times as long.
    """
    lines = -(-size // _LINE) | 1
    return like.new_empty_strided((num_rows, size), (lines * _LINE, 1))


def tile_scale(device: torch.device) -> int:
    """How many times larger a tile may be than on the CPU.

    A GPU pays some launches for every tile, and its second-level cache holds more: 8 Mi float32
    scores are 32 MiB, of 40 on an A100 and 50 on an H100 (each of two halves, so that some of it is
    held twice). The backward pass has two such tiles, of scores and of their gradient. By these
    sizes; not measured.
    """
    return 16 if device.type == "cuda" else 1


@contextmanager
def full_precision() -> Iterator[None]:
    """Multiply float32 matrices as float32, whatever `torch.set_float32_matmul_precision` says.

    For `rank_tile`, which relies on the bound of a product's rounding error: by TF32 or bfloat16 a
    target may come out below its own score, and is then not counted. torch has one setting for all
    threads: every body raises it and the last one to end lowers it again.
    """
    global _in_full_precision
    with _lock:
        _raise_precision()
        _in_full_precision += 1
    try:
        yield
    finally:
        with _lock:
            _in_full_precision -= 1
            if _in_full_precision == 0:
                for backend, precision in _lowered:
                    backend.fp32_precision = precision
                _lowered.clear()


def _raise_precision() -> None:
    on_cpu = torch.backends.mkldnn.matmul  # type: ignore[attr-defined]
    backends = (torch.backends.cuda.matmul, on_cpu)
    for backend in backends:
        if (precision := backend.fp32_precision) in ("tf32", "bf16"):
            _lowered.append((backend, precision))
            backend.fp32_precision = "ieee"
