"""Rounds, clocks and what a result carries."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import timing


def test_providers_take_turns() -> None:
    calls, told = [], []
    times = timing.interleaved(
        {"a": lambda: calls.append("a"), "b": lambda: calls.append("b")},
        rounds=2,
        progress=lambda turn, elapsed: told.append(turn),
    )
    assert calls == ["a", "a", "b", "b"] * 3
    assert told == [1, 2, 3]
    assert list(times) == ["a", "b"]
    assert all(0 <= t["q1"] <= t["median"] <= t["q3"] for t in times.values())


def test_one_round_has_no_spread() -> None:
    (times,) = timing.interleaved({"a": lambda: None}, rounds=1).values()
    assert times["q1"] == times["median"] == times["q3"]


def test_the_clock_of_a_gpu_is_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two events around the second call; nothing is read before the last has happened."""
    log: list[str] = []

    class Event:
        def __init__(self, enable_timing: bool) -> None:
            assert enable_timing

        def record(self) -> None:
            log.append("record")

        def synchronize(self) -> None:
            log.append("wait for the event")

        def elapsed_time(self, end: Any) -> float:
            log.append("read")
            return 2.5

    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: log.append("wait for all"))
    assert timing.seconds(lambda: log.append("run"), "cuda") == 0.0025
    expected = ["run", "wait for all", "record", "run", "record", "wait for the event", "read"]
    assert log == expected


def test_the_memory_of_a_gpu_is_what_a_call_adds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda: None)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda: 3 * 2**20)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda: 10 * 2**20)
    assert timing.peak_mebibytes(lambda: None, "cuda") == 7


def test_peak_memory_is_beyond_what_was_held() -> None:
    held = torch.ones(2**20)
    assert timing.peak_mebibytes(lambda: (held + 1).sum()) == pytest.approx(4, abs=0.1)


def test_a_result_tells_where_it_comes_from(tmp_path: Path) -> None:
    timing.save("something", 3, [{"a": 1}], tmp_path, scale="tiny")
    (path,) = tmp_path.iterdir()
    content = json.loads(path.read_text())
    assert content["rows"] == [{"a": 1}]
    assert content["scale"] == "tiny"
    environment = content["environment"]
    assert environment["threads"] == 3
    assert environment["torch"] == torch.__version__
    assert {"cpu", "cores", "isa", "python", "commit", "load_at_end"} < set(environment)
