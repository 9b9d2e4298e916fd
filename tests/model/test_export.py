"""A whole model goes through torch.export, torch.jit.trace and torch.compile."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from body_helpers import ACCEPTED, ARCHITECTURES, item_features, sessions
from task_helpers import D, T, batch, sequence_inputs

from transformers4rec_ext import data
from transformers4rec_ext.block.base import SequentialBlock
from transformers4rec_ext.block.transformer import TransformerBlock
from transformers4rec_ext.config.transformer import GPT2Config
from transformers4rec_ext.features.sequence import TabularSequenceFeatures
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


PAIRS = [
    (name, masking)
    for name in (
        *("gpt2", "xlnet-bi", "bert", "roberta"),
        *("electra", "albert", "longformer", "reformer", "reformer-lsh"),
    )
    for masking in sorted(ACCEPTED[name] - {"rtd"})  # which serves as mlm
] + [("llama", "clm"), ("modernbert", "mlm")]


@pytest.mark.filterwarnings("ignore:The tensor attributes:UserWarning")
@pytest.mark.parametrize(("architecture", "masking"), PAIRS)
def test_export_of_every_architecture(architecture: str, masking: str) -> None:
    """Those of docs/architecture.md, "Compiling and exporting"."""
    features = item_features(masking)
    transformer = TransformerBlock(ARCHITECTURES[architecture](), masking=features.masking)
    task = NextItemPredictionTask(weight_tying=True)
    model = Model(Head(SequentialBlock(features, transformer), task), top_k=3).eval()
    shapes = {"inputs": {"item_id": {0: torch.export.Dim("B", min=2, max=64)}}}
    given = {"item_id": sessions((6, 4, 2))}
    program = torch.export.export(model, (given,), dynamic_shapes=shapes).module()
    for lengths in ((6, 4, 2), (1, 6, 3, 5, 2)):
        given = {"item_id": sessions(lengths)}
        _close(program(given), model(given))


# Shapes become tensors while tracing, and comparing them warns; the rest is torch's trace itself
# and what it makes of the properties of transformers' models.
@pytest.mark.filterwarnings(
    "ignore::torch.jit.TracerWarning", "ignore::DeprecationWarning", "ignore::FutureWarning"
)
@pytest.mark.parametrize("top_k", [None, 4])
def test_trace(top_k: int | None) -> None:
    model = _model(top_k=top_k)
    traced = torch.jit.trace(model, (batch(),), strict=False)
    rolled = {"item_id": batch()["item_id"].roll(1, 0)}
    for each in (rolled, {"item_id": batch()["item_id"][:2]}):
        _close(traced(each), model(each))


COLUMNS = data.tabular_sequence_testing_data


def _of_all_columns() -> Model:
    inputs = TabularSequenceFeatures.from_schema(
        COLUMNS.schema,
        max_sequence_length=T,
        continuous_soft_embeddings=True,
        masking="causal",
        d_output=D,
        embedding_dim_default=4,
    )
    transformer = TransformerBlock(GPT2Config.build(D, 2, 1, T), masking=inputs.masking)
    return Model(Head(SequentialBlock(inputs, transformer), NextItemPredictionTask())).eval()


@pytest.mark.filterwarnings(
    "ignore::torch.jit.TracerWarning", "ignore::DeprecationWarning", "ignore::FutureWarning"
)
def test_trace_with_ragged_columns() -> None:
    """Of the longest row of each batch, not of the one that was traced."""
    model = _of_all_columns()
    short, long = (
        COLUMNS.torch_synthetic_data(
            num_rows=rows, min_session_length=1, max_session_length=length, ragged=True
        )
        for rows, length in ((3, 3), (5, T))
    )
    traced = torch.jit.trace(model, (short,), strict=False)
    _close(traced(long), model(long))
    model.max_sequence_length = 2
    traced = torch.jit.trace(model, (short,), strict=False)
    _close(traced(long), model(long))


@pytest.mark.filterwarnings("ignore:The tensor attributes:UserWarning")
def test_export_of_all_kinds_of_columns() -> None:
    model = _of_all_columns()
    sessions = COLUMNS.torch_synthetic_data(num_rows=6, min_session_length=1, max_session_length=T)
    rows = torch.export.Dim("B", min=2, max=64)
    shapes = {"inputs": {name: {0: rows} for name in sessions}}
    program = torch.export.export(model, (sessions,), dynamic_shapes=shapes)
    some = {name: column[:4] for name, column in sessions.items()}
    for each in (sessions, some):
        _close(program.module()(each), model(each))


@pytest.mark.parametrize("flags", [{}, {"top_k": 4}])
def test_compile_without_a_break(flags: dict[str, Any]) -> None:
    model = _model()
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    _close(compiled(batch(), **flags), model(batch(), **flags))
