"""A whole model goes through torch.export, torch.jit.trace and torch.compile."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from task_helpers import D, T, batch, sequence_inputs

from transformers4rec_ext.block.base import SequentialBlock
from transformers4rec_ext.block.transformer import TransformerBlock
from transformers4rec_ext.config.transformer import GPT2Config
from transformers4rec_ext.model import Head, Model, NextItemPredictionTask


def _model(**arguments: Any) -> Model:
    inputs = sequence_inputs()
    transformer = TransformerBlock(GPT2Config.build(D, 2, 1, T), masking=inputs.masking)
    task = NextItemPredictionTask(weight_tying=True)
    return Model(Head(SequentialBlock(inputs, transformer), task), **arguments).eval()


def _close(found: Any, expected: Any) -> None:
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


# The attributes kept for code written for upstream; the exported program does not read them.
@pytest.mark.filterwarnings("ignore:The tensor attributes:UserWarning")
@pytest.mark.parametrize("top_k", [None, 4])
def test_export_with_any_number_of_sessions(top_k: int | None) -> None:
    model = _model(top_k=top_k)
    sessions = {"inputs": {"item_id": {0: torch.export.Dim("B", min=2, max=64)}}}
    program = torch.export.export(model, (batch(),), dynamic_shapes=sessions)
    half = {"item_id": batch()["item_id"][:2]}
    for each in (batch(), half):
        _close(program.module()(each), model(each))


# Shapes become tensors while tracing, and comparing them warns; the rest is torch's trace itself
# and what it makes of the properties of transformers' models.
@pytest.mark.filterwarnings(
    "ignore::torch.jit.TracerWarning", "ignore::DeprecationWarning", "ignore::FutureWarning"
)
def test_trace() -> None:
    model = _model()
    traced = torch.jit.trace(model, (batch(),), strict=False)
    rolled = {"item_id": batch()["item_id"].roll(1, 0)}
    _close(traced(rolled), model(rolled))


@pytest.mark.parametrize("flags", [{}, {"top_k": 4}])
def test_compile_without_a_break(flags: dict[str, Any]) -> None:
    model = _model()
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    _close(compiled(batch(), **flags), model(batch(), **flags))
