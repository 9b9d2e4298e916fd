"""The specification: every operator as plain PyTorch formulas.

Letters: N labelled positions, D width, V items, S candidates, M tries. Everything here is written
to be read beside section "The mathematics" of ``docs/architecture.md``; the native kernels are
tested against it.
"""

from __future__ import annotations

from transformers4rec_ext.ops.reference.alias import alias_sample, alias_table
from transformers4rec_ext.ops.reference.common import (
    accumulate_dtype,
    outside_autocast,
    rows_like,
)
from transformers4rec_ext.ops.reference.draws import (
    INT64_MAX,
    log_expected_count,
    uniforms,
)
from transformers4rec_ext.ops.reference.items import (
    MISSED,
    linear_cross_entropy,
    logsumexp_tile,
    pair_score,
    pair_scores,
    rank_tile,
    row_norms,
    softmax_grad_tile,
    target_rank,
    topk_items,
    topk_tile,
)
from transformers4rec_ext.ops.reference.log_uniform import (
    log_uniform_classes,
    log_uniform_draw,
    log_uniform_log_q,
    log_uniform_sample,
)
from transformers4rec_ext.ops.reference.rows import (
    adagrad_rows,
    adam_rows,
    dense_sums,
    padded_sums,
    sum_rows,
)
from transformers4rec_ext.ops.reference.sampled import (
    sampled_bce_loss,
    sampled_bce_tile,
    sampled_logits,
    sampled_logits_tile,
    sampled_softmax_loss,
    sampled_softmax_tile,
)
from transformers4rec_ext.ops.reference.uniform import uniform_sample

__all__ = [
    "INT64_MAX",
    "MISSED",
    "accumulate_dtype",
    "adagrad_rows",
    "adam_rows",
    "alias_sample",
    "alias_table",
    "dense_sums",
    "linear_cross_entropy",
    "log_expected_count",
    "log_uniform_classes",
    "log_uniform_draw",
    "log_uniform_log_q",
    "log_uniform_sample",
    "logsumexp_tile",
    "outside_autocast",
    "padded_sums",
    "pair_score",
    "pair_scores",
    "rank_tile",
    "row_norms",
    "rows_like",
    "sampled_bce_loss",
    "sampled_bce_tile",
    "sampled_logits",
    "sampled_logits_tile",
    "sampled_softmax_loss",
    "sampled_softmax_tile",
    "softmax_grad_tile",
    "sum_rows",
    "target_rank",
    "topk_items",
    "topk_tile",
    "uniform_sample",
    "uniforms",
]
