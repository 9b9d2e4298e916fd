"""A device of its own for tests: memory that the CPU's operators cannot read by mistake.

Where there is no GPU, this is what a forgotten ``.to(device)`` fails on. Its tensors hold a CPU
tensor each, an operator runs on those, and refuses, as on a GPU, tensors of the device beside
tensors of the CPU. Values are drawn by the CPU's generator, so a computation comes to what it comes
to on the CPU. torch has one such place in a process and keeps it: the fixture ``on_standin`` runs
code in a process of its own.
"""

from __future__ import annotations

import os
import sys
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

NAME = "standin"
_ATEN = torch.ops.aten
_FORMULAS = torch._C.DispatchKey.CompositeExplicitAutograd
_KERNELS = torch.library.Library("aten", "IMPL")  # they live as long as this
# What may take tensors of both: values are moved; places in the device's may be on the CPU.
_MOVES = {_ATEN._to_copy.default, _ATEN.copy_.default}
_READS = {_ATEN.index.Tensor}
_WRITES = {_ATEN.index_put_.default, _ATEN.index_put.default, _ATEN._index_put_impl_.default}
# What takes not even a single number of the CPU, as arithmetic does.
_STRICT = {"cat", "stack", "embedding", "index_select", "gather", "scatter", "scatter_add"}


class _OnDevice(Tensor):
    """A tensor of the device; ``held`` has its values."""

    held: Tensor

    @staticmethod
    def __new__(cls, held: Tensor) -> _OnDevice:
        made = Tensor._make_wrapper_subclass(
            cls,
            held.shape,
            strides=held.stride() if held.layout == torch.strided else None,
            storage_offset=held.storage_offset() if held.layout == torch.strided else None,
            dtype=held.dtype,
            layout=held.layout,
            device=torch.device(NAME, 0),
        )
        made.held = held
        return made

    def data_ptr(self) -> int:
        """Return where the values are: who asks wants to know which tensors are one."""
        return self.held.data_ptr()

    def __deepcopy__(self, memo: dict[int, Any]) -> Tensor:
        made = _OnDevice(self.held.detach().clone()).requires_grad_(self.requires_grad)
        made._is_param = isinstance(self, torch.nn.Parameter)  # type: ignore[attr-defined]
        memo[id(self)] = made
        return made

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})


class StandIn(TorchDispatchMode):
    """Within it there is a device "standin"."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})


class _Module:
    """What ``torch.standin`` is."""

    @staticmethod
    def is_initialized() -> bool:
        return True

    @staticmethod
    def is_available() -> bool:
        return True

    @staticmethod
    def current_device() -> int:
        return 0

    @staticmethod
    def device_count() -> int:
        return 1

    @staticmethod
    def _is_in_bad_fork() -> bool:
        return False

    @staticmethod
    def manual_seed_all(seed: int) -> None:
        """Do nothing: values are drawn by the CPU's generator."""

    @staticmethod
    def get_amp_supported_dtype() -> list[torch.dtype]:
        return [torch.bfloat16, torch.float16]

    #: How many operators have run on its tensors.
    operators = 0

    # The state of a generator that nothing draws from: who keeps it keeps a GPU's as well.
    state = torch.arange(3, dtype=torch.uint8)

    @classmethod
    def get_rng_state(cls, device: Any = None) -> Tensor:
        return cls.state

    @classmethod
    def set_rng_state(cls, state: Tensor, device: Any = None) -> None:
        cls.state = state


def install() -> None:
    """Make the device known to torch, for the rest of the process."""
    from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

    _setup_privateuseone_for_python_backend(NAME, backend_module=_Module())
    # What torch.tensor(..., device=) asks for behind the back of modes.
    _KERNELS.impl("empty_strided", _empty_strided, "PrivateUse1")
    _KERNELS.impl("_copy_from", _copy_from, "PrivateUse1")


def _empty_strided(size: Any, stride: Any, *, dtype: Any = None, **more: Any) -> Tensor:
    return _OnDevice(torch.empty_strided(size, stride, dtype=dtype))


def _copy_from(source: Tensor, target: Any, non_blocking: bool = False) -> Tensor:
    target.held.copy_(source)
    return target


def _refuse(
    func: Any, args: Any, kwargs: dict[str, Any], here: list[_OnDevice], tensors: list[Tensor]
) -> None:
    """Raise where a GPU would: at tensors of the CPU beside its own, and at its generators."""
    if kwargs.get("generator") is not None:
        raise RuntimeError(f"{func}: a generator of the CPU for {NAME}")
    looked_at = tensors
    if func in _MOVES:
        return
    if func in _READS | _WRITES and isinstance(args[0], _OnDevice):
        looked_at = [args[2]] if func in _WRITES else []
    strict = func._schema.name.removeprefix("aten::").rstrip("_") in _STRICT
    strangers = [t for t in looked_at if not isinstance(t, _OnDevice) and (t.dim() > 0 or strict)]
    if here and strangers:
        shapes = ", ".join(str(tuple(t.shape)) for t in strangers)
        raise RuntimeError(f"{func}: tensors of {NAME} beside tensors of the CPU ({shapes})")


def _run(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
    here = [tensor for tensor in tensors if isinstance(tensor, _OnDevice)]
    asked = kwargs.get("device")
    if not here and (asked is None or torch.device(asked).type != NAME):
        return func(*args, **kwargs)
    if func is _ATEN.copy_.default and not isinstance(args[0], _OnDevice):
        args[0].copy_(args[1].held)
        return args[0]
    _refuse(func, args, kwargs, here, tensors)
    _Module.operators += bool(here)
    if func.namespace == "transformers4rec_ext":  # as on a device for which there is no kernel
        with StandIn():
            return func._op_dk(_FORMULAS, *args, **kwargs)
    back = {id(tensor.held): tensor for tensor in here}
    stays = bool(here) if asked is None else torch.device(asked).type == NAME
    if asked is not None:
        kwargs = {**kwargs, "device": "cpu"}
    plain_args, plain_kwargs = tree_map(
        lambda leaf: leaf.held if isinstance(leaf, _OnDevice) else leaf, (args, kwargs)
    )
    result = func(*plain_args, **plain_kwargs)
    if not stays:
        return result

    def wrap(leaf: Any) -> Any:
        if not isinstance(leaf, Tensor) or isinstance(leaf, _OnDevice):
            return leaf
        return back[id(leaf)] if id(leaf) in back else _OnDevice(leaf)

    return tree_map(wrap, result)


def main() -> None:
    """Run the code that is the first argument, with the device."""
    code = sys.argv.pop(1)
    install()
    with StandIn():
        exec(code, {"__name__": "__main__"})
    # torch's thread for the device's backward pass may still run when its own teardown begins,
    # which then aborts the process: end without it.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
