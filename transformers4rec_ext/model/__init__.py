"""Models: a body, heads on it, and prediction tasks on a head."""

from __future__ import annotations

from .base import PredictionTask
from .head import Head
from .model import Model
from .prediction_task import (
    BinaryClassificationPrepareBlock,
    BinaryClassificationTask,
    NextItemPredictionPrepareBlock,
    NextItemPredictionTask,
    RegressionPrepareBlock,
    RegressionTask,
)

__all__ = [
    "BinaryClassificationPrepareBlock",
    "BinaryClassificationTask",
    "Head",
    "Model",
    "NextItemPredictionPrepareBlock",
    "NextItemPredictionTask",
    "PredictionTask",
    "RegressionPrepareBlock",
    "RegressionTask",
]
