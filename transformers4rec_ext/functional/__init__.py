"""The public functions of the engine: checks, autocast, choice of backend.

Letters: N labelled positions, D width, V items (rows of the table, padding included), S candidates,
M tries.
"""

from __future__ import annotations

from transformers4rec_ext import _native
from transformers4rec_ext.functional.candidates import (
    Candidates,
    log_uniform_log_q,
    log_uniform_sample,
)
from transformers4rec_ext.functional.full import linear_cross_entropy
from transformers4rec_ext.functional.ranking import target_rank, topk_items
from transformers4rec_ext.functional.sampled import sampled_logits, sampled_softmax_loss

_native.load()

__all__ = [
    "Candidates",
    "linear_cross_entropy",
    "log_uniform_log_q",
    "log_uniform_sample",
    "sampled_logits",
    "sampled_softmax_loss",
    "target_rank",
    "topk_items",
]
