"""Every benchmark, at a size that means nothing: it runs, checks its providers, and is reported."""

from __future__ import annotations

import argparse
import importlib
import json
import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import cases, harness, report, run, tables, timing
from tests.benchmarks import fake_peer

NAMES = [name for name in run.MINUTES if name != "startup"]
Run = Callable[..., dict[str, Any]]


@pytest.fixture
def measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Return a function that runs a benchmark and returns its results."""
    monkeypatch.setattr(timing, "keep_memory", lambda: None)
    monkeypatch.setattr(torch, "set_num_threads", lambda threads: None)
    monkeypatch.setattr(torch, "compile", lambda function: function)

    def run_it(name: str, *options: str) -> dict[str, Any]:
        module = importlib.import_module(f"benchmarks.bench_{name}")
        arguments = ["--scale", "tiny", "--out", str(tmp_path), *options]
        monkeypatch.setattr(sys, "argv", [name, *arguments])
        harness.main(module.BENCHMARK, module.__doc__)
        return dict(json.loads((tmp_path / f"{name}.json").read_text()))

    return run_it


@pytest.mark.parametrize("name", NAMES)
def test_it_runs_and_is_reported(name: str, measured: Run, tmp_path: Path) -> None:
    content = measured(name)
    assert content["scale"] == "tiny"
    assert content["rounds"] == 1
    assert "transformers4rec" in content["left_out"]
    for row in content["rows"]:
        assert row["seconds"]
        assert all(t["median"] > 0 for t in row["seconds"].values())
    report.page(tmp_path)
    page = (tmp_path / "README.md").read_text()
    assert tables.TABLES[name](content) in page
    assert "Left out: " in page


def test_every_scale_has_cases_and_rounds() -> None:
    for name in NAMES:
        benchmark = importlib.import_module(f"benchmarks.bench_{name}").BENCHMARK
        assert benchmark.name == name
        for scale in cases.SCALES:
            assert benchmark.rounds[scale] > 0
            assert all(benchmark.groups[scale])
    assert sum(minutes["quick"] for minutes in run.MINUTES.values()) < 10


def test_a_peer_is_left_out_with_a_reason(capsys: pytest.CaptureFixture[str]) -> None:
    options = harness.parser(None).parse_args(
        ["--without", "tensorflow", "--upstream", "/no/python"]
    )
    session = harness.Session(options, 1)
    assert session.peer("tensorflow") is None
    assert session.left_out["tensorflow"] == "--without"
    assert "/no/python does not start" in session.left_out["transformers4rec"]
    options.device = "cuda"
    session = harness.Session(options, 1)
    assert session.peer("faiss") is None
    assert "on the CPU only, not on cuda" in session.left_out["faiss"]
    assert "left out: faiss" in capsys.readouterr().err


def test_a_peer_that_fails_is_left_out_of_that_case(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(harness, "UPSTREAM", "tests.benchmarks.fake_peer")
    session = harness.Session(harness.parser(None).parse_args(["--upstream", sys.executable]), 1)
    case = fake_peer.Case(0)
    assert session.upstream("failure", case, needed=0) == {}
    assert session.upstream("death", case, needed=2.0**60) == {}
    (found,) = session.upstream("sleeper", case, needed=0).values()
    assert found() == 2
    session.close()
    assert session.versions["transformers4rec"] == {"fake": "1.0"}
    (why,) = session.left_out.values()
    assert why == "RuntimeError: number of categories cannot exceed 2^24"


def test_a_library_that_does_not_load_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(harness.PEERS, "fbgemm", "json")
    session = harness.Session(harness.parser(None).parse_args([]), 1)

    def load() -> None:
        raise OSError("undefined symbol")

    assert session.peer("fbgemm", load) is None
    assert session.left_out["fbgemm"] == "it does not load: undefined symbol"


def test_what_does_not_fit_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timing, "available_bytes", lambda device: 2.0**30)
    session = harness.Session(harness.parser(None).parse_args([]), 1)
    case = cases.FullCase(1000, 8, 4)
    assert session.fits("eager", case, 2**29)
    assert not session.fits("eager", case, 2**30)
    why = session.left_out["eager at V=1k N=8 D=4"]
    assert why == "it needs 1.0 GiB, 1.0 GiB are free"


def test_memory_is_read_or_not_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    assert timing.available_bytes() > 2**20
    monkeypatch.setattr(Path, "read_text", lambda self: (_ for _ in ()).throw(OSError))
    assert timing.available_bytes() == math.inf


@pytest.mark.parametrize(
    ("device", "message"), [("cuda", "no CUDA device"), ("tpu", "cpu or cuda")]
)
def test_a_device_that_is_not_there(
    device: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit, match=message):
        harness.check_device(device)


def test_only_full_results_of_the_cpu_are_those_of_the_documents(tmp_path: Path) -> None:
    def folder(*arguments: str) -> Path:
        return harness.folder(harness.parser(None).parse_args(arguments))

    assert folder() == timing.RESULTS
    assert folder("--scale", "quick") == timing.RESULTS / "quick"
    assert folder("--device", "cuda") == timing.RESULTS / "cuda"
    assert folder("--scale", "tiny", "--device", "cuda") == timing.RESULTS / "tiny-cuda"
    assert folder("--out", str(tmp_path)) == tmp_path


@pytest.fixture
def recorded(tmp_path: Path) -> argparse.Namespace:
    """Return options whose folder has the sampler's results of commit abc."""
    content = {
        "environment": {"commit": "abc"},
        "rounds": 3,
        "threads_asked": 1,
        "scale": "quick",
        "device": "cpu",
        "left_out": {"faiss": "gone"},
    }
    (tmp_path / "sampler.json").write_text(json.dumps(content))
    return run.parser().parse_args(["--scale", "quick", "--out", str(tmp_path)])


def test_what_is_measured_is_not_measured_again(
    recorded: argparse.Namespace, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run.done("sampler", recorded, "abc")
    assert capsys.readouterr().out == "== sampler: measured already, without faiss\n"
    assert not run.done("step", recorded, "abc")
    assert not run.done("sampler", recorded, "abd")
    assert not run.done("sampler", recorded, "abc-dirty")
    recorded.scale = "full"
    assert not run.done("sampler", recorded, "abc")
    recorded.scale, recorded.rounds = "quick", 99
    assert not run.done("sampler", recorded, "abc")
    recorded.rounds, recorded.threads = None, 99
    assert not run.done("sampler", recorded, "abc")
    recorded.threads = 1
    assert run.done("sampler", recorded, "abc")
    recorded.again = True
    assert not run.done("sampler", recorded, "abc")


def test_one_that_fails_does_not_stop_the_others(
    recorded: argparse.Namespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    commands = []

    def start(command: list[str], **_: Any) -> Any:
        commands.append(command[2:])
        return argparse.Namespace(returncode="benchmarks.bench_optim" in command)

    monkeypatch.setattr(run.subprocess, "run", start)
    recorded.without = ["faiss", "fbgemm"]
    assert run.measure(["sampler", "optim", "step"], recorded) == ["optim"]
    assert [command[0] for command in commands] == [
        "benchmarks.bench_sampler",
        "benchmarks.bench_optim",
        "benchmarks.bench_step",
    ]
    again = run.parser().parse_args(commands[0][1:])
    assert again == argparse.Namespace(**{**vars(recorded), "out": recorded.out})


def test_what_is_left_out_for_one_reason_is_said_at_once() -> None:
    content: dict[str, Any] = {
        "environment": {"cpu": "a", "cores": 1, "threads": 1, "isa": "b", "torch": "c"}
        | {"commit": "d", "load_at_end": 0.1},
        "left_out": {"x at V=1": "too large", "faiss": "absent", "x at V=2": "too large"},
    }
    assert tables.machine(content).endswith(
        "Left out: x at V=1, x at V=2 (too large); faiss (absent)."
    )
