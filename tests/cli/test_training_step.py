"""A step of training: the rate of the schedule, a loss that is not finite; the best epoch."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from transformers4rec_ext.data import (
    Catalogue,
    ParquetSessions,
    SessionLoader,
    synthetic_sessions,
    write_sessions,
)
from transformers4rec_ext.training import RunConfig, TrainingLoop, TrainingStep, build_model


class Product(nn.Module):
    """A model whose loss is its only weight times the batch's."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(1.0))

    def forward(self, batch: dict[str, Tensor], training: bool) -> dict[str, Tensor]:
        return {"loss": self.weight * batch["x"]}


def _step(**options: Any) -> TrainingStep:
    return TrainingStep(Product(), RunConfig("items", epochs=4, lr=0.5, **options), 5)


def test_cosine_goes_from_lr_to_0_over_the_epochs_and_stays() -> None:
    step = _step(schedule="cosine")
    rates = []
    for number in (0, 5, 10, 19, 20, 30):
        step({"x": torch.tensor(1.0)}, number)
        (group,) = step.optimizer.param_groups
        rates.append(group["lr"])
    last = 0.25 * (1 + math.cos(math.pi * 19 / 20))
    expected = [0.5, 0.25 * (1 + math.sqrt(0.5)), 0.25, last, 0.0, 0.0]
    assert rates == pytest.approx(expected, rel=1e-12, abs=1e-15)


def test_a_constant_rate() -> None:
    step = _step()  # the default
    assert {step.learning_rate(number) for number in (0, 19, 30)} == {0.5}


def test_a_loss_that_is_not_finite_leaves_the_weights() -> None:
    step = _step()
    with pytest.raises(ValueError, match="loss must be finite; got inf at step 3"):
        step({"x": torch.tensor(math.inf)}, 2)
    (weight,) = step.model.parameters()
    assert weight.item() == 1.0


def test_the_best_epoch_is_that_of_the_whole_run(tmp_path: Path) -> None:
    write_sessions(tmp_path / "s.parquet", synthetic_sessions(60, 20, seed=0))
    sessions = ParquetSessions(tmp_path / "s.parquet", "item_id")
    catalogue = Catalogue.fit(sessions)
    sizes: dict[str, Any] = {"d_model": 4, "layers": 1, "max_length": 8, "num_negatives": 5}
    config = RunConfig("item_id", epochs=9, patience=3, **sizes)
    found = iter([0.3, 0.1, 0.2, 0.25])
    loop = TrainingLoop(
        build_model(config, catalogue.num_items),
        SessionLoader(sessions, catalogue, max_length=8, batch_size=32),
        lambda model: {"ndcg_at_10": next(found), "recall_at_10": 0.0},
        tmp_path,
        config,
        progress=False,
        say=lambda line: None,
    )
    assert loop.run()
    position = loop.position
    assert (position.best_epoch, position.epoch, position.best_metric) == (1, 4, 0.3)
