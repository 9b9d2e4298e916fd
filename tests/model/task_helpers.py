"""Small models for the tests of tasks, heads and models."""

from __future__ import annotations

from typing import Any

import torch

from transformers4rec_ext.block.base import Block, SequentialBlock
from transformers4rec_ext.block.mlp import MLPBlock
from transformers4rec_ext.features.sequence import TabularSequenceFeatures
from transformers4rec_ext.model import Head, Model, NextItemPredictionTask
from transformers4rec_ext.schema import Schema

V, T, D = 50, 6, 8


def batch() -> dict[str, torch.Tensor]:
    """Four sessions of 6, 3, 2 and 1 items."""
    ids = torch.tensor(
        [
            [1, 49, 3, 7, 7, 12],
            [5, 6, 7, 0, 0, 0],
            [48, 2, 0, 0, 0, 0],
            [9, 0, 0, 0, 0, 0],
        ]
    )
    return {"item_id": ids}


def sequence_inputs(**kwargs: Any) -> TabularSequenceFeatures:
    arguments = {"masking": "causal", "aggregation": "concat", "embedding_dim_default": D}
    return TabularSequenceFeatures.from_schema(
        Schema.from_item_column("item_id", num_items=V - 1, max_length=T),
        max_sequence_length=T,
        **{**arguments, **kwargs},
    )


def next_item_model(width: int = D, **task_arguments: Any) -> Model:
    """Return a session model without attention: embeddings, a dense layer, the task."""
    inputs = sequence_inputs()
    body = SequentialBlock(inputs, MLPBlock([width], activation=torch.nn.Tanh))
    return Model(Head(body, NextItemPredictionTask(**task_arguments), inputs=inputs))


def dense_body(width: int = 5) -> Block:
    """Return a body that takes a tensor [B, T, width] and returns it."""
    return Block(torch.nn.Identity(), [-1, T, width])
