"""What is read, encoded, drawn and shown once, where each costs as much as the catalogue does."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from cli_helpers import TINY
from torch.overrides import TorchFunctionMode

from transformers4rec_ext.__main__ import main
from transformers4rec_ext.data import Catalogue, Contexts, ParquetSessions, contexts, held_out
from transformers4rec_ext.data.contexts import num_held_out
from transformers4rec_ext.training import (
    RunConfig,
    RunLog,
    build_model,
    held_out_ranks,
    load_state,
    objective,
    read_log,
)
from transformers4rec_ext.training.folder import RunFolder

MARKS = ["train", "validation", "test", "train", "test"]


def _sessions(path: Path, *, marked: bool, strings: bool) -> ParquetSessions:
    """Return 2,000 sessions of up to 9 items, in row groups of 50."""
    rng = np.random.default_rng(4)
    lists = [rng.integers(1, 400, rng.integers(0, 10)).tolist() for _ in range(2000)]
    if strings:
        lists = [[f"item {item}" for item in session] for session in lists]
    items = pa.array(lists, pa.list_(pa.string() if strings else pa.int64()))
    table = pa.table({"items": items, "part": rng.choice(MARKS, 2000)})
    pq.write_table(table, path, row_group_size=50)
    return ParquetSessions(path, "items", split_column="part" if marked else None)


def _read(sessions: ParquetSessions, catalogue: Catalogue, **options: Any) -> list[tuple[Any, ...]]:
    """Return ``(context, target)`` in the caller's ids."""
    names = ["?", *catalogue.items.to_pylist()]
    return [
        ([names[i] for i in c.ids[a:b]], names[t])
        for c in held_out(sessions, catalogue, "test", **options)
        for a, b, t in zip(c.start, c.stop, c.targets, strict=True)
    ]


@pytest.mark.parametrize("marked", [False, True])
@pytest.mark.parametrize("strings", [False, True])
def test_a_sample_is_ranked_in_full_batches(tmp_path: Path, marked: bool, strings: bool) -> None:
    """Of 40 row groups each has few of a sample, and of an index every batch reads all."""
    sessions = _sessions(tmp_path / "s.parquet", marked=marked, strings=strings)
    catalogue = Catalogue.fit(sessions)
    rows = pq.read_table(tmp_path / "s.parquet").to_pydict()
    expected = []
    for session, mark in zip(rows["items"], rows["part"], strict=True):
        at = range(1, len(session)) if mark == "test" else range(0)
        if not marked:
            at = range(len(session) - 1, len(session)) if len(session) > 2 else range(0)
        expected += [(session[:t], session[t]) for t in at]
    assert _read(sessions, catalogue) == expected
    assert num_held_out(sessions, "test") == len(expected)
    sample = _read(sessions, catalogue, limit=90, seed=3)
    assert num_held_out(sessions, "test", limit=90, seed=3) == len(sample)
    places = [expected.index(row) for row in sample]
    assert places == sorted(places)
    (chunk,) = held_out(sessions, catalogue, "test", limit=90, seed=3)
    # no session was encoded for nothing
    assert len(chunk.ids) <= 90 * 9
    assert len(list(held_out(sessions, catalogue, "test"))) == 1


def test_long_sessions_have_as_many_targets(tmp_path: Path) -> None:
    table = pa.table({"items": [[1, 2] * 200, [1, 2, 3]], "part": ["test", "train"]})
    pq.write_table(table, tmp_path / "s.parquet")
    sessions = ParquetSessions(tmp_path / "s.parquet", "items", split_column="part")
    assert sessions.target_counts("test").tolist() == [399, 0]
    assert num_held_out(sessions, "test") == num_held_out(sessions, "test", limit=1) == 399


def test_all_targets_are_counted_while_they_are_judged() -> None:
    """The second has no item before it that is known, and is not ranked."""
    contexts = Contexts(
        np.array([1, 2, 3]), np.array([0, 2]), np.array([2, 2]), np.array([3, 3]), None, 0
    )
    counted: list[int] = []
    held_out_ranks(
        lambda ids: (torch.ones(*ids.shape, 2), torch.ones(5, 2)),
        [contexts],
        max_length=9,
        on_rows=counted.append,
    )
    assert sum(counted) == 2


def test_the_file_is_encoded_once_to_evaluate(
    finished: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    encode, calls = Catalogue.encode, []

    def counted(self: Catalogue, items: pa.Array) -> Any:
        calls.append(len(items))
        return encode(self, items)

    monkeypatch.setattr(Catalogue, "encode", counted)
    assert main(["evaluate", str(finished), "--by-count", "--no-progress"]) == 0
    assert len(calls) == 1
    assert "targets ranked" in capsys.readouterr().out


class _Drawn(TorchFunctionMode):
    """Notes how many normals are drawn into tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.sizes: list[int] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is torch.nn.init.normal_:
            self.sizes.append((args[0] if args else kwargs["tensor"]).numel())
        return func(*args, **kwargs)


def test_what_is_loaded_is_not_drawn_first(
    finished: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    weights = load_state(finished / "model.safetensors")
    table = max(weight.numel() for weight in weights.values())
    monkeypatch.setattr(objective, "make_sampler", pytest.fail)
    with _Drawn() as drawn:
        _, _, model = RunFolder(finished).load()
    model.save_pretrained(tmp_path)
    with drawn:
        again = type(model).from_pretrained(tmp_path)
    assert drawn.sizes
    assert max(drawn.sizes) < table
    for name, weight in weights.items():
        assert torch.equal(model.state_dict()[name], weight)
        assert torch.equal(again.state_dict()[name], weight)


def test_a_resumed_run_draws_no_table(finished: Path, tmp_path: Path) -> None:
    out = shutil.copytree(finished, tmp_path / "run")
    table = max(weight.numel() for weight in load_state(out / "model.safetensors").values())
    (out / "metrics.json").unlink()
    with _Drawn() as drawn:
        assert main(["train", "--resume", f"--out={out}", "--no-progress"]) == 0
    assert max(drawn.sizes) < table
    assert (out / "metrics.json").read_text() == (finished / "metrics.json").read_text()


def test_a_sample_of_the_test_sessions(
    tmp_path: Path,
    sessions_file: Path,
    fails: Callable[..., str],
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "run"
    train = ["train", str(sessions_file), f"--out={out}", "--items-column=items", *TINY]
    assert main([*train, "--test-sessions=30"]) == 0
    assert "(a sample of at most 30), ranked among all items" in capsys.readouterr().out
    of_sample = json.loads((out / "metrics.json").read_text())["model"]
    json_file = tmp_path / "evaluated.json"
    evaluate = ["evaluate", str(out), "--no-progress", f"--out={json_file}"]
    assert main([*evaluate, "--sessions=30"]) == 0
    evaluated = json.loads(json_file.read_text())
    assert evaluated["targets"] == 30
    assert evaluated["model"] == of_sample
    of_file = ["evaluate", str(out), str(sessions_file), *evaluate[2:], "--items-column=items"]
    assert main(of_file) == 0
    assert json.loads(json_file.read_text())["targets"] > 100
    for number in (0, -3):
        assert "--sessions must be at least 1" in fails(*evaluate, f"--sessions={number}")
    message = fails(*train, "--overwrite", "--test-sessions=0")
    assert "test_sessions must be >= 1; got 0" in message
    message = fails(*train, "--overwrite", "--hold-out=none", "--test-sessions=3", "--patience=0")
    assert "test_sessions must be left out with hold_out='none'; got 3. Nothing tests." in message


def test_a_test_that_takes_too_long_goes_on_with_a_sample(
    tmp_path: Path, sessions_file: Path, fails: Callable[..., str]
) -> None:
    out, found = tmp_path / "run", tmp_path / "found.json"
    train = ["train", str(sessions_file), f"--out={out}", "--items-column=items", *TINY]
    assert main(train) == 0
    (out / "metrics.json").unlink()  # as if it had been stopped in the test
    resume = ["train", "--resume", f"--out={out}", "--no-progress"]
    assert main([*resume, "--test-sessions=20"]) == 0
    metrics = json.loads((out / "metrics.json").read_text())
    for more, number in (["--sessions=20"], 20), ([], 20), (["--sessions=999"], 300):
        assert main(["evaluate", str(out), "--no-progress", f"--out={found}", *more]) == 0
        evaluated = json.loads(found.read_text())
        assert evaluated["targets"] == number
        assert (evaluated["model"] == metrics["model"]) == (number == 20)
    message = fails(*resume, "--test-sessions=10")
    assert "--test-sessions must come before the run is finished" in message
    assert f"`evaluate {out} --sessions N`" in message


def test_chunks_are_joined_up_to_a_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sessions = _sessions(tmp_path / "s.parquet", marked=False, strings=True)
    catalogue = Catalogue.fit(sessions)
    expected = _read(sessions, catalogue)
    monkeypatch.setattr(contexts, "_JOINED_BYTES", 10_000)
    assert _read(sessions, catalogue) == expected
    assert 2 < len(list(held_out(sessions, catalogue, "test"))) < 40


def test_no_bar_no_reading_for_its_end(finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ParquetSessions, "target_counts", pytest.fail)
    assert main(["evaluate", str(finished)]) == 0  # stderr is no terminal


@pytest.mark.parametrize("loss", ["full", "sampled", "bce", "gbce"])
def test_a_served_model_scores_as_the_trained_one(loss: str) -> None:
    drawn = {} if loss == "full" else {"num_negatives": 5}
    config = RunConfig("items", loss=loss, d_model=8, max_length=6, **drawn)
    trained, served = build_model(config, 41).eval(), build_model(config, 41, served=True).eval()
    served.load_state_dict(trained.state_dict())
    sessions = {"item_id": torch.tensor([[3, 5, 40, 0]])}
    with torch.no_grad():
        assert torch.equal(served(sessions), trained(sessions))


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_whatever_reads_or_ranks_shows_how_far_it_is(
    tmp_path: Path, sessions_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    terminal = _Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    out = tmp_path / "run"
    tiny = [option for option in TINY if option != "--no-progress"]
    assert main(["train", str(sessions_file), f"--out={out}", "--items-column=items", *tiny]) == 0
    shown = terminal.getvalue()
    for what in ("reading: ", "counting windows: ", "validation: ", "test: 100%", "epoch 1/"):
        assert what in shown
    assert main(["evaluate", str(out)]) == 0
    assert "ranked: " not in shown
    assert "test: 100%" in terminal.getvalue().removeprefix(shown)
    assert main(["evaluate", str(out), str(sessions_file), "--items-column=items"]) == 0
    assert "ranked: 100%" in terminal.getvalue()


def test_a_log_can_be_read_while_it_grows(tmp_path: Path) -> None:
    log = RunLog(tmp_path / "log.jsonl")
    log.write("train", step=10)
    assert read_log(tmp_path / "log.jsonl") == [{"event": "train", "step": 10}]
    log.close()
