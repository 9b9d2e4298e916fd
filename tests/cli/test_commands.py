"""The commands on good input: what they write, print and return."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from cli_helpers import TINY

from transformers4rec_ext import __main__, _native
from transformers4rec_ext.__main__ import main
from transformers4rec_ext.cli import train_options
from transformers4rec_ext.cli.options import SHOWN
from transformers4rec_ext.data import Catalogue
from transformers4rec_ext.training import RunConfig, read_log
from transformers4rec_ext.training.config import HOLD_OUT, SCHEDULES
from transformers4rec_ext.training.folder import RunFolder


def test_train_writes_the_run(finished: Path, sessions_file: Path) -> None:
    assert sorted(path.name for path in finished.iterdir()) == [
        "catalogue.parquet", "checkpoint.safetensors", "curves.png", "log.jsonl", "metrics.json",
        "model.safetensors", "run.json", "run.lock",
    ]  # fmt: skip
    assert (finished / "curves.png").read_bytes().startswith(b"\x89PNG")
    log = read_log(finished / "log.jsonl")
    losses = [line["loss"] for line in log if line["event"] == "train"]
    assert losses[-1] < losses[0] - 0.2
    assert [line["epoch"] for line in log if line["event"] == "validation"] == [1, 2, 3]
    result = json.loads((finished / "metrics.json").read_text())
    assert result["model"]["ndcg_at_10"] > result["popularity"]["ndcg_at_10"]
    catalogue = Catalogue.load(finished / "catalogue.parquet")
    names = set(pq.read_table(sessions_file)["items"].combine_chunks().flatten().to_pylist())
    assert set(catalogue.items.to_pylist()) == names


def test_evaluate_repeats_the_metrics_of_training(
    finished: Path, sessions_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    result = json.loads((finished / "metrics.json").read_text())
    model, popularity = (
        [f"{result[name][metric]:.4f}" for metric in SHOWN] for name in ("model", "popularity")
    )
    out = tmp_path / "metrics.json"
    # Every session is long enough, so the last items of the same file are the test items.
    for file in ([], [str(sessions_file)]):
        assert main(["evaluate", str(finished), *file, "--threads=1", f"--out={out}"]) == 0
        lines = capsys.readouterr().out.splitlines()
        assert lines[0] == "300 targets ranked, 0 of them unknown to the model"
        assert lines[1].split()[:3] == ["NDCG@10", "(+-SE)", "Recall@10"]
        assert lines[2].split() == ["model", *model]
        assert lines[3].split() == ["popularity", *popularity]
        written = json.loads(out.read_text())
        assert written.pop("targets") == 300
        assert written.pop("unknown_targets") == 0
        assert written == {name: result[name] for name in ("model", "popularity")}


def test_evaluate_tells_rare_targets_from_frequent_ones(
    finished: Path, sessions_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "metrics.json"
    assert main(["evaluate", str(finished), "--by-count", "--threads=1", f"--out={out}"]) == 0
    written = json.loads(out.read_text())
    groups = written["by_count"]
    catalogue = Catalogue.load(finished / "catalogue.parquet")
    counts = dict(zip(catalogue.items.to_pylist(), catalogue.counts.tolist(), strict=True))
    sessions = pq.read_table(sessions_file)["items"].to_pylist()
    held = [counts[items[-1]] for items in sessions]
    limits = {"0": (0, 0), "1-5": (1, 5), "6-20": (6, 20), "21-100": (21, 100), "more": (101, 1e9)}
    expected = {name: sum(a <= count <= b for count in held) for name, (a, b) in limits.items()}
    assert {name: group["targets"] for name, group in groups.items()} == {
        name: number for name, number in expected.items() if number
    }
    assert len(groups) > 1
    for ranker in ("model", "popularity"):  # all of them are the mean of the groups
        for metric, value in written[ranker].items():
            if metric.endswith("_se"):
                continue
            parts = (group["share"] * group[ranker][metric] for group in groups.values())
            assert sum(parts) == pytest.approx(value, abs=1e-12)
    table = capsys.readouterr().out.split("\n\n")[1].splitlines()
    assert table[0].split() == [
        "in", "training", "targets", "share",
        "model", "NDCG@10", "Recall@10", "popularity", "NDCG@10", "Recall@10",
    ]  # fmt: skip
    pair = ("ndcg_at_10", "recall_at_10")
    for line, (name, group) in zip(table[1:], groups.items(), strict=True):
        shown = (group[ranker][m] for ranker in ("model", "popularity") for m in pair)
        numbers = [f"{group['targets']:,}", f"{group['share']:.1%}", *(f"{x:.4f}" for x in shown)]
        assert line.split() == [name, *numbers]


def test_excluding_seen_items_changes_the_ranking(
    finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    printed = []
    for option in ("--exclude-seen", "--no-exclude-seen"):
        assert main(["evaluate", str(finished), option, "--threads=1"]) == 0
        printed.append(capsys.readouterr().out)
    assert printed[0] != printed[1]


@pytest.mark.parametrize("exclude", [True, False])
def test_recommend(finished: Path, sessions_file: Path, tmp_path: Path, exclude: bool) -> None:
    out = tmp_path / "recs.parquet"
    option = "--exclude-seen" if exclude else "--no-exclude-seen"
    arguments = ["recommend", str(finished), str(sessions_file), "--top-k=5", option]
    assert main([*arguments, f"--out={out}", "--threads=1", "--no-progress"]) == 0
    sessions, recs = pq.read_table(sessions_file), pq.read_table(out)
    assert recs.column_names == ["who", "items", "scores"]
    assert recs["who"].to_pylist() == sessions["who"].to_pylist()
    known = set(Catalogue.load(finished / "catalogue.parquet").items.to_pylist())
    repeated = 0
    columns = (sessions["items"], recs["items"], recs["scores"])
    rows = zip(*(column.to_pylist() for column in columns), strict=True)
    for seen, items, scores in rows:
        assert len(items) == len(scores) == len(set(items)) == 5
        assert set(items) <= known
        assert scores == sorted(scores, reverse=True)
        repeated += len(set(seen) & set(items))
    assert (repeated == 0) is exclude


def test_recommendations_are_those_of_the_model(
    finished: Path, sessions_file: Path, tmp_path: Path
) -> None:
    """Row by row, without batching: the path of the command line mixes up nothing."""
    out = tmp_path / "recs.parquet"
    assert main(["recommend", str(finished), str(sessions_file), f"--out={out}", "--top-k=3"]) == 0
    config, catalogue, model = RunFolder(finished).load()
    recs = pq.read_table(out)
    sessions = pq.read_table(sessions_file)["items"].to_pylist()
    for row in (0, 7, 299):
        ids = catalogue.encode(pa.array(sessions[row]))[-config.max_length :]
        with torch.no_grad():
            scores = model({"item_id": torch.from_numpy(ids)[None]})[0]
        scores[0] = -torch.inf
        top = scores.topk(3)
        assert recs["items"][row].as_py() == catalogue.decode(top.indices.numpy()).to_pylist()
        np.testing.assert_allclose(recs["scores"][row].as_py(), top.values, rtol=1e-4)


def test_recommend_for_unknown_items_and_without_session_column(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    known = Catalogue.load(finished / "catalogue.parquet").items[0].as_py()
    file, out = tmp_path / "new.parquet", tmp_path / "recs.parquet"
    pq.write_table(pa.table({"items": [["new"], [known, "new"], []]}), file)
    assert main(["recommend", str(finished), str(file), f"--out={out}", "--top-k=4"]) == 0
    assert "2 of them without a known item" in capsys.readouterr().out
    recs = pq.read_table(out)
    assert recs["row"].to_pylist() == [0, 1, 2]
    assert [len(items) for items in recs["items"].to_pylist()] == [0, 4, 0]
    assert [len(scores) for scores in recs["scores"].to_pylist()] == [0, 4, 0]


def test_recommend_gives_what_is_left(finished: Path, tmp_path: Path) -> None:
    items = Catalogue.load(finished / "catalogue.parquet").items.to_pylist()
    file, out = tmp_path / "new.parquet", tmp_path / "recs.parquet"
    pq.write_table(pa.table({"items": [items[:-2]]}), file)
    arguments = [str(finished), str(file), f"--out={out}", "--top-k=10", "--exclude-seen"]
    assert main(["recommend", *arguments]) == 0
    assert set(pq.read_table(out)["items"][0].as_py()) == set(items[-2:])


def test_evaluate_counts_unknown_targets_as_misses(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    known = Catalogue.load(finished / "catalogue.parquet").items[0].as_py()
    file = tmp_path / "new.parquet"
    # An unknown target, and a known one with nothing known before it: 0 in all metrics.
    pq.write_table(pa.table({"items": [[known, "new"], ["new", known], [known]]}), file)
    out = tmp_path / "metrics.json"
    assert main(["evaluate", str(finished), str(file), f"--out={out}"]) == 0
    assert capsys.readouterr().out.startswith("2 targets ranked, 1 of them unknown to the model\n")
    written = json.loads(out.read_text())
    assert (written["targets"], written["unknown_targets"]) == (2, 1)
    for name in ("model", "popularity"):
        assert set(written[name].values()) == {0.0}
        assert len(written[name]) == 11


def test_several_files_and_xlnet(
    tmp_path: Path, sessions_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = pq.read_table(sessions_file)
    parts = [tmp_path / "a.parquet", tmp_path / "b.parquet"]
    pq.write_table(table.slice(0, 100), parts[0])
    pq.write_table(table.slice(100, 60), parts[1])
    arguments = ["train", *map(str, parts), "--items-column=items", f"--out={tmp_path / 'run'}"]
    assert main([*arguments, *TINY, "--epochs=1", "--body=xlnet", "--inner=16"]) == 0
    assert "160 sessions, 40 items" in capsys.readouterr().out


def test_more_negatives_than_items(tmp_path: Path, sessions_file: Path) -> None:
    arguments = ["train", str(sessions_file), "--items-column=items", f"--out={tmp_path / 'run'}"]
    assert main([*arguments, *TINY, "--num-negatives=5000", "--epochs=1"]) == 0


def test_early_stop(tmp_path: Path, sessions_file: Path) -> None:
    out = tmp_path / "run"
    arguments = ["train", str(sessions_file), "--items-column=items", f"--out={out}", *TINY]
    assert main([*arguments, "--epochs=50", "--patience=2", "--lr=1e-9"]) == 0
    result = json.loads((out / "metrics.json").read_text())
    assert result["epochs"] == result["best_epoch"] + 2 < 50


def test_overwrite_and_finished_runs(
    tmp_path: Path, finished: Path, sessions_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    shutil.copytree(finished, out)
    (out / "notes.txt").write_text("mine")
    train = ["train", str(sessions_file), "--items-column=items", f"--out={out}", *TINY]
    assert main(train) == 2
    assert "hold no run; got the finished" in capsys.readouterr().err
    assert main(["train", "--resume", f"--out={out}"]) == 0
    assert "nothing to resume (more --epochs would be)" in capsys.readouterr().out
    assert main(["train", "--resume", f"--out={out}", "--epochs=4", "--no-progress"]) == 0
    assert json.loads((out / "metrics.json").read_text())["epochs"] == 4
    assert main([*train, "--epochs=1", "--schedule=cosine", "--overwrite"]) == 0
    assert main(["train", "--resume", f"--out={out}"]) == 0
    assert "nothing to resume (the cosine schedule ends with" in capsys.readouterr().out
    assert main(["train", "--resume", f"--out={out}", "--epochs=2", "--no-progress"]) == 2
    assert "--epochs must be 1 as the run began; got 2. The cosine" in capsys.readouterr().err
    assert main([*train, "--epochs=1", "--overwrite"]) == 0
    assert json.loads((out / "metrics.json").read_text())["epochs"] == 1
    assert (out / "notes.txt").read_text() == "mine"


def test_doctor(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor"]) == 0
    printed = capsys.readouterr().out
    assert torch.__version__.split("+")[0] in printed
    for operator in ("log_uniform_sample", "sampled_softmax_tile"):
        (line,) = [line for line in printed.splitlines() if line.startswith(operator)]
        assert line.split()[1] in ("fused", "reference")


def test_a_reader_that_has_gone_is_no_error() -> None:
    """As with ``doctor | head -1``."""
    command = [sys.executable, "-m", "transformers4rec_ext", "doctor"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 141


def test_doctor_knows_a_torch_without_cuda(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_native, "why_reference", lambda op, device: "")
    for version, said in (("13.0", "fused"), (None, "fused (1)")):
        monkeypatch.setattr(torch.version, "cuda", version)
        assert main(["doctor"]) == 0
        (line,) = [x for x in capsys.readouterr().out.splitlines() if x.startswith("rank_tile")]
        assert line.split(maxsplit=2)[1:] == ["fused", said]


def test_doctor_knows_gpus_that_the_library_has_no_code_for(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    capabilities = [(7, 0), (9, 0)]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda i: capabilities[i])
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda i: f"card {i}")
    monkeypatch.setattr(_native, "cuda_archs", lambda: "7.5;9.0+PTX")
    assert main(["doctor"]) == 0
    gpus = [line for line in capsys.readouterr().out.splitlines() if line.startswith("gpu ")]
    assert "0: card 0, 7.0: the library has no code for 7.0" in gpus[0]
    assert gpus[1].endswith("1: card 1, 9.0")


@pytest.mark.parametrize(
    ("archs", "runs", "does_not"),
    [
        ("7.5;8.0", ["7.5", "8.0", "8.6"], ["7.0", "9.0"]),
        ("8.6", ["8.6", "8.9"], ["8.0"]),
        ("8.0+PTX", ["8.0", "9.0", "12.0"], ["7.5"]),
        ("9.0a+PTX;10.0f", ["9.0", "10.0", "10.3"], ["12.0", "8.0"]),
        (None, [], ["9.0"]),
    ],
)
def test_which_gpus_a_library_runs_on(
    monkeypatch: pytest.MonkeyPatch, archs: str | None, runs: list[str], does_not: list[str]
) -> None:
    monkeypatch.setattr(_native, "cuda_archs", lambda: archs)
    assert all(map(_native.runs_on, runs))
    assert not any(map(_native.runs_on, does_not))


def test_demo(tmp_path: Path, capsys: pytest.CaptureFixture[str], finished: Path) -> None:
    out = tmp_path / "demo"
    arguments = ["demo", f"--out={out}", "--sessions=1500", "--items=100", "--epochs=3"]
    for _ in range(2):  # a demo may be repeated
        assert main([*arguments, "--threads=1", "--no-progress"]) == 0
    result = json.loads((out / "metrics.json").read_text())
    assert result["model"]["ndcg_at_10"] > 1.3 * result["popularity"]["ndcg_at_10"]
    assert (out / "curves.png").stat().st_size > 5000
    assert "NDCG@10" in capsys.readouterr().out
    assert main(["demo", f"--out={finished}"]) == 2
    assert "must be new or of an earlier demo" in capsys.readouterr().err


def test_a_demo_that_is_stopped(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """By Ctrl-C or SIGTERM, with the command that goes on, as train."""
    out = tmp_path / "demo"
    arguments = [f"--out={out}", "--sessions=300", "--items=50", "--threads=1", "--no-progress"]
    with monkeypatch.context() as patch:
        patch.setattr("transformers4rec_ext.cli.train.stop_on_signals", _stopped)
        assert main(["demo", *arguments, "--epochs=1", "--device=cpu"]) == 130
    again = f"train --resume --out {out} --device cpu"
    assert f"stopped; continue with: python -m transformers4rec_ext {again}" in (
        capsys.readouterr().out
    )
    assert main(again.split()) == 0


@contextlib.contextmanager
def _stopped() -> Iterator[Callable[[], bool]]:
    yield lambda: True


def test_the_program_prints_to_any_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    printed = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(printed, "ascii"))
    monkeypatch.setattr(sys, "stderr", io.TextIOWrapper(io.BytesIO(), "ascii"))
    monkeypatch.setattr(__main__, "run", lambda argv: print("caf\u00e9") or 0)
    assert __main__.program() == 0
    sys.stdout.flush()
    assert printed.getvalue() == b"caf\\xe9\n"
    scripts = (Path(__file__).parents[2] / "pyproject.toml").read_text()
    assert 'transformers4rec-ext = "transformers4rec_ext.__main__:program"' in scripts


def test_help_teaches(capsys: pytest.CaptureFixture[str]) -> None:
    for command, words in (
        ([], ["train", "evaluate", "recommend", "demo", "doctor", "examples:", "Exit status"]),
        (
            ["train"],
            ["--items-column", "default: 1000", "examples:", "--resume", "checkpoint.saf"],
        ),
        (["train"], ["needs four items", "a null item", "last tenth", "order of time"]),
        (["recommend"], ["--top-k", "from 1 to the number of items", "default: 10", "empty list"]),
        (["recommend"], ["a null item", "example:"]),
        (["evaluate"], ["--exclude-seen", "counts as a miss", "--every-item", "a null item"]),
    ):
        with pytest.raises(SystemExit, match="0"):
            main([*command, "--help"])
        printed = capsys.readouterr().out
        assert [word for word in words if word not in printed] == []


def test_defaults_of_the_help_are_those_of_a_run(capsys: pytest.CaptureFixture[str]) -> None:
    fields = {f.name: f.default for f in dataclasses.fields(RunConfig)}
    # those that the help says in words, since they depend on other options
    for name in ("items_column", "session_column", "exclude_seen", "sparse"):
        fields.pop(name)
    for name in ("sampler", "num_negatives", "gbce_t", "temperature"):
        fields.pop(name)
    for name in ("split_column", "validation_fraction", "patience"):
        fields.pop(name)
    for name in ("validation_sessions", "test_sessions"):
        fields.pop(name)
    assert fields == train_options.DEFAULTS
    assert train_options.SCHEDULES == SCHEDULES
    assert tuple(HOLD_OUT) == train_options.HOLD_OUT
    run = RunConfig("item_id")
    with pytest.raises(SystemExit, match="0"):
        main(["train", "--help"])
    printed = " ".join(capsys.readouterr().out.split())
    assert f"0: never (default: {run.patience})" in printed
    assert f"at most N sessions (default: {run.validation_sessions})" in printed


@pytest.mark.parametrize("length", [1, 2])
def test_contexts_of_an_item_or_two(tmp_path: Path, sessions_file: Path, length: int) -> None:
    options = [*TINY, "--items-column=items", f"--max-length={length}", "--epochs=1"]
    assert main(["train", str(sessions_file), f"--out={tmp_path / 'run'}", *options]) == 0
