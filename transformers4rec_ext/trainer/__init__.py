"""Training with the Trainer of transformers."""

from __future__ import annotations

from transformers4rec_ext.config.trainer import T4RecTrainingArguments
from transformers4rec_ext.model._fit import process_metrics
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
