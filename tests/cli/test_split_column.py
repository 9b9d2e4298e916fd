"""The session protocol on the command line: whole sessions held out, every next item ranked."""

from __future__ import annotations

import itertools
import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from cli_helpers import TINY, assert_same_run, begin
from torch import Tensor

from transformers4rec_ext.__main__ import main
from transformers4rec_ext.data import Catalogue, synthetic_sessions
from transformers4rec_ext.training import RunConfig, read_log
from transformers4rec_ext.training.folder import RunFolder
from transformers4rec_ext.training.run import train_run

Fails = Callable[..., str]
COLUMNS = ["--items-column=items", "--session-column=who", "--split-column=part"]


def _write(path: Path, marks: list[Any], lists: list[list[str]]) -> Path:
    who = [f"u{i}" for i in range(len(lists))]
    pq.write_table(pa.table({"who": who, "items": lists, "part": marks}), path, row_group_size=70)
    return path


@pytest.fixture(scope="module")
def marked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a file of 260 sessions, of which the last 40 are for the test."""
    rows = synthetic_sessions(260, 40, seed=2)
    lists = [[f"item-{i}" for i in row] for row in rows]
    lists[250] = ["only-in-test", *lists[250][:2], "only-in-test"]
    path = tmp_path_factory.mktemp("marked") / "marked.parquet"
    return _write(path, ["train"] * 220 + ["test"] * 40, lists)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, marked: Path) -> Path:
    """Return the folder of a finished run; tests must not change it."""
    out = tmp_path_factory.mktemp("runs") / "run"
    assert main(["train", str(marked), f"--out={out}", *COLUMNS, *TINY]) == 0
    return out


def _expected(folder: Path, lists: list[list[str]], last_only: bool = False) -> dict[str, float]:
    """Return metrics by the definition, one pass and one full row of scores for each target."""
    config, catalogue, model = RunFolder(folder).load()
    ranks = []
    for row in lists:
        ids = catalogue.encode(pa.array(row)).tolist()
        for place in range(len(ids) - 1 if last_only else 1, len(ids)):
            context = torch.tensor([ids[max(0, place - config.max_length) : place]])
            with torch.no_grad():
                scores: Tensor = model({"item_id": context})[0, 1:]
            ranks.append(int((scores >= scores[ids[place] - 1]).sum()))
    rank = np.array(ranks)
    return {
        "targets": len(rank),
        "recall_at_20": float(np.mean(rank <= 20)),
        "mrr_at_20": float(np.mean(np.where(rank <= 20, 1 / rank, 0))),
        "recall_at_5": float(np.mean(rank <= 5)),
        "ndcg_at_10": float(np.mean(np.where(rank <= 10, 1 / np.log2(rank + 1.0), 0))),
    }


def _lists(file: Path) -> list[list[str]]:
    lists: list[list[str]] = pq.read_table(file)["items"].to_pylist()
    return lists


def test_the_test_ranks_every_next_item_of_the_test_sessions(run: Path, marked: Path) -> None:
    found = json.loads((run / "metrics.json").read_text())["model"]
    expected = _expected(run, _lists(marked)[220:])
    assert expected.pop("targets") > 200
    for name, value in expected.items():
        assert found[name] == pytest.approx(value, abs=1e-12), name
    # Planted fault: the leave-one-out test of the same sessions is another number.
    last = _expected(run, _lists(marked)[220:], last_only=True)
    assert last["recall_at_20"] != pytest.approx(found["recall_at_20"], abs=1e-12)


def test_validation_is_of_the_last_training_sessions(run: Path, marked: Path) -> None:
    """Of the epoch whose weights were kept, the log says what the definition gives."""
    best = json.loads((run / "metrics.json").read_text())["best_epoch"]
    log = read_log(run / "log.jsonl")
    (line,) = [e for e in log if e["event"] == "validation" and e["epoch"] == best]
    expected = _expected(run, _lists(marked)[198:220])
    expected.pop("targets")
    for name, value in expected.items():
        assert line[name] == pytest.approx(value, abs=1e-12), name


def test_only_training_sessions_are_counted(run: Path, marked: Path) -> None:
    catalogue = Catalogue.load(run / "catalogue.parquet")
    counts = dict(zip(catalogue.items.to_pylist(), catalogue.counts.tolist(), strict=True))
    expected = Counter(item for row in _lists(marked)[:198] for item in row)
    assert counts == {item: expected[item] for item in counts}
    assert counts["only-in-test"] == 0


def test_run_json_and_what_is_printed(
    tmp_path: Path, marked: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    train = ["train", str(marked), f"--out={out}", *COLUMNS, *TINY, "--epochs=1"]
    assert main([*train, "--validation-fraction=0.25", "--validation-sessions=20"]) == 0
    printed = capsys.readouterr().out
    assert "260 sessions (165 train, 55 validation, 40 test), 41 items" in printed
    assert "test: every item but the first of the test sessions, ranked among all" in printed
    config = json.loads((out / "run.json").read_text())["config"]
    assert config["split_column"] == "part"
    assert config["validation_fraction"] == 0.25


def test_evaluate(
    run: Path, marked: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    result = json.loads((run / "metrics.json").read_text())
    new = tmp_path / "new.parquet"
    lists = _lists(marked)[220:]
    pq.write_table(pa.table({"items": lists}), new)
    out = tmp_path / "metrics.json"

    def evaluate(*options: object) -> Any:
        arguments = ["evaluate", str(run), *map(str, options), f"--out={out}", "--threads=1"]
        assert main(arguments) == 0
        return json.loads(out.read_text())

    targets = sum(len(row) - 1 for row in lists)
    of_run = evaluate()
    assert capsys.readouterr().out.startswith(f"{targets} targets ranked, 0 of them unknown")
    assert (of_run["targets"], of_run["unknown_targets"]) == (targets, 0)
    for written in (of_run, evaluate(new), evaluate(new, "--every-item")):
        for name in ("model", "popularity"):
            assert written[name] == pytest.approx(result[name], abs=1e-12)
    last = evaluate(new, "--no-every-item")
    assert last["targets"] == 40
    expected = _expected(run, lists, last_only=True)
    assert last["model"]["mrr_at_20"] == pytest.approx(expected["mrr_at_20"], abs=1e-12)


def test_evaluate_every_item_of_a_run_without_marks(
    finished: Path, sessions_file: Path, tmp_path: Path
) -> None:
    out, file, lists = tmp_path / "metrics.json", tmp_path / "s.parquet", _lists(sessions_file)[:40]
    pq.write_table(pa.table({"items": lists}), file)
    options = ["--every-item", f"--out={out}", "--threads=1"]
    assert main(["evaluate", str(finished), str(file), *options]) == 0
    expected = _expected(finished, lists)
    found = json.loads(out.read_text())
    assert found["targets"] == expected["targets"]
    assert found["model"]["recall_at_20"] == pytest.approx(expected["recall_at_20"], abs=1e-12)


def test_evaluate_refuses_what_would_do_nothing_or_harm(
    finished: Path, sessions_file: Path, tmp_path: Path, fails: Fails
) -> None:
    assert "--every-item must come with a FILE" in fails("evaluate", finished, "--every-item")
    message = fails("evaluate", finished, "--items-column=items")
    assert "--items-column must come with a FILE" in message
    assert "lie in a folder that is there" in fails("evaluate", finished, "--out=/gone/m.json")
    before = sessions_file.read_bytes()
    for file in ([], [sessions_file]):
        message = fails("evaluate", finished, *file, f"--out={sessions_file}")
        assert "--out must be another file than the sessions" in message
    assert sessions_file.read_bytes() == before


def test_recommend_carries_the_session_column(run: Path, marked: Path, tmp_path: Path) -> None:
    out = tmp_path / "recs.parquet"
    arguments = [str(run), str(marked), f"--out={out}", "--top-k=2", "--no-progress"]
    assert main(["recommend", *arguments]) == 0
    assert pq.read_table(out)["who"].to_pylist() == [f"u{i}" for i in range(260)]


def test_resumed_bit_by_bit(run: Path, marked: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    train = ["train", str(marked), f"--out={out}", *COLUMNS, *TINY, "--overwrite", "--epochs=1"]
    assert main(train) == 0
    (out / "metrics.json").unlink()
    assert main(["train", "--resume", f"--out={out}", "--epochs=3", "--split-column=part"]) == 0
    assert_same_run(out, run)


def test_stopped_inside_an_epoch(run: Path, marked: Path, tmp_path: Path) -> None:
    folder, calls = begin(tmp_path, marked, *COLUMNS), itertools.count(1)
    quiet: dict[str, Any] = {"progress": False, "say": lambda line: None}
    torch.set_num_threads(1)
    assert train_run(folder, should_stop=lambda: next(calls) == 5, **quiet) is None
    assert train_run(folder, **quiet) is not None
    assert_same_run(tmp_path, run)


def test_resume_needs_the_same_parts(run: Path, finished: Path, fails: Fails) -> None:
    message = fails("train", "--resume", f"--out={run}", "--split-column=who")
    assert "--split-column must be 'part' as the run began; got 'who'" in message
    message = fails("train", "--resume", f"--out={run}", "--validation-fraction=0.5")
    assert "--validation-fraction must be left out; got 0.5" in message
    message = fails("train", "--resume", f"--out={finished}", "--split-column=who")
    assert "--split-column must be left out; got 'who'" in message


def test_a_run_of_the_time_before_marks_is_read() -> None:
    values = RunConfig("items").as_dict()
    for name in ("split_column", "validation_fraction"):
        values.pop(name)
    assert RunConfig.from_dict(values) == RunConfig("items")


GOOD = [["a", "b"], ["b", "a"], ["a", "b"], ["b", "c"]]


@pytest.mark.parametrize(
    ("marks", "text"),
    [
        (["train", "train", "test", "dev"], "got 'dev' in "),
        (["train", None, "test", "test"], "got null in "),
        ([1, 2, 3, 3], "column 'part' must be strings"),
        (["train"] * 4, "column 'part' must mark a session of two items or more as 'test'"),
        (["test", "validation"] * 2, "mark a session of two items or more as 'train'; got none"),
        (["train", "test", "test", "test"], "items or more as 'train'; got none. Where none is"),
        (["train", "test", "validation", "train"], "--validation-fraction"),
    ],
)
def test_bad_marks(tmp_path: Path, fails: Fails, marks: list[Any], text: str) -> None:
    file, out = _write(tmp_path / "s.parquet", marks, GOOD), tmp_path / "run"
    train = ["train", file, f"--out={out}", *COLUMNS, *TINY]
    if text.startswith("--"):  # good marks, with an option that would have no effect
        assert "must be left out where 'part' marks" in fails(*train, f"{text}=0.2")
    else:
        assert text in fails(*train)
    assert not out.exists()


def test_held_out_sessions_too_short_to_hold_a_target(tmp_path: Path, fails: Fails) -> None:
    lists = [["a", "b"], ["b", "a"], ["a"], []]
    for names in (["train", "train", "test", "test"], ["train", "test", "validation", "test"]):
        file = _write(tmp_path / "s.parquet", names, lists)
        part = "test" if "validation" not in names else "validation"
        message = fails("train", file, f"--out={tmp_path / 'run'}", *COLUMNS, *TINY)
        assert f"mark a session of two items or more as '{part}'; got none" in message


def test_the_smallest_file_that_trains(tmp_path: Path) -> None:
    file = _write(tmp_path / "s.parquet", ["train", "train", "test"], GOOD[:3])
    assert main(["train", str(file), f"--out={tmp_path / 'run'}", *COLUMNS, *TINY]) == 0


def test_bad_options(tmp_path: Path, marked: Path, fails: Fails) -> None:
    train = ["train", marked, f"--out={tmp_path / 'run'}", "--items-column=items", *TINY]
    assert "Its columns are: who, items, part." in fails(*train, "--split-column=fold")
    assert "column 'items' must be strings" in fails(*train, "--split-column=items")
    message = fails(*train, "--validation-fraction=0.1")
    assert "validation_fraction must be left out without split_column" in message
    for wrong in ("0", "1", "nan"):
        message = fails(*train, "--split-column=part", f"--validation-fraction={wrong}")
        assert "validation_fraction must lie in (0, 1)" in message
    assert not (tmp_path / "run").exists()
    # Nothing speaks against one column for both.
    both = ["--split-column=part", "--session-column=part", "--epochs=1"]
    assert main([*map(str, train), *both]) == 0
