"""A run that was killed continues as if it had not been: same losses, same weights, bit by bit."""

from __future__ import annotations

import itertools
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from cli_helpers import TINY, assert_same_run, begin

from transformers4rec_ext.__main__ import main
from transformers4rec_ext.training import load_state, loop, read_log, run, save_state
from transformers4rec_ext.training.folder import RunFolder
from transformers4rec_ext.training.run import train_run


class Killed(Exception):
    """Stands for a kill: nothing of the run may be used but what is on the disk."""


def _run(folder: RunFolder, **hooks: Any) -> Any:
    torch.set_num_threads(1)
    return train_run(folder, progress=False, say=lambda line: None, **hooks)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory, sessions_file: Path) -> RunFolder:
    folder = begin(tmp_path_factory.mktemp("runs") / "whole", sessions_file)
    assert _run(folder) is not None
    return folder


# 15 steps an epoch, checkpoints after steps 4, 8, 12 and the epoch's end.
@pytest.mark.parametrize("step", [2, 7, 8, 15, 16, 23, 44])
def test_killed_at_a_step(
    tmp_path: Path, sessions_file: Path, uninterrupted: RunFolder, step: int
) -> None:
    def kill(done: int) -> None:
        if done == step:
            raise Killed

    folder = begin(tmp_path, sessions_file)
    with pytest.raises(Killed):
        _run(folder, on_step=kill)
    assert folder.status() == ("unfinished" if step > 4 else "new")
    torch.manual_seed(999)
    torch.rand(7)
    assert _run(folder) is not None
    assert_same_run(tmp_path, uninterrupted.path)


def test_the_steps_of_the_test_are_where_they_should_be(uninterrupted: RunFolder) -> None:
    log = read_log(uninterrupted.path / "log.jsonl")
    ends = [line["step"] for line in log if line["event"] == "validation"]
    assert ends[0] * 3 == ends[2]
    assert 12 < ends[0] <= 23 < ends[1]


def test_another_seed_gives_another_run(
    tmp_path: Path, sessions_file: Path, uninterrupted: RunFolder
) -> None:
    folder = begin(tmp_path, sessions_file, "--seed=1")
    _run(folder)
    with pytest.raises(AssertionError):
        assert_same_run(tmp_path, uninterrupted.path)


def test_losing_the_random_state_would_be_noticed(
    tmp_path: Path, sessions_file: Path, uninterrupted: RunFolder
) -> None:
    """Planted fault: a checkpoint whose random state is not that of the run."""
    calls = itertools.count(1)
    folder = begin(tmp_path, sessions_file)
    assert _run(folder, should_stop=lambda: next(calls) == 6) is None
    state = load_state(tmp_path / "checkpoint.safetensors")
    torch.manual_seed(5)
    state["torch_rng"] = torch.get_rng_state()
    save_state(tmp_path / "checkpoint.safetensors", state)
    _run(folder)
    with pytest.raises(AssertionError):
        assert_same_run(tmp_path, uninterrupted.path)


def test_asked_to_stop(tmp_path: Path, sessions_file: Path, uninterrupted: RunFolder) -> None:
    steps: list[int] = []
    folder = begin(tmp_path, sessions_file)
    assert _run(folder, on_step=steps.append, should_stop=lambda: len(steps) == 6) is None
    assert folder.status() == "unfinished"
    assert load_state(tmp_path / "checkpoint.safetensors")["position"]["step"] == 6
    _run(folder, on_step=steps.append)
    assert steps[:8] == [1, 2, 3, 4, 5, 6, 7, 8]  # nothing is done twice
    assert_same_run(tmp_path, uninterrupted.path)


def test_killed_between_the_first_weights_and_their_checkpoint(
    tmp_path: Path, sessions_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of an epoch without a checkpoint inside."""
    rare = "--checkpoint-every=0"
    whole = begin(tmp_path / "whole", sessions_file, rare)
    _run(whole)
    folder = begin(tmp_path / "killed", sessions_file, rare)
    save, saved = loop.save_state, []

    def killed(path: Path, state: dict[str, Any]) -> None:
        if saved[-1:] == ["model.safetensors"]:
            raise Killed
        save(path, state)
        saved.append(path.name)

    monkeypatch.setattr(loop, "save_state", killed)
    with pytest.raises(Killed):
        _run(folder)
    monkeypatch.undo()
    assert folder.status() == "unfinished"
    assert main(["train", "--resume", f"--out={folder.path}", "--threads=1", "--no-progress"]) == 0
    assert_same_run(folder.path, whole.path)


@pytest.mark.parametrize("part", ["validation", "test"])
def test_asked_to_stop_while_ranking(
    tmp_path: Path,
    sessions_file: Path,
    uninterrupted: RunFolder,
    monkeypatch: pytest.MonkeyPatch,
    part: str,
) -> None:
    """What was ranked so far is lost, and no step."""
    steps: list[int] = []
    folder = begin(tmp_path, sessions_file)
    ranked: list[str] = []
    held_out = run.held_out

    def noted(sessions: Any, catalogue: Any, part: str, **options: Any) -> Any:
        ranked.append(part)
        return held_out(sessions, catalogue, part, **options)

    monkeypatch.setattr(run, "held_out", noted)
    assert _run(folder, on_step=steps.append, should_stop=lambda: part in ranked) is None
    monkeypatch.undo()
    assert folder.status() == "unfinished"
    done = len(steps)
    _run(folder, on_step=steps.append)
    assert steps == list(range(1, len(steps) + 1))  # nothing is done twice
    assert (len(steps) == done) == (part == "test")
    assert_same_run(tmp_path, uninterrupted.path)


def test_a_checkpoint_that_takes_long_waits(
    tmp_path: Path, sessions_file: Path, uninterrupted: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    saves: list[int] = []
    save = loop.save_state

    def slow(path: Path, state: dict[str, Any]) -> None:
        if "position" in state:
            saves.append(state["position"]["step"])
            now[0] += 3.0
        save(path, state)

    now = [0.0]
    monkeypatch.setattr(loop, "save_state", slow)
    monkeypatch.setattr(loop, "time", SimpleNamespace(monotonic=lambda: now[0]))

    def second(step: int) -> None:
        now[0] += 10.0

    _run(begin(tmp_path, sessions_file), on_step=second)
    # asked for each 4 steps: after a save of 3 seconds only when 60 have passed, at the eighth
    assert saves[:3] == [4, 12, 0]
    assert_same_run(tmp_path, uninterrupted.path)


@pytest.mark.parametrize("schedule", ["constant", "cosine"])
def test_a_run_that_patience_ended_goes_on_with_more_of_it(
    tmp_path: Path, sessions_file: Path, capsys: pytest.CaptureFixture[str], schedule: str
) -> None:
    still = ["--epochs=4", "--lr=1e-9", f"--schedule={schedule}"]  # one epoch is like another
    whole = begin(tmp_path / "whole", sessions_file, *still, "--patience=0")
    assert _run(whole)["epochs"] == 4
    stopped = begin(tmp_path / "stopped", sessions_file, *still, "--patience=1")
    before = _run(stopped)
    assert before["epochs"] < 4
    resume = ["train", "--resume", f"--out={stopped.path}", "--threads=1", "--no-progress"]
    capsys.readouterr()
    assert main(resume) == main([*resume, "--patience=1"]) == 0
    hint = "a --patience above 1, or 0 for all epochs, would be"
    told = f"{stopped.path} is finished; nothing to resume ({hint})"
    assert capsys.readouterr().out.splitlines() == [told, told]
    assert stopped.status() == "finished"
    assert main([*resume, "--patience=0"]) == 0
    assert_same_run(stopped.path, whole.path)


@pytest.mark.parametrize("damaged", ["sessions.parquet", "checkpoint.safetensors"])
def test_a_finished_run_stays_so_where_it_cannot_go_on(
    tmp_path: Path, sessions_file: Path, capsys: pytest.CaptureFixture[str], damaged: str
) -> None:
    shutil.copy(sessions_file, tmp_path / "sessions.parquet")
    folder = begin(tmp_path, tmp_path / "sessions.parquet", "--epochs=1")
    _run(folder)
    (tmp_path / damaged).write_bytes(b"damaged")
    before = [(tmp_path / name).read_bytes() for name in ("metrics.json", "run.json")]
    assert main(["train", "--resume", f"--out={tmp_path}", "--epochs=2", "--no-progress"]) == 2
    assert damaged in capsys.readouterr().err
    assert [(tmp_path / name).read_bytes() for name in ("metrics.json", "run.json")] == before


def test_what_a_kill_left_half_written_is_removed(tmp_path: Path, sessions_file: Path) -> None:
    folder = begin(tmp_path, sessions_file)
    assert _run(folder, should_stop=lambda: True) is None
    for name in (".checkpoint.safetensors.123.tmp", ".run.json.9.tmp", ".mine.tmp"):
        (tmp_path / name).write_text("half")
    _run(folder)
    assert [path.name for path in tmp_path.glob(".*")] == [".mine.tmp"]


_SCRIPT = """
import os, signal, sys
from transformers4rec_ext.__main__ import main
from transformers4rec_ext.training.step import TrainingStep

step = TrainingStep.__call__

def until(self, batch, number):
    if number == int(sys.argv[1]):
        os.kill(os.getpid(), int(sys.argv[2]))
    return step(self, batch, number)

TrainingStep.__call__ = until
sys.exit(main(sys.argv[3:]))
"""


@pytest.mark.parametrize(("number", "status"), [(signal.SIGKILL, -9), (signal.SIGTERM, 130)])
def test_process_killed_and_resumed_on_the_command_line(
    tmp_path: Path,
    sessions_file: Path,
    uninterrupted: RunFolder,
    capsys: pytest.CaptureFixture[str],
    number: int,
    status: int,
) -> None:
    out = f"--out={tmp_path / 'run'}"
    train = ["train", str(sessions_file), out, "--items-column=items", *TINY]
    command = [sys.executable, "-c", _SCRIPT, "21", str(int(number)), *train]
    repository = Path(__file__).resolve().parents[2]
    path = os.pathsep.join(filter(None, (str(repository), os.environ.get("PYTHONPATH"))))
    done = subprocess.run(
        command, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True
    )
    assert done.returncode == status, done.stderr
    capsys.readouterr()
    assert main(train) == 2
    again = "Continue it with `python -m transformers4rec_ext train --resume --out"
    assert again in capsys.readouterr().err
    assert main(["train", "--resume", out, "--threads=1", "--no-progress"]) == 0
    assert "resumed after epoch 1" in capsys.readouterr().out
    assert_same_run(tmp_path / "run", uninterrupted.path)
    assert not list((tmp_path / "run").glob(".*"))
