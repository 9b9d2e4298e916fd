"""``--device``: what a run is elsewhere than on the CPU, on a stand-in for a GPU and on a GPU."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from cli_helpers import TINY

from transformers4rec_ext.__main__ import main
from transformers4rec_ext.training import load_state, read_log

COLUMNS = ["--items-column=items", "--session-column=who"]
OPTIONS = [option for option in TINY if not option.startswith("--num-negatives")]
OPTIONS += ["--epochs=1", "--batch-size=64", "--checkpoint-every=0"]  # 8 steps: they are slow there
#: What has tensors of its own to be moved: samplers with counts, losses, a lazy optimizer.
CHOICES = {
    "sampled": ["--num-negatives=15", "--exclude-seen"],
    "popularity": ["--sampler=popularity", "--num-negatives=15", "--sparse"],
    "mixed": ["--sampler=mixed", "--num-negatives=15", "--loss=corrected"],
    "gbce": ["--loss=gbce", "--num-negatives=15"],
    "full": ["--loss=full", "--cosine-scale=8", "--average=0", "--schedule=cosine"],
}
COMMANDS = """
import json, sys, torch
from transformers4rec_ext.__main__ import main
done = []
for arguments in json.loads(sys.argv[1]):
    before = torch.standin.operators
    done.append([main(arguments), torch.standin.operators > before])
print(json.dumps(done))
"""


def _commands(sessions: Path, choice: str, out: Path, device: str) -> list[list[str]]:
    """Return the arguments of a training and a use of it, and of one that is taken up again."""
    train = ["train", str(sessions), *COLUMNS, *OPTIONS, *CHOICES[choice]]
    where = ["--device", device, "--threads=1", "--no-progress"]
    run = str(out)
    commands = [
        [*train, *where, f"--out={run}"],
        ["evaluate", run, *where, "--by-count", f"--out={out}.json"],
        ["recommend", run, str(sessions), *where, "--top-k=4", f"--out={out}.parquet"],
    ]
    if choice == "sampled":
        half = f"--out={run}-resumed"
        commands += [
            [*train, *where, f"--out={run}-whole", "--epochs=2"],
            [*train, *where, half],
            ["train", "--resume", *where, half, "--epochs=2"],
        ]
    return commands


@pytest.fixture(scope="module")
def runs(
    tmp_path_factory: pytest.TempPathFactory, sessions_file: Path, on_standin: Callable[..., Any]
) -> Path:
    """Return a folder with ``CHOICE-DEVICE`` of all choices, on the CPU and on the stand-in."""
    folder = tmp_path_factory.mktemp("devices")
    commands = {
        device: [
            command
            for choice in CHOICES
            for command in _commands(sessions_file, choice, folder / f"{choice}-{device}", device)
        ]
        for device in ("cpu", "standin")
    }
    assert [main(command) for command in commands["cpu"]] == [0] * len(commands["cpu"])
    done = on_standin(COMMANDS, json.dumps(commands["standin"]))
    assert done == [[0, True]] * len(commands["standin"])  # and something was done there
    return folder


def assert_same_runs(one: Path, other: Path) -> None:
    """Assert that two runs agree as far as the order of sums allows."""
    logs = [read_log(path / "log.jsonl") for path in (one, other)]
    for line, expected in zip(*logs, strict=True):
        assert line.pop("event") == expected.pop("event")
        assert line == pytest.approx(expected, rel=1e-3, abs=1e-3)
    weights = [load_state(path / "model.safetensors") for path in (one, other)]
    torch.testing.assert_close(weights[0], weights[1], rtol=1e-2, atol=1e-3)


def assert_same_uses(one: Path, other: Path) -> None:
    """Assert that two runs rank and recommend alike."""
    metrics = [json.loads(path.with_suffix(".json").read_text()) for path in (one, other)]
    assert metrics[0]["model"] == pytest.approx(metrics[1]["model"], abs=5e-3)
    items = [pq.read_table(path.with_suffix(".parquet"))["items"] for path in (one, other)]
    same = sum(a == b for a, b in zip(*(of.to_pylist() for of in items), strict=True))
    assert same > 0.97 * len(items[0])


@pytest.mark.parametrize("choice", CHOICES)
def test_a_run_is_the_same_on_another_device(runs: Path, choice: str) -> None:
    assert_same_runs(runs / f"{choice}-standin", runs / f"{choice}-cpu")
    assert_same_uses(runs / f"{choice}-standin", runs / f"{choice}-cpu")


def test_it_goes_on_there_as_if_it_had_not_been_stopped(runs: Path) -> None:
    folders = [runs / "sampled-standin-whole", runs / "sampled-standin-resumed"]
    whole, resumed = (load_state(path / "checkpoint.safetensors") for path in folders)
    torch.testing.assert_close(resumed["model"], whole["model"], rtol=0, atol=0)
    assert resumed["standin_rng"].tolist() == [0, 1, 2]


def test_runs_go_on_on_another_device_and_a_generator_is_given_back(
    tmp_path: Path, runs: Path, on_standin: Callable[..., Any]
) -> None:
    code = """
import json, sys, torch
from transformers4rec_ext.__main__ import main
resume = ["train", "--resume", "--no-progress", "--device=standin", "--epochs=2"]
assert main([*resume, f"--out={sys.argv[1]}"]) == 0
kept = torch.standin.get_rng_state()
torch.standin.set_rng_state(kept + 5)
assert main([*resume, f"--out={sys.argv[2]}"]) == 0
print(json.dumps([kept.tolist(), torch.standin.get_rng_state().tolist()]))
"""
    begun = {}
    for name, device in (("there", "cpu"), ("here", "standin"), ("again", "standin")):
        begun[name] = tmp_path / name
        shutil.copytree(runs / f"sampled-{device}", begun[name])
    kept, given_back = on_standin(code, begun["there"], begun["again"])
    assert given_back == kept
    assert main(["train", "--resume", "--no-progress", f"--out={begun['here']}", "--epochs=2"]) == 0
    for path in begun.values():
        assert_same_runs(path, runs / "sampled-cpu-whole")


def test_the_stand_in_refuses_tensors_of_the_cpu(on_standin: Callable[..., Any]) -> None:
    code = """
import json, torch
there = torch.ones(3, device="standin", requires_grad=True)
here, places = torch.ones(3), torch.tensor([0, 2], device="standin")
said = []
for strange in (
    lambda: there + here,
    lambda: torch.cat([there, here]),
    lambda: torch.stack([there.sum(), here.sum()]),
    lambda: here[places],
    lambda: here.index_put((places,), there[:2]),
    lambda: there.detach().index_put((places,), here[:2]),
    lambda: torch.nn.functional.embedding(torch.tensor(1), there[:, None]),
    lambda: torch.rand(3, device="standin", generator=torch.Generator()),
):
    try:
        strange()
        said.append("")
    except RuntimeError as error:
        said.append("of the CPU" in str(error))
(there * 2).sum().backward()
print(json.dumps([said, str(there.grad.device), there.grad.cpu().tolist(), there.cpu().tolist()]))
"""
    expected = [[True] * 8, "standin:0", [2.0, 2.0, 2.0], [1.0, 1.0, 1.0]]
    assert on_standin(code) == expected


@pytest.mark.parametrize(
    ("device", "message"),
    [
        ("gpu", "--device must be a device of torch; got 'gpu'. As in --device cuda."),
        ("cuda:256", "--device must be a device of torch; got 'cuda:256'."),
        ("cuda:128", "--device must be a device of torch; got 'cuda:128'."),
        ("mps", "--device must be one with float64, in which ranks are; got mps."),
        ("cuda:99", "--device must be there; got cuda:99 where torch finds "),
        ("xla", "--device must be there; got xla where torch finds 0 of its kind"),
        ("meta", "--device must be there; got meta where torch finds 0 of its kind"),
    ],
)
def test_a_device_that_is_not_there(
    fails: Callable[..., str], tmp_path: Path, sessions_file: Path, device: str, message: str
) -> None:
    options = [*COLUMNS, *TINY, f"--out={tmp_path / 'run'}", f"--device={device}"]
    assert message in fails("train", sessions_file, *options)
    assert not (tmp_path / "run").exists()


def test_a_gpu_that_is_not_used_is_told_of(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    finished: Path,
) -> None:
    hint = "--device cuda uses the GPU"
    for there, arguments in ((True, []), (True, ["--device=cpu"]), (False, [])):
        monkeypatch.setattr(torch.cuda, "is_available", lambda there=there: there)
        capsys.readouterr()
        assert main(["evaluate", str(finished), *arguments]) == 0
        captured = capsys.readouterr()
        assert (hint in captured.err) is (there and not arguments)
        assert hint not in captured.out


@pytest.mark.gpu
@pytest.mark.parametrize("choice", CHOICES)
def test_a_run_on_a_gpu_learns_and_is_used_there(
    tmp_path: Path, sessions_file: Path, choice: str
) -> None:
    train, *uses = _commands(sessions_file, choice, tmp_path / "run", "cuda")
    for command in ([*train, "--epochs=6", "--batch-size=32"], *uses):
        assert main(command) == 0
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert metrics["model"]["ndcg_at_10"] > metrics["popularity"]["ndcg_at_10"]
