"""Row gradients of the item table: input, tied output and both, and what is trained with them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from task_helpers import D, T, batch, sequence_inputs

from transformers4rec_ext.block.base import SequentialBlock
from transformers4rec_ext.block.mlp import MLPBlock
from transformers4rec_ext.model import Head, Model, NextItemPredictionTask
from transformers4rec_ext.optim import LazyAdam, clip_grad_norm_
from transformers4rec_ext.training.config import RunConfig
from transformers4rec_ext.training.network import ITEM, build_model


def model_of(inputs_sparse: bool, **task: Any) -> tuple[Model, Any]:
    torch.manual_seed(0)
    inputs = sequence_inputs(sparse_grad=inputs_sparse)
    body = SequentialBlock(inputs, MLPBlock([D], activation=torch.nn.Tanh))
    model = Model(Head(body, NextItemPredictionTask(**task), inputs=inputs))
    return model, inputs.item_embedding_table


def gradients(model: Model) -> dict[str, torch.Tensor]:
    torch.manual_seed(1)  # the same candidates
    model(batch(), training=True)["loss"].backward()
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("sampled", [False, True])
def test_row_gradients_are_the_dense_ones(tied: bool, sampled: bool) -> None:
    task: dict[str, Any] = {"weight_tying": tied, "sampled_softmax": sampled, "max_n_samples": 7}
    dense = gradients(model_of(False, **task)[0])
    model, table = model_of(True, **task, sparse_grad=sampled)
    found = gradients(model)
    # full softmax touches every row, so tied to it the table's gradient is dense
    assert table.weight.grad.is_sparse == (sampled or not tied)
    for name, gradient in dense.items():
        torch.testing.assert_close(found[name].to_dense(), gradient)
    if sampled and not tied:
        assert found["heads.0.prediction_task_dict.next-item.pre.module.output_layer"].is_sparse


def test_nothing_of_the_tables_size_is_written_but_the_table() -> None:
    model, table = model_of(True, weight_tying=True, sampled_softmax=True, sparse_grad=True)
    gradients(model)
    touched = table.weight.grad.coalesce().indices().unique()
    assert 0 not in touched.tolist()  # padding has no gradient
    assert table.weight.grad._nnz() < 4 * T + 8 + 100


def test_fit_takes_row_gradients_by_default() -> None:
    model, table = model_of(
        True, weight_tying=True, sampled_softmax=True, sparse_grad=True, max_n_samples=5
    )
    before = table.weight.detach().clone()
    losses = model.fit([batch()] * 4, num_epochs=3, verbose=False)
    assert losses[-1] < losses[0]
    moved = (table.weight.detach() != before).any(1)
    assert moved[[1, 49, 3, 7, 12]].all()
    assert not moved[0]


def test_fit_keeps_an_optimizer_of_ones_own() -> None:
    model, _ = model_of(False)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    model.fit([batch()], optimizer=optimizer, num_epochs=1, verbose=False)
    sparse, _ = model_of(True)
    with pytest.raises(RuntimeError, match=r"sparse|Adam"):  # torch's AdamW says no
        sparse.fit([batch()], optimizer=torch.optim.AdamW, num_epochs=1, verbose=False)


@pytest.mark.parametrize(
    ("items", "loss", "sparse", "expected"),
    [
        (1_000, "sampled", None, False),
        (100_000, "sampled", None, False),
        (100_001, "sampled", None, True),
        (100_001, "sampled", False, False),
        (1_000, "sampled", True, True),
        (100_001, "full", None, False),
    ],
)
def test_the_command_line_chooses_by_size(
    items: int, loss: str, sparse: bool | None, expected: bool
) -> None:
    config = RunConfig("items", loss=loss, sparse=sparse, d_model=2, layers=1, heads=1)
    model = build_model(config, items)
    (task,) = model.prediction_tasks
    assert task.sparse_grad == expected
    assert task.embeddings.item_embedding_table.sparse == expected


def test_sparse_needs_a_sampled_loss() -> None:
    with pytest.raises(ValueError, match="sparse must be left out with loss='full'; got True"):
        RunConfig("items", loss="full", sparse=True)
    with pytest.raises(TypeError, match="sparse must be a bool or None"):
        RunConfig("items", sparse="yes")


def test_a_step_does_not_know_how_large_the_catalogue_is() -> None:
    """Memory of a whole step beyond table and state, at 1,000 and 100,000 items."""

    def peak(items: int) -> int:
        config = RunConfig(
            "items", sparse=True, d_model=8, layers=1, heads=1, num_negatives=50, max_length=T - 1
        )
        torch.manual_seed(0)
        model = build_model(config, items)
        optimizer = LazyAdam(model.parameters(), lr=1e-3)
        sessions = torch.randint(1, 1_000, (8, T))

        def step() -> None:
            optimizer.zero_grad(set_to_none=True)
            model({ITEM: sessions}, training=True)["loss"].backward()
            clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()

        step()  # makes the state
        with torch.profiler.profile(profile_memory=True) as profile:
            step()
        held = most = 0
        events = profile.profiler.kineto_results.events()
        for event in sorted(events, key=lambda event: event.start_ns()):
            if event.name() == "[memory]":
                held += event.nbytes()
                most = max(most, held)
        return most

    small, large = peak(1_000), peak(100_000)
    assert small > 1_000  # the probe sees something
    assert large < small + 64 * 1024  # 100,000 x 8 floats are 3 MiB
