"""Optimizers whose step costs what the batch touched; row gradients clipped and exchanged."""

from __future__ import annotations

from transformers4rec_ext.optim.adagrad import LazyAdagrad
from transformers4rec_ext.optim.adam import LazyAdam
from transformers4rec_ext.optim.clip import clip_grad_norm_
from transformers4rec_ext.optim.exchange import average_row_gradients_

__all__ = ["LazyAdagrad", "LazyAdam", "average_row_gradients_", "clip_grad_norm_"]
