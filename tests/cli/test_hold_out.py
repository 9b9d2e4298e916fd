"""What a run leaves out: validation and test, the test alone, or nothing."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from cli_helpers import TINY, assert_same_run, begin

from transformers4rec_ext.__main__ import main
from transformers4rec_ext.data import Catalogue, synthetic_sessions
from transformers4rec_ext.training import RunConfig, load_state, read_log
from transformers4rec_ext.training.folder import RunFolder
from transformers4rec_ext.training.run import train_run

Fails = Callable[..., str]
ITEMS = 30
LISTS = [row.tolist() for row in synthetic_sessions(220, ITEMS, seed=3)]
MARKS = ["train"] * 120 + ["validation"] * 50 + ["test"] * 50


def _file(path: Path, lists: list[list[int]], marks: list[str] | None = None) -> Path:
    columns: dict[str, Any] = {"items": lists} | ({} if marks is None else {"part": marks})
    # marked sessions in one row group: files with more or fewer are shuffled alike
    pq.write_table(pa.table(columns), path, row_group_size=90 if marks is None else 1000)
    return path


def _train(out: Path, file: Path, *more: str) -> Path:
    assert main(["train", str(file), f"--out={out}", "--items-column=items", *TINY, *more]) == 0
    return out


def _counts(folder: Path) -> dict[int, int]:
    catalogue = Catalogue.load(folder / "catalogue.parquet")
    counts = zip(catalogue.items.to_pylist(), catalogue.counts.tolist(), strict=True)
    return {item: count for item, count in counts if count}


def _last_weights(folder: Path) -> dict[str, torch.Tensor]:
    """Return the mean of weights that the last checkpoint holds, whichever epoch was kept."""
    average: dict[str, torch.Tensor] = load_state(folder / "checkpoint.safetensors")["average"]
    return average


def _same_training(one: Path, other: Path) -> None:
    """Assert that two runs, of which one was validated, trained alike and end alike."""
    losses = [[e for e in read_log(f / "log.jsonl") if e["event"] == "train"] for f in (one, other)]
    assert losses[0] == losses[1]
    left, right = _last_weights(one), _last_weights(other)
    assert left.keys() == right.keys()
    assert all(torch.equal(left[name], right[name]) for name in left)


@pytest.mark.parametrize("hold_out", ["test", "none"])
def test_of_each_session_less_is_left_out(tmp_path: Path, hold_out: str) -> None:
    left_out = {"test": 1, "none": 0}[hold_out]
    run = _train(tmp_path / "run", _file(tmp_path / "a.parquet", LISTS), f"--hold-out={hold_out}")
    trained = [row[: len(row) - left_out] if len(row) >= 3 else row for row in LISTS]
    assert _counts(run) == Counter(item for row in trained for item in row)
    # what `both` trains on where two more items follow that it may leave out
    enough = 3 if left_out else 0
    longer = [[*row, row[0], row[0]] if len(row) >= enough else row for row in trained]
    same = _train(tmp_path / "same", _file(tmp_path / "b.parquet", longer), "--patience=0")
    _same_training(run, same)


@pytest.mark.parametrize("hold_out", ["test", "none"])
def test_of_marked_sessions_less_are_left_out(tmp_path: Path, hold_out: str) -> None:
    file = _file(tmp_path / "a.parquet", LISTS, MARKS)
    run = _train(tmp_path / "run", file, "--split-column=part", f"--hold-out={hold_out}")
    trained = [
        row for row, mark in zip(LISTS, MARKS, strict=True) if hold_out == "none" or mark != "test"
    ]
    assert _counts(run) == Counter(item for row in trained for item in row)
    others = [*trained, LISTS[0], LISTS[1]]
    marks = ["train"] * len(trained) + ["validation", "test"]
    file = _file(tmp_path / "b.parquet", others, marks)
    same = _train(tmp_path / "same", file, "--split-column=part", "--patience=0")
    _same_training(run, same)


def test_without_a_validation_the_last_weights_are_kept_and_tested(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = _file(tmp_path / "a.parquet", LISTS)
    run = _train(tmp_path / "run", file, "--hold-out=test", "--average=0")
    printed = capsys.readouterr().out
    kept = load_state(run / "model.safetensors")
    last = load_state(run / "checkpoint.safetensors")["model"]
    assert kept.keys() == last.keys()
    assert all(torch.equal(kept[name], last[name]) for name in kept)
    assert {line["event"] for line in read_log(run / "log.jsonl")} == {"train"}
    result = json.loads((run / "metrics.json").read_text())
    assert (result["best_epoch"], result["epochs"]) == (3, 3)
    assert "validation NDCG" not in printed
    assert "test: the last item of each session" in printed
    out = tmp_path / "again.json"
    assert main(["evaluate", str(run), f"--out={out}"]) == 0
    assert json.loads(out.read_text())["model"] == result["model"]
    assert result["model"]["ndcg_at_10"] > result["popularity"]["ndcg_at_10"]


@pytest.mark.parametrize(
    ("hold_out", "said"),
    [
        ("both", "(120 train, 50 validation, 50 test)"),
        ("test", "(170 train, 50 test)"),
        ("none", "(220 train)"),
    ],
)
def test_it_says_what_is_trained_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], hold_out: str, said: str
) -> None:
    file = _file(tmp_path / "a.parquet", LISTS, MARKS)
    more = ["--split-column=part", f"--hold-out={hold_out}", "--epochs=1"]
    _train(tmp_path / "run", file, *more)
    assert f"220 sessions {said}, 30 items" in capsys.readouterr().out


def test_nothing_held_out_is_nothing_judged(
    tmp_path: Path, fails: Fails, capsys: pytest.CaptureFixture[str]
) -> None:
    file = _file(tmp_path / "a.parquet", LISTS)
    run = _train(tmp_path / "run", file, "--hold-out=none")
    printed = capsys.readouterr().out
    assert "\n3 epochs, " in printed
    assert "nothing to judge the model by" in printed
    result = json.loads((run / "metrics.json").read_text())
    assert result.keys() == {"best_epoch", "epochs", "training_seconds"}
    assert (run / "curves.png").read_bytes().startswith(b"\x89PNG")
    message = fails("evaluate", run)
    assert "FILE.parquet must be given for this run" in message
    assert "trained on all of its own files" in message
    assert main(["evaluate", str(run), str(file)]) == 0
    out = tmp_path / "top.parquet"
    assert main(["recommend", str(run), str(file), f"--out={out}"]) == 0
    assert pq.read_metadata(out).num_rows == len(LISTS)


def _stop_after(folder: RunFolder, number: int) -> None:
    steps: list[int] = []

    def enough() -> bool:
        return len(steps) == number

    stops: dict[str, Any] = {"on_step": steps.append, "should_stop": enough}
    assert train_run(folder, progress=False, say=lambda line: None, **stops) is None


def test_fewer_epochs_end_where_the_last_whole_one_did(tmp_path: Path) -> None:
    file = _file(tmp_path / "a.parquet", LISTS)
    two = begin(tmp_path / "two", file, "--hold-out=test", "--epochs=2")
    steps: list[int] = []
    assert train_run(two, progress=False, say=lambda line: None, on_step=steps.append)
    stopped = begin(tmp_path / "stopped", file, "--hold-out=test")
    _stop_after(stopped, len(steps) + 2)
    resume = ["train", "--resume", f"--out={stopped.path}", "--epochs=2", "--no-progress"]
    assert main(resume) == 0
    results = [json.loads((f.path / "metrics.json").read_text()) for f in (two, stopped)]
    assert results[0]["model"] == results[1]["model"]


@pytest.mark.parametrize("hold_out", ["test", "none"])
def test_a_run_without_validation_goes_on_as_if_it_had_not_stopped(
    tmp_path: Path, hold_out: str
) -> None:
    file = _file(tmp_path / "a.parquet", LISTS)
    whole = begin(tmp_path / "whole", file, f"--hold-out={hold_out}")
    assert train_run(whole, progress=False, say=lambda line: None)
    stopped = begin(tmp_path / "stopped", file, f"--hold-out={hold_out}")
    _stop_after(stopped, 9)
    assert stopped.status() == "unfinished"
    assert main(["train", "--resume", f"--out={stopped.path}", "--no-progress"]) == 0
    assert_same_run(whole.path, stopped.path)


def test_more_epochs_go_on_from_the_last(tmp_path: Path, fails: Fails) -> None:
    file = _file(tmp_path / "a.parquet", LISTS)
    whole = _train(tmp_path / "whole", file, "--hold-out=test", "--epochs=4")
    more = _train(tmp_path / "more", file, "--hold-out=test", "--epochs=2")
    message = fails("train", "--resume", f"--out={more}", "--validation-sessions=4")
    assert "--validation-sessions must be left out; got 4" in message
    assert main(["train", "--resume", f"--out={more}", "--epochs=4", "--no-progress"]) == 0
    assert_same_run(whole, more)


def test_options_that_nothing_would_come_of(tmp_path: Path, fails: Fails) -> None:
    file = _file(tmp_path / "a.parquet", LISTS, MARKS)
    base = ["train", file, f"--out={tmp_path / 'run'}", "--items-column=items", "--hold-out=test"]
    message = fails(*base)
    assert "--epochs must be given with --hold-out test" in message
    assert "a run that holds out both prints its best epoch" in message
    for more, name in (
        (["--patience=3"], "patience"),
        (["--validation-sessions=10"], "validation_sessions"),
        (["--split-column=part", "--validation-fraction=0.1"], "validation_fraction"),
    ):
        message = fails(*base, "--epochs=2", *more)
        assert f"{name} must be left out with hold_out='test'" in message
        assert "Nothing validates." in message
    wrong: list[Any] = ["all", ["both"]]
    for bad in wrong:
        text = r"hold_out must be one of \('both', 'test', 'none'\)"
        with pytest.raises(ValueError, match=text):
            RunConfig("items", hold_out=bad)
    assert not (tmp_path / "run").exists()


def test_too_short_sessions_are_told_by_what_is_held_out(tmp_path: Path, fails: Fails) -> None:
    pairs = _file(tmp_path / "pairs.parquet", [[1, 2], [2, 1]])
    ones = _file(tmp_path / "ones.parquet", [[1], [2]])
    out = f"--out={tmp_path / 'run'}"
    for file, hold_out, words in (
        (
            pairs,
            "both",
            "at least 4 items; got sessions of at most 2. It takes two to learn from, and 2",
        ),
        (
            pairs,
            "test",
            "at least 3 items; got sessions of at most 2. It takes two to learn from, and 1",
        ),
        (ones, "none", "at least 2 items; got sessions of at most 1. It takes two to learn from."),
    ):
        arguments = ["train", file, out, "--items-column=items", "--epochs=1"]
        assert words in fails(*arguments, f"--hold-out={hold_out}")
    marked = _file(tmp_path / "marked.parquet", [[1, 2], [2, 1]], ["train", "validation"])
    arguments = ["train", marked, out, "--items-column=items", "--split-column=part", "--epochs=1"]
    message = fails(*arguments, "--hold-out=test")
    assert "of two items or more as 'test'; got none. Without one there is nothing to" in message
    untrained = _file(tmp_path / "untrained.parquet", [[1, 2], [2, 1]], ["test", "test"])
    arguments[1] = untrained
    message = fails(*arguments, "--hold-out=test")
    assert "as 'train'; got none. Those marked 'validation' are trained on as well." in message
    arguments[1] = marked
    assert main([*map(str, arguments), "--hold-out=none", "--no-progress", "--d-model=4"]) == 0


def test_a_run_from_before_there_was_a_choice_holds_out_both(tmp_path: Path) -> None:
    folder = begin(tmp_path / "run", _file(tmp_path / "a.parquet", LISTS))
    known = json.loads((folder.path / "run.json").read_text())
    assert known["config"].pop("hold_out") == "both"
    (folder.path / "run.json").write_text(json.dumps(known))
    config, _ = RunFolder(folder.path).read()
    assert (config.hold_out, config.patience, config.validation_sessions) == ("both", 5, 20_000)
