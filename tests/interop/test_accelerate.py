"""A model of upstream's classes with our modules inside; ours in upstream's head."""

from __future__ import annotations

import copy
import pickle
import sys
from typing import Any

import pytest
import standins
import torch
from standins import METRICS, TASKS, Head, OwnMetric, V

import transformers4rec_ext as tr
from transformers4rec_ext.ranking_metric import NDCGAt
from transformers4rec_ext.samplers import LogUniformSampler

BATCH = {"item_id": torch.tensor([[1, 49, 3, 7, 7, 12], [5, 6, 7, 0, 0, 0], [48, 2, 0, 0, 0, 0]])}


@pytest.fixture(autouse=True)
def _loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (TASKS, METRICS):
        monkeypatch.setitem(sys.modules, module.__name__, module)


def _pair(**options: Any) -> tuple[Any, Any, int]:
    """Return a head of upstream's, one like it with our modules inside, and how many these are."""
    upstream = Head(TASKS.NextItemPredictionTask(**options))
    ours = standins.copied(upstream)
    return upstream, ours, tr.accelerate(ours)


def _task(head: Any) -> Any:
    return head.prediction_task_dict["next-item"]


@pytest.mark.parametrize(
    ("options", "swapped"),
    [
        ({}, 3),
        ({"weight_tying": True, "softmax_temperature": 2}, 3),
        ({"sampled_softmax": True}, 4),
        ({"metrics": [OwnMetric(labels_onehot=True)]}, 2),
    ],
)
def test_swapped_in_place(options: dict[str, Any], swapped: int) -> None:
    upstream = Head(TASKS.NextItemPredictionTask(**options))
    task, parameters, keys = (
        _task(upstream),
        list(upstream.parameters()),
        list(upstream.state_dict()),
    )
    assert tr.accelerate(upstream) == swapped
    assert _task(upstream) is task
    assert isinstance(task, tr.NextItemPredictionTask)
    assert all(a is b for a, b in zip(parameters, upstream.parameters(), strict=True))
    assert list(upstream.state_dict()) == keys


@pytest.mark.parametrize(
    "options", [{}, {"weight_tying": True, "softmax_temperature": 2}, {"sampled_softmax": True}]
)
def test_numbers_stay(options: dict[str, Any]) -> None:
    upstream, ours, _ = _pair(**options)
    expected, found = (head(BATCH, testing=True) for head in (upstream, ours))
    for key in ("loss", "labels", "predictions"):
        torch.testing.assert_close(found[key], expected[key])
    torch.testing.assert_close(ours(BATCH), upstream(BATCH))
    metric = _task(upstream).metrics[0]
    expected = metric(expected["predictions"], expected["labels"])
    name = "next-item/ndcg_at"
    values = _task(ours).calculate_metrics(found["predictions"], found["labels"])
    assert type(_task(ours).metrics[0]) is NDCGAt
    torch.testing.assert_close(values[name], expected)


def test_training_needs_no_scores() -> None:
    upstream, ours, _ = _pair()
    expected, found = (head(BATCH, training=True) for head in (upstream, ours))
    torch.testing.assert_close(found["loss"], expected["loss"])
    assert found["predictions"] is None
    for head, output in ((upstream, expected), (ours, found)):
        output["loss"].backward()
        assert head.body.categorical_module.item_embedding_table.weight.grad.abs().sum() > 0
    for a, b in zip(ours.parameters(), upstream.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad)


def test_top_k_is_streamed_without_padding() -> None:
    upstream, ours, _ = _pair()
    with torch.no_grad():
        _task(ours).pre.module.output_layer[0] = 100.0  # padding would win every row with h.1 > 0
        upstream.load_state_dict(ours.state_dict())
    scores = upstream(BATCH)
    scores[:, 0] = -torch.inf
    found = ours(BATCH, top_k=4)
    expected = scores.topk(4)
    torch.testing.assert_close(found[0], expected.values)
    assert torch.equal(found[1], expected.indices)


def test_the_sampler_is_exact_and_keeps_the_tables() -> None:
    upstream, ours, _ = _pair(sampled_softmax=True)
    sampler = _task(ours).pre.module.sampler
    assert isinstance(sampler, LogUniformSampler)
    assert (sampler.min_id, sampler.max_id, sampler.n_sample) == (1, V, 40)
    assert len(sampler.sample(torch.tensor([3]))[0].unique()) == 20
    output = ours(BATCH, training=True)
    assert output["labels"].tolist() == [0] * 8
    state = {key: value + 1 for key, value in upstream.state_dict().items()}
    ours.load_state_dict(state, strict=True)
    assert all(torch.equal(ours.state_dict()[key], value) for key, value in state.items())


def test_copies_and_pickles() -> None:
    _, ours, _ = _pair(weight_tying=True)
    expected = ours(BATCH, top_k=3)
    for other in (copy.deepcopy(_task(ours)), pickle.loads(pickle.dumps(_task(ours)))):
        assert isinstance(other, tr.NextItemPredictionTask)
        assert isinstance(other, TASKS.NextItemPredictionTask)
        other.embeddings.item_seq = BATCH["item_id"]
        assert torch.equal(other(ours.body(BATCH), top_k=3)[1], expected[1])


def test_a_task_of_ones_own_keeps_its_class() -> None:
    class Own(TASKS.NextItemPredictionTask):
        pass

    head = Head(Own())
    assert tr.accelerate(head) == 2
    assert type(_task(head)) is Own
    assert head(BATCH, training=True)["predictions"].shape == (8, V)


@pytest.mark.parametrize(
    "options",
    [{}, {"weight_tying": True}, {"sampled_softmax": True}, {"static_shapes": True}],
)
def test_our_task_in_upstreams_head(options: dict[str, Any]) -> None:
    head = Head(tr.NextItemPredictionTask(**options))
    assert isinstance(_task(head), TASKS.NextItemPredictionTask)
    scores, ids = head(BATCH, top_k=4)
    assert scores.shape == ids.shape == (3, 4)
    everything = head(BATCH)
    everything[:, 0] = -torch.inf
    assert torch.equal(ids, everything.topk(4).indices)
    assert head(BATCH, testing=True)["predictions"].shape == (8, V)
    head(BATCH, training=True)["loss"].backward()
    assert torch.equal(standins.copied(head)(BATCH, top_k=4)[1], ids)


@pytest.mark.parametrize("accelerated", [True, False])
def test_exclude_seen_with_upstreams_masking(accelerated: bool) -> None:
    """Its maskings do not say whether they are causal: the item asked for is one further there."""
    if accelerated:
        _, head, _ = _pair()
        _task(head).exclude_seen = True
    else:
        head = Head(tr.NextItemPredictionTask(exclude_seen=True))
    scores = head(BATCH, testing=True)["predictions"]
    ids = BATCH["item_id"].tolist()
    seen = [row[: place + 1] for row in ids for place in range(5) if row[place + 1]]
    assert len(seen) == len(scores) == 8
    for row, items in zip(scores, seen, strict=True):
        assert set((row == -torch.inf).nonzero().flatten().tolist()) == {0, *items}
    _, found = head(BATCH, top_k=4)
    assert not set(ids[0]) & set(found[0].tolist())


def test_nothing_to_swap() -> None:
    _, ours, _ = _pair()
    with pytest.raises(ValueError, match=r"got Head whose task is this package's already"):
        tr.accelerate(ours)
    with pytest.raises(ValueError, match=r"got Linear, not Transformers4Rec's, without one"):
        tr.accelerate(torch.nn.Linear(2, 2))
    with pytest.raises(ValueError, match=r"got Inputs, Transformers4Rec's, without one"):
        tr.accelerate(standins.Inputs())
    with pytest.raises(ValueError, match="a task that is not built"):
        tr.accelerate(TASKS.NextItemPredictionTask())
    with pytest.raises(TypeError, match=r"accelerate: model must be a torch\.nn\.Module; got str"):
        tr.accelerate("model")


def test_without_upstream(monkeypatch: pytest.MonkeyPatch) -> None:
    head = Head(TASKS.NextItemPredictionTask())
    monkeypatch.delitem(sys.modules, TASKS.__name__)
    with pytest.raises(ValueError, match="accelerate: model must hold a NextItemPredictionTask"):
        tr.accelerate(head)
