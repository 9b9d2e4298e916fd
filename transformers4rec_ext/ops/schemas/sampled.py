"""Sampled logits and losses: schemas, implementations, fakes, autograd formulas."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from transformers4rec_ext.ops import reference
from transformers4rec_ext.ops.schemas.flops import products
from transformers4rec_ext.ops.schemas.library import (
    Refuse,
    autograd,
    define,
    no_second_derivative,
    operators,
    save_nothing,
)
from transformers4rec_ext.ops.tiles import sampled as tiles

_INPUTS = (
    "Tensor hidden, Tensor weight, Tensor targets, Tensor candidate_ids, Tensor? target_log_q, "
    "Tensor? candidate_log_q, float temperature, bool remove_accidental_hits"
)
_TILE = (
    "Tensor? sorted_ids, Tensor? order, Tensor? target_log_q, Tensor? candidate_log_q, "
    "float temperature"
)

define(
    f"sampled_logits_tile(Tensor(a!) logits, Tensor targets, {_TILE}) -> ()",
    reference.sampled_logits_tile,
    lambda *args: None,
)


def _scatter_rows(
    weight: Tensor, targets: Tensor, candidate_ids: Tensor, rows: Tensor, sparse: bool
) -> Tensor:
    """Gradient of ``weight`` [V, D] from its touched rows: sparse COO (uncoalesced), or dense."""
    ids = torch.cat([targets, candidate_ids])
    if not sparse and weight.device.type != "cpu":
        return reference.dense_sums(ids, rows, weight)
    rows = rows.to(weight.dtype)
    if sparse:
        # not torch.sparse_coo_tensor(check_invariants=False): torch 2.12 warns of it all the same
        gradient: Tensor = torch.ops.aten.sparse_coo_tensor.indices_size(
            ids[None], rows, weight.shape
        )
        return gradient
    return torch.zeros_like(weight).index_add_(0, ids, rows)


def _gradients_fake(hidden: Tensor, count: int) -> tuple[Tensor, Tensor]:
    wide = reference.accumulate_dtype(hidden.dtype)
    return (
        hidden.new_empty(hidden.shape, dtype=wide),
        hidden.new_empty((count, hidden.shape[1]), dtype=wide),
    )


def _sampled_logits_fake(
    hidden: Tensor, weight: Tensor, targets: Tensor, ids: Tensor, *_: Any
) -> Tensor:
    wide = reference.accumulate_dtype(hidden.dtype)
    return hidden.new_empty((hidden.shape[0], 1 + ids.shape[0]), dtype=wide)


def _save_inputs(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    ctx.save_for_backward(*(x if isinstance(x, Tensor) else None for x in inputs))
    ctx.others = [None if isinstance(x, Tensor) else x for x in inputs]


def _saved_inputs(ctx: Any) -> list[Any]:
    return [a if a is not None else b for a, b in zip(ctx.saved_tensors, ctx.others, strict=True)]


def _sampled_logits_backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
    hidden, weight, targets, ids, _, _, *options = _saved_inputs(ctx)
    grad_hidden, rows = operators.sampled_logits_backward(
        grad, hidden, weight, targets, ids, *options
    )
    grad_weight = None
    if ctx.needs_input_grad[1]:
        grad_weight = _scatter_rows(weight, targets, ids, rows, sparse=False)
    return grad_hidden.to(hidden.dtype), grad_weight, *([None] * 6)


define(
    f"sampled_logits({_INPUTS}) -> Tensor",
    tiles.sampled_logits,
    _sampled_logits_fake,
    products(0, 3),
)
autograd("sampled_logits", _sampled_logits_backward, _save_inputs)
define(
    "sampled_logits_backward(Tensor grad, Tensor hidden, Tensor weight, Tensor targets, "
    "Tensor candidate_ids, float temperature, bool remove_accidental_hits) "
    "-> (Tensor grad_hidden, Tensor grad_rows)",
    tiles.sampled_logits_backward,
    lambda grad, hidden, weight, targets, ids, *_: _gradients_fake(
        hidden, targets.shape[0] + ids.shape[0]
    ),
    products(1, 4, count=2),
)
autograd("sampled_logits_backward", no_second_derivative, save_nothing)


def _backward_fake(
    row_grad: Tensor, hidden: Tensor, weight: Tensor, targets: Tensor, ids: Tensor, *_: Any
) -> tuple[Tensor, Tensor]:
    return _gradients_fake(hidden, targets.shape[0] + ids.shape[0])


def _rows_fake(hidden: Tensor, *_: Any) -> Tensor:
    return hidden.new_empty(hidden.shape[0], dtype=reference.accumulate_dtype(hidden.dtype))


def _sum_fake(
    hidden: Tensor, weight: Tensor, targets: Tensor, ids: Tensor, *_: Any
) -> tuple[Tensor, Tensor, Tensor]:
    grad_hidden, rows = _gradients_fake(hidden, targets.shape[0] + ids.shape[0])
    return grad_hidden.new_empty(()), grad_hidden, rows


def _save_gradients(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    hidden, weight, targets, candidate_ids = inputs[:4]
    ctx.mark_non_differentiable(output[1], output[2])
    ctx.set_materialize_grads(False)  # no zeros for what has no gradient
    ctx.save_for_backward(weight, targets, candidate_ids, output[1], output[2])
    ctx.hidden_dtype, ctx.sparse_grad = hidden.dtype, inputs[9]


def _sum_backward(ctx: Any, grad: Tensor | None, *_: Any) -> tuple[Any, ...]:
    if grad is None:
        return (None,) * 11
    weight, targets, ids, grad_hidden, rows = ctx.saved_tensors
    grad_hidden, rows = grad_hidden * grad, rows * grad
    if torch.is_grad_enabled():  # create_graph=True
        grad_hidden, rows = Refuse.apply(
            grad_hidden.detach().requires_grad_(), rows.detach().requires_grad_()
        )
    grad_weight = None
    if ctx.needs_input_grad[1]:
        grad_weight = _scatter_rows(weight, targets, ids, rows, ctx.sparse_grad)
    return grad_hidden.to(ctx.hidden_dtype), grad_weight, *([None] * 9)


def _define_loss(loss: str, option: str, reference_tile: Any) -> None:
    """Define a loss over {target} + candidates: its tile, rows [N], their backward, and the sum.

    ``option`` is what the tile takes besides; the rest is the same for all of them.
    """
    define(
        f"{loss}_tile(Tensor(a!) scores, Tensor target_scores, Tensor targets, {_TILE}, "
        f"{option}, Tensor? row_grad, bool with_grad, Tensor(b!) loss, Tensor(c!) target_grad) "
        "-> ()",
        reference_tile,
        lambda *args: None,
    )
    tile_op = getattr(operators, f"{loss}_tile")
    backward_op = f"{loss}_backward"

    def rows(*inputs: Any) -> Tensor:
        return tiles.sampled_loss(tile_op, *inputs[:9], with_grad=False)[0]

    def rows_backward(ctx: Any, row_grad: Tensor) -> tuple[Any, ...]:
        *inputs, sparse_grad = _saved_inputs(ctx)
        hidden, weight, targets, ids = inputs[:4]
        grad_hidden, touched = getattr(operators, backward_op)(row_grad, *inputs)
        grad_weight = None
        if ctx.needs_input_grad[1]:
            grad_weight = _scatter_rows(weight, targets, ids, touched, sparse_grad)
        return grad_hidden.to(hidden.dtype), grad_weight, *([None] * 8)

    def backward(row_grad: Tensor, *inputs: Any) -> tuple[Tensor, Tensor]:
        return tiles.sampled_loss(tile_op, *inputs, row_grad=row_grad, with_grad=True)[1:]

    def total(*inputs: Any) -> tuple[Tensor, Tensor, Tensor]:
        row_weight = inputs[10]
        losses, grad_hidden, touched = tiles.sampled_loss(
            tile_op, *inputs[:9], row_grad=row_weight, with_grad=True
        )
        if row_weight is not None:
            losses = losses * row_weight.to(losses.dtype)
        return losses.sum(), grad_hidden, touched

    define(
        f"{loss}_rows({_INPUTS}, {option}, bool sparse_grad) -> Tensor",
        rows,
        _rows_fake,
        products(0, 3),
    )
    autograd(f"{loss}_rows", rows_backward, _save_inputs)
    gradients = "Tensor grad_hidden, Tensor grad_rows"
    define(
        f"{backward_op}(Tensor row_grad, {_INPUTS}, {option}) -> ({gradients})",
        backward,
        _backward_fake,
        products(1, 4, count=3),
    )
    autograd(backward_op, no_second_derivative, save_nothing)
    define(
        f"{loss}_sum({_INPUTS}, {option}, bool sparse_grad, Tensor? row_weight) "
        f"-> (Tensor loss, {gradients})",
        total,
        _sum_fake,
        products(0, 3, count=3),
    )
    autograd(f"{loss}_sum", _sum_backward, _save_gradients)


_define_loss("sampled_softmax", "bool corrected", reference.sampled_softmax_tile)
_define_loss("sampled_bce", "Tensor beta", reference.sampled_bce_tile)
