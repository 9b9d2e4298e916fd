"""summary_type="attn": its equation, its mask, its gradients, and its way through a model."""

from __future__ import annotations

import copy

import pytest
import torch
from task_helpers import D, T, batch, dense_body, sequence_inputs

import transformers4rec_ext as tr
from transformers4rec_ext.block.base import SequentialBlock
from transformers4rec_ext.block.mlp import MLPBlock
from transformers4rec_ext.masking import MaskedItems
from transformers4rec_ext.model import BinaryClassificationTask, Head, Model, RegressionTask
from transformers4rec_ext.model._summary import (
    AttentionPooling,
    positions_of_items,
    say_first_sees_one_item,
)


def by_hand(pool: AttentionPooling, x: torch.Tensor, valid: torch.Tensor) -> torch.Tensor:
    """Return the equation of the docstring, one session at a time."""
    weight, bias, query = pool.projection.weight, pool.projection.bias, pool.query.weight[0]
    rows = []
    for session, kept in zip(x, valid, strict=True):
        seen = session[kept]
        scores = torch.stack([query @ torch.tanh(weight @ step + bias) for step in seen])
        rows.append(scores.softmax(0) @ seen)
    return torch.stack(rows)


def test_pooling_is_its_equation() -> None:
    pool = AttentionPooling(D).double()
    x = torch.randn(4, T, D, dtype=torch.float64, requires_grad=True)
    valid = torch.arange(T) < torch.tensor([[T], [3], [1], [2]])
    torch.testing.assert_close(pool(x, valid), by_hand(pool, x, valid), rtol=1e-7, atol=1e-8)
    everything = torch.ones_like(valid)
    torch.testing.assert_close(pool(x), by_hand(pool, x, everything), rtol=1e-7, atol=1e-8)
    pool(x, valid).sum().backward()
    assert (x.grad[~valid] == 0).all()
    assert (x.grad[valid] != 0).any(dim=-1).all()


def test_a_session_of_padding_is_no_nan() -> None:
    pool = AttentionPooling(D)
    x = torch.randn(2, T, D, requires_grad=True)
    out = pool(x, torch.zeros(2, T, dtype=torch.bool))
    torch.testing.assert_close(out, pool(x))
    out.sum().backward()
    assert x.grad.isfinite().all()


def test_half_precision_is_kept() -> None:
    pool = AttentionPooling(D).to(torch.bfloat16)
    assert pool(torch.randn(2, T, D, dtype=torch.bfloat16)).dtype == torch.bfloat16


def test_positions_that_hold_an_item() -> None:
    ids = torch.tensor([[5, 6, 0], [7, 0, 0]])
    assert positions_of_items(torch.zeros(2, 3, D), ids, 0).tolist() == [
        [True, True, False],
        [True, False, False],
    ]
    # A position that the masking appended is none.
    appended = positions_of_items(torch.zeros(2, 4, D), ids, 0)
    assert appended[:, 3].tolist() == [False, False]
    assert positions_of_items(torch.zeros(3, 3, D), ids, 0) is None
    assert positions_of_items(torch.zeros(2, 2, D), ids, 0) is None


def test_task_learns_where_to_look() -> None:
    """The target is a value that stands at the one marked position."""
    task = RegressionTask("r", summary_type="attn")
    task.build(None, [-1, T, D])
    assert [name for name, _ in task.sequence_summary.named_parameters()] == [
        "attention.projection.weight",
        "attention.projection.bias",
        "attention.query.weight",
    ]
    x = 0.1 * torch.randn(64, T, D)
    marked = torch.randint(T, (64,))
    rows = torch.arange(64)
    targets = torch.randn(64)
    x[rows, marked, 0], x[rows, marked, 1] = 3.0, targets
    optimizer = torch.optim.Adam(task.parameters(), lr=0.05)
    for _ in range(60):
        optimizer.zero_grad()
        task(x, targets=targets, training=True)["loss"].backward()
        optimizer.step()
    # The mean over positions cannot do better than a T-th of the value; the loss starts near 1.
    assert task(x, targets=targets, testing=True)["loss"] < 0.05


def test_padding_does_not_reach_a_task_of_a_session_model() -> None:
    inputs = sequence_inputs()
    body = SequentialBlock(inputs, MLPBlock([D]))
    model = Model(Head(body, BinaryClassificationTask("click", summary_type="attn")))
    short = {"item_id": batch()["item_id"][1:3, :3]}
    longer = {"item_id": torch.nn.functional.pad(short["item_id"], (0, 2))}
    torch.testing.assert_close(model(short), model(longer))
    mean = Model(Head(body, BinaryClassificationTask("click", summary_type="mean")))
    assert not torch.allclose(mean(short), mean(longer))


def test_another_padding_id_is_left_out() -> None:
    inputs = sequence_inputs(padding_idx=4)
    head = Head(SequentialBlock(inputs, MLPBlock([D])), RegressionTask("r", summary_type="attn"))
    task = head.prediction_task_dict["r/regression_task"]
    ids = torch.tensor([[1, 2, 4, 4]])
    x = torch.randn(1, 4, D)
    masked = MaskedItems(ids, ids != 4, ids)
    torch.testing.assert_close(task(x, masked=masked), task(x[:, :2]))


def test_parameters_are_a_tasks_own() -> None:
    tasks = [RegressionTask(name, summary_type="attn") for name in ("a", "b")]
    head = Head(dense_body(), tasks)
    assert sum("attention" in name for name in head.state_dict()) == 6
    twin = copy.deepcopy(head)
    twin.load_state_dict(head.state_dict())
    x = torch.randn(3, T, 5)
    for name, output in head(x).items():
        torch.testing.assert_close(output, twin(x)[name])


# The attributes kept for code written for upstream; the exported program does not read them.
@pytest.mark.filterwarnings("ignore:The tensor attributes:UserWarning")
def test_export_and_compile() -> None:
    body = SequentialBlock(sequence_inputs(), MLPBlock([D]))
    model = Model(Head(body, BinaryClassificationTask("click", summary_type="attn"))).eval()
    sessions = ({"item_id": {0: torch.export.Dim("B", min=2, max=64)}},)
    program = torch.export.export(model, (batch(),), dynamic_shapes=sessions)
    some = {"item_id": batch()["item_id"][:3]}
    torch.testing.assert_close(program.module()(some), model(some))
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    flags = {"targets": torch.tensor([1.0, 0.0, 1.0, 1.0]), "training": True}
    torch.testing.assert_close(compiled(batch(), **flags)["loss"], model(batch(), **flags)["loss"])


@pytest.mark.parametrize("summary_type", ["sum", "", 1])
def test_unknown_summaries(summary_type: object) -> None:
    with pytest.raises(ValueError, match=r"summary_type must be one of .*'attn'"):
        RegressionTask("r", summary_type=summary_type)


@pytest.mark.parametrize(
    ("masking", "summary", "said"),
    [
        ("clm", "first", True),
        ("plm", "first", True),
        ("mlm", "first", False),
        ("clm", "mean", False),
    ],
)
def test_a_first_position_that_has_seen_one_item_is_told(
    masking: str, summary: str, said: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """Measured, too: what the warning says is so, and is not where it is silent."""
    say_first_sees_one_item.cache_clear()
    schema = tr.Schema.from_item_column("item_id", num_items=30, max_length=T)
    inputs = tr.TabularSequenceFeatures.from_schema(schema, d_output=8, masking=masking)
    task = BinaryClassificationTask("click", summary_type=summary)
    model = tr.XLNetConfig.build(8, 2, 1, T).to_torch_model(inputs, task).eval()
    assert ("has seen the first item of a session only" in caplog.text) == said
    ids = torch.randint(1, 31, (4, T))
    other = torch.cat([ids[:, :1], torch.randint(1, 31, (4, T - 1))], dim=1)
    same = torch.equal(model({"item_id": ids}), model({"item_id": other}))
    assert same == said


def test_it_is_not_told_of_what_reads_no_first_position(caplog: pytest.LogCaptureFixture) -> None:
    """Of bodies of one vector a session, and of Transformers4Rec's, which see both sides."""

    class Upstreams(torch.nn.Module):
        masking = torch.nn.Identity()

    say_first_sees_one_item.cache_clear()
    BinaryClassificationTask("click").build(None, [-1, D], inputs=sequence_inputs())
    BinaryClassificationTask("click").build(None, [-1, T, D], inputs=Upstreams())
    assert not caplog.text
    RegressionTask("r").build(None, [-1, T, D], inputs=sequence_inputs())
    assert "RegressionTask reads the first position" in caplog.text
