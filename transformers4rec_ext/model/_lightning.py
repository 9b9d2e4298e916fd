"""The bridge to Lightning 2, which is not a dependency."""

from __future__ import annotations

import importlib
import sys
from typing import Any

import torch

from transformers4rec_ext._errors import value_error
from transformers4rec_ext.model.batch import check_ids, num_rows, split_batch
from transformers4rec_ext.model.fit import has_row_gradients, make_optimizer, process_metrics
from transformers4rec_ext.optim import clip_grad_norm_

_PACKAGES = ("lightning.pytorch", "pytorch_lightning")


def as_lightning(model: Any) -> Any:
    """Return a LightningModule that trains, validates and predicts with ``model``."""
    base: Any = _lightning().LightningModule

    class LightningModel(base):
        """Trains ``parent``; its parameters are the parent's."""

        def __init__(self) -> None:
            super().__init__()
            self.parent = model

        def forward(self, inputs: Any, *args: Any, **kwargs: Any) -> Any:
            return self.parent(inputs, *args, **kwargs)

        def on_before_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
            if self.device.type != "cpu":
                check_ids(self.parent, split_batch(batch)[0])
            return batch

        def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
            inputs, targets = split_batch(batch)
            loss: torch.Tensor = self.parent(inputs, targets=targets, training=True)["loss"]
            self.log("train_loss", loss, batch_size=num_rows(batch))
            return loss

        def on_validation_epoch_start(self) -> None:
            self.parent.reset_metrics()

        def validation_step(self, batch: Any, batch_idx: int) -> None:
            self._evaluate(batch, "val")

        def on_validation_epoch_end(self) -> None:
            self._log_metrics("val")

        def on_test_epoch_start(self) -> None:
            self.parent.reset_metrics()

        def test_step(self, batch: Any, batch_idx: int) -> None:
            self._evaluate(batch, "test")

        def on_test_epoch_end(self) -> None:
            self._log_metrics("test")

        def predict_step(self, batch: Any, batch_idx: int) -> Any:
            inputs, _ = split_batch(batch)
            return self.parent(inputs)

        def configure_optimizers(self) -> Any:
            return make_optimizer(self.parent.optimizer, self.parent, lr=1e-3)

        def configure_gradient_clipping(
            self,
            optimizer: Any,
            gradient_clip_val: float | None = None,
            gradient_clip_algorithm: str | None = None,
        ) -> None:
            if not (gradient_clip_val and has_row_gradients(self.parent)):
                super().configure_gradient_clipping(
                    optimizer, gradient_clip_val, gradient_clip_algorithm
                )
                return
            # Lightning's own take no gradients of rows
            algorithm = str(gradient_clip_algorithm or "norm").lower()
            if not algorithm.endswith("norm"):
                raise value_error(
                    "Trainer",
                    "gradient_clip_algorithm",
                    "be 'norm' with sparse_grad=True",
                    repr(algorithm),
                )
            clip_grad_norm_(self.parameters(), gradient_clip_val)

        def _evaluate(self, batch: Any, mode: str) -> None:
            inputs, targets = split_batch(batch)
            output = self.parent(inputs, targets=targets, testing=True, returns="ranks")
            self.parent.calculate_metrics(output["predictions"], output["labels"])
            self.log(f"{mode}_loss", output["loss"], batch_size=num_rows(batch))

        def _log_metrics(self, mode: str) -> None:
            metrics = self.parent.compute_metrics(mode=mode)
            self.log_dict(process_metrics(metrics, f"{mode}_/", to_cpu=False))
            self.parent.reset_metrics()

    return LightningModel()


def _lightning() -> Any:
    """Return the one of the two packages of Lightning that the program uses, or that there is."""
    for name in sorted(_PACKAGES, key=lambda name: name not in sys.modules):
        try:
            return importlib.import_module(name)
        except ImportError:
            continue
    raise ImportError(
        "Model.to_lightning needs Lightning 2. Install it with `pip install lightning` or "
        "`pip install 'transformers4rec_ext[lightning]'`, or use Model.fit."
    )
