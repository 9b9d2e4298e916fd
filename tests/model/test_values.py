"""What a call knows of its batch goes down as values: threads, random masks, code for upstream."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from task_helpers import D, T, V, batch, sequence_inputs

from transformers4rec_ext.block.base import Block, SequentialBlock
from transformers4rec_ext.block.mlp import MLPBlock
from transformers4rec_ext.block.transformer import TransformerBlock
from transformers4rec_ext.config.transformer import GPT2Config, XLNetConfig
from transformers4rec_ext.masking import CausalLanguageModeling, MaskingInfo, MaskSequence
from transformers4rec_ext.model import (
    BinaryClassificationTask,
    Head,
    Model,
    NextItemPredictionTask,
)

FLAGS: list[dict[str, Any]] = [
    {"training": True, "returns": "predictions"},
    {"testing": True},
    {"testing": True, "returns": "ranks"},
    {},
    {"top_k": 5},
]


def _sessions(seed: int, rows: int = 4) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(1, V, (rows, T), generator=generator)
    lengths = torch.randint(1, T + 1, (rows, 1), generator=generator)
    return {"item_id": torch.where(torch.arange(T) < lengths, ids, 0)}


def _tensors(output: Any) -> list[torch.Tensor]:
    if isinstance(output, torch.Tensor):
        return [output]
    values = output.values() if isinstance(output, dict) else output
    return [tensor for value in values for tensor in _tensors(value)]


def _same(one: Any, other: Any) -> bool:
    pairs = zip(_tensors(one), _tensors(other), strict=True)
    return all(a.shape == b.shape and torch.allclose(a, b, atol=1e-5) for a, b in pairs)


class Meeting(torch.nn.Module):
    """A layer at which threads wait for each other, once they are told to."""

    def __init__(self) -> None:
        super().__init__()
        self.wait: Callable[[], Any] = lambda: None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.wait()
        return x


# Threads


@pytest.mark.parametrize("flags", FLAGS)
@pytest.mark.parametrize("nested", [False, True])
def test_two_calls_that_meet_in_the_body(flags: dict[str, Any], nested: bool) -> None:
    """Both batches have gone through the input module before either reaches its task."""
    inputs, meeting = sequence_inputs(), Meeting()
    first = SequentialBlock(inputs, MLPBlock([D])) if nested else inputs
    body = SequentialBlock(first, Block(meeting, [-1, T, D]))
    tasks = [NextItemPredictionTask(), BinaryClassificationTask("click", summary_type="last")]
    model = Model(Head(body, tasks, inputs=inputs))
    batches = [_sessions(1), _sessions(2)]

    def call(which: int) -> Any:
        return model(batches[which], targets={"click": torch.ones(4)}, **flags)

    expected = [call(0), call(1)]
    meeting.wait = threading.Barrier(2, timeout=60).wait
    with ThreadPoolExecutor(2) as pool:
        assert _same(list(pool.map(call, range(2))), expected)


@pytest.mark.parametrize("config", [GPT2Config, XLNetConfig])
def test_many_threads_on_one_model(config: Any) -> None:
    inputs = sequence_inputs()
    transformer = TransformerBlock(config.build(D, 2, 1, T), masking=inputs.masking)
    task = NextItemPredictionTask(weight_tying=True)
    model = Model(Head(SequentialBlock(inputs, transformer), task)).eval()
    batches = [_sessions(seed) for seed in range(8)]

    @torch.no_grad()
    def call(which: int) -> list[Any]:
        return [model(batches[which % 8], **flags) for flags in FLAGS]

    expected = [call(which) for which in range(8)]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(call, range(160)))
    assert [
        which for which, result in enumerate(found) if not _same(result, expected[which % 8])
    ] == []


# One mask for the inputs and for the labels


class RandomMasking(MaskSequence):
    """Hides items at random, as masked language modelling does, and asks for the hidden ones."""

    def _compute_masked_targets(
        self, item_ids: torch.Tensor, training: bool = False, testing: bool = False
    ) -> MaskingInfo:
        self.draws = getattr(self, "draws", 0) + 1
        hidden = (torch.rand(item_ids.shape) < 0.5) & (item_ids != 0)
        return MaskingInfo(hidden, torch.where(hidden, item_ids, 0))


class Recorder(torch.nn.Module):
    """Remembers what comes out of the input module."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.seen = x.detach()
        return x


def _recorded(masking: MaskSequence) -> tuple[Model, Recorder]:
    inputs, recorder = sequence_inputs(masking=masking), Recorder()
    body = SequentialBlock(inputs, Block(recorder, [-1, T, D]))
    return Model(Head(body, NextItemPredictionTask())), recorder


def _is_masked(model: Model, x: torch.Tensor) -> torch.Tensor:
    return (x == model.heads[0].body.inputs.masking.masked_item_embedding).all(-1)


@pytest.mark.parametrize("flags", FLAGS[:2])
def test_a_random_mask_is_drawn_once(flags: dict[str, bool]) -> None:
    masking = RandomMasking(D)
    model, recorder = _recorded(masking)
    for draws in (1, 2):
        labels = model(batch(), **flags)["labels"]
        assert masking.draws == draws
        hidden = _is_masked(model, recorder.seen)
        assert torch.equal(labels, batch()["item_id"][hidden])


class OldForward(RandomMasking):
    """Written before there was ``masked``."""

    def forward(
        self,
        inputs: torch.Tensor,
        item_ids: torch.Tensor,
        training: bool = False,
        testing: bool = False,
    ) -> torch.Tensor:
        info = self.compute_masked_targets(item_ids, training=training, testing=testing)
        return self.apply_mask_to_inputs(inputs, info.schema)


class OwnTargets(RandomMasking):
    """Overrides the public method, as upstream's permutation masking does."""

    def compute_masked_targets(
        self, item_ids: torch.Tensor, training: bool = False, testing: bool = False
    ) -> MaskingInfo:
        hidden = item_ids == 7
        self.mask_schema, self.masked_targets = hidden, torch.where(hidden, item_ids, 0)
        return MaskingInfo(self.mask_schema, self.masked_targets)


@pytest.mark.parametrize("kind", [OldForward, OwnTargets])
def test_maskings_of_ones_own(kind: type[RandomMasking]) -> None:
    model, recorder = _recorded(kind(D))
    labels = model(batch(), training=True)["labels"]
    assert torch.equal(labels, batch()["item_id"][_is_masked(model, recorder.seen)])
    if kind is OwnTargets:
        assert labels.tolist() == [7, 7, 7]
    else:
        assert model.heads[0].body.masked_items(batch()) is None


# Code written for upstream


class UpstreamBody(torch.nn.Module):
    """A body of one's own around our input module; ``masked`` is not among its arguments."""

    def __init__(self, **more: Any) -> None:
        super().__init__()
        self.inputs = sequence_inputs()

    def output_size(self) -> list[int]:
        return [-1, T, D]

    def forward(self, x: Any, training: bool = False, testing: bool = False) -> torch.Tensor:
        return self.inputs(x, training=training, testing=testing)


class UpstreamTask(NextItemPredictionTask):
    """A task whose forward takes what upstream's takes, and hands on what it does not know."""

    def forward(
        self,
        inputs: Any,
        targets: Any = None,
        training: bool = False,
        testing: bool = False,
        top_k: int | None = None,
        **kwargs: Any,
    ) -> Any:
        assert kwargs == {}
        return super().forward(inputs, targets, training, testing, top_k)


@pytest.mark.parametrize("flags", [{"training": True}, {"testing": True}, {}, {"top_k": 5}])
@pytest.mark.parametrize("which", ["body", "task"])
def test_bodies_and_tasks_of_ones_own(which: str, flags: dict[str, Any]) -> None:
    body = UpstreamBody() if which == "body" else SequentialBlock(sequence_inputs())
    plain = SequentialBlock(body.inputs)
    # returns= is not upstream's: what is returned in training is said when a task is made
    of_task = UpstreamTask if which == "task" else NextItemPredictionTask
    task, plain_task = (of(return_predictions=True) for of in (of_task, NextItemPredictionTask))
    model, other = Model(Head(body, task)), Model(Head(plain, plain_task))
    other.prediction_tasks[0].pre = task.pre
    assert _same(model(batch(), **flags), other(batch(), **flags))


def test_the_last_batch_is_remembered_for_them() -> None:
    inputs = sequence_inputs()
    model = Model(Head(SequentialBlock(inputs), NextItemPredictionTask()))
    output = model(batch(), training=True)
    assert torch.equal(inputs.categorical_module.item_seq, batch()["item_id"])
    targets = inputs.masking.masked_targets
    assert torch.equal(targets[targets != 0], output["labels"])
    assert torch.equal(inputs.masking.mask_schema, targets != 0)


# Values by hand


def test_a_head_on_body_outputs_takes_the_values() -> None:
    body = SequentialBlock(sequence_inputs())
    head = Head(body, NextItemPredictionTask())
    batches = [_sessions(1), _sessions(2)]
    for flags in FLAGS:
        modes = {name: flag for name, flag in flags.items() if flag is True}
        expected = [head(each, call_body=True, **flags) for each in batches]
        masked = [body.masked_items(each, **modes) for each in batches]
        hidden = [body(each, **modes) for each in batches]
        found = [head(x, masked=values, **flags) for x, values in zip(hidden, masked, strict=True)]
        assert _same(found, expected)


def test_what_masked_items_holds() -> None:
    inputs = sequence_inputs()
    masked = inputs.masked_items({"item_id": batch()["item_id"].int()}, testing=True)
    assert masked.item_ids.dtype is torch.int64
    assert torch.equal(masked.item_ids, batch()["item_id"])
    info = CausalLanguageModeling(D).compute_masked_targets(masked.item_ids, testing=True)
    assert torch.equal(masked.schema, info.schema)
    assert torch.equal(masked.targets, info.targets)
    assert sequence_inputs(masking=None).masked_items(batch()) is None
    assert SequentialBlock(Block(torch.nn.Identity(), [-1, D])).masked_items(batch()) is None
    assert SequentialBlock(UpstreamBody()).masked_items(batch()) is None
