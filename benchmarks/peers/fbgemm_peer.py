"""FBGEMM's embedding with row-wise Adagrad fused into its backward, on the CPU."""

from __future__ import annotations

import importlib
from typing import Any

import torch


def load() -> Any:
    """Import the part that is used; ImportError or OSError where it is built for another torch."""
    return importlib.import_module("fbgemm_gpu.split_table_batched_embeddings_ops_training")


class RowwiseAdagrad:
    """Look up rows of a table [V, D] and update them in the backward.

    Parameters
    ----------
    module : module
        What `load` returns.
    items, width : int
        V and D.
    lr, eps : float
    """

    def __init__(self, module: Any, items: int, width: int, lr: float, eps: float) -> None:
        table = (items, width, module.EmbeddingLocation.HOST, module.ComputeDevice.CPU)
        self.embedding = module.SplitTableBatchedEmbeddingBagsCodegen(
            [table],
            optimizer=module.OptimType.EXACT_ROWWISE_ADAGRAD,
            learning_rate=lr,
            eps=eps,
            pooling_mode=module.PoolingMode.NONE,
        )

    @property
    def weight(self) -> torch.Tensor:
        """The table, [V, D]."""
        weight: torch.Tensor = self.embedding.split_embedding_weights()[0]
        return weight

    def __call__(self, ids: torch.Tensor, grad: torch.Tensor) -> None:
        """One training step of the table, given the gradient of its output."""
        self.embedding(ids, torch.arange(len(ids) + 1)).backward(grad)
