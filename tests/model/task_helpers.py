"""Small models for the tests of tasks, heads and models."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F

from transformers4rec_ext.block.base import Block, SequentialBlock
from transformers4rec_ext.block.mlp import MLPBlock
from transformers4rec_ext.features.sequence import TabularSequenceFeatures
from transformers4rec_ext.model import Head, Model, NextItemPredictionTask, RegressionTask
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


TARGETS = [49, 3, 7, 7, 12, 6, 7, 2]  # of the helpers' batch, in training
LAST = [12, 7, 2]  # in testing


def parts(**arguments: Any) -> tuple[Any, Any]:
    """Return a model and its task."""
    model = next_item_model(**arguments)
    return model, model.prediction_tasks[0]


def hidden_of(model: Any, **flags: bool) -> torch.Tensor:
    return model.heads[0].body(batch(), **flags)


class RecordingLoss(torch.nn.Module):
    """A loss of the user's own."""

    def forward(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        self.seen = logits.detach(), labels
        return F.cross_entropy(logits, labels)


CLICK, PLAY = "click/binary_classification_task", "play/regression_task"


class Columns(torch.nn.Module):
    """A body that reads the column x [B, 5] of a batch."""

    is_input = False

    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__()
        self.dropout = torch.nn.Dropout(dropout)

    def output_size(self) -> list[int]:
        return [-1, 5]

    def forward(self, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        self.seen = inputs
        self.grad_enabled = torch.is_grad_enabled()
        return self.dropout(inputs["x"])


def regression_model(**kwargs: Any) -> Model:
    return Model(Head(Columns(), RegressionTask("play")), **kwargs)


def data(n: int = 3) -> list[tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]]:
    generator = torch.Generator().manual_seed(0)
    batches = []
    for _ in range(n):
        x = torch.randn(8, 5, generator=generator)
        batches.append(({"x": x}, {"play": x.sum(1)}))
    return batches
