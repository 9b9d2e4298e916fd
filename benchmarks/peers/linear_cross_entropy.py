"""Everybody else's cross-entropy over all items; what is not installed is left out."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as torch_functional

Loss = Callable[[Tensor, Tensor, Tensor], Tensor]
# of those tried (16 to 256 rows a chunk), the fastest at both shapes
TORCH_CHUNKS = (64, 256)


def eager(hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    """Return the loss of the whole [N, V] logits."""
    return torch_functional.cross_entropy(hidden @ weight.T, targets)


def _torch_chunked(rows: int) -> Loss:
    from torch.nn import LinearCrossEntropyOptions

    options = LinearCrossEntropyOptions(batch_chunk_size=rows)

    def loss(hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
        result: Tensor = torch_functional.linear_cross_entropy(
            hidden, weight, targets, options=options
        )
        return result

    return loss


def available(cut_cross_entropy: Any) -> dict[str, Loss]:
    """Return the peers that this environment has, by name; the module may be None."""
    found: dict[str, Loss] = {"eager": eager, "torch.compile": torch.compile(eager)}
    if hasattr(torch.nn, "LinearCrossEntropyOptions"):
        found |= {f"torch, {rows} rows a chunk": _torch_chunked(rows) for rows in TORCH_CHUNKS}
    if cut_cross_entropy is not None:
        loss = cut_cross_entropy.linear_cross_entropy
        found["cut-cross-entropy"] = partial(loss, impl="torch_compile")
    return found
