"""Loads the library of native kernels; never raises for want of one, remembers why not."""

from __future__ import annotations

import ctypes
import functools
import logging
import os
import re
from pathlib import Path
from typing import Any

import torch

from transformers4rec_ext import _build
from transformers4rec_ext._errors import value_error

NAMESPACE = "transformers4rec_ext"
# the operators that a native library may implement, per device
NATIVE_OPS = (
    "adagrad_rows",
    "adam_rows",
    "log_uniform_sample",
    "log_uniform_log_q",
    "log_uniform_draw",
    "log_expected_count",
    "uniform_sample",
    "alias_sample",
    "sampled_logits_tile",
    "sampled_softmax_tile",
    "sampled_bce_tile",
    "logsumexp_tile",
    "softmax_grad_tile",
    "pair_scores",
    "rank_tile",
    "topk_tile",
)
ISAS = ("baseline", "avx2", "avx512")
if (_wanted := os.environ.get("T4R_EXT_ISA", "")) not in ("", *ISAS):  # the library reads it
    raise value_error("T4R_EXT_ISA", "ISA", f"be one of {', '.join(ISAS)}", repr(_wanted))
_log = logging.getLogger(__name__)
_KEYS = {"cpu": "CPU", "cuda": "CUDA"}

_path: Path | None = None
_reason = ""
#: Why the CUDA kernels run on no GPU of this machine; empty if they do, or CUDA sleeps.
no_code_for_gpu = ""


def _find(folder: Path) -> Path | None:
    """Return the library in a folder that is for these operators."""
    name = _build.NAME.rpartition(".")[2]
    return next(iter(sorted(folder.glob(f"{name}.*so"))), None)


def _why_none(folder: Path) -> str:
    """Return why there is no such library; one for other operators is worth a warning."""
    for other in sorted(folder.glob("_kernels*.so")):
        reason = (
            f"{other.name} was compiled for another version of the operators; compile anew "
            "(pip install --no-build-isolation .)"
        )
        _log.warning("%s; the PyTorch reference runs instead", reason)
        return reason
    return (
        "no compiled library beside the package; reinstall with a C++ compiler "
        "(pip install --no-build-isolation .) or set T4R_EXT_JIT=1 in a source checkout"
    )


def load() -> None:
    """Load the library if there is one; afterwards `why_not` tells the reason if there is none."""
    global _path, _reason
    if _path is not None:
        return
    try:
        folder = Path(__file__).resolve().parent
        path = _find(folder)
        if path is None and os.environ.get("T4R_EXT_JIT") == "1":
            path = _build.compile_now()
        if path is None:
            _reason = _why_none(folder)
            return
        torch.ops.load_library(str(path))
        _path = path
        if torch.version.cuda and (reason := _driver_is_too_old()):
            _log.warning("%s; the PyTorch reference runs on it", reason)
        elif torch.version.cuda and cuda_archs():
            # As soon as CUDA runs, and not before: a process may still fork.
            torch.cuda._lazy_call(look_at_gpus)
    except (OSError, RuntimeError, ImportError) as error:
        _reason = f"the native library does not load: {error}"
        _log.warning("%s; the PyTorch reference runs instead", _reason)


def why_not() -> str:
    """Return why no native library is loaded; empty if one is."""
    return _reason


@functools.cache  # the answer does not change after `load`, and the question is on the hot path
def has_kernel(op: str, device_type: str, namespace: str = NAMESPACE) -> bool:
    """Tell whether the dispatcher has a native kernel of ``op`` for ``device_type``."""
    key = _KEYS.get(device_type)
    if key is None:
        return False
    return bool(torch._C._dispatch_has_kernel_for_dispatch_key(f"{namespace}::{op}", key))


def _exported(name: str, result: Any) -> Any:
    """Return what the library's function of this name returns; None if there is no such."""
    if _path is None:
        return None
    function = getattr(ctypes.CDLL(str(_path)), f"transformers4rec_ext_{name}", None)
    if function is None:
        return None
    function.restype = result
    value = function()
    return value.decode() if isinstance(value, bytes) else value


def isa() -> str | None:
    """Return the instruction set in use (baseline, avx2 or avx512), or None without the library."""
    value: str | None = _exported("isa", ctypes.c_char_p)
    return value


def cuda_archs() -> str | None:
    """Return the GPU architectures inside the library ("8.0;9.0+PTX"); None if it has none."""
    value: str | None = _exported("cuda_archs", ctypes.c_char_p)
    return value


def runs_on(arch: str) -> bool:
    """Tell whether the library has machine code, or PTX, for a GPU of an architecture ("9.0")."""
    major, minor = map(int, arch.split("."))
    for name in (cuda_archs() or "").split(";"):
        built = re.fullmatch(r"(\d+)\.(\d)([af]?)(\+PTX)?", name)
        if built is None:
            continue
        least = int(built[2])  # code for one minor version runs on later ones, for 9.0a say not
        if int(built[1]) == major and (least == minor or (least < minor and built[3] != "a")):
            return True
        if built[4] and not built[3] and (int(built[1]), int(built[2])) <= (major, minor):
            return True
    return False


def look_at_gpus() -> None:
    """Warn of GPUs that the library has no code for; note in ``no_code_for_gpu`` if it is all."""
    global no_code_for_gpu
    archs = {
        place: ".".join(map(str, torch.cuda.get_device_capability(place)))
        for place in range(torch.cuda.device_count())
    }
    missing = {place: arch for place, arch in archs.items() if not runs_on(arch)}
    if not missing:
        return
    which = ", ".join(f"cuda:{place} ({arch})" for place, arch in missing.items())
    reason = f"the library has CUDA code for {cuda_archs()}, and none for {which}"
    if len(missing) < len(archs):
        _log.warning("%s: leave it out with CUDA_VISIBLE_DEVICES", reason)
        return
    no_code_for_gpu = f"{reason}: build from source where it is"
    _log.warning("%s; the PyTorch reference runs on it", no_code_for_gpu)


def cuda_runtime() -> str | None:
    """Return the version of the CUDA runtime inside the library; None if it has none."""
    version = _exported("cuda_runtime", ctypes.c_int)
    return None if version is None else _cuda_version(version)


def driver() -> str | None:
    """Return the version of CUDA that the GPU's driver supports; None without a driver.

    Starts nothing: a process that asks may still fork workers that use the GPU.
    """
    version = ctypes.c_int(0)
    try:
        failed = ctypes.CDLL("libcuda.so.1").cuDriverGetVersion(ctypes.byref(version))
    except OSError:
        return None
    return None if failed else _cuda_version(version.value)


def _cuda_version(number: int) -> str:
    return f"{number // 1000}.{number % 1000 // 10}"


def _driver_is_too_old() -> str:
    """Return why the CUDA kernels in the library stand aside; empty if they do not.

    Whether they do is seen: the rule is the library's (``driver_suffices`` in bind_cuda.h).
    """
    inside = cuda_runtime()
    if inside is None or has_kernel(NATIVE_OPS[0], "cuda"):
        return ""
    return (
        f"the GPU's driver supports CUDA {driver()}, and the kernels need {inside}: update the "
        "driver, or build from source with a toolkit that it supports"
    )


def why_reference(op: str, device_type: str) -> str:
    """Return why ``op`` has no native kernel on the device; empty if it has one."""
    if device_type == "cuda" and no_code_for_gpu:
        return no_code_for_gpu
    if device_type == "cuda" and torch.version.hip:
        return "this torch is for AMD's GPUs, and the library's kernels are for NVIDIA's"
    if has_kernel(op, device_type):
        return ""
    if _path is None:
        return _reason
    if device_type == "cuda" and cuda_archs() is None:
        built = torch.version.cuda
        how = (
            f"reinstall where there is a CUDA {built.partition('.')[0]} toolkit"
            if built
            else "this torch is a CPU build"
        )
        return f"the library was built without CUDA kernels; {how}"
    if device_type == "cuda" and (reason := _driver_is_too_old()):
        return reason
    return f"the library has no such kernel for {device_type}"


def _state(op: str, device_type: str) -> str:
    if why := why_reference(op, device_type):
        return f"reference: {why}"
    if device_type == "cuda" and not torch.version.cuda:
        return "fused: in a torch built for CUDA, which this one is not"
    return "fused"


def report() -> dict[str, Any]:
    """Return what is built and what runs fused: a dict that ``doctor`` prints."""
    return {
        "library": str(_path) if _path else None,
        "reason": _reason,
        "isa": isa(),
        "cuda archs": cuda_archs(),
        "cuda runtime": cuda_runtime(),
        "torch's cuda": torch.version.cuda,
        "driver's cuda": driver(),
        "ops": {op: {device: _state(op, device) for device in _KEYS} for op in NATIVE_OPS},
    }
