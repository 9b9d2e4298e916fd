"""All operators: schema, implementation, fake kernel and autograd formula, once for all devices.

The implementation registered here (``CompositeExplicitAutograd``) exists with no compiler at all; a
native library shadows ``log_uniform_sample``, ``log_uniform_log_q`` and the ``*_tile`` operators
for its device.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from transformers4rec_ext.ops import reference, tiles

_NAMESPACE = "transformers4rec_ext"
_library = torch.library.Library(_NAMESPACE, "DEF")

_INPUTS = (
    "Tensor hidden, Tensor weight, Tensor targets, Tensor candidate_ids, Tensor? target_log_q, "
    "Tensor? candidate_log_q, float temperature, bool remove_accidental_hits"
)
_TILE = (
    "Tensor? sorted_ids, Tensor? order, Tensor? target_log_q, Tensor? candidate_log_q, "
    "float temperature"
)
_SCHEMAS = (
    "log_uniform_sample(Tensor seed, int num_samples, int num_items, int min_id, bool unique) "
    "-> (Tensor ids, Tensor log_q, Tensor num_tries, Tensor count)",
    "log_uniform_log_q(Tensor ids, Tensor num_tries, int num_items, int min_id, bool unique) "
    "-> Tensor",
    f"sampled_softmax_tile(Tensor(a!) scores, Tensor target_scores, Tensor targets, {_TILE}, "
    "bool corrected, Tensor? row_grad, bool with_grad, Tensor(b!) loss, Tensor(c!) target_grad) "
    "-> ()",
    f"sampled_logits_tile(Tensor(a!) logits, Tensor targets, {_TILE}) -> ()",
    f"sampled_logits({_INPUTS}) -> Tensor",
    "sampled_logits_backward(Tensor grad, Tensor hidden, Tensor weight, Tensor targets, "
    "Tensor candidate_ids, float temperature, bool remove_accidental_hits) "
    "-> (Tensor grad_hidden, Tensor grad_rows)",
    f"sampled_softmax_rows({_INPUTS}, bool corrected, bool sparse_grad) -> Tensor",
    f"sampled_softmax_backward(Tensor row_grad, {_INPUTS}, bool corrected) "
    "-> (Tensor grad_hidden, Tensor grad_rows)",
    f"sampled_softmax_sum({_INPUTS}, bool corrected, bool sparse_grad) "
    "-> (Tensor loss, Tensor grad_hidden, Tensor grad_rows)",
)
for _schema in _SCHEMAS:
    _library.define(_schema)

operators = torch.ops.transformers4rec_ext


def _implementation(name: str, function: Any) -> None:
    torch.library.impl(f"{_NAMESPACE}::{name}", "CompositeExplicitAutograd", function, lib=_library)


def _fake(name: str, function: Any) -> None:
    torch.library.register_fake(f"{_NAMESPACE}::{name}", function, lib=_library)


def _autograd(name: str, backward: Any, setup_context: Any) -> None:
    torch.library.register_autograd(
        f"{_NAMESPACE}::{name}", backward, setup_context=setup_context, lib=_library
    )


# ---------------------------------------------------------------- log-uniform candidates


def _log_uniform_sample_fake(
    seed: Tensor, num_samples: int, num_items: int, min_id: int, unique: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    size = min(num_samples, num_items - min_id) if unique else num_samples
    return (
        seed.new_empty(size),
        seed.new_empty(size, dtype=torch.float32),
        seed.new_empty(()),
        seed.new_empty(()),
    )


def _log_uniform_log_q(
    ids: Tensor, num_tries: Tensor, num_items: int, min_id: int, unique: bool
) -> Tensor:
    if (
        ids.device.type == "cpu"
        and ids.numel()
        and not bool(((ids >= min_id) & (ids < num_items)).all())
    ):
        raise RuntimeError("log_uniform_log_q: an id is out of range")
    return reference.log_uniform_log_q(ids, num_tries, num_items, min_id, unique)


_implementation("log_uniform_sample", reference.log_uniform_sample)
_fake("log_uniform_sample", _log_uniform_sample_fake)
_implementation("log_uniform_log_q", _log_uniform_log_q)
_fake(
    "log_uniform_log_q",
    lambda ids, num_tries, num_items, min_id, unique: torch.empty(
        ids.shape, dtype=torch.float32, device=ids.device
    ),
)

# ---------------------------------------------------------------- tiles (native kernels shadow
# these)

_implementation("sampled_softmax_tile", reference.sampled_softmax_tile)
_fake("sampled_softmax_tile", lambda *args: None)
_implementation("sampled_logits_tile", reference.sampled_logits_tile)
_fake("sampled_logits_tile", lambda *args: None)

# ---------------------------------------------------------------- sampled logits and sampled
# softmax


def _scatter_rows(
    weight: Tensor, targets: Tensor, candidate_ids: Tensor, rows: Tensor, sparse: bool
) -> Tensor:
    """Gradient of ``weight`` [V, D] from its touched rows: sparse COO (uncoalesced), or dense."""
    ids = torch.cat([targets, candidate_ids])
    rows = rows.to(weight.dtype)
    if sparse:
        return torch.sparse_coo_tensor(ids[None], rows, weight.shape, check_invariants=False)
    return torch.zeros_like(weight).index_add_(0, ids, rows)


def _no_second_derivative(ctx: Any, *grads: Tensor | None) -> None:
    raise RuntimeError(
        "transformers4rec_ext: a second derivative was asked for; sampled_logits and "
        "sampled_softmax_loss have none. Use backend='reference', which autograd differentiates "
        "as often as you like."
    )


class _Refuse(torch.autograd.Function):
    """Pass gradients on; refuse to be differentiated, instead of being taken for a constant."""

    @staticmethod
    def forward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, ...]:
        return tuple(gradient.clone() for gradient in gradients)

    backward = staticmethod(_no_second_derivative)


def _save_nothing(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    ctx.set_materialize_grads(False)


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
    ctx.save_for_backward(*inputs[:6])
    ctx.options = inputs[6:]


def _sampled_logits_backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
    hidden, weight, targets, ids, _, _ = ctx.saved_tensors
    grad_hidden, rows = operators.sampled_logits_backward(
        grad, hidden, weight, targets, ids, *ctx.options
    )
    grad_weight = None
    if ctx.needs_input_grad[1]:
        grad_weight = _scatter_rows(weight, targets, ids, rows, sparse=False)
    return grad_hidden.to(hidden.dtype), grad_weight, *([None] * 6)


_implementation("sampled_logits", tiles.sampled_logits)
_fake("sampled_logits", _sampled_logits_fake)
_autograd("sampled_logits", _sampled_logits_backward, _save_inputs)
_implementation("sampled_logits_backward", tiles.sampled_logits_backward)
_fake(
    "sampled_logits_backward",
    lambda grad, hidden, weight, targets, ids, *_: _gradients_fake(
        hidden, targets.shape[0] + ids.shape[0]
    ),
)
_autograd("sampled_logits_backward", _no_second_derivative, _save_nothing)


def _rows(*inputs: Any) -> Tensor:
    return tiles.sampled_softmax(*inputs[:9], with_grad=False)[0]


def _rows_backward(ctx: Any, row_grad: Tensor) -> tuple[Any, ...]:
    hidden, weight, targets, ids, _, _ = saved = ctx.saved_tensors
    *options, sparse_grad = ctx.options
    grad_hidden, rows = operators.sampled_softmax_backward(row_grad, *saved, *options)
    grad_weight = None
    if ctx.needs_input_grad[1]:
        grad_weight = _scatter_rows(weight, targets, ids, rows, sparse_grad)
    return grad_hidden.to(hidden.dtype), grad_weight, *([None] * 8)


def _rows_fake(hidden: Tensor, *_: Any) -> Tensor:
    return hidden.new_empty(hidden.shape[0], dtype=reference.accumulate_dtype(hidden.dtype))


_implementation("sampled_softmax_rows", _rows)
_fake("sampled_softmax_rows", _rows_fake)
_autograd("sampled_softmax_rows", _rows_backward, _save_inputs)


def _backward(row_grad: Tensor, *inputs: Any) -> tuple[Tensor, Tensor]:
    _, grad_hidden, rows = tiles.sampled_softmax(*inputs, row_grad=row_grad, with_grad=True)
    return grad_hidden, rows


def _backward_fake(
    row_grad: Tensor, hidden: Tensor, weight: Tensor, targets: Tensor, ids: Tensor, *_: Any
) -> tuple[Tensor, Tensor]:
    return _gradients_fake(hidden, targets.shape[0] + ids.shape[0])


_implementation("sampled_softmax_backward", _backward)
_fake("sampled_softmax_backward", _backward_fake)
_autograd("sampled_softmax_backward", _no_second_derivative, _save_nothing)


def _sum(*inputs: Any) -> tuple[Tensor, Tensor, Tensor]:
    loss, grad_hidden, rows = tiles.sampled_softmax(*inputs[:9], with_grad=True)
    return loss.sum(), grad_hidden, rows


def _sum_fake(
    hidden: Tensor, weight: Tensor, targets: Tensor, ids: Tensor, *_: Any
) -> tuple[Tensor, Tensor, Tensor]:
    grad_hidden, rows = _gradients_fake(hidden, targets.shape[0] + ids.shape[0])
    return grad_hidden.new_empty(()), grad_hidden, rows


def _save_gradients(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    hidden, weight, targets, candidate_ids = inputs[:4]
    ctx.mark_non_differentiable(output[1], output[2])
    ctx.save_for_backward(weight, targets, candidate_ids, output[1], output[2])
    ctx.hidden_dtype, ctx.sparse_grad = hidden.dtype, inputs[-1]


def _sum_backward(ctx: Any, grad: Tensor, *_: Tensor) -> tuple[Any, ...]:
    weight, targets, ids, grad_hidden, rows = ctx.saved_tensors
    grad_hidden, rows = grad_hidden * grad, rows * grad
    if torch.is_grad_enabled():  # create_graph=True
        grad_hidden, rows = _Refuse.apply(
            grad_hidden.detach().requires_grad_(), rows.detach().requires_grad_()
        )
    grad_weight = None
    if ctx.needs_input_grad[1]:
        grad_weight = _scatter_rows(weight, targets, ids, rows, ctx.sparse_grad)
    return grad_hidden.to(ctx.hidden_dtype), grad_weight, *([None] * 8)


_implementation("sampled_softmax_sum", _sum)
_fake("sampled_softmax_sum", _sum_fake)
_autograd("sampled_softmax_sum", _sum_backward, _save_gradients)
