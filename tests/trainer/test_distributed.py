"""Two processes do what one does with twice the batch."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from distributed_run import CASES, outcome
from trainer_helpers import write

HERE = Path(__file__).resolve().parent
ROWS = 43  # of 8 in a step 3 are left over: not even for two processes


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("distributed")
    write(folder / "data", ROWS)
    return folder


@pytest.fixture(scope="module")
def of_two(folder: Path) -> Any:
    """Return what two processes with half the batch found."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += ["--nproc-per-node=2", str(HERE / "distributed_run.py"), str(folder)]
    path = os.pathsep.join([str(HERE.parent.parent), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return torch.load(folder / "found.pt", weights_only=True)


@pytest.mark.parametrize("case", CASES)
def test_two_processes_equal_one_with_twice_the_batch(folder: Path, of_two: Any, case: str) -> None:
    expected, found = outcome(folder, case, batch_size=8), of_two[case]
    assert expected.keys() == found.keys()
    assert len(expected["losses"]) == (3 if case == "rows, accumulated" else 6)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


def test_a_run_of_two_processes_is_resumed_to_the_bit(of_two: Any) -> None:
    found = of_two["resume"]
    assert len(found["whole"]) == 6
    assert torch.equal(found["whole"], found["resumed"])


def test_processes_begin_with_the_first_ones_table(of_two: Any) -> None:
    """DDP sees to it for the parameters that it does not pass over."""
    first, other = of_two["start"]["first"], of_two["start"]["other"]
    assert first.keys() == other.keys()
    for name in first:
        assert torch.equal(first[name], other[name]), name
