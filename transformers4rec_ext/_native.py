"""Loads the library of native kernels; never raises on import, remembers why not."""

from __future__ import annotations

import ctypes
import functools
import os
from pathlib import Path
from typing import Any

import torch

from transformers4rec_ext import _build

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
_KEYS = {"cpu": "CPU", "cuda": "CUDA"}

_path: Path | None = None
_reason = ""


def _find() -> Path | None:
    folder = Path(__file__).resolve().parent
    return next(iter(sorted(folder.glob("_kernels*.so"))), None)


def load() -> None:
    """Load the library if there is one; afterwards `why_not` tells the reason if there is none."""
    global _path, _reason
    if _path is not None:
        return
    try:
        path = _find()
        if path is None and os.environ.get("T4R_EXT_JIT") == "1":
            path = _build.compile_now()
        if path is None:
            _reason = (
                "no compiled library beside the package; reinstall with a C++ compiler "
                "(pip install --no-build-isolation .) or set T4R_EXT_JIT=1 in a source checkout"
            )
            return
        torch.ops.load_library(str(path))
        _path = path
    except (OSError, RuntimeError, ImportError) as error:
        _reason = f"the native library does not load: {error}"


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


def isa() -> str | None:
    """Return the instruction set in use (baseline, avx2 or avx512), or None without the library."""
    if _path is None:
        return None
    name = ctypes.CDLL(str(_path)).transformers4rec_ext_isa
    name.restype = ctypes.c_char_p
    return str(name().decode())


def report() -> dict[str, Any]:
    """Return what is built and what runs fused: a dict that ``doctor`` prints."""
    return {
        "library": str(_path) if _path else None,
        "reason": _reason,
        "isa": isa(),
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "ops": {
            op: {device: "fused" if has_kernel(op, device) else "reference" for device in _KEYS}
            for op in NATIVE_OPS
        },
    }
