"""What was changed after a model was made is refused when the model is saved: it would be lost."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from task_helpers import T, V, batch, sequence_inputs

import transformers4rec_ext as tr

D = 8


def _model(masking: str = "causal", **task: Any) -> tr.Model:
    inputs = sequence_inputs(masking=masking)
    transformer = tr.XLNetConfig.build(D, 2, 1, T)
    body = tr.SequentialBlock(inputs, tr.TransformerBlock(transformer, masking=inputs.masking))
    return tr.Model(tr.Head(body, tr.NextItemPredictionTask(**task)))


def _task(model: tr.Model) -> Any:
    return model.prediction_tasks[0]


def _masking(model: tr.Model) -> Any:
    return model.heads[0].body[0].masking


CHANGES: dict[str, tuple[Callable[[], tr.Model], Callable[[tr.Model], Any], str, Any]] = {
    "cosine_scale": (lambda: _model(cosine_scale=16.0), _task, "cosine_scale", 4.0),
    "temperature": (_model, lambda m: _task(m).pre.module, "softmax_temperature", 0.5),
    "numpy": (_model, lambda m: _task(m).pre.module, "softmax_temperature", np.float32(0.5)),
    "tensor": (_model, lambda m: _task(m).pre.module, "softmax_temperature", torch.tensor(0.5)),
    "corrected": (
        lambda: _model(sampled_softmax=True, max_n_samples=3),
        lambda m: _task(m).pre.module,
        "corrected",
        True,
    ),
    "smoothing": (_model, lambda m: _task(m).loss, "label_smoothing", 0.3),
    "masking": (
        lambda: _model("mlm"),
        _masking,
        "mlm_probability",
        0.9,
    ),
    "metric": (_model, lambda m: next(iter(_task(m).metrics)), "top_ks", [3]),
    "head": (_model, lambda m: m.heads[0], "loss_reduction", "sum"),
    "model": (_model, lambda m: m, "head_reduction", "sum"),
    "seed": (
        lambda: _model(sampled_softmax=True, sampler=tr.UniformSampler(3, V, min_id=1, seed=1)),
        lambda m: _task(m).pre.module.sampler,
        "seed",
        2,
    ),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_changed_number_is_refused(name: str, tmp_path: Path) -> None:
    make, part, attribute, value = CHANGES[name]
    model = make()
    assert getattr(part(model), attribute) != value
    setattr(part(model), attribute, value)
    with pytest.raises(ValueError, match=rf"must be as it was made: .*{attribute}"):
        model.save_pretrained(tmp_path / "folder")
    assert not (tmp_path / "folder").exists()


class Counting(tr.block.base.BlockBase):
    """A block of a user's own that counts."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        return x

    def forward_output_size(self, input_size: Any) -> Any:
        return input_size


@pytest.mark.parametrize("architecture", ["reformer", "longformer", "electra", "counting"])
def test_what_a_body_keeps_of_its_work_is_no_change(architecture: str, tmp_path: Path) -> None:
    inputs = sequence_inputs(masking="causal" if architecture == "counting" else "mlm")
    if architecture == "counting":
        body: Any = Counting()
    else:
        body = tr.TransformerBlock.from_registry(architecture, D, 2, 2, T + 1, inputs.masking)
    model = tr.Model(tr.Head(tr.SequentialBlock(inputs, body), tr.NextItemPredictionTask()))
    model.fit([batch()], num_epochs=1, verbose=False)
    model.save_pretrained(tmp_path)
    assert (tmp_path / "config.json").exists()


@pytest.mark.parametrize("masking", ["causal", "mlm", "plm", "rtd"])
@pytest.mark.parametrize("sampled", [False, True])
def test_what_use_changes_is_no_change(masking: str, sampled: bool, tmp_path: Path) -> None:
    model = _model(masking, sampled_softmax=sampled, max_n_samples=3)
    model.fit([batch()], num_epochs=1, verbose=False)
    model.evaluate([batch()], verbose=False)
    model.eval()
    with torch.no_grad():
        expected = model(batch())
    model.save_pretrained(tmp_path)
    with torch.no_grad():
        assert torch.equal(tr.Model.from_pretrained(tmp_path)(batch()), expected)
