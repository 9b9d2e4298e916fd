"""Adagrad for tables of which a step touches few rows."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.optim.adagrad import adagrad

from transformers4rec_ext import functional
from transformers4rec_ext._memory import empty_large
from transformers4rec_ext.ops.reference import accumulate_dtype
from transformers4rec_ext.optim.base import (
    LazyOptimizer,
    check_options,
    dense_gradients,
    flat,
    has_fused,
)


class LazyAdagrad(LazyOptimizer):
    """Adagrad that, where a gradient is sparse, reads and writes only the rows it touches.

    The rule of ``torch.optim.Adagrad``, for dense gradients by torch's own fused kernel, for
    gradients of rows (sparse COO, repetitions welcome) in one pass over the touched rows. A row
    without a gradient does not move in Adagrad, so both give the same (with ``weight_decay=0``).

    Parameters
    ----------
    params : iterable of parameters or of groups
        float16, bfloat16, float32 or float64.
    lr : float or Tensor of one element
        Learning rate; a tensor is read in each step.
    lr_decay : float
        Step t of the parameter has ``lr / (1 + (t - 1) lr_decay)``. The host reads t in each step:
        no CUDA graph can hold it.
    weight_decay : float
        Added to the gradient, ``g += wd w``, as torch's Adagrad does. For gradients of rows on the
        touched rows only.
    initial_accumulator_value : float
        Where the sum of squares begins.
    eps : float
    rowwise : bool
        Whether gradients of rows keep one sum a row (of the mean of ``g^2`` over it) instead of one
        an element: state of V instead of V D numbers.
    backend : str, optional
        Of the update of rows: ``auto``, ``fused`` or ``reference``.

    Raises
    ------
    TypeError
        if a parameter is not floating, or an option not a number.
    ValueError
        if an option is out of range.

    Notes
    -----
    Deterministic, whatever the number of threads. State of a parameter, made in its first step:
    ``step`` and ``sum`` with torch's names; for gradients of rows ``sum`` is float32 (float64 for
    float64), and a float16 or bfloat16 table is updated in float32 and rounded once. State dicts of
    ``torch.optim.Adagrad`` load. A parameter may change from dense gradients to gradients of rows
    and back; a dense gradient then touches all rows.

    Examples
    --------
    >>> table = torch.nn.Embedding(1000, 8, sparse=True)
    >>> optimizer = LazyAdagrad(table.parameters(), lr=0.1, rowwise=True)
    >>> table(torch.tensor([3, 5, 3])).sum().backward()
    >>> optimizer.step()
    >>> optimizer.state[table.weight]["sum"][:6].tolist()
    [0.0, 0.0, 0.0, 4.0, 0.0, 1.0]
    """

    def __init__(
        self,
        params: Any,
        lr: float | Tensor = 1e-2,
        lr_decay: float = 0.0,
        weight_decay: float = 0.0,
        initial_accumulator_value: float = 0.0,
        eps: float = 1e-10,
        rowwise: bool = False,
        *,
        backend: str | None = None,
    ) -> None:
        defaults = {
            "lr": lr,
            "lr_decay": lr_decay,
            "weight_decay": weight_decay,
            "initial_accumulator_value": initial_accumulator_value,
            "eps": eps,
            "rowwise": rowwise,
            "backend": backend,
        }
        super().__init__(params, defaults)

    def _check_group(self, name: str, group: dict[str, Any]) -> None:
        options = ("lr_decay", "weight_decay", "initial_accumulator_value", "eps")
        check_options(name, group, options)

    def _is_row_state(self, param: Tensor, state: dict[str, Any]) -> bool:
        if "sum" not in state or param.dim() < 2:
            return False
        total: Tensor = state["sum"]
        return total.shape != param.shape or total.dtype != param.dtype

    def _state(
        self, group: dict[str, Any], param: Tensor, size: torch.Size, dtype: torch.dtype
    ) -> dict[str, Any]:
        """Return the parameter's state, made where there is none."""
        state: dict[str, Any] = self.state[param]
        if not state:
            # as torch: the count lies with the parameter for the fused kernel, else on the host
            device = param.device if has_fused("_fused_adagrad_", param) else "cpu"
            state["step"] = torch.zeros((), device=device)
            initial = float(group["initial_accumulator_value"])
            state["sum"] = empty_large(size, dtype, param.device).zero_().add_(initial)
        return state

    def _step_rows(self, group: dict[str, Any], param: Tensor, ids: Tensor, values: Tensor) -> None:
        wide, rowwise = accumulate_dtype(param.dtype), group["rowwise"]
        size = param.shape[:1] if rowwise else param.shape
        state = self._state(group, param, size, wide)
        if state["sum"].dim() > 1 or state["sum"].dtype != wide:  # it may be of dense gradients
            total = state["sum"].to(wide)
            state["sum"] = total.flatten(1).mean(1) if rowwise else total.contiguous()
        lr = float(group["lr"])
        if group["lr_decay"] != 0:
            lr /= 1 + float(state["step"]) * group["lr_decay"]
        functional.adagrad_rows_(
            flat(param),
            flat(state["sum"]),
            ids,
            flat(values.contiguous()),
            lr=lr,
            eps=group["eps"],
            weight_decay=group["weight_decay"],
            backend=group["backend"],
        )
        state["step"] += 1

    def _step_dense(self, group: dict[str, Any], params: list[Tensor]) -> None:
        for fused in (True, False):
            chosen = [p for p in params if has_fused("_fused_adagrad_", p) == fused]
            if not chosen:
                continue
            states = [self._state(group, param, param.shape, param.dtype) for param in chosen]
            adagrad(
                chosen,
                dense_gradients(chosen),
                [state["sum"] for state in states],
                [state["step"] for state in states],
                fused=True if fused else None,
                lr=float(group["lr"]),
                weight_decay=group["weight_decay"],
                lr_decay=group["lr_decay"],
                eps=group["eps"],
                maximize=False,
            )
