"""Training, resuming and evaluating a next-item model; what the command line is made of."""

from __future__ import annotations

from transformers4rec_ext._checkpoint import load_state, open_state, save_state
from transformers4rec_ext.training.average import WeightAverage
from transformers4rec_ext.training.config import RunConfig
from transformers4rec_ext.training.evaluation import count_groups, held_out_ranks, summarize
from transformers4rec_ext.training.log import RunLog, plot_curves, read_log
from transformers4rec_ext.training.loop import Position, TrainingLoop
from transformers4rec_ext.training.network import build_model, evaluating, model_query
from transformers4rec_ext.training.step import TrainingStep

__all__ = [
    "Position",
    "RunConfig",
    "RunLog",
    "TrainingLoop",
    "TrainingStep",
    "WeightAverage",
    "build_model",
    "count_groups",
    "evaluating",
    "held_out_ranks",
    "load_state",
    "model_query",
    "open_state",
    "plot_curves",
    "read_log",
    "save_state",
    "summarize",
]
