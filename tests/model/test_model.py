"""Model: forward and fit."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from task_helpers import (
    PLAY,
    Columns,
    T,
    V,
    batch,
    data,
    next_item_model,
    regression_model,
    sequence_inputs,
)

from transformers4rec_ext.block.base import SequentialBlock
from transformers4rec_ext.block.mlp import MLPBlock
from transformers4rec_ext.block.transformer import TransformerBlock
from transformers4rec_ext.config.transformer import GPT2Config
from transformers4rec_ext.model import (
    BinaryClassificationTask,
    Head,
    Model,
    NextItemPredictionTask,
    RegressionTask,
)

# Forward


def test_upstream_idiom_trains() -> None:
    inputs = sequence_inputs(d_output=16)
    body = SequentialBlock(
        inputs,
        MLPBlock([16]),
        TransformerBlock(GPT2Config.build(16, 2, 1, T), masking=inputs.masking),
    )
    head = Head(
        body,
        NextItemPredictionTask(weight_tying=False, sampled_softmax=True, max_n_samples=10),
        inputs=inputs,
    )
    model = Model(head)
    output = model(batch(), training=True)
    output["loss"].backward()
    without = {name for name, p in model.named_parameters() if p.grad is None}
    # GPT2's own token table is not used.
    assert all(name.endswith("wte.weight") for name in without)
    keys = set(model.state_dict())
    assert "heads.0.body.1.0.0.weight" in keys
    assert "heads.0.prediction_task_dict.next-item.pre.module.output_layer" in keys
    assert model(batch(), top_k=4)[1].shape == (4, 4)


def test_one_task_is_unwrapped_and_two_are_not() -> None:
    x, y = data(1)[0]
    output = regression_model()(x, targets=y, training=True)
    assert torch.equal(output["labels"], y["play"])
    assert regression_model()(x).shape == (8,)
    heads = [Head(Columns(), RegressionTask("play")), Head(Columns(), RegressionTask("other"))]
    model = Model(*heads, head_weights=[1.0, 0.5], head_reduction="sum")
    both = {"play": y["play"], "other": -y["play"]}
    output = model(x, targets=both, testing=True)
    assert list(output["labels"]) == [PLAY, "other/regression_task"]
    losses = [head(x, targets=both, testing=True, call_body=True)["loss"] for head in heads]
    torch.testing.assert_close(output["loss"], losses[0] + 0.5 * losses[1])
    assert list(model(x)) == [PLAY, "other/regression_task"]
    assert [task.task_name for task in model.prediction_tasks] == list(output["labels"])


def test_inputs_become_float32_and_the_callers_dict_stays() -> None:
    # D28
    model = regression_model()
    inputs = {"x": torch.randn(8, 5, dtype=torch.float64)}
    before = dict(inputs)
    model(inputs)
    assert inputs["x"] is before["x"]
    assert model.heads[0].body.seen["x"].dtype == torch.float32


def test_empty_targets_are_none_and_unknown_arguments_ignored() -> None:
    model = next_item_model()
    assert model(batch(), targets={}, training=True, unknown=3)["loss"].isfinite()
    with pytest.raises(ValueError, match="targets must be given"):
        regression_model()(data(1)[0][0], targets={}, training=True)


def test_ragged_inputs_are_padded_and_cut() -> None:
    ids = batch()["item_id"]
    lengths = (ids != 0).sum(1)
    ragged = {
        "item_id__values": ids[ids != 0],
        "item_id__offsets": torch.nn.functional.pad(lengths.cumsum(0), (1, 0)),
    }
    model = next_item_model()
    torch.testing.assert_close(model(ragged), model(batch()))
    assert set(ragged) == {"item_id__values", "item_id__offsets"}
    cut = next_item_model()
    cut.load_state_dict(model.state_dict())
    cut.max_sequence_length = 2
    torch.testing.assert_close(cut(ragged), model({"item_id": ids[:, :2]}))


@pytest.mark.parametrize(
    ("inputs", "error", "text"),
    [
        (torch.ones(2), TypeError, "inputs must be a dict of tensors; got Tensor"),
        ({"x": [1]}, TypeError, r"inputs\['x'\] must be a tensor; got list"),
        (
            {"x": torch.ones(2, 5).to_sparse()},
            TypeError,
            r"be a dense tensor; got torch.sparse_coo",
        ),
        (
            {"x": torch.nested.nested_tensor([torch.ones(2), torch.ones(3)], layout=torch.jagged)},
            TypeError,
            r"inputs\['x'\] must be a dense tensor; got a nested one. .* as x__values \[L\] and",
        ),
        (
            {"x__values": torch.ones(3)},
            ValueError,
            r"hold name__values and name__offsets together; got \['x'\]",
        ),
        (
            {"x__values": torch.ones(3), "x__offsets": torch.tensor([0, 2])},
            ValueError,
            r"rise from 0 to the number of values \(3\); got 0 to 2",
        ),
        (
            {"x__values": torch.ones(3), "x__offsets": torch.tensor([0, 4, 3])},
            ValueError,
            "rise from 0",
        ),
        (
            {"x__values": torch.ones(3), "x__offsets": torch.tensor([0.0, 3.0])},
            ValueError,
            r"must be ints \[B\+1\]; got torch.float32 \[2\]",
        ),
    ],
)
def test_bad_inputs(inputs: Any, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        regression_model()(inputs)


def test_top_k_of_the_model_and_of_the_call() -> None:
    model = next_item_model()
    model.top_k = 3
    scores, ids = model(batch())
    assert scores.shape == ids.shape == (4, 3)
    assert model(batch(), top_k=5)[0].shape == (4, 5)
    assert model(batch(), top_k=None).shape == (4, V)
    # A task that recommends nothing takes no notice.
    assert regression_model(top_k=2)(data(1)[0][0]).shape == (8,)


# Fit


def test_fit_learns_and_returns_epoch_means() -> None:
    model = regression_model()
    losses = model.fit(
        data(), torch.optim.SGD(model.parameters(), 0.05), num_epochs=20, verbose=False
    )
    assert isinstance(losses, np.ndarray)
    assert losses.dtype == np.float64
    assert losses.shape == (20,)
    assert losses[-1] < 0.1 * losses[0]


def test_fit_mean_is_over_batches() -> None:
    model = regression_model()
    with torch.no_grad():
        expected = np.mean([float(model(x, targets=y, training=True)["loss"]) for x, y in data()])
    losses = model.fit(data(), train=False, verbose=False)
    assert losses[0] == pytest.approx(expected, rel=1e-6)


def test_fit_without_train_changes_nothing() -> None:
    model = regression_model()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    model.fit(data(), train=False, verbose=False)
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())
    assert model.heads[0].body.grad_enabled is False


def test_fit_refuses_a_model_that_is_all_frozen() -> None:
    model = regression_model().requires_grad_(False)
    with pytest.raises(ValueError, match="model must have a parameter to learn; got none"):
        model.fit(data(1), verbose=False)
    assert model.fit(data(1), train=False, verbose=False).shape == (1,)


def test_fit_resets_metrics_every_epoch() -> None:
    # D22
    seen = []
    model = regression_model()
    reset = model.reset_metrics

    def counted() -> None:
        seen.append(1)
        reset()

    model.reset_metrics = counted
    model.fit(data(), num_epochs=3, verbose=False)
    assert len(seen) == 3
    metric = model.prediction_tasks[0].metrics[0]
    assert int(metric.total) == 24
    model.fit(data(), num_epochs=1, verbose=False, compute_metric=False)
    assert not metric.update_called


class Loader:
    """Batches of a kind of its own, with a dataset attribute as torch's loader has."""

    dataset = None

    def __iter__(self) -> Iterator[dict[str, torch.Tensor]]:
        yield batch()


@pytest.mark.parametrize(
    "loader",
    [
        Loader(),
        [batch()],
        [(batch(), {})],
        [[batch(), None]],
        torch.utils.data.DataLoader([{"item_id": row} for row in batch()["item_id"]], batch_size=2),
    ],
)
def test_fit_and_evaluate_take_any_loader(loader: Any) -> None:
    # D23: upstream iterates loader.dataset and so ignores the batching.
    model = next_item_model()
    assert model.fit(loader, num_epochs=2, verbose=False).shape == (2,)
    assert 0 <= float(model.evaluate(loader, verbose=False)["next-item/recall_at_10"]) <= 1


def test_fit_restores_the_mode() -> None:
    model = regression_model()
    model.eval()
    model.heads[0].body.train()
    model.fit(data(1), verbose=False)
    assert model.training is False
    assert model.heads[0].body.training is True


@pytest.mark.parametrize("optimizer", [torch.optim.SGD, lambda p: torch.optim.SGD(p, lr=0.1)])
def test_fit_makes_the_optimizer(optimizer: Any) -> None:
    model = regression_model()
    before = model.state_dict()
    before = {k: v.clone() for k, v in before.items()}
    model.fit(data(1), optimizer=optimizer, verbose=False)
    assert any(not torch.equal(before[k], v) for k, v in model.state_dict().items())


def test_fit_with_amp_on_the_cpu() -> None:
    model = regression_model()
    losses = model.fit(data(), num_epochs=10, amp=True, verbose=False)
    assert losses[-1] < losses[0]


def test_fit_is_verbose(capsys: pytest.CaptureFixture[str]) -> None:
    model = regression_model()
    model.fit(data(1), num_epochs=2, eval_dataloader=data(1))
    captured = capsys.readouterr()
    assert "epoch 1/2 loss" in captured.out
    assert captured.out.count("play/regression_task/mean_squared_error") == 4
    assert "epoch 2/2" in captured.err
    model.fit(data(1), verbose=False)
    captured = capsys.readouterr()
    assert captured.out == captured.err == ""


def test_fit_logs_several_tasks(caplog: pytest.LogCaptureFixture) -> None:
    tasks = [RegressionTask("play"), BinaryClassificationTask("click")]
    model = Model(Head(Columns(), tasks))
    loader = [({"x": torch.ones(2, 5)}, {"play": torch.ones(2), "click": torch.ones(2)})]
    with caplog.at_level("INFO", logger="transformers4rec_ext"):
        model.fit(loader, verbose=False)
    assert "binary_accuracy" in caplog.text


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        ({"num_epochs": 0}, ValueError, "num_epochs must be at least 1; got 0"),
        ({"num_epochs": 1.0}, TypeError, "num_epochs must be an int"),
        ({"optimizer": "adam"}, TypeError, "optimizer must be an optimizer or make one; got str"),
        ({"dataloader": []}, ValueError, "dataloader must yield at least one batch .* epoch 1"),
        (
            {"dataloader": iter(data(1)), "num_epochs": 2},
            ValueError,
            "got none in epoch 2. A generator is spent after one epoch",
        ),
        ({"dataloader": [3]}, TypeError, r"dataloader must yield a dict or \(dict, targets\)"),
        *(
            ({"dataloader": loader}, TypeError, "dataloader must be an iterable of batches; got ")
            for loader in (None, "data.parquet", data(1)[0][0], torch.ones(2, 5))
        ),
    ],
)
def test_fit_refuses(arguments: dict, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        regression_model().fit(**{"dataloader": data(1), "verbose": False, **arguments})
