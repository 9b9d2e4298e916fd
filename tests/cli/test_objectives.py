"""Every loss and sampler of ``train``: what it builds, that it learns, repeats and resumes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from cli_helpers import TINY

from transformers4rec_ext import samplers
from transformers4rec_ext.__main__ import main
from transformers4rec_ext.cli import train_options
from transformers4rec_ext.losses import GBCELoss
from transformers4rec_ext.training import RunConfig, load_state, read_log
from transformers4rec_ext.training.config import LOSSES, SAMPLERS
from transformers4rec_ext.training.objective import make_task

Fails = Callable[..., str]
ROOT = Path(__file__).resolve().parents[2]
COLUMNS = ["--items-column=items", "--session-column=who"]
OPTIONS = [option for option in TINY if not option.startswith("--num-negatives")]
CHOICES = [
    ["--loss=full"],
    *(["--loss=sampled", f"--sampler={sampler}"] for sampler in SAMPLERS),
    *(["--loss=corrected", f"--sampler={sampler}"] for sampler in ("log-uniform", "in-batch")),
    *(["--loss=bce", f"--sampler={sampler}"] for sampler in ("uniform", "popularity", "mixed")),
    ["--loss=gbce", "--gbce-t=0.5"],
    ["--loss=full", "--cosine-scale=8"],
    ["--loss=sampled", "--cosine-scale=8", "--sparse"],
]
POPULARITY = np.array([0, 9, 5, 3, 3, 1, 0])


def _train(file: Path, out: Path, *more: str) -> int:
    return main(["train", str(file), f"--out={out}", *COLUMNS, *OPTIONS, *more])


def _negatives(choice: list[str]) -> list[str]:
    draws = "--loss=full" not in choice and "--sampler=in-batch" not in choice
    return ["--num-negatives=15"] if draws else []


@pytest.mark.parametrize("choice", CHOICES, ids="".join)
def test_it_learns_and_one_seed_is_one_run(
    sessions_file: Path, tmp_path: Path, choice: list[str]
) -> None:
    outs = [tmp_path / "one", tmp_path / "other"]
    for out in outs:
        assert _train(sessions_file, out, *choice, *_negatives(choice), "--epochs=2") == 0
    losses, weights = [], []
    for out in outs:
        log = read_log(out / "log.jsonl")
        losses.append([line["loss"] for line in log if line["event"] == "train"])
        weights.append(load_state(out / "model.safetensors"))
    assert losses[0][-1] < 0.95 * losses[0][0]
    assert losses[0] == losses[1]
    assert all(torch.equal(value, weights[1][name]) for name, value in weights[0].items())
    metrics = json.loads((outs[0] / "metrics.json").read_text())
    ndcg = metrics["model"]["ndcg_at_10"]
    assert ndcg > metrics["popularity"]["ndcg_at_10"]


@pytest.mark.parametrize(
    ("fields", "sampler", "correction"),
    [
        ({}, samplers.LogUniformSampler, False),
        ({"loss": "corrected"}, samplers.LogUniformSampler, True),
        ({"sampler": "uniform"}, samplers.UniformSampler, False),
        ({"sampler": "popularity"}, samplers.PopularitySampler, False),
        ({"sampler": "in-batch"}, samplers.InBatchSampler, False),
        ({"sampler": "mixed", "loss": "corrected"}, samplers.MixedSampler, True),
    ],
)
def test_what_a_softmax_is_made_of(fields: dict[str, Any], sampler: type, correction: bool) -> None:
    config = RunConfig("items", **fields)
    task = make_task(config, len(POPULARITY), sparse=True, popularity=POPULARITY)
    assert type(task.sampler) is sampler
    assert task.sampled_softmax
    assert task.corrected is correction
    assert task.sparse_grad
    parts = getattr(task.sampler, "samplers", [task.sampler])
    sizes = [part.max_n_samples for part in parts if hasattr(part, "max_n_samples")]
    assert sizes == [] if config.num_negatives is None else [1000]
    assert [(part.min_id, part.max_id) for part in parts] == [(1, 7)] * len(parts)


@pytest.mark.parametrize(
    ("fields", "t", "size"),
    [
        ({"loss": "bce"}, 0.0, 1000),
        ({"loss": "gbce", "num_negatives": 3}, 0.75, 3),
        ({"loss": "gbce", "gbce_t": 0.2}, 0.2, 1000),
    ],
)
def test_what_a_binary_loss_is_made_of(fields: dict[str, Any], t: float, size: int) -> None:
    task = make_task(RunConfig("items", **fields), len(POPULARITY), sparse=True)
    assert isinstance(task.loss, GBCELoss)
    assert isinstance(task.loss.sampler, samplers.UniformSampler)
    assert (task.loss.t, task.loss.sampler.max_n_samples) == (t, size)
    assert task.loss.prior == 1 / (len(POPULARITY) - 1)
    assert task.sparse_grad


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("temperature", [None, 0.7])
def test_the_temperature_divides_the_scores_of_every_loss(
    temperature: float | None, loss: str
) -> None:
    config = RunConfig("items", loss=loss, temperature=temperature)
    task = make_task(config, len(POPULARITY), sparse=False)
    binary = loss in ("bce", "gbce")
    of_task = task.loss.temperature if binary else task.softmax_temperature
    assert of_task == (temperature or (0.25 if binary else 1.0))


@pytest.mark.parametrize("loss", LOSSES)
def test_runs_of_before_the_temperature(loss: str) -> None:
    """They had 1; of a binary loss the prior was another one, which no field tells."""
    values = RunConfig("items", loss=loss).as_dict()
    del values["temperature"]
    if loss not in ("bce", "gbce"):
        assert RunConfig.from_dict(values).temperature == 1.0
        return
    with pytest.raises(ValueError, match=r"hold the temperature with loss='g?bce'.*train again"):
        RunConfig.from_dict(values)


@pytest.mark.parametrize("loss", ["full", "sampled", "corrected"])
def test_a_softmax_of_cosines(loss: str) -> None:
    config = RunConfig("items", loss=loss, cosine_scale=16)
    assert make_task(config, len(POPULARITY), sparse=False).cosine_scale == 16
    values = RunConfig("items", loss=loss).as_dict()
    del values["cosine_scale"]  # runs of before there was such
    assert RunConfig.from_dict(values).cosine_scale == 0


def test_in_batch_and_mixed_know_the_counts() -> None:
    """Item 1 is three times as popular as item 3: it is the likelier candidate."""
    for name in ("popularity", "in-batch", "mixed"):
        config = RunConfig("items", sampler=name, **({} if name == "in-batch" else NEGATIVES))
        task = make_task(config, len(POPULARITY), sparse=False, popularity=POPULARITY)
        torch.manual_seed(0)
        _, log_q = task.sampler.draw(torch.tensor([1, 3, 4]))
        assert log_q[0] > log_q[1]
        assert log_q[1] == log_q[2]
        with pytest.raises(ValueError, match=f"popularity must be given with sampler='{name}'"):
            make_task(config, len(POPULARITY), sparse=False)


NEGATIVES = {"num_negatives": 2}


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (["--loss=full", "--sampler=uniform"], "sampler must be left out with loss='full'"),
        (["--loss=full", "--num-negatives=9"], "num_negatives must be left out with loss='full'"),
        (["--loss=full", "--gbce-t=0.5"], "gbce_t must be left out with loss='full'"),
        (["--loss=full", "--sparse"], "sparse must be left out with loss='full'"),
        (["--loss=bce", "--gbce-t=0.5"], "gbce_t must be left out with loss='bce'; got 0.5"),
        (["--gbce-t=0"], "gbce_t must be left out with loss='sampled'; got 0.0"),
        (["--loss=gbce", "--gbce-t=1.5"], "gbce_t must lie in [0, 1]"),
        (["--loss=gbce", "--gbce-t=nan"], "gbce_t must lie in [0, 1]"),
        (["--loss=bce", "--cosine-scale=16"], "cosine_scale must be 0 with loss='bce'; got 16.0"),
        (["--cosine-scale=-1"], "cosine_scale must be finite and at least 0; got -1.0"),
        (["--loss=gbce", "--sampler=popularity"], "sampler must be 'uniform' with loss='gbce'"),
        (
            ["--sampler=in-batch", "--num-negatives=9"],
            "num_negatives must be left out with sampler='in-batch'; got 9. The negatives are",
        ),
        (["--sampler=zipf"], "invalid choice: 'zipf'"),
        (["--samples=100"], "unrecognized arguments: --samples=100"),
    ],
)
def test_what_would_have_no_effect_is_refused(
    sessions_file: Path, tmp_path: Path, fails: Fails, options: list[str], text: str
) -> None:
    out = tmp_path / "run"
    assert text in fails("train", sessions_file, f"--out={out}", *COLUMNS, *OPTIONS, *options)
    assert not out.exists()


@pytest.mark.parametrize(
    ("fields", "error", "text"),
    [
        ({"sampler": "zipf"}, ValueError, "sampler must be one of"),
        ({"num_negatives": 1.5}, TypeError, "num_negatives must be an integer; got 1.5"),
        ({"loss": "gbce", "gbce_t": "half"}, TypeError, "gbce_t must be a number"),
    ],
)
def test_config_checks(fields: dict[str, Any], error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        RunConfig("items", **fields)


def test_negatives_that_popularity_cannot_find(tmp_path: Path, fails: Fails) -> None:
    """One item is nearly all there is: 9 distinct ones would take hours."""
    file, out = tmp_path / "s.parquet", tmp_path / "run"
    rows = [[0] * 200_000, *([0, i, 0, 0] for i in range(1, 30))]
    pq.write_table(pa.table({"items": rows}), file)
    options = [f"--out={out}", "--items-column=items", "--sampler=popularity", "--num-negatives=29"]
    assert "the distinct items that about 1000 tries each find" in fails("train", file, *options)
    assert not out.exists()


def test_resume_keeps_and_checks_them(sessions_file: Path, tmp_path: Path, fails: Fails) -> None:
    whole, halved = tmp_path / "whole", tmp_path / "halved"
    choice = ["--loss=gbce", "--num-negatives=15"]
    assert _train(sessions_file, whole, *choice, "--epochs=2") == 0
    assert _train(sessions_file, halved, *choice, "--epochs=1") == 0
    (halved / "metrics.json").unlink()  # as if it had been killed after the first epoch
    resume = ["train", "--resume", f"--out={halved}", "--no-progress", "--threads=1"]
    for option, text in (
        ("--loss=bce", "--loss must be 'gbce' as the run began; got 'bce'"),
        ("--sampler=mixed", "--sampler must be 'uniform' as the run began; got 'mixed'"),
        ("--num-negatives=16", "--num-negatives must be 15 as the run began; got 16"),
        ("--gbce-t=0.5", "--gbce-t must be 0.75 as the run began; got 0.5"),
    ):
        assert text in fails(*resume, option)
    # what the run began with may be said again, also what it had by default
    assert main([*resume, *choice, "--sampler=uniform", "--gbce-t=0.75", "--epochs=2"]) == 0
    found, expected = (load_state(out / "model.safetensors") for out in (halved, whole))
    assert all(torch.equal(value, found[name]) for name, value in expected.items())


def test_evaluate_reads_a_run_whose_sampler_needs_counts(
    sessions_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    assert _train(sessions_file, out, "--sampler=mixed", "--num-negatives=5", "--epochs=1") == 0
    ndcg = json.loads((out / "metrics.json").read_text())["model"]["ndcg_at_10"]
    capsys.readouterr()
    assert main(["evaluate", str(out), "--threads=1"]) == 0
    assert f"{ndcg:.4f}" in capsys.readouterr().out


def test_the_help_says_when_to_use_which(capsys: pytest.CaptureFixture[str]) -> None:
    assert train_options.LOSSES == LOSSES
    assert train_options.SAMPLERS == SAMPLERS
    with pytest.raises(SystemExit, match="0"):
        main(["train", "--help"])
    printed = capsys.readouterr().out
    for name in (*LOSSES, *SAMPLERS):
        assert f"\n  {name} " in printed, f"--help does not explain {name}"
