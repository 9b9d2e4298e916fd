"""Adam for tables of which a step touches few rows."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.optim.adamw import adamw

from transformers4rec_ext import functional
from transformers4rec_ext._errors import value_error
from transformers4rec_ext._memory import empty_large
from transformers4rec_ext.ops.reference import accumulate_dtype
from transformers4rec_ext.optim.base import (
    LazyOptimizer,
    check_number,
    check_options,
    dense_gradients,
    flat,
    has_fused,
)


class LazyAdam(LazyOptimizer):
    """AdamW that, where a gradient is sparse, reads and writes only the rows it touches.

    Dense gradients: ``torch.optim.AdamW``, by torch's own fused kernel. Gradients of rows (sparse
    COO, as ``nn.Embedding(sparse=True)`` or ``sparse_grad=True`` make them, repetitions welcome):
    the same rule for each touched row, with that row's own count t of updates in the bias
    correction. A row that has waited is not decayed for the steps that it missed, and nothing of
    size V is computed. With every row touched in every step this equals ``torch.optim.AdamW``.

    Parameters
    ----------
    params : iterable of parameters or of groups
        float16, bfloat16, float32 or float64.
    lr : float or Tensor of one element
        Learning rate; a tensor is read in each step.
    betas : pair of float
        Decay rates of the two moments, in [0, 1).
    eps : float
    weight_decay : float
        Decoupled: ``w -= lr wd w``. For gradients of rows on the touched rows only.
    rowwise : bool
        Whether gradients of rows keep one second moment a row (the mean of ``g^2`` over it)
        instead of one an element: state of V (D + 2) instead of V (2 D + 1) numbers.
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
    Deterministic, whatever the number of threads: repetitions are summed in one order, and a row
    with NaN stays alone. State of a parameter, made in its first step: ``step``, ``exp_avg``,
    ``exp_avg_sq`` with torch's names, for gradients of rows in float32 (float64 for float64), and
    with ``step`` an int32 [V]. A float16 or bfloat16 table is updated in float32 and rounded once.

    A parameter may change from dense gradients to gradients of rows (every row then has the
    parameter's count) and back (a dense gradient then touches all rows), so state dicts of
    ``torch.optim.AdamW`` and ``SparseAdam`` load. The other way they do not: AdamW has one count
    where a parameter here has one for each row. ``torch.distributed.checkpoint`` makes the state
    that it reads into by a step with dense gradients: take one step with gradients of rows first.

    On Linux the state lies in huge pages, and the first step brings the table into them too (see
    ``docs/kernels.md``): it costs about two copies of the table, once.

    Examples
    --------
    >>> table = torch.nn.Embedding(1000, 8, sparse=True)
    >>> optimizer = LazyAdam(table.parameters(), lr=0.01, rowwise=True)
    >>> table(torch.tensor([3, 5, 3])).sum().backward()
    >>> optimizer.step()
    >>> state = optimizer.state[table.weight]
    >>> state["step"].nonzero().flatten().tolist(), state["exp_avg_sq"].shape
    ([3, 5], torch.Size([1000]))
    """

    def __init__(
        self,
        params: Any,
        lr: float | Tensor = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        rowwise: bool = False,
        *,
        backend: str | None = None,
    ) -> None:
        options = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay}
        super().__init__(params, {**options, "rowwise": rowwise, "backend": backend})

    def _check_group(self, name: str, group: dict[str, Any]) -> None:
        check_options(name, group, ("eps", "weight_decay"))
        betas = group["betas"]
        if not isinstance(betas, tuple | list) or len(betas) != 2:
            raise value_error(name, "betas", "be a pair of numbers", repr(betas))
        for i, beta in enumerate(betas):
            check_number(name, f"betas[{i}]", beta, 1.0)

    def _is_row_state(self, param: Tensor, state: dict[str, Any]) -> bool:
        step = state.get("step")
        return isinstance(step, Tensor) and step.dim() == 1

    def _row_state(self, group: dict[str, Any], param: Tensor) -> dict[str, Any]:
        """Return the parameter's state for gradients of rows, made or converted where needed."""
        state: dict[str, Any] = self.state[param]
        if self._is_row_state(param, state):
            return state
        wide, device = accumulate_dtype(param.dtype), param.device
        counts = torch.zeros(param.shape[0], dtype=torch.int32, device=device)
        if state:  # of dense gradients: every row has been updated as often as the parameter
            counts += int(state["step"])
            first, second = (state[name].to(wide) for name in ("exp_avg", "exp_avg_sq"))
            second = second.flatten(1).mean(1) if group["rowwise"] else second
        else:
            first = empty_large(param.shape, wide, device).zero_()
            size = param.shape[:1] if group["rowwise"] else param.shape
            second = empty_large(size, wide, device).zero_()
        state.update(step=counts, exp_avg=first.contiguous(), exp_avg_sq=second.contiguous())
        return state

    def _step_rows(self, group: dict[str, Any], param: Tensor, ids: Tensor, values: Tensor) -> None:
        state = self._row_state(group, param)
        functional.adam_rows_(
            flat(param),
            flat(state["exp_avg"]),
            flat(state["exp_avg_sq"]),
            state["step"],
            ids,
            flat(values.contiguous()),
            lr=float(group["lr"]),
            beta1=float(group["betas"][0]),
            beta2=float(group["betas"][1]),
            eps=group["eps"],
            weight_decay=group["weight_decay"],
            backend=group["backend"],
        )

    def _step_dense(self, group: dict[str, Any], params: list[Tensor]) -> None:
        for fused in (True, False):
            chosen = [p for p in params if has_fused("_fused_adamw_", p) == fused]
            if not chosen:
                continue
            states = [self._dense_state(param, fused) for param in chosen]
            adamw(
                chosen,
                dense_gradients(chosen),
                [state["exp_avg"] for state in states],
                [state["exp_avg_sq"] for state in states],
                [],
                [state["step"] for state in states],
                fused=True if fused else None,
                amsgrad=False,
                beta1=float(group["betas"][0]),
                beta2=float(group["betas"][1]),
                lr=float(group["lr"]),
                weight_decay=group["weight_decay"],
                eps=group["eps"],
                maximize=False,
            )

    def _dense_state(self, param: Tensor, fused: bool) -> dict[str, Any]:
        state: dict[str, Any] = self.state[param]
        if not state:
            # as torch: the count lies with the parameter for the fused kernel, else on the host
            state["step"] = torch.zeros((), device=param.device if fused else "cpu")
            state["exp_avg"] = torch.zeros_like(param)
            state["exp_avg_sq"] = torch.zeros_like(param)
        elif not isinstance(state["step"], Tensor):  # a state dict of SparseAdam
            state["step"] = torch.tensor(float(state["step"]), device=param.device)
        return state
