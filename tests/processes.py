"""Scripts run by several processes of torch.distributed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path


def run_in_processes(number: int, script: Path, folder: Path) -> None:
    """Run ``script FOLDER`` by that many processes; raise with their last words if one fails."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += [f"--nproc-per-node={number}", str(script), str(folder)]
    root = Path(__file__).resolve().parent.parent
    path = os.pathsep.join([str(root), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
