"""The Trainer on another device than the CPU comes to what it comes to there."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from trainer_helpers import losses, model_of, next_item, trainer_of, write

CODE = f"""
import json, os, pathlib, sys
os.environ["ACCELERATE_TORCH_DEVICE"] = "standin:0"
sys.path.insert(0, {str(Path(__file__).parent)!r})
from test_trainer_on_another_device import outcome
print(json.dumps(outcome(pathlib.Path(sys.argv[1]), use_cpu=False)))
"""


def outcome(folder: Path, *, use_cpu: bool) -> dict[str, Any]:
    """Train, evaluate and predict; return losses, metrics and what is recommended."""
    model = model_of(next_item(weight_tying=True, sampled_softmax=True, max_n_samples=8))
    trainer = trainer_of(folder, model, use_cpu=use_cpu)
    trainer.train()
    metrics = {name: float(value) for name, value in trainer.evaluate().items() if "_at_" in name}
    ids, scores = trainer.predict(folder / "data").predictions
    return {
        "device": str(next(model.parameters()).device),
        "losses": losses(trainer),
        "metrics": metrics,
        "scores": float(scores.sum()),
        "ids": ids.tolist(),
    }


def test_a_run_comes_to_the_same(tmp_path: Path, on_standin: Callable[..., Any]) -> None:
    if torch.backends.mps.is_available() or torch.xpu.is_available():
        pytest.skip("transformers takes the accelerator that is there, and no other")
    write(tmp_path / "data")
    there, here = on_standin(CODE, tmp_path), outcome(tmp_path, use_cpu=True)
    assert (here.pop("device"), there.pop("device")) == ("cpu", "standin:0")
    assert len(here["losses"]) == 10
    ids = here.pop("ids"), there.pop("ids")
    assert sum(a == b for a, b in zip(*ids, strict=True)) > 0.95 * len(ids[0])
    for name, expected in here.items():
        assert there[name] == pytest.approx(expected, rel=1e-3, abs=1e-3), name
