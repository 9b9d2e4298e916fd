"""Full softmax, rank and top-k: schemas, implementations, fakes, autograd formulas."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from transformers4rec_ext.ops import reference
from transformers4rec_ext.ops.schemas.flops import full_backward, products
from transformers4rec_ext.ops.schemas.library import (
    autograd,
    define,
    no_second_derivative,
    operators,
    save_nothing,
)
from transformers4rec_ext.ops.tiles import full, items, ranking

define(
    "logsumexp_tile(Tensor scores, Tensor? bias, float temperature, Tensor(a!) maximum, "
    "Tensor(b!) total) -> ()",
    reference.logsumexp_tile,
    lambda *args: None,
)
define(
    "softmax_grad_tile(Tensor scores, Tensor? bias, Tensor targets, int begin, "
    "float temperature, float smoothing, float target_weight, Tensor maximum, Tensor total, "
    "Tensor row_grad, Tensor(a!) grad) -> ()",
    reference.softmax_grad_tile,
    lambda *args: None,
)
define(
    "pair_scores(Tensor hidden, Tensor weight, Tensor? bias, Tensor ids, Tensor(a!) out) -> ()",
    reference.pair_scores,
    lambda *args: None,
)
define(
    "rank_tile(Tensor scores, Tensor hidden, Tensor weight, Tensor? bias, Tensor target_scores, "
    "Tensor hidden_norms, Tensor(a!) above, Tensor(b!) not_a_number) -> ()",
    reference.rank_tile,
    lambda *args: None,
)
define(
    "topk_tile(Tensor scores, Tensor? bias, int begin, Tensor? excluded, int k, Tensor(a!) best, "
    "Tensor(b!) ids, Tensor(c!) fill, Tensor(d!) threshold) -> ()",
    reference.topk_tile,
    lambda *args: None,
)


def _wide_rows(hidden: Tensor) -> Tensor:
    return hidden.new_empty(hidden.shape[0], dtype=reference.accumulate_dtype(hidden.dtype))


def _cross_entropy_fake(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, *options: Any
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    with_rank, keep = options[3], options[5]
    kept = items.kept_items(hidden.shape[0], weight.shape[0]) if keep else 0
    return (
        _wide_rows(hidden),
        _wide_rows(hidden),
        hidden.new_empty(hidden.shape[0], dtype=torch.float64),
        targets.new_empty(hidden.shape[0] if with_rank else 0),
        hidden.new_empty((hidden.shape[0], kept), dtype=reference.accumulate_dtype(hidden.dtype)),
    )


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    ctx.mark_non_differentiable(*output[1:])
    ctx.set_materialize_grads(False)  # no zeros for what has no gradient
    ctx.save_for_backward(*inputs[:4], output[1], output[2], output[4])
    ctx.options = inputs[4:8]


def _cross_entropy_backward(ctx: Any, row_grad: Tensor | None, *_: Any) -> tuple[Any, ...]:
    if row_grad is None:
        return (None,) * 10
    hidden, weight, bias, targets, *softmax = ctx.saved_tensors
    with_weight = ctx.needs_input_grad[1]
    grad_hidden, grad_weight, grad_bias = operators.linear_cross_entropy_backward(
        row_grad, hidden, weight, bias, targets, *softmax, *ctx.options, with_weight
    )
    return (
        grad_hidden.to(hidden.dtype),
        grad_weight if with_weight else None,
        None if bias is None else grad_bias.to(bias.dtype),
        *([None] * 7),
    )


def _backward_fake(
    row_grad: Tensor, hidden: Tensor, weight: Tensor, bias: Tensor | None, *others: Any
) -> tuple[Tensor, Tensor, Tensor]:
    wide, with_weight = reference.accumulate_dtype(hidden.dtype), others[-1]
    return (
        hidden.new_empty(hidden.shape, dtype=wide),
        weight.new_empty(weight.shape if with_weight else 0),
        hidden.new_empty(0 if bias is None else weight.shape[0], dtype=wide),
    )


define(
    "linear_cross_entropy(Tensor hidden, Tensor weight, Tensor? bias, Tensor targets, "
    "float temperature, int ignore_index, float label_smoothing, bool with_rank, "
    "int? padding_idx, bool keep) -> (Tensor loss, Tensor maximum, Tensor total, Tensor rank, "
    "Tensor kept)",
    full.linear_cross_entropy,
    _cross_entropy_fake,
    products(0, 1),
)
autograd("linear_cross_entropy", _cross_entropy_backward, _save)
define(
    "linear_cross_entropy_backward(Tensor row_grad, Tensor hidden, Tensor weight, Tensor? bias, "
    "Tensor targets, Tensor maximum, Tensor total, Tensor kept, float temperature, "
    "int ignore_index, float label_smoothing, bool with_rank, bool with_weight) "
    "-> (Tensor grad_hidden, Tensor grad_weight, Tensor grad_bias)",
    full.linear_cross_entropy_backward,
    _backward_fake,
    full_backward,
)
autograd("linear_cross_entropy_backward", no_second_derivative, save_nothing)
define(
    "target_rank(Tensor hidden, Tensor weight, Tensor targets, Tensor? bias, Tensor? exclude_ids, "
    "int? padding_idx) -> Tensor",
    ranking.target_rank,
    lambda hidden, weight, targets, *_: targets.new_empty(targets.shape),
    products(0, 1),
)
define(
    "topk_items(Tensor hidden, Tensor weight, int k, Tensor? bias, Tensor? exclude_ids, "
    "int? padding_idx) -> (Tensor scores, Tensor ids)",
    ranking.topk_items,
    lambda hidden, weight, k, *_: (
        hidden.new_empty(hidden.shape[0], k, dtype=reference.accumulate_dtype(hidden.dtype)),
        hidden.new_empty(hidden.shape[0], k, dtype=torch.int64),
    ),
    products(0, 1),
)
