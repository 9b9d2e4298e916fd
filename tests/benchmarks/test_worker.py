"""Providers in another process: what they answer, and what happens when they cannot."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Iterator
from contextlib import closing

import pytest

from benchmarks import timing
from benchmarks.peers import worker as server
from benchmarks.peers.remote import Worker, WorkerError
from tests.benchmarks import fake_peer

FAKE = "tests.benchmarks.fake_peer"


@pytest.fixture
def worker() -> Iterator[Worker]:
    with closing(Worker(sys.executable, FAKE, threads=1)) as made:
        yield made


def test_runs_and_measures_there(worker: Worker) -> None:
    assert worker.versions == {"fake": "1.0"}
    run = worker.build("sleeper", fake_peer.Case(0.02), "cpu")
    assert run() == 1
    assert timing.seconds(run) >= 0.02
    assert run() == 4  # a turn is two calls, and only those
    assert timing.peak_mebibytes(run) == 0
    run.close()
    with pytest.raises(WorkerError, match="KeyError: 0"):
        run()


def test_a_refusal_does_not_end_it(worker: Worker) -> None:
    with pytest.raises(WorkerError, match=r"ValueError: more than 2\^24 items on cpu"):
        worker.build("refusal", fake_peer.Case(0), "cpu")
    with pytest.raises(WorkerError, match="ValueError: a worker does not know how to dance"):
        worker.ask(do="dance", key=worker.build("sleeper", fake_peer.Case(0), "cpu")._key)
    assert worker.build("sleeper", fake_peer.Case(0), "cpu")() == 1


def test_its_death_is_told() -> None:
    worker = Worker(sys.executable, FAKE, threads=1)
    run = worker.build("death", fake_peer.Case(0), "cpu")
    with pytest.raises(WorkerError, match="ended with 9 on the request"):
        run()
    worker.close()


def test_an_environment_that_is_not_there(tmp_path: object) -> None:
    with pytest.raises(WorkerError, match="does not start: No such file"):
        Worker(f"{tmp_path}/bin/python", FAKE, threads=1)
    with pytest.raises(WorkerError, match="ModuleNotFoundError: No module named 'no_such_peer'"):
        Worker(sys.executable, "no_such_peer", threads=1)


def test_an_answer_is_one_line() -> None:
    answers = io.StringIO()
    requests = [{"do": "build", "kind": "refusal", "case": {"pause": 0}, "device": "cpu"}]
    server.serve(
        io.StringIO("".join(f"{json.dumps(r)}\n" for r in requests)), answers, lambda: fake_peer
    )
    (line,) = answers.getvalue().splitlines()
    assert json.loads(line) == {"error": "ValueError: more than 2^24 items on cpu"}
