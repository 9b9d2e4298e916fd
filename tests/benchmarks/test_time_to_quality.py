"""The race to a quality: its clocks, its checkpoints, what it reports; on tiny data, untimed."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from benchmarks import bench_time_to_quality as bench
from benchmarks import plots, race, race_report, report
from transformers4rec_ext.data import Catalogue, ParquetSessions, synthetic_sessions, write_sessions
from transformers4rec_ext.training import RunConfig, WeightAverage, load_state
from transformers4rec_ext.training.folder import RunFolder
from transformers4rec_ext.training.run import begin_run, train_run

FAR = {"target": 1.1, "budget_seconds": float("inf")}


class Enough(Exception):
    """Ends a race that would go on."""


@pytest.fixture(autouse=True)
def _short_rows(monkeypatch: pytest.MonkeyPatch, keep_threads: None) -> None:
    monkeypatch.setattr(bench, "SASREC_LENGTH", 12)


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "sessions.parquet"
    write_sessions(path, synthetic_sessions(150, 60, mean_length=9), "items")
    return path


def _contenders(file: Path, keys: list[str], **more: Any) -> tuple[Any, ...]:
    options = {"seed": 3, "threads": 1, "batch_size": 32, "max_length": 8, "negatives": 5, **more}
    given = bench.Given(argparse.Namespace(**options), sessions := ParquetSessions(file, "items"),
                        catalogue := Catalogue.fit(sessions))  # fmt: skip
    return [bench.CONTENDERS[key](given) for key in keys], sessions, catalogue


def _race(file: Path, folder: Path, keys: list[str], turns: int, **more: Any) -> list[str]:
    """Race for that many turns; return what was said."""
    said: list[str] = []

    def say(line: str) -> None:
        said.append(line)
        if sum("epoch" in line and "resumed" not in line for line in said) == turns:
            raise Enough

    with pytest.raises(Enough):
        race.race(*_contenders(file, keys, **more), folder, say=say, **FAR)
    return said


def _learnt(folder: Path, key: str) -> tuple[list[Any], dict[str, torch.Tensor]]:
    state = load_state(folder / f"{key}.safetensors")
    curve = [{k: v for k, v in point.items() if k != "seconds"} for point in state["curve"]]
    return curve, state["model"]


def _same(one: Path, other: Path, key: str) -> None:
    (curve, weights), (other_curve, others) = _learnt(one, key), _learnt(other, key)
    assert curve == other_curve
    assert weights.keys() == others.keys()
    assert all(torch.equal(weights[name], others[name]) for name in weights)


@pytest.fixture(scope="module")
def uninterrupted(file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("race")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bench, "SASREC_LENGTH", 12)
        said = _race(file, folder, list(bench.CONTENDERS), 10)
    names = [line.split(":")[0] for line in said]
    assert names[:5] == names[5:]
    assert len(set(names)) == 5
    return folder


def test_all_contenders_learn(uninterrupted: Path) -> None:
    for key in bench.CONTENDERS:
        curve, _ = _learnt(uninterrupted, key)
        assert [point["epoch"] for point in curve] == [1, 2]
        assert curve[1]["loss"] < curve[0]["loss"]


def test_a_killed_turn_is_repeated_and_no_other(
    file: Path, tmp_path: Path, uninterrupted: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed within the second turn of SASRec; also, it does not matter who else takes part."""
    keys = ["ours", "sasrec-sampled"]
    step = bench.sasrec.Step.__call__

    def until(self: Any, rows: torch.Tensor, number: int) -> float:
        if number == 3:  # an epoch has two
            raise Enough
        return step(self, rows, number)

    with monkeypatch.context() as patch:
        patch.setattr(bench.sasrec.Step, "__call__", until)
        said = _race(file, tmp_path, keys, turns=99)
    assert len(said) == 3
    (tmp_path / ".ours.safetensors.7.tmp").write_text("half")
    said = _race(file, tmp_path, keys, turns=1)
    assert said[:2] == [
        "ours: resumed after epoch 2",
        "SASRec, 5 negatives a position: resumed after epoch 1",
    ]
    assert said[2].startswith("SASRec, 5 negatives a position: epoch 2, ")
    assert {path.name for path in tmp_path.iterdir()} == {f"{key}.safetensors" for key in keys}
    for key in keys:
        _same(tmp_path, uninterrupted, key)


def test_the_mean_of_ours_goes_on_after_a_kill(
    file: Path, tmp_path: Path, uninterrupted: Path
) -> None:
    for _ in range(2):
        _race(file, tmp_path, ["ours"], turns=1)
    _same(tmp_path, uninterrupted, "ours")


def test_ours_is_the_command_lines(file: Path, tmp_path: Path, uninterrupted: Path) -> None:
    folder = RunFolder(tmp_path)
    sizes = {"batch_size": 32, "max_length": 8}
    config = RunConfig("items", seed=3, exclude_seen=True, epochs=2, patience=0, **sizes)
    begin_run(folder, config, ParquetSessions(file, "items"))
    result = train_run(folder, progress=False, say=lambda line: None)
    assert result is not None
    expected = load_state(tmp_path / "checkpoint.safetensors")
    learnt = load_state(uninterrupted / "ours.safetensors")
    for part in ("model", "average"):
        assert all(torch.equal(learnt[part][name], value) for name, value in expected[part].items())
    point = learnt["curve"][result["best_epoch"] - 1]
    assert point["ndcg_at_10"] == result["model"]["ndcg_at_10"]


@pytest.mark.parametrize(
    ("key", "more"), [("sasrec-sampled", {"negatives": 6}), ("ours", {"seed": 4})]
)
def test_other_settings_are_refused(
    file: Path, uninterrupted: Path, key: str, more: dict[str, int]
) -> None:
    contenders, *_ = _contenders(file, [key], **more)
    name = {"negatives": "num_negatives"}.get(*more, *more)
    with pytest.raises(ValueError, match=rf"of the same settings; got .*: \['{name}'\]"):
        contenders[0].restore(uninterrupted)


class _Clock:
    """Time that passes only where the test says so."""

    now = 0.0

    def perf_counter(self) -> float:
        return self.now

    def passing(self, seconds: float, value: Any) -> Callable[..., Any]:
        def call(*_: Any, **__: Any) -> Any:
            self.now += seconds
            return value

        return call


class _Batches:
    def __len__(self) -> int:
        return 4

    def batches(self, epoch: int) -> Iterator[int]:
        yield from range(4)


def test_evaluation_is_not_on_the_clock(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = _Clock()
    monkeypatch.setattr(race, "time", clock)
    ranks = torch.tensor([1, 1, 12])
    monkeypatch.setattr(race, "held_out_ranks", clock.passing(100.0, ranks))
    step = clock.passing(1.5, 0.25)
    rows: Any = _Batches()  # all that a turn asks of a loader
    query: Any = None  # held_out_ranks, which would ask it, is the clock's
    average = WeightAverage(model := nn.Module(), 0.0, len(rows))
    contender = race.Contender("a", "A", {}, model, step, rows, query, 5, average)
    sessions = ParquetSessions(file, "items")
    for _ in range(2):
        contender.turn(sessions, Catalogue.fit(sessions))
    assert [point["seconds"] for point in contender.curve] == [6.0, 12.0]
    assert contender.curve[1]["loss"] == 0.25
    assert contender.curve[1]["ndcg_at_10"] == pytest.approx(2 / 3)
    assert contender.running(target=0.7, budget_seconds=12.1)
    assert not contender.running(target=0.7, budget_seconds=12.0)
    assert not contender.running(target=0.6, budget_seconds=99.0)
    assert contender.reached(0.6) == contender.curve[0]


def test_the_command_writes_result_and_picture(file: Path, tmp_path: Path) -> None:
    arguments = [
        f"--data={file}", "--target=1e-6", "--threads=1", f"--folder={tmp_path / 'state'}",
        f"--results={tmp_path}", "--max-length=8", "--contenders", "ours", "sasrec-bce",
    ]  # fmt: skip
    bench.main(arguments)
    content = json.loads((tmp_path / "time_to_quality.json").read_text())
    assert content["environment"]["threads"] == 1
    assert content["data"]["sessions"] == 150
    assert [row["key"] for row in content["rows"]] == ["ours", "sasrec-bce"]
    for row in content["rows"]:
        assert row["reached"] == row["curve"][-1]
        assert row["reached"]["ndcg_at_10"] >= 1e-6
    assert (tmp_path / "time_to_quality.png").read_bytes().startswith(b"\x89PNG")


def _content() -> dict[str, Any]:
    def row(key: str, settings: dict[str, Any], *ndcg: float) -> dict[str, Any]:
        curve = [
            {"epoch": at + 1, "seconds": 60.0 * (at + 1), "ndcg_at_10": value}
            for at, value in enumerate(ndcg)
        ]
        reached = next((point for point in curve if point["ndcg_at_10"] >= 0.15), None)
        settings = {"batch_size": 32, "max_length": 100, **settings}
        return {"key": key, "name": key, "settings": settings, "reached": reached, "curve": curve}

    ours = {"loss": "sampled", "num_negatives": 1000, "sampler": "log-uniform"}
    environment = {
        "cpu": "X", "cores": 2, "threads": 2, "isa": "avx2", "torch": "2", "commit": "c",
        "load_at_end": 1.0,
    }  # fmt: skip
    return {
        "environment": environment,
        "target": 0.15,
        "budget_minutes": 4.0,
        "seed": 0,
        "rows": [
            row("ours", ours, 0.1, 0.151),
            row("full", {"loss": "full"}, 0.1, 0.14, 0.16),
            row("bce", {"loss": "bce", "num_negatives": 1}, 0.1, 0.13, 0.12, 0.125),
        ],
    }


def test_the_table_says_what_was_reached_and_what_was_not() -> None:
    header, rows = race_report.table(_content())
    assert header[5] == "minutes to 0.15"
    assert [row[5:8] for row in rows] == [
        ["2.0", "1.00", "2"],
        ["3.0", "1.50", "3"],
        ["not reached in 4.0", "> 2.00", "4"],
    ]
    assert rows[0][1] == "sampled softmax, 1,000 log-uniform negatives a batch"
    assert rows[2][1] == "binary cross-entropy, 1 uniform negative a position"
    assert rows[2][8] == "0.1300 (epoch 2)"
    content = _content()
    content["rows"] = content["rows"][1:]
    assert {row[6] for row in race_report.table(content)[1]} == {"-"}


def test_the_section_waits_for_a_recorded_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(report, "RESULTS", tmp_path)
    text = "a\n<!-- table: time_to_quality -->\n\n<!-- end: time_to_quality -->\nb\n"
    assert report.render(text) == text
    (tmp_path / "time_to_quality.json").write_text(json.dumps(_content()))
    made = report.render(text)
    assert "## Time to quality" in made
    assert "| **ours** |" in made
    assert report.render(made) == made


def test_the_picture_shows_every_contender(tmp_path: Path) -> None:
    plots.time_to_quality(_content(), tmp_path / "drawn.png")
    assert len((tmp_path / "drawn.png").read_bytes()) > 20_000
