"""NextItemPredictionTask with other samplers, and with losses that sample by themselves."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from task_helpers import LAST, TARGETS, RecordingLoss, V, batch, hidden_of, parts, sequence_inputs

from transformers4rec_ext.block.base import SequentialBlock
from transformers4rec_ext.block.mlp import MLPBlock
from transformers4rec_ext.functional import Candidates
from transformers4rec_ext.losses import GBCELoss, SampledSoftmaxLoss
from transformers4rec_ext.model import Head, Model, NextItemPredictionTask
from transformers4rec_ext.samplers import (
    InBatchSampler,
    LogUniformSampler,
    MixedSampler,
    PopularitySampler,
    UniformSampler,
)

COUNTS = torch.arange(V)
ROWS = [0, 1, 2, 3, 4, 6, 7, 12]  # positions of TARGETS in the flattened batch


def uniform(samples: int = 10) -> UniformSampler:
    return UniformSampler(samples, max_id=V, min_id=1)


class Plain:
    """A sampler of the user's own, no module: the first three items."""

    def draw(self, targets: torch.Tensor, generator: Any = None) -> Any:
        ids, log_q = torch.tensor([1, 2, 3]), torch.zeros(3)
        drawn = Candidates(ids, log_q, torch.tensor(1), torch.tensor(3))
        return drawn, torch.zeros(targets.shape)


SAMPLERS = [
    uniform(),
    PopularitySampler(10, COUNTS, min_id=1),
    InBatchSampler(COUNTS, min_id=1),
    MixedSampler([uniform(), InBatchSampler(COUNTS, min_id=1)]),
    Plain(),
]


@pytest.mark.parametrize("sampler", SAMPLERS, ids=lambda s: type(s).__name__)
@pytest.mark.parametrize("tied", [False, True])
def test_the_task_trains_against_any_sampler(sampler: Any, tied: bool) -> None:
    model, task = parts(sampled_softmax=True, sampler=sampler, weight_tying=tied)
    assert task.pre.module.sampler is sampler
    torch.manual_seed(1)
    output = model(batch(), training=True)
    assert output["predictions"] is None
    weight = task.pre.module.output_weights
    hidden = hidden_of(model, training=True).flatten(0, 1)[ROWS]
    torch.manual_seed(1)
    expected = SampledSoftmaxLoss(sampler)(hidden, weight, torch.tensor(TARGETS))
    torch.testing.assert_close(output["loss"], expected)
    output["loss"].backward()
    assert model(batch(), testing=True)["predictions"].shape == (3, V)
    # nothing of the sampler is in the checkpoint
    plain, _ = parts(sampled_softmax=True, weight_tying=tied)
    assert model.state_dict().keys() == plain.state_dict().keys()
    plain.load_state_dict(model.state_dict(), strict=True)
    copy.deepcopy(model)


def test_other_losses_get_the_logits_of_the_sampler() -> None:
    model, _ = parts(sampled_softmax=True, sampler=Plain(), loss=RecordingLoss())
    output = model(batch(), training=True)
    assert output["predictions"].shape == (8, 4)
    corrected, _ = parts(sampled_softmax=True, sampler=Plain(), corrected=True)
    assert corrected(batch(), training=True)["loss"].isfinite()


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize(
    "make", [GBCELoss, SampledSoftmaxLoss, lambda *a, **k: GBCELoss(*a, t=0.0, **k)]
)
def test_a_loss_that_samples(make: Any, tied: bool, sparse: bool) -> None:
    loss = make(uniform(), sparse_grad=sparse)
    model, task = parts(loss=loss, weight_tying=tied)
    torch.manual_seed(1)
    output = model(batch(), training=True)
    assert output["predictions"] is None
    assert output["labels"].tolist() == [0] * 8
    assert output["loss"].dtype == torch.float32
    weight = task.pre.module.output_weights
    hidden = hidden_of(model, training=True).flatten(0, 1)[ROWS]
    torch.manual_seed(1)
    torch.testing.assert_close(output["loss"], loss(hidden, weight, torch.tensor(TARGETS)))
    output["loss"].backward()
    assert weight.grad is not None
    assert weight.grad.is_sparse == sparse
    assert task.calculate_metrics(output["predictions"], output["labels"]) == {}
    scores = model(batch(), top_k=3)[0]
    assert scores.shape == (4, 3)


def test_in_testing_the_loss_is_over_all_items() -> None:
    for loss in (GBCELoss(uniform(), temperature=0.5), SampledSoftmaxLoss(uniform())):
        model, _ = parts(loss=loss)
        output = model(batch(), testing=True)
        assert output["predictions"].shape == (3, V)
        assert output["labels"].tolist() == LAST
        expected = loss.over_all_items(output["predictions"], output["labels"])
        torch.testing.assert_close(output["loss"], expected)
    torch.testing.assert_close(
        output["loss"], F.cross_entropy(output["predictions"], output["labels"])
    )


@pytest.mark.parametrize("precision", ["bfloat16", "autocast"])
@pytest.mark.parametrize("loss", [GBCELoss(uniform()), SampledSoftmaxLoss(uniform())])
def test_precision(loss: Any, precision: str) -> None:
    model, _ = parts(loss=loss)
    if precision == "bfloat16":
        model = model.to(torch.bfloat16)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=precision == "autocast"):
        for flags in ({"training": True}, {"testing": True}):
            output = model(batch(), **flags)
            assert output["loss"].dtype == torch.float32
            assert output["loss"].isfinite()


@pytest.mark.parametrize("sampler", [uniform(), InBatchSampler(COUNTS, min_id=1)])
def test_a_batch_without_targets(sampler: Any) -> None:
    single = {"item_id": torch.tensor([[3, 0, 0], [4, 0, 0]])}
    for arguments in (
        {"loss": GBCELoss(sampler)},
        {"sampled_softmax": True, "sampler": sampler},
    ):
        model, _ = parts(**arguments)
        for flags in ({"training": True}, {"testing": True}):
            output = model(single, **flags)
            assert output["loss"].item() == 0
            output["loss"].backward()


def test_a_whole_model_learns_with_gbce() -> None:
    torch.manual_seed(0)
    model, _ = parts(loss=GBCELoss(uniform(20)), weight_tying=True)
    data = [(batch(), {})] * 30
    losses = model.fit(data, num_epochs=4, verbose=False, compute_metric=False)
    assert losses[-1] < 0.9 * losses[0]


GBCE = GBCELoss(uniform())


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        ({"sampler": uniform()}, ValueError, "sampler must be used with sampled_softmax=True"),
        (
            {"sampler": object(), "sampled_softmax": True},
            TypeError,
            r"sampler must have a method draw\(targets\); got object",
        ),
        (
            {"loss": GBCE, "sampled_softmax": True},
            ValueError,
            "sampled_softmax must be False with such a loss",
        ),
        ({"loss": GBCE, "sparse_grad": True}, ValueError, "sparse_grad must be used with"),
        ({"loss": GBCE, "corrected": True}, ValueError, "corrected must be used with"),
        ({"loss": GBCE, "return_predictions": True}, ValueError, "return_predictions must be Fa"),
        ({"loss": GBCE, "softmax_temperature": 0.5}, ValueError, "softmax_temperature must be 1"),
    ],
)
def test_constructor_refuses(arguments: dict, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        NextItemPredictionTask(**arguments)


def test_an_output_layer_of_ones_own_has_no_weights_for_such_a_loss() -> None:
    inputs = sequence_inputs()
    body = SequentialBlock(inputs, MLPBlock([8]))
    head = Head(body, NextItemPredictionTask(loss=GBCE), inputs=inputs)
    task = head.prediction_task_dict["next-item"]
    with pytest.raises(ValueError, match="pre must be None with such a loss"):
        task.build(body, [-1, 6, 8], inputs=inputs, pre=torch.nn.Identity())


def test_a_sampler_of_a_larger_range_than_the_table_is_noticed() -> None:
    model, _ = parts(sampled_softmax=True, sampler=LogUniformSampler(V, max_id=2 * V))
    with pytest.raises(ValueError, match="candidate_ids must lie in"):
        model(batch(), training=True)
    assert isinstance(model, Model)
