"""Upstream's recorded binary classification and regression tasks."""

from __future__ import annotations

from typing import Any

import torch

from transformers4rec_ext.block.mlp import MLPBlock
from transformers4rec_ext.model.prediction_task import (
    BinaryClassificationTask,
    NextItemPredictionTask,
    RegressionTask,
)

CLASSES = {
    "BinaryClassificationTask": BinaryClassificationTask,
    "RegressionTask": RegressionTask,
}


def below(tensors: dict[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    return {k[len(prefix) + 1 :]: v for k, v in tensors.items() if k.startswith(prefix + "/")}


def built(case: dict[str, Any]) -> Any:
    arguments = dict(case["ctor"])
    block = arguments.pop("task_block")
    if block is not None:
        activation = torch.nn.ReLU if block["activation"] == "ReLU" else None
        block = MLPBlock(block["MLPBlock"], activation=activation)
    task = CLASSES[case["cls"]](**arguments, task_block=block)
    task.build(None, case["input_size"])
    return task


def test_tasks(parity) -> None:
    meta, tensors = parity("tasks")
    rtol, atol = meta["tolerance"]["rtol"], meta["tolerance"]["atol"]

    def close(got: torch.Tensor, want: torch.Tensor) -> None:
        torch.testing.assert_close(got.detach(), want, rtol=rtol, atol=atol)

    assert len(meta["cases"]) == 34
    for name, case in meta["cases"].items():
        task = built(case)
        assert list(task.state_dict()) == case["state_dict_keys"], name
        assert task.task_name == case["task_name"]
        task.load_state_dict(below(tensors, f"{name}/weights"), strict=True)
        for i in (0, 1):
            x = tensors[f"data{i}/{case['input_key']}"].clone().requires_grad_()
            targets = tensors[f"data{i}/{case['target_key']}"]
            close(task(x), tensors[f"{name}/out{i}/inference"])
            output = task(x, targets=targets, training=True)
            for key in ("loss", "labels", "predictions"):
                close(output[key], tensors[f"{name}/out{i}/{key}"])
            task.zero_grad()
            output["loss"].backward()
            close(x.grad, tensors[f"{name}/out{i}/grad_x"])
            for key, parameter in task.named_parameters():
                close(parameter.grad, tensors[f"{name}/out{i}/grad/{key}"])
            metrics = task.calculate_metrics(output["predictions"].detach(), output["labels"])
            assert_metrics(metrics, case["metrics_per_batch"][i])
        assert_metrics(task.compute_metrics(), case["metrics_after_two_batches"])


def assert_metrics(got: dict[str, torch.Tensor], want: dict[str, float]) -> None:
    assert list(got) == list(want)
    for key, value in want.items():
        torch.testing.assert_close(float(got[key]), value, rtol=1e-5, atol=1e-6)


def test_default_names(parity) -> None:
    meta, _ = parity("tasks")
    made = {
        "BinaryClassificationTask()": BinaryClassificationTask(),
        "RegressionTask()": RegressionTask(),
        "BinaryClassificationTask('click')": BinaryClassificationTask("click"),
        "RegressionTask('r', task_name='x')": RegressionTask("r", task_name="x"),
        "NextItemPredictionTask()": NextItemPredictionTask(),
    }
    assert {key: task.task_name for key, task in made.items()} == meta["default_names"]
