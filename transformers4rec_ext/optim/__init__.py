"""Optimizers whose step costs what the batch touched, and gradient clipping for row gradients."""

from __future__ import annotations

from transformers4rec_ext.optim.adagrad import LazyAdagrad
from transformers4rec_ext.optim.adam import LazyAdam
from transformers4rec_ext.optim.clip import clip_grad_norm_

__all__ = ["LazyAdagrad", "LazyAdam", "clip_grad_norm_"]
