"""Which implementation runs: ``auto | fused | reference``.

The keyword of a function goes before `use_backend`, that before ``T4R_EXT_BACKEND``.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from transformers4rec_ext import _checks, _native
from transformers4rec_ext._errors import value_error

BACKENDS = ("auto", "fused", "reference")


def checked(name: str, source: str) -> str:
    """Return ``name`` if it is a backend; ValueError that begins with ``source`` otherwise."""
    if name not in BACKENDS:
        raise value_error(source, "backend", f"be one of {', '.join(BACKENDS)}", repr(name))
    return name


# A global variable, because torch.compile sees such a one change.
_current = checked(os.environ.get("T4R_EXT_BACKEND", "auto"), "T4R_EXT_BACKEND")
_lock = threading.Lock()
_entered: dict[object, str] = {None: _current}  # in this order; the last is current


def current() -> str:
    """Return the backend of calls that name none."""
    return _current


@contextmanager
def use_backend(name: str) -> Iterator[None]:
    """Run the body with this backend wherever no ``backend=`` keyword says otherwise.

    It holds for the process, in every thread: of bodies that overlap, for the one entered last.

    Parameters
    ----------
    name : str
        ``auto`` (native kernels where there are any), ``fused`` (an error where there are none) or
        ``reference`` (plain PyTorch formulas).

    Raises
    ------
    ValueError
        if ``name`` is none of these.
    """
    global _current
    if torch.compiler.is_compiling():  # it can trace neither a lock nor an object
        previous, _current = _current, checked(name, "use_backend")
        try:
            yield
        finally:
            _current = previous
        return
    body = object()
    with _lock:
        _current = _entered[body] = checked(name, "use_backend")
    try:
        yield
    finally:
        with _lock:
            del _entered[body]
            _current = next(reversed(_entered.values()))


def lacks_code(device_type: str) -> bool:
    """Tell whether the library has CUDA kernels, and code for none of the GPUs that are there."""
    return device_type == "cuda" and _native.no_code_for_gpu != ""


def use_reference(
    backend: str | None,
    function: str,
    op: str,
    device_type: str,
    differentiable: Sequence[Tensor] = (),
) -> bool:
    """Tell whether ``function`` is to run the reference formulas rather than the operator.

    Raises
    ------
    ValueError
        if the backend is unknown.
    RuntimeError
        if it is ``fused`` and ``op`` has no native kernel for the device, or if the operator is to
        be differentiated in ``differentiable`` by anything but a backward.
    """
    name = _current if backend is None else checked(backend, function)
    no_code = lacks_code(device_type)
    if name == "fused" and (no_code or not _native.has_kernel(op, device_type)):
        reason = _native.why_reference(op, device_type)
        raise RuntimeError(
            f"{function}: backend 'fused' needs a native kernel on {device_type}; got none "
            f"({reason}). Use backend='auto', or see `python -m transformers4rec_ext doctor`."
        )
    if name == "reference" or no_code:
        return True
    _checks.only_backward(function, *differentiable)
    return False
