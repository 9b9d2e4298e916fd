"""State files: wrong input, damage and full disks; memory while a table is written and read."""

from __future__ import annotations

import errno
import io
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor

from transformers4rec_ext import _checkpoint
from transformers4rec_ext._checkpoint import load_state, open_state, save_state

ROOT = Path(__file__).resolve().parent.parent

# Wrong input


class Odd:
    """Something that no file of numbers can hold."""


@pytest.mark.parametrize(
    ("state", "error", "text"),
    [
        ([1], TypeError, "state must be a dictionary; got list"),
        ({"a": {"b": Odd()}}, TypeError, r"state a\.b must be a tensor, number.*; got Odd"),
        ({"a": {(1, 2): 1}}, TypeError, r"state a must have keys str or int; got \(1, 2\)"),
        ({True: 1}, TypeError, "state must have keys str or int; got True"),
        ({"a": [torch.ones(1, dtype=torch.complex64)]}, TypeError, r"state a\.0 must be a dense"),
        ({"a": torch.eye(2).to_sparse()}, TypeError, "dense.*; got torch.float32 torch.sparse_coo"),
        ({"a": torch.empty(2, device="meta")}, TypeError, "dense.*on meta"),
        (
            {"a.b": torch.ones(1), "a": {"b": torch.ones(1)}},
            ValueError,
            r"state must give each tensor a name of its own; got 'a\.b'",
        ),
        ({"__metadata__": torch.ones(1)}, ValueError, "a name of its own; got '__metadata__'"),
        ({"a": "x" * 10**8}, ValueError, "state must need at most 99,999,992 bytes"),
    ],
)
def test_save_refuses(tmp_path: Path, state: Any, error: type[Exception], text: str) -> None:
    save_state(tmp_path / "state", {"old": 1})
    with pytest.raises(error, match=f"save_state: .*{text}"):
        save_state(tmp_path / "state", state)
    assert load_state(tmp_path / "state") == {"old": 1}
    assert os.listdir(tmp_path) == ["state"]


def _without_structure(good: bytes) -> bytes:
    return safetensors.torch.save({"a": torch.ones(2)})


def _unknown_tensor(good: bytes) -> bytes:
    return good.replace(b'\\"tensor\\": \\"a\\"', b'\\"tensor\\": \\"b\\"')


def _unknown_kind(good: bytes) -> bytes:
    return good.replace(b'\\"tensor\\"', b'\\"tensro\\"')


def _pickle(good: bytes) -> bytes:
    buffer = io.BytesIO()
    torch.save({"a": torch.ones(2)}, buffer)
    return buffer.getvalue()


@pytest.mark.parametrize(
    "damage",
    [
        lambda good: b"",
        lambda good: good[:5],
        lambda good: good[:40],
        lambda good: good[:-1],
        lambda good: good + b"\0",
        lambda good: good.replace(b"F32", b"F3?"),
        lambda good: good.replace(b"[2]", b"[3]"),
        lambda good: b"\xff" * 8 + good[8:],
        lambda good: b"some text, longer than the header's length",
        _without_structure,
        _unknown_tensor,
        _unknown_kind,
        _pickle,
    ],
)
def test_damaged_files(tmp_path: Path, damage: Any) -> None:
    path = tmp_path / "state"
    save_state(path, {"a": torch.ones(2)})
    good = path.read_bytes()
    assert damage(good) != good
    path.write_bytes(damage(good))
    with pytest.raises(ValueError, match="load_state: path must be a complete file of save_state"):
        load_state(path)


def test_a_file_that_shrinks_while_it_is_open(tmp_path: Path) -> None:
    save_state(tmp_path / "state", {"a": torch.ones(1000)})
    with open_state(tmp_path / "state") as file:
        os.truncate(tmp_path / "state", 2000)
        with pytest.raises(ValueError, match=r"complete file.*it ends within a\)"):
            file.read("a")


def test_no_file(tmp_path: Path) -> None:
    for path in (tmp_path / "none", tmp_path):
        with pytest.raises(FileNotFoundError, match="load_state: path must exist"):
            load_state(path)


# Full disks


def _full_disk(tensor: Tensor) -> Any:
    raise OSError(errno.ENOSPC, "No space left on device")


def test_full_disk_keeps_the_old_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "state"
    save_state(path, {"a": torch.ones(2)})
    monkeypatch.setattr(_checkpoint, "_as_bytes", _full_disk)
    text = r"state could not be written \(No space left on device\); an earlier file is unchanged"
    with pytest.raises(OSError, match=text) as caught:
        save_state(path, {"a": torch.zeros(2)})
    assert caught.value.errno == errno.ENOSPC
    monkeypatch.undo()
    assert load_state(path)["a"].tolist() == [1, 1]
    assert os.listdir(tmp_path) == ["state"]


_LIMITED = """
import resource, sys, torch
from transformers4rec_ext._checkpoint import save_state
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
    save_state(sys.argv[1], {"a": torch.zeros(100_000)})
except OSError as error:
    print("refused:", error)
"""


def _python(script: str, *arguments: object) -> str:
    done = subprocess.run(
        [sys.executable, "-c", script, *map(str, arguments)],
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_real_failing_write(tmp_path: Path) -> None:
    """The operating system refuses in the middle of a tensor."""
    path = tmp_path / "state"
    save_state(path, {"a": torch.ones(2)})
    said = _python(_LIMITED, path)
    assert "refused: save_state:" in said
    assert "could not be written (File too large)" in said
    assert load_state(path)["a"].tolist() == [1, 1]
    assert os.listdir(tmp_path) == ["state"]


# Memory

_PEAK = r"""
import re, sys, torch
from transformers4rec_ext._checkpoint import open_state, save_state

def peak():
    # MiB; not ru_maxrss, which begins with that of the process that started this one
    return int(re.search(r"VmHWM:\s+(\d+) kB", open("/proc/self/status").read())[1]) >> 10

path, mode = sys.argv[1:]
table = torch.ones(800_000, 64)  # 195 MiB
save_state(path, {"first": table[:2, :2]})  # imports and buffers
with open_state(path) as file:
    file.read()
"""
_TABLE = (
    _PEAK
    + """
if mode == "strided":
    table = table.t()
start = peak()
if mode == "copied":
    table = [table, table.clone()][1]
state = {"table": table, "tied": table}
save_state(path, state)
saved = peak()
with open_state(path) as file:
    file.fill(state)
print(saved - start, peak() - saved)
"""
)
_OPTIMIZER = (
    _PEAK
    + """
parameter = torch.nn.Parameter(table)
adam = torch.optim.Adam([parameter], fused=True)
moments = {"exp_avg": torch.zeros(1).expand_as(table), "exp_avg_sq": torch.zeros_like(table)}
adam.state[parameter] = {"step": torch.tensor(3.0), **moments}
save_state(path, {"model": {"table": parameter}, "optimizer": adam.state_dict()})
del adam, moments
adam = torch.optim.Adam([parameter], fused=True)
start = peak()
with open_state(path) as file:
    file.fill({"table": parameter}, "model")
    adam.load_state_dict(file.read("optimizer"))
state = adam.state[parameter]
assert state["exp_avg"].shape == table.shape and state["step"] == 3
# one of the two moments was in memory before
print(peak() - start - 195)
"""
)


@pytest.mark.parametrize("mode", ["contiguous", "strided"])
def test_neither_saving_nor_filling_needs_memory_for_the_table(tmp_path: Path, mode: str) -> None:
    saving, filling = map(int, _python(_TABLE, tmp_path / "state", mode).split())
    assert saving < 100
    assert filling < 100


def test_an_optimizer_takes_its_state_without_a_copy(tmp_path: Path) -> None:
    assert int(_python(_OPTIMIZER, tmp_path / "state", "")) < 100


def test_a_copy_of_the_table_would_be_noticed(tmp_path: Path) -> None:
    """Planted fault: the measurement sees what it is there to see."""
    saving, _ = map(int, _python(_TABLE, tmp_path / "state", "copied").split())
    assert saving > 150
