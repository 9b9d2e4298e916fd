"""What ``train`` does with what is in its folder already, and with a second process there."""

from __future__ import annotations

import multiprocessing
import shutil
from collections.abc import Callable
from multiprocessing.synchronize import Event
from pathlib import Path

import pytest
from cli_helpers import TINY, begin

from transformers4rec_ext.__main__ import main
from transformers4rec_ext.training.folder import RunFolder
from transformers4rec_ext.training.run import train_run

Fails = Callable[..., str]
COLUMN = "--items-column=items"


def _contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize(
    "name",
    [
        "model.safetensors",
        "checkpoint.safetensors",
        "metrics.json",
        "log.jsonl",
        "catalogue.parquet",
    ],
)
def test_files_that_are_of_no_run_are_kept(
    tmp_path: Path, sessions_file: Path, fails: Fails, name: str
) -> None:
    (tmp_path / name).write_text("somebody's work")
    message = fails("train", sessions_file, f"--out={tmp_path}", COLUMN, *TINY)
    assert f"with {name}. Choose another folder, or add --overwrite" in message
    assert _contents(tmp_path) == {name: b"somebody's work"}
    assert (
        main(["train", str(sessions_file), f"--out={tmp_path}", COLUMN, *TINY, "--overwrite"]) == 0
    )


def test_sessions_by_another_name_are_not_replaced(
    tmp_path: Path, sessions_file: Path, fails: Fails
) -> None:
    out, alias = tmp_path / "out", tmp_path / "alias"
    out.mkdir()
    shutil.copy(sessions_file, out / "catalogue.parquet")
    alias.symlink_to(out)
    message = fails(
        "train", alias / "catalogue.parquet", f"--out={out}", COLUMN, *TINY, "--overwrite"
    )
    assert "would replace" in message
    assert (out / "catalogue.parquet").read_bytes() == sessions_file.read_bytes()


def test_sessions_are_not_replaced_by_the_run_on_them(
    tmp_path: Path, sessions_file: Path, fails: Fails
) -> None:
    data = tmp_path / "catalogue.parquet"
    shutil.copy(sessions_file, data)
    arguments = ["train", data, f"--out={tmp_path}", COLUMN, *TINY, "--overwrite"]
    assert "would replace" in fails(*arguments)
    assert _contents(tmp_path) == {"catalogue.parquet": sessions_file.read_bytes()}


def test_a_second_process_is_refused(tmp_path: Path, sessions_file: Path, fails: Fails) -> None:
    out = tmp_path / "deep" / "run"
    context = multiprocessing.get_context("spawn")
    held, leave = context.Event(), context.Event()
    other = context.Process(target=_hold, args=(out, held, leave))
    other.start()
    try:
        assert held.wait(60)
        arguments = ["train", sessions_file, f"--out={out}", COLUMN, *TINY]
        assert "another process trains in" in fails(*arguments)
    finally:
        leave.set()
        other.join()
    assert not (tmp_path / "deep").exists()  # it left no run
    assert main([str(argument) for argument in arguments]) == 0


def _hold(out: Path, held: Event, leave: Event) -> None:
    with RunFolder(out).held():
        held.set()
        leave.wait(60)


def test_what_was_trained_is_not_begun_anew(tmp_path: Path, finished: Path, fails: Fails) -> None:
    """Without its checkpoint a run would start from zero, over the model that it has."""
    run = tmp_path / "run"
    shutil.copytree(finished, run)
    (run / "checkpoint.safetensors").unlink()
    before = _contents(run)
    message = fails("train", "--resume", f"--out={run}", "--epochs=9")
    assert "find checkpoint.safetensors" in message
    assert "--overwrite instead of --resume" in message
    assert _contents(run) == before


def test_data_that_were_moved_are_named_once(
    tmp_path: Path, sessions_file: Path, fails: Fails
) -> None:
    old, new, other = (tmp_path / f"{name}.parquet" for name in ("old", "new", "other"))
    shutil.copy(sessions_file, old)
    folder = begin(tmp_path / "run", old)
    assert train_run(folder, progress=False, should_stop=lambda: True) is None
    old.rename(new)
    arguments = ["--resume", f"--out={folder.path}", "--threads=1", "--no-progress"]
    assert f"`train --resume FILE.parquet --out {folder.path}`" in fails("train", *arguments)
    other.write_bytes(sessions_file.read_bytes()[:-1] + b"x")
    assert "be those of the run" in fails("train", other, *arguments)
    before = (folder.path / "run.json").read_bytes()
    assert "as the run began" in fails("train", new, *arguments, "--lr=0.5")
    assert (folder.path / "run.json").read_bytes() == before
    moved = tmp_path / "data"
    moved.mkdir()
    new.rename(moved / "new.parquet")
    assert main(["train", str(moved), *arguments]) == 0
    assert main(["evaluate", str(folder.path)]) == 0
