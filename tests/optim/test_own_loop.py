"""DDP beside exchanged rows: two processes do what one does with both shares."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from processes import run_in_processes

SCRIPT = Path(__file__).resolve().parent / "own_loop_run.py"


@pytest.mark.skipif(not torch.distributed.is_gloo_available(), reason="torch is without gloo")
def test_two_processes_are_one_with_both_shares(tmp_path: Path) -> None:
    for processes in (1, 2):
        run_in_processes(processes, SCRIPT, tmp_path)
    one, two = (torch.load(tmp_path / f"{n}.pt", weights_only=True) for n in (1, 2))
    assert one.keys() == two.keys()
    for name, weight in one.items():
        torch.testing.assert_close(two[name], weight, rtol=1e-4, atol=1e-5, msg=name)
