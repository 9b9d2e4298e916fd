"""PostContextFusion: its equations, its place in a model, and what it refuses."""

from __future__ import annotations

import pytest
import torch
from task_helpers import D, T, V, batch, sequence_inputs
from torch import nn

from transformers4rec_ext.block.base import Block, BlockBase, SequentialBlock
from transformers4rec_ext.block.mlp import MLPBlock
from transformers4rec_ext.experimental import PostContextFusion
from transformers4rec_ext.model import Head, Model, NextItemPredictionTask

C = 3


class Context(BlockBase):
    """Reads the column ``context`` of a batch."""

    def __init__(self, size: list[int]) -> None:
        super().__init__()
        self.size = size

    def forward(self, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        return inputs["context"]

    def forward_output_size(self, input_size: object) -> torch.Size:
        return torch.Size(self.size)

    def output_size(self, input_size: object = None) -> torch.Size:
        return self.forward_output_size(input_size)


def fusion(kind: str = "elementwise-mul", size: tuple[int, ...] = (-1, C)) -> PostContextFusion:
    body = SequentialBlock(sequence_inputs(), MLPBlock([D]))
    return PostContextFusion(body, Context(list(size)), kind)


def with_context(*shape: int) -> dict[str, torch.Tensor]:
    return {**batch(), "context": torch.randn(4, *shape)}


@pytest.mark.parametrize("shape", [(C,), (T, C)])
@pytest.mark.parametrize("kind", ["elementwise-mul", "elementwise-sum", "concat"])
def test_equations(kind: str, shape: tuple[int, ...]) -> None:
    block = fusion(kind, (-1, *shape))
    inputs = with_context(*shape)
    context = inputs["context"] if len(shape) == 2 else inputs["context"][:, None].repeat(1, T, 1)
    hidden = block.sequential_module(inputs, testing=True)
    if kind == "concat":
        expected = torch.cat([hidden, context], dim=-1)
    else:
        projected = context @ block.context_projection.weight.T + block.context_projection.bias
        expected = hidden * (1 + projected) if "mul" in kind else hidden + projected
    torch.testing.assert_close(block(inputs, testing=True), expected)
    assert block.output_size() == torch.Size([-1, T, expected.shape[-1]])


@pytest.mark.parametrize("kind", ["elementwise-mul", "concat"])
def test_a_model_trains_and_serves(kind: str) -> None:
    block = fusion(kind)
    assert block.inputs is block.sequential_module.inputs
    model = Model(Head(block, NextItemPredictionTask()))
    inputs = with_context(C)
    model(inputs, training=True)["loss"].backward()
    assert all(p.grad is not None for p in block.parameters())
    assert model(inputs).shape == (4, V)
    other = {**inputs, "context": inputs["context"] + 1}
    assert not torch.allclose(model(inputs), model(other))


def test_names_of_weights_are_upstreams() -> None:
    keys = {key.split(".")[0] for key in fusion().state_dict()}
    assert keys == {"sequential_module", "inputs", "context_projection"}


@pytest.mark.parametrize(
    ("make", "error", "text"),
    [
        (lambda: fusion("mean"), ValueError, "fusion_aggregation must be one of .*; got 'mean'"),
        (
            lambda: PostContextFusion(3, Context([-1, C])),
            TypeError,
            "sequential_module must be a block; got int",
        ),
        (
            lambda: PostContextFusion(Block(nn.Identity(), [-1, D]), Context([-1, C])),
            ValueError,
            r"sequential_module must return \[B, T, D\]; got \[-1, 8\]",
        ),
        (
            lambda: PostContextFusion(Block(nn.Identity(), [-1, T, D]), nn.Linear(2, 2)),
            ValueError,
            "post_context_module must know the size of the one tensor",
        ),
        (
            lambda: fusion()(with_context(T - 1, C)),
            ValueError,
            r"post_context_module must return \[B, T=6, C\] .*; got \[4, 5, 3\]",
        ),
    ],
)
def test_bad_input(make, error, text) -> None:
    with pytest.raises(error, match=text):
        make()


def test_a_context_of_every_position_cannot_serve_an_appended_one() -> None:
    """Masked models predict at a position of their own, which no context was given for."""
    body = SequentialBlock(sequence_inputs(masking="mlm"), MLPBlock([D]))
    block = PostContextFusion(body, Context([-1, T, C]), "concat")
    block(with_context(T, C), training=True)
    with pytest.raises(ValueError, match=r"appends a position, .* of the whole session, \[B, C\]"):
        block(with_context(T, C))
    assert block(with_context(C)).shape[1] == T + 1
