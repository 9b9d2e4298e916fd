"""Updates of the touched rows of a table, in place: what the lazy optimizers do with a gradient.

Letters: N rows of the gradient (repetitions included), V items (rows of the table), D width.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from transformers4rec_ext import _backend, _checks
from transformers4rec_ext._errors import type_error, value_error
from transformers4rec_ext.ops import reference
from transformers4rec_ext.ops.schemas import operators as _ops


def _state(name: str, argument: str, value: Any, weight: Tensor, shapes: list[list[int]]) -> None:
    """Raise unless ``value`` is a contiguous state of ``weight`` in its accumulation dtype."""
    wide = reference.accumulate_dtype(weight.dtype)
    dtype = torch.int32 if argument == "steps" else wide
    hint = "The state belongs to another table, or the table was cast after it was made."
    if _checks.tensor(name, argument, value).dtype != dtype:
        expectation = f"be {str(dtype).removeprefix('torch.')}"
        raise type_error(name, argument, expectation, _checks.describe(value), hint)
    if list(value.shape) not in shapes:
        expectation = f"be {' or '.join(map(str, shapes))}"
        raise value_error(name, argument, expectation, _checks.describe(value), hint)
    if value.device != weight.device:
        raise value_error(name, argument, f"be on {weight.device} like weight", value.device)
    if not value.is_contiguous():
        raise value_error(name, argument, "be contiguous", f"strides {value.stride()}")


def _gradient(name: str, weight: Tensor, ids: Tensor, values: Tensor) -> None:
    """Raise unless ``ids`` and ``values`` are a gradient of rows of a contiguous ``weight``."""
    if not _checks.tensor(name, "weight", weight).is_floating_point():
        raise type_error(name, "weight", "be floating [V, D]", _checks.describe(weight))
    if weight.dim() != 2 or not weight.is_contiguous():
        got = f"{_checks.describe(weight)}, strides {weight.stride()}"
        raise value_error(name, "weight", "be [V, D], contiguous", got)
    _checks.int64(name, "ids", ids)
    if ids.dim() != 1:
        raise value_error(name, "ids", "be int64 [N]", _checks.describe(ids))
    if _checks.tensor(name, "values", values).dtype != weight.dtype:
        got = f"{_checks.describe(values)} and {_checks.describe(weight)}"
        raise type_error(name, "values and weight", "share a dtype", got)
    if values.shape != (ids.shape[0], weight.shape[1]):
        expectation = f"be [N={ids.shape[0]}, D={weight.shape[1]}]"
        raise value_error(name, "values", expectation, _checks.describe(values))
    for argument, value in (("ids", ids), ("values", values)):
        if value.device != weight.device:
            raise value_error(name, argument, f"be on {weight.device} like weight", value.device)


def _run(
    name: str,
    op: str,
    weight: Tensor,
    state: tuple[Tensor, ...],
    ids: Tensor,
    values: Tensor,
    options: tuple[float, ...],
    backend: str | None,
) -> None:
    """Run the operator or the reference; an id outside the table changes nothing and raises."""
    use_reference = _backend.use_reference(backend, name, op, weight.device.type)
    if ids.numel() == 0:
        return
    if use_reference:
        _checks.ids_within(name, "ids", ids, 0, weight.shape[0])
        getattr(reference, op)(weight, *state, ids, values, *options)
        return
    try:
        getattr(_ops, op)(weight.detach(), *state, ids.contiguous(), values.contiguous(), *options)
    except RuntimeError:
        _checks.ids_within(name, "ids", ids, 0, weight.shape[0])
        raise
    # so that autograd notices a graph that saved the weight before
    torch.autograd.graph.increment_version(weight)


@torch.no_grad()
def adam_rows_(
    weight: Tensor,
    exp_avg: Tensor,
    exp_avg_sq: Tensor,
    steps: Tensor,
    ids: Tensor,
    values: Tensor,
    *,
    lr: float,
    beta1: float = 0.9,
    beta2: float = 0.999,
    eps: float = 1e-8,
    weight_decay: float = 0.0,
    backend: str | None = None,
) -> None:
    """AdamW of the rows that a gradient touches, in place, each by its own count of updates.

    With g the sum of the gradient's rows of one id and t that row's count, this one included:
    ``m += (1 - b1)(g - m)``, ``v = b2 v + (1 - b2) g^2``,
    ``w = (1 - lr wd) w - lr m / (1 - b1^t) / (sqrt(v / (1 - b2^t)) + eps)``.
    Row-wise, with ``exp_avg_sq`` [V], v is one number a row and ``g^2`` the mean over the row.
    Other rows are neither read nor written: nothing costs anything of size V.

    Parameters
    ----------
    weight : Tensor, floating, [V, D], contiguous
    exp_avg : Tensor, float32 (float64 for float64), [V, D]
        First moment m.
    exp_avg_sq : Tensor, as ``exp_avg``, [V, D] or [V]
        Second moment v.
    steps : Tensor, int32, [V]
        Updates of each row so far.
    ids : Tensor, int64, [N]
        Rows of the table; repetitions are summed, in one order.
    values : Tensor, the dtype of ``weight``, [N, D]
    lr, beta1, beta2, eps, weight_decay : float
    backend : str, optional
        ``auto``, ``fused`` or ``reference``.

    Raises
    ------
    TypeError
        if a dtype is wrong.
    ValueError
        if shapes or devices disagree, a tensor is not contiguous, or (on the CPU) an id is outside
        ``[0, V)``; then nothing has been changed.

    Notes
    -----
    Deterministic, whatever the number of threads. float16 and bfloat16 weights are computed in
    float32 and rounded once. No host synchronisation in a native kernel, which on CUDA passes over
    ids outside the table; the reference waits for the number of distinct ids.

    Examples
    --------
    >>> weight, ids = torch.zeros(3, 2), torch.tensor([1, 1])
    >>> m, v, steps = torch.zeros(3, 2), torch.zeros(3, 2), torch.zeros(3, dtype=torch.int32)
    >>> adam_rows_(weight, m, v, steps, ids, torch.ones(2, 2), lr=0.1)
    >>> weight.tolist()[0], [round(value, 4) for value in weight.tolist()[1]], steps.tolist()
    ([0.0, 0.0], [-0.1, -0.1], [0, 1, 0])
    """
    name = "adam_rows_"
    _gradient(name, weight, ids, values)
    size = list(weight.shape)
    _state(name, "exp_avg", exp_avg, weight, [size])
    _state(name, "exp_avg_sq", exp_avg_sq, weight, [size, size[:1]])
    _state(name, "steps", steps, weight, [size[:1]])
    options = (float(lr), float(beta1), float(beta2), float(eps), float(weight_decay))
    state = (exp_avg, exp_avg_sq, steps)
    _run(name, "adam_rows", weight, state, ids, values, options, backend)


@torch.no_grad()
def adagrad_rows_(
    weight: Tensor,
    square_sum: Tensor,
    ids: Tensor,
    values: Tensor,
    *,
    lr: float,
    eps: float = 1e-10,
    weight_decay: float = 0.0,
    backend: str | None = None,
) -> None:
    """Adagrad of the rows that a gradient touches, in place.

    With g the sum of the gradient's rows of one id: ``g += wd w``, ``s += g^2``,
    ``w -= lr g / (sqrt(s) + eps)``. Row-wise, with ``square_sum`` [V], s is one number a row and
    ``g^2`` the mean over the row.

    Parameters
    ----------
    weight, ids, values, backend
        As in `adam_rows_`.
    square_sum : Tensor, float32 (float64 for float64), [V, D] or [V]
        Sum s of squared gradients.
    lr, eps, weight_decay : float

    Raises
    ------
    TypeError, ValueError
        As in `adam_rows_`.

    Notes
    -----
    As in `adam_rows_`. Equals ``torch.optim.Adagrad`` with the same gradient in dense form where
    ``weight_decay`` is 0 and s is [V, D]: a row without a gradient does not move.

    Examples
    --------
    >>> weight, square_sum = torch.zeros(3, 2), torch.zeros(3)
    >>> adagrad_rows_(weight, square_sum, torch.tensor([2]), torch.ones(1, 2), lr=0.5)
    >>> weight.tolist()[2], square_sum.tolist()
    ([-0.5, -0.5], [0.0, 0.0, 1.0])
    """
    name = "adagrad_rows_"
    _gradient(name, weight, ids, values)
    size = list(weight.shape)
    _state(name, "square_sum", square_sum, weight, [size, size[:1]])
    options = (float(lr), float(eps), float(weight_decay))
    _run(name, "adagrad_rows", weight, (square_sum,), ids, values, options, backend)
