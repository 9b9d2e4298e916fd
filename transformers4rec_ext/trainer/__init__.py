"""Training with the Trainer of transformers."""

from __future__ import annotations

from transformers4rec_ext._lazy import elsewhere
from transformers4rec_ext.config.trainer import T4RecTrainingArguments
from transformers4rec_ext.model.fit import process_metrics
from transformers4rec_ext.trainer.callbacks import IncrementalLoggingCallback
from transformers4rec_ext.trainer.loaders import DatasetMock
from transformers4rec_ext.trainer.trainer import Trainer

__all__ = [
    "DatasetMock",
    "IncrementalLoggingCallback",
    "T4RecTrainingArguments",
    "Trainer",
    "process_metrics",
]

__getattr__ = elsewhere(
    __name__,
    {
        "HFWrapper": "Trainer.model is the Model itself, so trainer.model.module is trainer.model",
        "T4RecDataLoader": "it is in transformers4rec_ext.utils.data_utils",
    },
)
