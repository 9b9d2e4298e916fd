"""The loops over tiles: GEMMs by the BLAS and one pass over each tile while it is in cache."""

from __future__ import annotations

import torch


def tile_scale(device: torch.device) -> int:
    """How many times larger a tile may be than on the CPU.

    A GPU pays some launches for every tile, and its second-level cache holds more: 8 Mi float32
    scores are 32 MiB, of 40 on an A100 and 50 on an H100. (By these sizes; not measured.)
    """
    return 16 if device.type == "cuda" else 1
