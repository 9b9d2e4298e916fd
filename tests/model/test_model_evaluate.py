"""Model: evaluate, save, load, schemas."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from task_helpers import (
    CLICK,
    PLAY,
    Columns,
    D,
    V,
    batch,
    data,
    dense_body,
    next_item_model,
    regression_model,
)

from transformers4rec_ext.model import (
    BinaryClassificationTask,
    Head,
    Model,
    RegressionTask,
)

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


def test_evaluate_needs_batches() -> None:
    spent = iter(())
    with pytest.raises(ValueError, match=r"evaluate: dataloader must yield at least one batch; "):
        regression_model().evaluate(spent, verbose=False)
    for wrong in (None, "data.parquet", {"x": torch.ones(2, 5)}):
        with pytest.raises(TypeError, match=r"evaluate: dataloader must be an iterable of batches"):
            regression_model().evaluate(wrong, verbose=False)


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
    assert other.top_k == 3
    other.top_k, model.top_k = None, None
    assert other.name == "n"
    torch.testing.assert_close(other(batch()), model(batch()))
    model.save(str(tmp_path), model_name="named")
    assert (tmp_path / "named.pt").exists()
    heads = [Head(Columns(), RegressionTask("a")), Head(Columns(), RegressionTask("b"))]
    two = Model(*heads)
    loaded = Model.load(two.state_dict(), heads, head_weights=[1.0, 2.0], head_reduction="sum")
    assert loaded.head_weights == [1.0, 2.0]


def test_save_into_a_file(tmp_path: Path) -> None:
    file = tmp_path / "model.pt"
    file.write_text("mine")
    for save in (next_item_model().save, next_item_model().save_pretrained):
        with pytest.raises(
            NotADirectoryError, match=r"path must be a folder; .*model\.pt is a file"
        ):
            save(file)
    assert file.read_text() == "mine"


def test_load_refuses() -> None:
    head = next_item_model().heads[0]
    text = r"^`state_dict` must be a dictionary of parameter \(torch\) tensors\."
    for wrong in ("file.pt", [torch.ones(1)], {"a": 1}, {1: torch.ones(1)}):
        with pytest.raises(ValueError, match=text):
            Model.load(wrong, head)
    with pytest.raises(TypeError, match=r"heads must be .*; got none\. Model\.from_pretrained"):
        Model.load("folder")
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


def test_save_as_safetensors(tmp_path: Path) -> None:
    model = next_item_model(weight_tying=True)
    model.save(tmp_path, "m", format="safetensors")
    assert os.listdir(tmp_path) == ["m.safetensors"]
    # the table is one tensor under several keys, as in upstream's state dict, and stored once
    stored = load_file(tmp_path / "m.safetensors")
    tables = [name for name, t in stored.items() if t.shape == (V, D)]
    shared = [name for name, t in model.state_dict().items() if t.shape == (V, D)]
    assert len(shared) > 1
    assert tables == shared[:1]
    other = next_item_model(weight_tying=True)
    keys = list(other.state_dict())
    before = other(batch())
    other.load_weights(tmp_path / "m.safetensors")
    assert not torch.equal(other(batch()), before)
    torch.testing.assert_close(other(batch()), model(batch()))
    assert list(other.state_dict()) == keys
    # still tied: a step of the input table moves the output
    pointers = {other.state_dict()[name].data_ptr() for name in shared}
    assert len(pointers) == 1


def test_load_weights_refuses(tmp_path: Path) -> None:
    model = next_item_model(weight_tying=True)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(FileNotFoundError, match="path must exist"):
        model.load_weights(tmp_path / "none.safetensors")
    model.save(tmp_path, "m")
    with pytest.raises(ValueError, match=r"file must be of save\(.*torch\.load"):
        model.load_weights(tmp_path / "m.pt")
    regression_model().save(tmp_path, "m", format="safetensors")
    with pytest.raises(ValueError, match=r"have the tensors of the model; got .* with an unex"):
        model.load_weights(tmp_path / "m.safetensors")
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_save_refuses(tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match=r"format must be one of \('pt', 'safetensors'\); got 'h5'"
    ):
        next_item_model().save(tmp_path, format="h5")
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


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        ({"head_weights": ["a"]}, TypeError, r"head_weights\[0\] must be a number; got str"),
        ({"head_weights": (1.0,)}, ValueError, "^`head_weights` must be a list"),
        (
            {"head_weights": [1.0, 2.0]},
            ValueError,
            "^`head_weights` needs to have the same length as the number of heads",
        ),
        ({"head_reduction": "x"}, ValueError, "head_reduction must be one of"),
        ({"optimizer": "adam"}, TypeError, "optimizer must be a class that makes .*; got str"),
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
