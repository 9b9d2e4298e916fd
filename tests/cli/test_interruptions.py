"""What is left when something ends a command, or when its files are no longer what it wrote."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from cli_helpers import TINY, begin

from transformers4rec_ext.__main__ import main
from transformers4rec_ext.data import synthetic_sessions, write_sessions
from transformers4rec_ext.training import loop as loop_module
from transformers4rec_ext.training import read_log, save_state
from transformers4rec_ext.training.folder import RunFolder

Fails = Callable[..., str]
PROGRAM = [sys.executable, "-m", "transformers4rec_ext"]


@pytest.fixture
def run(tmp_path: Path, finished: Path) -> Path:
    """Return a copy of a finished run."""
    return Path(shutil.copytree(finished, tmp_path / "run"))


def test_a_damaged_log_does_not_keep_a_run_from_ending(run: Path) -> None:
    log = run / "log.jsonl"
    lines = log.read_bytes().split(b"\n")
    log.write_bytes(b"\n".join([*lines[:2], b'{"event": "tr\xff', *lines[3:]]))
    assert len(read_log(log)) == len(lines) - 2
    assert main(["train", "--resume", f"--out={run}", "--epochs=4", "--no-progress"]) == 0
    assert json.loads((run / "metrics.json").read_text())["epochs"] == 4


def test_a_lost_model_is_noticed_before_the_training(run: Path, fails: Fails) -> None:
    (run / "model.safetensors").unlink()
    message = fails("train", "--resume", f"--out={run}", "--epochs=4", "--no-progress")
    assert "find model.safetensors, without which a run begins anew" in message
    assert "--overwrite" in message


def test_a_model_that_every_epoch_writes_may_be_taken_away(
    tmp_path: Path, sessions_file: Path
) -> None:
    run = tmp_path / "run"
    train = ["train", str(sessions_file), "--items-column=items", f"--out={run}", *TINY]
    assert main([*train, "--hold-out=test", "--epochs=1"]) == 0
    (run / "model.safetensors").rename(tmp_path / "served.safetensors")
    assert main(["train", "--resume", f"--out={run}", "--epochs=2", "--no-progress"]) == 0
    assert (run / "model.safetensors").exists()


@pytest.mark.parametrize("name", ["metrics.json", "run.lock", "curves.png"])
def test_files_that_a_run_has_yet_to_write_are_not_taken(
    run: Path, sessions_file: Path, fails: Fails, name: str
) -> None:
    """An unfinished run has no metrics.json; another's would end it."""
    (run / name).unlink()
    for command in (["evaluate", run], ["recommend", run, sessions_file]):
        expected = "be another file than the sessions and those of the run"
        assert expected in fails(*command, f"--out={run / name}", "--no-progress")
    assert not (run / name).exists()


def test_weights_that_the_last_step_spoilt(
    tmp_path: Path, sessions_file: Path, fails: Fails
) -> None:
    """The loss is looked at before a step, so nothing else tells after the last one."""
    train = ["train", sessions_file, "--items-column=items", f"--out={tmp_path / 'run'}", *TINY]
    message = fails(*train, "--batch-size=1000", "--epochs=1", "--lr=1e300")
    assert "weights must be finite; got" in message
    assert not list((tmp_path / "run").glob("*.safetensors"))  # nothing to go on from with them
    assert main([*map(str, train), "--epochs=1"]) == 0


def test_spoilt_weights_do_not_replace_a_checkpoint(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A finite loss may have a gradient that is not: no `--resume` could go on from it."""
    take = loop_module.TrainingStep.__call__
    steps = []

    def spoilt(self: Any, batch: Any, number: int) -> float:
        loss = take(self, batch, number)
        steps.append(loss)
        if len(steps) == 6:
            with torch.no_grad():
                next(self.model.parameters()).fill_(torch.nan)
        return loss

    monkeypatch.setattr(loop_module.TrainingStep, "__call__", spoilt)
    saved: list[int] = []
    save = loop_module.save_state

    def noted(path: Path, state: Any) -> None:
        saved.append(len(steps))
        save(path, state)

    monkeypatch.setattr(loop_module, "save_state", noted)
    folder = tmp_path / "spoilt"
    file = tmp_path / "sessions.parquet"
    write_sessions(file, synthetic_sessions(600, 50, seed=0))
    train = ["train", file, f"--out={folder}", *TINY, "--checkpoint-every=3", "--batch-size=16"]
    assert main([*map(str, train), "--epochs=1"]) == 2
    assert saved == [3]


def test_a_model_that_diverged_recommends_nothing(
    run: Path, sessions_file: Path, fails: Fails, tmp_path: Path
) -> None:
    _, _, model = RunFolder(run).load()
    for value in (torch.nan, torch.inf, 3e38):
        with torch.no_grad():
            for weight in model.parameters():
                weight.fill_(value)
        save_state(run / "model.safetensors", model.state_dict())
        out = tmp_path / "recs.parquet"
        message = fails("recommend", run, sessions_file, f"--out={out}", "--no-progress")
        assert "model must have finite scores" in message
        assert not out.exists()


def test_sigterm_leaves_no_half_file(run: Path, sessions_file: Path, tmp_path: Path) -> None:
    table = pq.read_table(sessions_file)
    many = tmp_path / "many.parquet"
    pq.write_table(pa.concat_tables([table] * 400), many)
    out = tmp_path / "recs.parquet"
    command = [*PROGRAM, "recommend", str(run), str(many), f"--out={out}", "--threads=1"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE)
    deadline = time.monotonic() + 120
    while not list(tmp_path.glob(".recs.parquet.*")) and time.monotonic() < deadline:
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=120)
    assert process.returncode == 128 + signal.SIGTERM
    assert not [path for path in tmp_path.iterdir() if "recs" in path.name]


def test_a_closed_output_is_no_error(run: Path) -> None:
    """As a service without a terminal may have it."""
    command = " ".join([*PROGRAM, "doctor", ">&-"])
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_name_that_the_terminal_cannot_show(finished: Path, tmp_path: Path) -> None:
    out = tmp_path / "käse.parquet"
    sessions = json.loads((finished / "run.json").read_text())["files"][0]["path"]
    done = subprocess.run(
        [*PROGRAM, "recommend", str(finished), sessions, f"--out={out}"],
        capture_output=True,
        check=False,
        env={**os.environ, "PYTHONIOENCODING": "ascii"},
    )
    assert done.returncode == 0, done.stderr
    assert b"k\\xe4se.parquet: top 10" in done.stdout
    assert out.exists()


def test_a_row_in_the_place_of_a_session_column_is_said(
    finished: Path, sessions_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plain = tmp_path / "plain.parquet"
    pq.write_table(pq.read_table(sessions_file, columns=["items"]), plain)
    (tmp_path / "both").mkdir()
    for number, file in enumerate((plain, sessions_file)):
        shutil.copy(file, tmp_path / "both" / f"{number}.parquet")
    out = tmp_path / "recs.parquet"
    command = ["recommend", str(finished), str(tmp_path / "both"), f"--out={out}", "--no-progress"]
    assert main(command) == 0
    assert "not every file has the column 'who'" in capsys.readouterr().out
    assert pq.read_table(out)["row"].to_pylist() == list(range(600))


def test_session_columns_of_different_types(
    finished: Path, sessions_file: Path, fails: Fails, tmp_path: Path
) -> None:
    """A table with both cannot be written; nothing else needs them to be of one type."""
    table = pq.read_table(sessions_file)
    numbered = table.set_column(0, "who", pa.array(range(len(table))))
    pq.write_table(numbered, tmp_path / "numbered.parquet")
    files = tmp_path / "both"
    files.mkdir()
    for number, file in enumerate((tmp_path / "numbered.parquet", sessions_file)):
        shutil.copy(file, files / f"{number}.parquet")
    out = tmp_path / "recs.parquet"
    message = fails("recommend", finished, files, f"--out={out}", "--no-progress")
    assert "column 'who' must have one type in all files; got int64, string" in message
    begin(tmp_path / "run", files, "--session-column=who")


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (["--num-negatives=1180591620717411303424"], "num_negatives must be < 2^31"),
        (["--max-length=100000000000000000000"], "max_length must be < 2^31"),
        (["--inner=2147483648"], "inner must be < 2^31"),
        (["--seed=9223372036854775808"], "seed must be < 2^63"),
        (["--threads=100000"], "--threads must be from 1 to"),
        (["--items-colum=x"], "python -m transformers4rec_ext train --help"),
    ],
)
def test_numbers_beyond_reason(
    tmp_path: Path, sessions_file: Path, fails: Fails, options: list[str], text: str
) -> None:
    out = tmp_path / "run"
    train = ["train", sessions_file, "--items-column=items", f"--out={out}", *TINY]
    assert text in fails(*train, *options)
    assert not out.exists()
