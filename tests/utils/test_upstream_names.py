"""What upstream's users import besides the public names: here, or said to be elsewhere."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from typing import NamedTuple

import pytest
import torch
from torch import nn

import transformers4rec_ext as tr
from transformers4rec_ext._lazy import submodules
from transformers4rec_ext.data import synthetic
from transformers4rec_ext.typing import TabularData, TensorOrTabularData
from transformers4rec_ext.utils import examples_utils, torch_utils


def model_of(*tasks: tr.PredictionTask) -> tuple[tr.Model, dict[str, torch.Tensor]]:
    torch.manual_seed(0)
    schema = tr.Schema.from_item_column("item_id", num_items=20, max_length=6)
    inputs = tr.TabularSequenceFeatures.from_schema(schema, d_output=8, masking="clm")
    model = tr.Model(tr.Head(tr.SequentialBlock(inputs, tr.MLPBlock([8])), list(tasks)))
    return model, {"item_id": torch.tensor([[3, 4, 5, 0], [7, 8, 9, 10]])}


def test_a_model_and_a_head_compute_their_loss():
    tasks = [tr.NextItemPredictionTask(), tr.BinaryClassificationTask("click")]
    model, batch = model_of(*tasks)
    targets = {"click": torch.tensor([0.0, 1.0])}
    expected = model(batch, targets=targets, training=True)["loss"]
    assert torch.equal(model.compute_loss(batch, targets), expected)
    head = model.heads[0]
    assert torch.equal(head.compute_loss(batch, targets, call_body=True), expected)
    # The next-item task has no scores in training, and so no metrics.
    assert set(model.compute_metrics("eval")["eval_next-item"]) == set()
    assert len(model.compute_metrics("eval")["eval_click/binary_classification_task"]) == 3
    model.reset_metrics()
    model.compute_loss(batch, targets, compute_metrics=False)
    assert model.compute_metrics("eval")["eval_click/binary_classification_task"] == {}


def test_a_task_computes_its_loss():
    task = tr.RegressionTask("price")
    task.build(None, torch.Size([-1, 8]))
    hidden, prices = torch.randn(4, 8, requires_grad=True), torch.rand(4)
    loss = task.compute_loss(hidden, prices)
    assert torch.equal(loss, nn.functional.mse_loss(task(hidden), prices))
    (metric,) = task.compute_metrics().values()
    assert not metric.requires_grad
    loss.backward()
    assert hidden.grad is not None


def test_nested_tensors_may_have_names():
    class Pair(NamedTuple):
        first: torch.Tensor
        second: int

    pair = Pair(torch.ones(2, requires_grad=True), 3)
    detached = torch_utils.nested_detach([pair])[0]
    assert isinstance(detached, Pair)
    assert (detached.first.requires_grad, detached.second) == (False, 3)


@pytest.mark.parametrize("cls", [tr.PredictionTask, tr.Head, tr.Model])
def test_mixins_are_those_of_tasks_heads_and_models(cls):
    assert issubclass(cls, torch_utils.LossMixin)
    assert issubclass(cls, torch_utils.MetricsMixin)
    assert issubclass(tr.BlockBase, torch_utils.OutputSizeMixin)


def test_what_a_class_of_ones_own_must_define():
    class Mine(torch_utils.MetricsMixin):
        """Has nothing."""

    for call in ("calculate_metrics(1, 2)", "compute_metrics()", "reset_metrics()"):
        with pytest.raises(NotImplementedError, match=rf"Mine must define {call.split('(')[0]}"):
            eval(f"Mine().{call}", {"Mine": Mine})


def test_types_of_a_batch():
    assert TabularData == Mapping[str, torch.Tensor]
    assert TensorOrTabularData == torch.Tensor | TabularData


@pytest.mark.parametrize(
    ("module", "name", "text"),
    [
        (torch_utils, "MappingTransformerMasking", "It is upstream's; which maskings an archi"),
        (torch_utils, "nothing", "module .* has no attribute 'nothing'"),
        (examples_utils, "visualize_response", r"a server of Merlin .*; model\(batch, top_k=k\)"),
        (synthetic, "generate_item_interactions", "It is upstream's; write_sessions makes a parq"),
        (synthetic, "nothing", "module .* has no attribute 'nothing'"),
        (examples_utils, "nothing", "module .* has no attribute 'nothing'"),
    ],
)
def test_a_name_that_is_not_here_says_what_to_use(module, name, text):
    with pytest.raises(AttributeError, match=text):
        getattr(module, name)


def test_submodules_are_there_after_the_import_of_the_package():
    names = ("block.mlp", "config.transformer", "features.sequence", "tabular.base")
    names += ("utils.data_utils", "utils.padding", "model.head", "masking.causal")
    asked = "; ".join(f"tr.{name}" for name in names)
    code = f"import transformers4rec_ext as tr; {asked}; hasattr(tr.utils, '__wrapped__')"
    subprocess.run([sys.executable, "-c", code], check=True)
    with pytest.raises(AttributeError, match=r"module 'transformers4rec_ext\.utils' has no attri"):
        _ = tr.utils.nothing


def test_a_submodule_that_lacks_another_module_says_which(tmp_path, monkeypatch):
    (tmp_path / "lazy_package").mkdir()
    (tmp_path / "lazy_package" / "__init__.py").write_text("")
    (tmp_path / "lazy_package" / "part.py").write_text("import module_that_is_absent")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModuleNotFoundError, match="module_that_is_absent"):
        submodules("lazy_package")("part")
