"""Wrong input on the command line: one line, status 2, nothing written over something good."""

from __future__ import annotations

import errno
import json
import math
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from cli_helpers import TINY
from torch import Tensor

from transformers4rec_ext import _checkpoint
from transformers4rec_ext.__main__ import main
from transformers4rec_ext.training import RunConfig, load_state, save_state

Fails = Callable[..., str]


def _write(path: Path, lists: Any, kind: pa.DataType | None = None) -> Path:
    pq.write_table(pa.table({"items": pa.array(lists, kind)}), path)
    return path


GOOD = [[1, 2, 3, 4, 5]] * 9


@pytest.mark.parametrize(
    ("lists", "kind", "text"),
    [
        ([1, 2, 3], pa.int64(), "be a list of integers or of strings; got int64"),
        ([[1.5]], pa.list_(pa.float32()), "Floats cannot hold ids"),
        ([*GOOD, None], pa.list_(pa.int64()), "a null list"),
        ([*GOOD, [1, None]], pa.list_(pa.int64()), "items must not be null"),
        ([*GOOD, [1, -1]], pa.list_(pa.int64()), "items must be >= 0; got -1"),
        ([[], []], pa.list_(pa.int64()), "only empty lists"),
        (
            [[1, 2, 3], [1]],
            pa.list_(pa.int64()),
            "hold one with at least 4 items; got sessions of at most 3",
        ),
        (
            [[1, 2], [2, 1]],
            pa.list_(pa.int64()),
            "hold one with at least 4 items; got sessions of at most 2",
        ),
        ([], pa.list_(pa.int64()), "at least one session"),
    ],
)
def test_train_on_bad_sessions(
    tmp_path: Path, fails: Fails, lists: Any, kind: pa.DataType, text: str
) -> None:
    file = _write(tmp_path / "s.parquet", lists, kind)
    out = tmp_path / "some" / "run"
    train = ["train", file, "--items-column=items", f"--out={out}", *TINY]
    assert text in fails(*train)
    assert not out.parent.exists()  # a run that never began leaves nothing behind


def test_refused_sessions_leave_an_earlier_run_alone(
    tmp_path: Path, finished: Path, fails: Fails
) -> None:
    run = tmp_path / "run"
    shutil.copytree(finished, run)
    before = {path.name: path.read_bytes() for path in run.iterdir()}
    file = _write(tmp_path / "s.parquet", [*GOOD, [1, None]])
    fails("train", file, "--items-column=items", f"--out={run}", "--overwrite", *TINY)
    assert {path.name: path.read_bytes() for path in run.iterdir()} == before


def test_the_smallest_sessions_that_train(tmp_path: Path) -> None:
    """What the message and --help say is true: four items are enough, or two and three."""
    for number, lists in enumerate(([[1, 2, 3, 4]], [[1, 2], [3, 1, 2]])):
        file = _write(tmp_path / f"{number}.parquet", lists)
        out = f"--out={tmp_path / str(number)}"
        assert main(["train", str(file), "--items-column=items", out, *TINY]) == 0


def test_a_run_without_a_model_says_how_to_get_one(
    tmp_path: Path, sessions_file: Path, fails: Fails
) -> None:
    run = tmp_path / "run"
    train = ["train", sessions_file, "--items-column=items", f"--out={run}", *TINY]
    assert "Lower the learning rate" in fails(*train, "--lr=1e30", "--clip=0")
    for command in (["evaluate", run], ["recommend", run, sessions_file]):
        message = fails(*command)
        assert "must hold a trained model" in message
        assert f"train --resume --out {run}" in message


@pytest.mark.parametrize("command", ["train", "demo"])
def test_out_that_cannot_be_a_folder(
    tmp_path: Path,
    sessions_file: Path,
    fails: Fails,
    monkeypatch: pytest.MonkeyPatch,
    command: str,
) -> None:
    options = [sessions_file, "--items-column=items", *TINY] if command == "train" else []
    file = tmp_path / "file"
    file.write_text("mine")
    for out in (file, file / "run", file / "deeper" / "run"):
        message = fails(command, *options, f"--out={out}")
        assert f"{command}: --out must be a folder; got {out}: {file} is none" in message
    dangling = tmp_path / "link"
    dangling.symlink_to(tmp_path / "gone")
    assert "--out must be a folder" in fails(command, *options, f"--out={dangling}")
    monkeypatch.setattr(os, "access", lambda path, mode: path != str(tmp_path))
    message = fails(command, *options, f"--out={tmp_path / 'new' / 'run'}")
    assert f"--out must be where you may write; got {tmp_path}. Choose another" in message
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "link"]
    assert file.read_text() == "mine"


def test_train_on_bad_files(tmp_path: Path, sessions_file: Path, fails: Fails) -> None:
    out = f"--out={tmp_path / 'run'}"
    assert "paths must exist" in fails("train", tmp_path / "gone.parquet", out)
    (tmp_path / "text").write_text("a,b\n")
    assert "complete parquet files" in fails("train", tmp_path / "text", out)
    content = sessions_file.read_bytes()
    (tmp_path / "cut").write_bytes(content[: len(content) // 2])
    assert "may be truncated" in fails("train", tmp_path / "cut", out)
    assert "Its columns are: who, items." in fails("train", sessions_file, out)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("option", "text"),
    [
        ("--epochs=0", "epochs must be >= 1; got 0"),
        ("--batch-size=0", "batch_size must be >= 1"),
        ("--max-length=0", "max_length must be >= 1"),
        ("--seed=-1", "seed must be >= 0"),
        ("--dropout=1", "dropout must be < 1"),
        ("--dropout=nan", "dropout must be finite"),
        ("--lr=0", "lr must be finite and > 0"),
        ("--temperature=0", "temperature must be finite and > 0"),
        ("--d-model=10", "multiple of heads=4"),
        ("--num-negatives=0", "num_negatives must be >= 1"),
        ("--threads=0", "--threads must be from 1 to"),
        ("--loss=hinge", "invalid choice: 'hinge'"),
        ("--epochs=many", "invalid int value: 'many'"),
        ("--epohcs=3", "unrecognized arguments: --epohcs=3"),
    ],
)
def test_options(tmp_path: Path, sessions_file: Path, fails: Fails, option: str, text: str) -> None:
    out = tmp_path / "run"
    message = fails(
        "train", sessions_file, "--items-column=items", f"--out={out}", *TINY, "--heads=4", option
    )
    assert text in message
    assert not out.exists()


def test_a_file_after_the_options_is_told_where_it_belongs(finished: Path, fails: Fails) -> None:
    message = fails("evaluate", finished, "--no-progress", "next.parquet")
    assert "unrecognized arguments: next.parquet. Files come before the options. See" in message
    assert "Files come" not in fails("evaluate", finished, "--no-progres", "next.parquet")


def test_missing_command_and_file(fails: Fails) -> None:
    assert "required: COMMAND" in fails()
    assert "invalid choice: 'tarin'" in fails("tarin")
    assert "FILE.parquet must be given" in fails("train")
    assert fails("evaluate", "run", "--threads=0").startswith("error: evaluate: --threads must")


def test_resume_needs_the_same_run(tmp_path: Path, finished: Path, fails: Fails) -> None:
    assert "must hold a run" in fails("train", "--resume", f"--out={tmp_path}")
    out = f"--out={finished}"
    assert "--lr must be 0.01 as the run began; got 0.5" in fails(
        "train", "--resume", out, "--lr=0.5"
    )
    assert "must exist" in fails("train", "other.parquet", "--resume", out)
    assert "not go with --resume" in fails("train", "--resume", "--overwrite", out)


def test_resume_notices_another_data_file(
    tmp_path: Path, finished: Path, sessions_file: Path, fails: Fails
) -> None:
    data, run = tmp_path / "data.parquet", tmp_path / "run"
    shutil.copy(sessions_file, data)
    shutil.copytree(finished, run)
    (run / "metrics.json").unlink()
    known = json.loads((run / "run.json").read_text())
    known["files"][0]["path"] = str(data.resolve())
    (run / "run.json").write_text(json.dumps(known))
    _write(data, GOOD)
    assert "be what the run began with" in fails("train", "--resume", f"--out={run}")
    data.unlink()
    assert "must be where they were" in fails("train", "--resume", f"--out={run}")


@pytest.mark.parametrize("name", ["run.json", "catalogue.parquet", "model.safetensors"])
def test_damaged_or_missing_run_files(
    tmp_path: Path, finished: Path, sessions_file: Path, fails: Fails, name: str
) -> None:
    run = tmp_path / "run"
    shutil.copytree(finished, run)
    content = (run / name).read_bytes()
    (run / name).write_bytes(content[: len(content) // 2])
    assert run.name in fails("evaluate", run)
    assert run.name in fails("recommend", run, sessions_file, "--out", tmp_path / "recs.parquet")
    (run / name).unlink()
    assert name in fails("evaluate", run)
    assert not (tmp_path / "recs.parquet").exists()


def test_damaged_end_of_a_run(tmp_path: Path, finished: Path, fails: Fails) -> None:
    run = tmp_path / "run"
    shutil.copytree(finished, run)
    (run / "metrics.json").write_text('{"epochs": 3}')
    assert "metrics.json must be as `train` wrote it" in fails("train", "--resume", f"--out={run}")
    (run / "metrics.json").unlink()
    content = (run / "checkpoint.safetensors").read_bytes()
    (run / "checkpoint.safetensors").write_bytes(content[: len(content) // 2])
    assert "be a complete file of save_state" in fails("train", "--resume", f"--out={run}")
    save_state(run / "checkpoint.safetensors", {"model": {}})
    assert "belong to this model" in fails("train", "--resume", f"--out={run}")


def test_weights_of_another_catalogue(tmp_path: Path, finished: Path, fails: Fails) -> None:
    run = tmp_path / "run"
    shutil.copytree(finished, run)
    state = load_state(run / "model.safetensors")
    save_state(run / "model.safetensors", {name: tensor[:3] for name, tensor in state.items()})
    assert "file must have the tensors of the model; got" in fails("evaluate", run)


def test_a_folder_without_a_name(sessions_file: Path, fails: Fails) -> None:
    """As of a variable of the shell that is not set."""
    said = "argument --out: must name a folder; got ''"
    assert said in fails("train", sessions_file, "--items-column=items", "--out", "")
    assert said in fails("demo", "--out", "")


@pytest.mark.parametrize("k", [0, -3, 41])
def test_top_k_outside_the_catalogue(
    tmp_path: Path, finished: Path, sessions_file: Path, fails: Fails, k: int
) -> None:
    out = tmp_path / "recs.parquet"
    message = fails("recommend", finished, sessions_file, f"--top-k={k}", "--out", out)
    assert f"top_k must be in [1, 40], the number of items; got {k}" in message
    assert not out.exists()


def test_recommend_to_a_bad_place(
    tmp_path: Path,
    finished: Path,
    sessions_file: Path,
    fails: Fails,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    recommend = ["recommend", finished, sessions_file, "--out"]
    place = tmp_path / "none" / "recs.parquet"
    message = fails(*recommend, place)
    assert "--out must lie in a folder that is there; got" in message
    assert f"Make {place.parent} first" in message
    assert f"be a file; got the folder {tmp_path}. Add a name" in fails(*recommend, tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(os, "access", lambda path, mode: path != tmp_path)
        assert f"be where you may write; got {tmp_path}" in fails(
            *recommend, tmp_path / "r.parquet"
        )
    assert not list(tmp_path.iterdir())
    before = sessions_file.read_bytes()
    assert "another file than the sessions" in fails(
        "recommend", finished, sessions_file, "--out", sessions_file
    )
    assert sessions_file.read_bytes() == before


@pytest.mark.parametrize("name", ["metrics.json", "model.safetensors"])
def test_a_file_of_the_run_is_not_written_over(
    tmp_path: Path, finished: Path, sessions_file: Path, fails: Fails, name: str
) -> None:
    run = tmp_path / "run"
    shutil.copytree(finished, run)
    before = (run / name).read_bytes()
    for command in (["evaluate", run], ["recommend", run, sessions_file]):
        message = fails(*command, "--out", tmp_path / "run" / ".." / "run" / name, "--no-progress")
        assert "another file than the sessions and those of the run" in message
    assert (run / name).read_bytes() == before


def test_recommend_with_integer_ids_for_a_model_of_strings(
    tmp_path: Path, finished: Path, fails: Fails
) -> None:
    file, out = _write(tmp_path / "s.parquet", GOOD), tmp_path / "recs.parquet"
    out.write_text("good")
    message = fails("recommend", finished, file, "--out", out, "--no-progress")
    assert "be string as in training; got int64" in message
    assert out.read_text() == "good"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["recs.parquet", "s.parquet"]


def test_recommendations_have_columns_of_their_own(
    tmp_path: Path, finished: Path, fails: Fails
) -> None:
    file, out = tmp_path / "s.parquet", tmp_path / "recs.parquet"
    pq.write_table(pa.table({"items": [["item-1"]], "scores": ["session 7"]}), file)
    options = ["--session-column=scores", "--out", out, "--no-progress"]
    assert "Rename it in the file" in fails("recommend", finished, file, *options)
    assert not out.exists()


def test_out_is_no_device(tmp_path: Path, finished: Path, fails: Fails) -> None:
    """A rename would put a file in its place."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    assert "a device or pipe" in fails("evaluate", finished, f"--out={pipe}")
    assert pipe.is_fifo()


def test_out_through_a_link(tmp_path: Path, finished: Path) -> None:
    target, link = tmp_path / "real.json", tmp_path / "link.json"
    target.write_text("old")
    link.symlink_to(target)
    assert main(["evaluate", str(finished), f"--out={link}"]) == 0
    assert link.is_symlink()
    assert json.loads(target.read_text())["targets"] == 300


def test_a_seed_beyond_64_bits(tmp_path: Path, sessions_file: Path, fails: Fails) -> None:
    run = ["train", sessions_file, "--items-column=items", f"--out={tmp_path / 'run'}", *TINY]
    assert "seed must be < 2^63" in fails(*run, f"--seed={2**63}")
    assert not (tmp_path / "run").exists()


def _full_disk(tensor: Tensor) -> Any:
    raise OSError(errno.ENOSPC, "No space left on device")


def test_full_disk_while_training(
    tmp_path: Path, sessions_file: Path, fails: Fails, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run stops with one line, and goes on when there is room again."""
    run, saves, encode = tmp_path / "run", [], _checkpoint._header

    def sometimes(tree: str, tensors: dict[str, Tensor]) -> bytes:
        saves.append(1)
        # the third save finds room for the header, and for nothing after it
        if len(saves) == 3:
            monkeypatch.setattr(_checkpoint, "_as_bytes", _full_disk)
        return encode(tree, tensors)

    monkeypatch.setattr(_checkpoint, "_header", sometimes)
    train = ["train", sessions_file, "--items-column=items", f"--out={run}", *TINY]
    assert "No space left on device" in fails(*train)
    monkeypatch.undo()
    assert load_state(run / "checkpoint.safetensors")["position"]["step"] == 8
    assert not list(run.glob(".*"))
    assert main(["train", "--resume", f"--out={run}", "--no-progress"]) == 0


def test_infinite_loss_is_an_error(tmp_path: Path, sessions_file: Path, fails: Fails) -> None:
    out = f"--out={tmp_path / 'run'}"
    options = ["--items-column=items", *TINY, "--lr=1e30", "--clip=0"]
    assert "Lower the learning rate" in fails("train", sessions_file, out, *options)


@pytest.mark.parametrize(
    ("field", "value", "error", "text"),
    [
        ("epochs", 1.5, TypeError, "epochs must be an integer; got 1.5"),
        ("epochs", True, TypeError, "epochs must be an integer; got True"),
        ("lr", "fast", TypeError, "lr must be a number; got 'fast'"),
        ("body", "bert", ValueError, r"body must be one of \('gpt2', 'xlnet'\); got 'bert'"),
        ("schedule", "step", ValueError, "schedule must be one of"),
        ("clip", -1.0, ValueError, "clip must be finite and >= 0"),
        ("temperature", -1, ValueError, "temperature must be finite and > 0; got -1"),
        ("temperature", 0, ValueError, "temperature must be finite and > 0"),
        ("temperature", math.inf, ValueError, "temperature must be finite"),
    ],
)
def test_config_checks(field: str, value: Any, error: Any, text: str) -> None:
    with pytest.raises(error, match=text):
        RunConfig(**{"items_column": "items", field: value})


def test_config_of_another_version() -> None:
    values = RunConfig(items_column="items").as_dict()
    assert RunConfig.from_dict(values) == RunConfig(items_column="items")
    with pytest.raises(ValueError, match=r"exactly the fields of a run; got \['speed'\]"):
        RunConfig.from_dict({**values, "speed": 1})
