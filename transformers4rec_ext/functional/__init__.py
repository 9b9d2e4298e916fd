"""The public functions of the engine: checks, autocast, choice of backend.

Letters: N labelled positions, D width, V items (rows of the table, padding included), S candidates,
M tries.
"""

from __future__ import annotations

from transformers4rec_ext import _native
from transformers4rec_ext.functional.candidates import (
    Candidates,
    log_uniform_draw,
    log_uniform_log_q,
    log_uniform_sample,
)
from transformers4rec_ext.functional.full import linear_cross_entropy
from transformers4rec_ext.functional.ranking import target_rank, topk_items
from transformers4rec_ext.functional.rows import adagrad_rows_, adam_rows_
from transformers4rec_ext.functional.sampled import (
    sampled_bce_loss,
    sampled_logits,
    sampled_softmax_loss,
)
from transformers4rec_ext.functional.weighted import (
    AliasTable,
    alias_table,
    log_expected_count,
    uniform_sample,
    weighted_log_q,
    weighted_sample,
)

_native.load()

__all__ = [
    "AliasTable",
    "Candidates",
    "adagrad_rows_",
    "adam_rows_",
    "alias_table",
    "linear_cross_entropy",
    "log_expected_count",
    "log_uniform_draw",
    "log_uniform_log_q",
    "log_uniform_sample",
    "sampled_bce_loss",
    "sampled_logits",
    "sampled_softmax_loss",
    "target_rank",
    "topk_items",
    "uniform_sample",
    "weighted_log_q",
    "weighted_sample",
]
