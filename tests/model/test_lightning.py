"""``Model.to_lightning`` under Lightning's own Trainer."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from task_helpers import CLICK, Columns, batch, data, next_item_model, regression_model
from torch.utils.data import DataLoader

from transformers4rec_ext.model import BinaryClassificationTask, Head, Model, RegressionTask

lightning = pytest.importorskip("lightning.pytorch", reason="lightning is not installed")

# Lightning warns of too few workers, of a short epoch and in its own imports.
pytestmark = pytest.mark.filterwarnings("ignore::Warning")


def _trainer(folder: Path, epochs: int = 2, **options: Any) -> Any:
    return lightning.Trainer(
        **options,
        max_epochs=epochs,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
    )


def test_it_trains_as_fit_does(tmp_path: Path) -> None:
    model, other = regression_model(), regression_model()
    other.load_state_dict(model.state_dict())
    loader = DataLoader(data(), batch_size=None)
    trainer = _trainer(tmp_path)
    trainer.fit(model.to_lightning(), loader)
    other.fit(loader, torch.optim.Adam(other.parameters(), lr=1e-3), num_epochs=2, verbose=False)
    for name, value in other.state_dict().items():
        torch.testing.assert_close(model.state_dict()[name], value, msg=name)
    assert trainer.callback_metrics["train_loss"] > 0


def test_it_evaluates_as_evaluate_does(tmp_path: Path) -> None:
    model = next_item_model()
    loader = DataLoader([batch(), batch()], batch_size=None)
    trainer = _trainer(tmp_path)
    expected = model.evaluate(loader, verbose=False)
    (validated,) = trainer.validate(model.to_lightning(), loader, verbose=False)
    (tested,) = trainer.test(model.to_lightning(), loader, verbose=False)
    assert len(expected) >= 2
    for name, value in expected.items():
        assert validated[f"val_/{name}"] == tested[f"test_/{name}"] == pytest.approx(float(value))
    model.eval()
    loss = model(batch(), testing=True)["loss"].item()
    assert validated["val_loss"] == tested["test_loss"] == pytest.approx(loss)


def test_several_tasks_and_predictions(tmp_path: Path) -> None:
    tasks = [BinaryClassificationTask("click"), RegressionTask("play")]
    model = Model(Head(Columns(), tasks))
    batches = [(x, {**y, "click": (y["play"] > 0).float()}) for x, y in data()]
    loader = DataLoader(batches, batch_size=None)
    trainer = _trainer(tmp_path)
    (validated,) = trainer.validate(model.to_lightning(), loader, verbose=False)
    assert f"val_/{CLICK}/binary_accuracy" in validated
    predicted = trainer.predict(model.to_lightning(), loader)
    model.eval()
    for found, (inputs, _) in zip(predicted, data(), strict=True):
        torch.testing.assert_close(found, model(inputs))


def test_gradients_are_clipped_of_rows_too(tmp_path: Path) -> None:
    # all items are candidates, so that the same are drawn; SGD, since Adam is blind to a factor
    def trained(sparse: bool, clip: float | None) -> torch.Tensor:
        torch.manual_seed(3)
        options = {"weight_tying": True, "sampled_softmax": True, "max_n_samples": 1000}
        model = next_item_model(**options, sparse_grad=sparse)
        model.optimizer = torch.optim.SGD
        trainer = _trainer(tmp_path, gradient_clip_val=clip)
        trainer.fit(model.to_lightning(), DataLoader([batch()], batch_size=None))
        table: torch.Tensor = model.prediction_tasks[0].item_embedding_table.weight
        return table.detach()

    clipped = trained(sparse=True, clip=1e-3)
    torch.testing.assert_close(clipped, trained(sparse=False, clip=1e-3))
    assert not torch.equal(clipped, trained(sparse=True, clip=None))


def test_gradients_of_rows_are_not_clipped_by_value(tmp_path: Path) -> None:
    model = next_item_model(weight_tying=True, sampled_softmax=True, sparse_grad=True)
    trainer = _trainer(tmp_path, gradient_clip_val=0.5, gradient_clip_algorithm="value")
    with pytest.raises(ValueError, match="gradient_clip_algorithm must be 'norm' with sparse_grad"):
        trainer.fit(model.to_lightning(), DataLoader([batch()], batch_size=None))


def test_the_optimizer_is_the_models(tmp_path: Path) -> None:
    module = regression_model(optimizer=torch.optim.SGD).to_lightning()
    optimizer = module.configure_optimizers()
    assert isinstance(optimizer, torch.optim.SGD)
    assert optimizer.param_groups[0]["lr"] == 1e-3
    assert module(data(1)[0][0]).shape == (8,)


def test_the_package_that_is_imported_is_the_one(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("lightning.pytorch", "pytorch_lightning"):
        with monkeypatch.context() as patched:
            other = ({"lightning.pytorch", "pytorch_lightning"} - {name}).pop()
            patched.setitem(sys.modules, other, None)
            kinds = {kind.__module__.split(".")[0] for kind in type(_module()).__mro__}
            assert name.split(".")[0] in kinds


def _module() -> Any:
    return regression_model().to_lightning()


def test_without_lightning_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lightning.pytorch", None)
    monkeypatch.setitem(sys.modules, "pytorch_lightning", None)
    with pytest.raises(ImportError, match=r"to_lightning needs Lightning 2\. Install it with"):
        _module()
