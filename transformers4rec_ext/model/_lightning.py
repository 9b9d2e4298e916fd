"""The bridge to pytorch_lightning, which is not a dependency."""

from __future__ import annotations

from typing import Any

import torch

from transformers4rec_ext.model._batch import split_batch


def as_lightning(model: Any) -> Any:
    """Return a LightningModule that trains ``model`` with its own optimizer class."""
    try:
        import pytorch_lightning
    except ImportError as error:
        raise ImportError(
            "Model.to_lightning needs pytorch_lightning. Install it with "
            "`pip install pytorch-lightning`, or use Model.fit."
        ) from error

    class LightningModel(pytorch_lightning.LightningModule):
        """Trains ``parent``; its parameters are the parent's."""

        def __init__(self) -> None:
            super().__init__()
            self.parent = model

        def forward(self, inputs: Any, *args: Any, **kwargs: Any) -> Any:
            return self.parent(inputs, *args, **kwargs)

        def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
            inputs, targets = split_batch(batch)
            loss: torch.Tensor = self.parent(inputs, targets=targets, training=True)["loss"]
            self.log("train_loss", loss)
            return loss

        def configure_optimizers(self) -> Any:
            return self.parent.optimizer(self.parent.parameters(), lr=1e-3)

    return LightningModel()
