"""Memory that runs out is said in one line; other errors of torch keep their tracebacks."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from transformers4rec_ext.__main__ import main
from transformers4rec_ext.training import run as training_run


def _as_on_a_gpu() -> None:
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB.")


@pytest.mark.parametrize(
    ("take", "said"),
    [
        (lambda: torch.empty(2**50), "you tried to allocate"),
        (lambda: np.empty(2**50), "Unable to allocate"),
        (_as_on_a_gpu, "CUDA out of memory"),
    ],
    ids=["torch", "numpy", "gpu"],
)
def test_memory_that_runs_out_is_one_line(
    finished: Path,
    fails: Callable[..., str],
    monkeypatch: pytest.MonkeyPatch,
    take: Callable[[], Any],
    said: str,
) -> None:
    monkeypatch.setattr(training_run, "judge", lambda *args, **more: take())
    message = fails("evaluate", finished, "--no-progress")
    assert said in message
    assert "needs less with a smaller --d-model" in message
    monkeypatch.setenv("T4R_EXT_TRACEBACK", "1")
    with pytest.raises((RuntimeError, MemoryError), match=said):
        main(["evaluate", str(finished), "--no-progress"])


def test_another_error_of_torch_keeps_its_traceback(
    finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*args: Any, **more: Any) -> None:
        raise RuntimeError("a defect")

    monkeypatch.setattr(training_run, "judge", broken)
    with pytest.raises(RuntimeError, match="a defect"):
        main(["evaluate", str(finished), "--no-progress"])


@pytest.mark.parametrize(
    ("take", "said"),
    [(lambda: torch.empty(2**50), "you tried to allocate"), (_as_on_a_gpu, "CUDA out of memory")],
    ids=["torch", "gpu"],
)
def test_memory_that_runs_out_is_not_called_another_model(
    finished: Path,
    tmp_path: Path,
    fails: Callable[..., str],
    monkeypatch: pytest.MonkeyPatch,
    take: Callable[[], Any],
    said: str,
) -> None:
    shutil.copytree(finished, tmp_path / "run")
    monkeypatch.setattr(torch.optim.Adam, "load_state_dict", lambda *args: take())
    message = fails("train", "--resume", f"--out={tmp_path / 'run'}", "--epochs=5")
    assert said in message
    assert "belong to this model" not in message
