"""Model: forward, fit, evaluate, save, load, schemas."""

from __future__ import annotations

import errno
import os
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from task_helpers import D, T, V, batch, dense_body, next_item_model, sequence_inputs

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
    ],
)
def test_fit_refuses(arguments: dict, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        regression_model().fit(**{"dataloader": data(1), "verbose": False, **arguments})


# Evaluate


def test_evaluate_switches_dropout_and_gradients_off_and_back() -> None:
    # D22
    model = Model(Head(Columns(dropout=0.5), RegressionTask("play")))
    model.train()
    first = model.evaluate(data(), verbose=False)
    assert first == model.evaluate(data(), verbose=False)
    assert model.heads[0].body.grad_enabled is False
    assert model.training
    assert model.heads[0].body.dropout.training
    x = torch.cat([x["x"] for x, _ in data()])
    y = torch.cat([y["play"] for _, y in data()])
    model.eval()
    expected = ((model({"x": x}) - y) ** 2).mean().detach()
    torch.testing.assert_close(first[f"{PLAY}/mean_squared_error"], expected)


def test_evaluate_restores_the_mode_after_an_error() -> None:
    model = regression_model()
    with pytest.raises(TypeError, match="dataloader must yield"):
        model.evaluate([1], verbose=False)
    assert model.training
    assert torch.is_grad_enabled()


def test_evaluate_keys() -> None:
    tasks = [RegressionTask("play"), BinaryClassificationTask("click")]
    model = Model(Head(Columns(), tasks))
    targets = {"play": torch.ones(2), "click": torch.ones(2)}
    metrics = model.evaluate([{"x": torch.ones(2, 5)}], targets=targets, verbose=False)
    assert list(metrics) == [f"eval_{PLAY}", f"eval_{CLICK}"]
    assert list(
        model.evaluate([({"x": torch.ones(2, 5)}, targets)], mode="test", verbose=False)
    ) == [
        f"test_{PLAY}",
        f"test_{CLICK}",
    ]
    with pytest.raises(ValueError, match="training or testing must be True"):
        model.evaluate([], testing=False)


def test_evaluate_without_labels_is_empty() -> None:
    model = next_item_model()
    assert model.evaluate([{"item_id": torch.tensor([[3, 0]])}], verbose=False) == {}


# Save and load


def test_save_and_load(tmp_path: Path) -> None:
    # D19: upstream's load always raises.
    model = next_item_model(weight_tying=True)
    model.save(tmp_path / "a" / "b")
    state = torch.load(tmp_path / "a" / "b" / "t4rec_model_class.pt", weights_only=True)
    assert list(state) == list(model.state_dict())
    other = Model.load(state, next_item_model(weight_tying=True).heads[0], top_k=3, name="n")
    other.top_k, model.top_k = None, None
    assert other.name == "n"
    torch.testing.assert_close(other(batch()), model(batch()))
    model.save(str(tmp_path), model_name="named")
    assert (tmp_path / "named.pt").exists()
    heads = [Head(Columns(), RegressionTask("a")), Head(Columns(), RegressionTask("b"))]
    two = Model(*heads)
    loaded = Model.load(two.state_dict(), heads, head_weights=[1.0, 2.0], head_reduction="sum")
    assert loaded.head_weights == [1.0, 2.0]


def test_load_refuses() -> None:
    head = next_item_model().heads[0]
    text = r"^`state_dict` must be a dictionary of parameter \(torch\) tensors\."
    for wrong in ("file.pt", [torch.ones(1)], {"a": 1}, {1: torch.ones(1)}):
        with pytest.raises(ValueError, match=text):
            Model.load(wrong, head)
    with pytest.raises(RuntimeError, match="Missing key"):
        Model.load({}, head)
    assert isinstance(Model.load({}, head, strict=False), Model)


@pytest.mark.parametrize("failure", [OSError(errno.ENOSPC, "No space left"), RuntimeError("write")])
def test_a_full_disk_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failure: Exception
) -> None:
    model = next_item_model()
    model.save(tmp_path)
    before = (tmp_path / "t4rec_model_class.pt").read_bytes()

    def full(state: Any, file: Any) -> None:
        Path(file).write_bytes(b"half")
        raise failure

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(type(failure), match=str(failure.args[-1])):
        next_item_model().save(tmp_path)
    assert (tmp_path / "t4rec_model_class.pt").read_bytes() == before
    assert os.listdir(tmp_path) == ["t4rec_model_class.pt"]


def test_save_refuses(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="model_name must be a non-empty str; got ''"):
        next_item_model().save(tmp_path, model_name="")


# Schemas and the rest


def test_schemas() -> None:
    model = next_item_model()
    assert model.input_schema.column_names == ["item_id"]
    (column,) = model.output_schema
    assert (column.name, column.dtype, column.max_length) == ("next-item", "float32", V)
    model.top_k = 7
    # D33: upstream says V here.
    assert [(c.name, c.dtype, c.max_length) for c in model.output_schema] == [
        ("item_id_scores", "float32", 7),
        ("item_ids", "int64", 7),
    ]
    tasks = [RegressionTask("a"), RegressionTask("b", summary_type=None)]
    scalar, sequence = Model(Head(dense_body(), tasks)).output_schema
    assert not scalar.is_list
    assert sequence.is_list
    with pytest.raises(ValueError, match="body must begin with an input module"):
        _ = regression_model().input_schema
    shared = model.heads[0]
    second = Head(shared.body, RegressionTask("a"))
    assert Model(shared, second).input_schema.column_names == ["item_id"]


def test_names() -> None:
    assert repr(regression_model(name="mine")).startswith("mine(")
    assert repr(regression_model()).startswith("Model(")


def test_lightning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pytorch_lightning", None)
    model = regression_model(optimizer=torch.optim.SGD)
    with pytest.raises(ImportError, match="to_lightning needs pytorch_lightning"):
        model.to_lightning()
    stub = types.ModuleType("pytorch_lightning")
    stub.LightningModule = type(
        "LightningModule",
        (torch.nn.Module,),
        {"log": lambda self, name, value: setattr(self, "logged", (name, value))},
    )
    monkeypatch.setitem(sys.modules, "pytorch_lightning", stub)
    module = model.to_lightning()
    loss = module.training_step(data(1)[0], 0)
    assert loss.requires_grad
    assert module.logged[0] == "train_loss"
    optimizer = module.configure_optimizers()
    assert isinstance(optimizer, torch.optim.SGD)
    assert optimizer.param_groups[0]["lr"] == 1e-3
    assert module(data(1)[0][0]).shape == (8,)


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        ({"head_weights": (1.0,)}, ValueError, "^`head_weights` must be a list"),
        (
            {"head_weights": [1.0, 2.0]},
            ValueError,
            "^`head_weights` needs to have the same length as the number of heads",
        ),
        ({"head_reduction": "x"}, ValueError, "head_reduction must be one of"),
        ({"max_sequence_length": 0}, ValueError, "max_sequence_length must be at least 1"),
        ({"top_k": 0}, ValueError, "top_k must be at least 1; got 0"),
        ({"top_k": "3"}, TypeError, "top_k must be an int"),
    ],
)
def test_constructor_refuses(arguments: dict, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        regression_model(**arguments)


def test_heads_are_checked() -> None:
    with pytest.raises(ValueError, match="head must be at least one Head"):
        Model()
    with pytest.raises(TypeError, match="head must be a Head; got Linear"):
        Model(torch.nn.Linear(D, D))
    heads = [Head(Columns(), RegressionTask("a")) for _ in range(2)]
    # D34: upstream's second task would hide the first.
    with pytest.raises(ValueError, match="different task names; got two named 'a/regression_task'"):
        Model(*heads)
