"""What a run keeps: the mean of its latest weights, by the closed form of its weighting."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from cli_helpers import begin
from torch import Tensor, nn

from transformers4rec_ext.samplers.base import Sampler
from transformers4rec_ext.training import RunConfig, load_state, read_log
from transformers4rec_ext.training import run as running
from transformers4rec_ext.training.average import WeightAverage
from transformers4rec_ext.training.folder import RunFolder
from transformers4rec_ext.training.network import build_model
from transformers4rec_ext.training.run import train_run

STEPS = 40


def _walk(average: WeightAverage, model: nn.Linear) -> list[Tensor]:
    """Give the model other weights at each step; return those that the mean took in."""
    taken = []
    for step in range(1, STEPS + 1):
        nn.init.normal_(model.weight)
        average(model, step)
        if step % average.every == 0:
            taken.append(model.weight.detach().clone().double())
    return taken


@pytest.mark.parametrize("steps_per_epoch", [10, 96])
@pytest.mark.parametrize("inverse", [1, 2, 3])
def test_the_weight_of_a_step_is_a_power_of_its_number(inverse: int, steps_per_epoch: int) -> None:
    model = nn.Linear(5, 7, bias=False)
    average = WeightAverage(model, 1 / inverse, steps_per_epoch)
    taken = _walk(average, model)
    assert len(taken) == (STEPS if steps_per_epoch == 10 else STEPS // 3)
    numbers = torch.arange(1, len(taken) + 1, dtype=torch.float64)
    # s^(1/x - 1) in rising factorials: 1; s; s (s + 1)
    weights = [torch.ones_like(numbers), numbers, numbers * (numbers + 1)][inverse - 1]
    expected = torch.einsum("s,sij->ij", weights / weights.sum(), torch.stack(taken))
    (mean,) = average.module.parameters()
    torch.testing.assert_close(mean.detach().double(), expected, rtol=1e-5, atol=1e-6)


def test_a_tenth_is_about_the_last_tenth() -> None:
    model = nn.Linear(1, 1, bias=False)
    average = WeightAverage(model, 0.1, 1)
    for step in range(1, 1001):
        nn.init.constant_(model.weight, step)
        average(model, step)
    (mean,) = average.module.parameters()
    assert 1000 - mean.item() == pytest.approx(1000 * 0.1 / 1.1, rel=0.01)


def test_the_tables_of_a_sampler_are_there_once() -> None:
    for loss in ("sampled", "bce"):
        config = RunConfig("items", d_model=8, loss=loss, sampler="popularity", num_negatives=3)
        model = build_model(config, 10, np.arange(10))
        average = WeightAverage(model, 0.5, 1)
        own = {part for part in model.modules() if isinstance(part, Sampler)}
        assert own == {part for part in average.module.modules() if isinstance(part, Sampler)}
        assert not set(model.parameters()) & set(average.module.parameters())
        average(model, 1)


def test_an_epoch_is_taken_in_at_least_32_times_and_below_64_whole() -> None:
    model = nn.Linear(1, 1)
    taken = {n: n // WeightAverage(model, 0.1, n).every for n in (1, 31, 63, 64, 1000, 99_999)}
    assert taken == {1: 1, 31: 31, 63: 63, 64: 32, 1000: 32, 99_999: 32}


def test_until_the_first_update_it_is_the_model() -> None:
    model = nn.Linear(3, 3)
    average = WeightAverage(model, 0.1, 96)
    start = model.weight.detach().clone()
    nn.init.zeros_(model.weight)
    average(model, 1)
    assert torch.equal(average.module.weight, start)
    average(model, 3)
    assert torch.equal(average.module.weight, model.weight)
    assert average.module.weight.data_ptr() != model.weight.data_ptr()


def test_none_is_the_model_itself() -> None:
    model = nn.Linear(3, 3)
    average = WeightAverage(model, 0.0, 96)
    average(model, 3)
    assert average.module is model
    assert average.state_dict() == {}


def _train(out: Path, file: Path, *more: str) -> tuple[RunFolder, list[dict[str, Tensor]]]:
    """Run it; return the folder and the weights after each step."""
    torch.set_num_threads(1)
    after: list[dict[str, Tensor]] = []
    models: list[Any] = []

    def build(*arguments: Any) -> Any:
        models.append(original(*arguments))
        return models[-1]

    def keep(done: int) -> None:
        after.append({k: v.clone().double() for k, v in models[0].state_dict().items()})

    original = running.build_model
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(running, "build_model", build)
        folder = begin(out, file, *more)
        train_run(folder, progress=False, say=lambda line: None, on_step=keep)
    return folder, after


# Batches of 32 make 15 steps an epoch, all taken in; of 7 windows 69, of which every other is.
@pytest.mark.parametrize("batch", [32, 7])
@pytest.mark.parametrize("sparse", [False, True])
def test_a_run_keeps_the_mean_and_trains_as_without(
    tmp_path: Path, sessions_file: Path, sparse: bool, batch: int
) -> None:
    more = ["--epochs=2", "--patience=0", f"--batch-size={batch}"]
    more.append("--sparse" if sparse else "--no-sparse")
    folder, after = _train(tmp_path / "mean", sessions_file, "--average=0.5", *more)
    plain, _ = _train(tmp_path / "plain", sessions_file, "--average=0", *more)
    kept, last = (load_state(f.path / "model.safetensors") for f in (folder, plain))
    best = [line for line in read_log(folder.path / "log.jsonl") if line["event"] == "validation"]
    end = max(best, key=lambda line: line["ndcg_at_10"])["step"]
    epoch = best[0]["step"]
    every = max(1, epoch // 32)
    assert (batch == 32) == (every == 1)
    assert batch == 32 or epoch % every, "steps are counted over the run, not in an epoch"
    numbers = torch.arange(1, end // every + 1, dtype=torch.float64)
    for name, tensor in kept.items():
        steps = torch.stack([weights[name] for weights in after[every - 1 : end : every]])
        mean = torch.einsum("s,s...->...", numbers / numbers.sum(), steps)
        torch.testing.assert_close(tensor.double(), mean, rtol=1e-5, atol=1e-6, msg=name)
    assert any(not torch.equal(tensor, last[name]) for name, tensor in kept.items())
    losses = [
        [line["loss"] for line in read_log(f.path / "log.jsonl") if line["event"] == "train"]
        for f in (folder, plain)
    ]
    assert losses[0] == losses[1]
    ends = [load_state(f.path / "checkpoint.safetensors")["model"] for f in (folder, plain)]
    for name, tensor in ends[0].items():
        assert torch.equal(tensor, ends[1][name])


@pytest.mark.parametrize("value", [-0.1, 1.5, float("nan")])
def test_a_part_that_is_none(value: float) -> None:
    with pytest.raises(ValueError, match=r"average must lie in \[0, 1\]"):
        RunConfig("items", average=value)


def test_runs_of_before_had_none() -> None:
    values = RunConfig("items", average=0.0).as_dict()
    values.pop("average")
    assert RunConfig.from_dict(values).average == 0
