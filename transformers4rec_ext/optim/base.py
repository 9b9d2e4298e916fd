"""What the lazy optimizers share: dense gradients to torch, gradients of rows to the row update."""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from transformers4rec_ext import _backend, _checks, _native
from transformers4rec_ext._errors import type_error, value_error
from transformers4rec_ext._memory import gather_pages
from transformers4rec_ext._numbers import is_number
from transformers4rec_ext.ops.reference import accumulate_dtype

_DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def check_number(name: str, argument: str, value: Any, high: float = math.inf) -> None:
    """Raise unless ``value`` is a number in ``[0, high)``."""
    if not is_number(value):
        raise type_error(name, argument, "be a number", _checks.describe(value))
    if not 0 <= float(value) < high:
        raise value_error(name, argument, f"lie in [0, {high:g})", value)


def check_options(name: str, group: dict[str, Any], from_zero: tuple[str, ...]) -> None:
    """Raise unless the options that all optimizers have, and these numbers, are valid."""
    lr = group["lr"]
    check_number(name, "lr", lr.item() if isinstance(lr, Tensor) and lr.numel() == 1 else lr)
    for option in from_zero:
        check_number(name, option, group[option])
    if not isinstance(group["rowwise"], bool):
        raise type_error(name, "rowwise", "be a bool", type(group["rowwise"]).__name__)
    if group["backend"] is not None:
        _backend.checked(group["backend"], name)


def has_fused(op: str, param: Tensor) -> bool:
    """Tell whether torch's own fused kernel ``op`` takes this parameter.

    It walks parameter, gradient and state as they lie in memory, so all must be contiguous.
    """
    plain = type(param) in (Tensor, torch.nn.Parameter) and param.is_contiguous()
    return plain and _native.has_kernel(op, param.device.type, "aten")


def dense_gradients(params: list[Tensor]) -> list[Tensor]:
    """Return the gradients of parameters that have one, contiguous."""
    return [param.grad.contiguous() for param in params if param.grad is not None]


def flat(tensor: Tensor) -> Tensor:
    """Rows of any shape as rows of numbers: [n, ...] as a view [n, D]; [n] and [n, D] as is."""
    return tensor if tensor.dim() <= 2 else tensor.view(len(tensor), math.prod(tensor.shape[1:]))


class LazyOptimizer(torch.optim.Optimizer):
    """Base class: parameter groups, the step over them, and states that keep their dtypes.

    A subclass says how dense gradients and gradients of rows are applied, and which state belongs
    to rows.
    """

    def __init__(self, params: Any, defaults: dict[str, Any]) -> None:
        # parameters whose memory is in huge pages, by id; one that was replaced is not kept alive
        self._gathered: dict[int, weakref.ref[Tensor]] = {}
        super().__init__(params, defaults)

    def _check_group(self, name: str, group: dict[str, Any]) -> None:
        """Raise if an option of the group is out of range."""
        raise NotImplementedError

    def _is_row_state(self, param: Tensor, state: dict[str, Any]) -> bool:
        """Tell whether a state was made for gradients of rows, so that they must go on."""
        raise NotImplementedError

    def _step_dense(self, group: dict[str, Any], params: list[Tensor]) -> None:
        raise NotImplementedError

    def _step_rows(self, group: dict[str, Any], param: Tensor, ids: Tensor, values: Tensor) -> None:
        raise NotImplementedError

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group, as `torch.optim.Optimizer.add_param_group`; its options are checked.

        Raises
        ------
        TypeError
            if a parameter is not a dense tensor of a floating dtype, or an option not a number.
        ValueError
            if an option is out of range.
        """
        super().add_param_group(param_group)
        group, name = self.param_groups[-1], type(self).__name__
        try:
            self._check_group(name, group)
            for param in group["params"]:
                if param.dtype not in _DTYPES or param.layout != torch.strided:
                    got = f"{_checks.describe(param)}, {param.layout}"
                    expectation = "be dense tensors of float16, bfloat16, float32 or float64"
                    raise type_error(name, "params", expectation, got)
        except (TypeError, ValueError):
            self.param_groups.pop()
            raise

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        for group in self.param_groups:  # of a state dict of torch's optimizer, say
            for option, value in self.defaults.items():
                group.setdefault(option, value)
        self._gathered = {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load a state, as `torch.optim.Optimizer.load_state_dict`; states of rows keep precision.

        torch casts what is floating to the parameter's dtype, which would round the float32 state
        of a float16 or bfloat16 table. State dicts of torch's optimizer of the same rule load too.

        Raises
        ------
        ValueError
            if groups or parameters differ in number, or a state is of a rule that is not this one.
        """
        loaded: dict[str, Any] = {}

        def check(_: torch.optim.Optimizer, state: dict[str, Any]) -> None:
            loaded.update(state)  # what hooks registered before this one have made of it
            for group in state["param_groups"]:
                self._check_rule(group)

        handle = self.register_load_state_dict_pre_hook(check)
        try:
            super().load_state_dict(state_dict)
        finally:
            handle.remove()
        for group, saved in zip(self.param_groups, loaded["param_groups"], strict=True):
            for param, key in zip(group["params"], saved["params"], strict=True):
                self._restore(param, loaded["state"].get(key, {}))

    def _check_rule(self, group: dict[str, Any]) -> None:
        """Raise if a saved group has an option of torch's that changes the rule and is not here."""
        coupled = group.get("weight_decay") and not group.get("decoupled_weight_decay", True)
        for option, is_set in (
            ("maximize", group.get("maximize")),
            ("amsgrad", group.get("amsgrad")),
            ("decoupled_weight_decay=False", coupled),
        ):
            if is_set:
                name = f"{type(self).__name__}.load_state_dict"
                hint = "Go on with torch's optimizer, or begin with a new state."
                raise value_error(name, "a group", "be of this optimizer's rule", option, hint)

    def _restore(self, param: Tensor, saved: dict[str, Any]) -> None:
        wide = accumulate_dtype(param.dtype)
        rows = bool(saved) and self._is_row_state(param, saved)
        for name, value in saved.items():
            if not isinstance(value, Tensor):
                continue
            if name == "step":  # torch leaves it where it was saved
                self.state[param][name] = value.to(param.device)
            elif rows:
                dtype = wide if value.is_floating_point() else value.dtype
                self.state[param][name] = value.to(device=param.device, dtype=dtype)

    def _gather(self, param: Tensor) -> None:
        """Bring a table and its state, made or loaded, into huge pages, once."""
        known = self._gathered.get(id(param))
        if known is None or known() is not param:
            self._gathered[id(param)] = weakref.ref(param)
            for tensor in (param, *self.state[param].values()):
                if isinstance(tensor, Tensor):
                    gather_pages(tensor)

    def _row_gradient(self, param: Tensor) -> tuple[Tensor, Tensor]:
        """Row numbers [N] and rows [N, ...] of a parameter's gradient, as they are."""
        grad = param.grad
        assert grad is not None
        if grad.layout == torch.strided:
            return torch.arange(param.shape[0], device=param.device), grad
        name = f"{type(self).__name__}.step"
        if grad.layout != torch.sparse_coo:
            hint = "Convert it, or use nn.Embedding(sparse=True), whose gradients are."
            expectation = "be dense or sparse COO"
            raise value_error(name, "a gradient", expectation, grad.layout, hint)
        if grad.sparse_dim() != 1 or grad.dense_dim() < 1:
            expectation = "have one sparse dimension (rows) and at least one dense one"
            got = f"sparse_dim={grad.sparse_dim()}, dense_dim={grad.dense_dim()}"
            hint = "Pass it dense: parameter.grad.to_dense()."
            raise value_error(name, "a sparse gradient", expectation, got, hint)
        if not param.is_contiguous():
            expectation = "be contiguous where its gradient is sparse"
            raise value_error(name, "a parameter", expectation, f"strides {param.stride()}")
        return grad._indices()[0], grad._values()

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Update every parameter that has a gradient; return what ``closure`` returns, if given.

        Raises
        ------
        ValueError
            if a sparse gradient is not one of rows (COO with one sparse dimension).
        RuntimeError
            if the backend is ``fused`` and there is no kernel for the device of a gradient of rows.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            dense = []
            for param in group["params"]:
                if param.grad is None:
                    continue
                if param.grad.layout == torch.strided and not (
                    self._is_row_state(param, self.state[param])
                ):
                    dense.append(param)
                else:
                    self._step_rows(group, param, *self._row_gradient(param))
                    self._gather(param)
            if dense:
                self._step_dense(group, dense)
        return loss
