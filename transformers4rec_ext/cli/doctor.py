"""``doctor``: what is installed, how it was built, and which operators run fused, and why not."""

from __future__ import annotations

import argparse
import importlib
import platform
from importlib import metadata
from typing import Any

from transformers4rec_ext.cli import options as shared

_EPILOG = """\
`fused` operators run in the compiled kernels, `reference` ones in plain PyTorch: the same results,
slower. Nothing falls back silently; T4R_EXT_BACKEND=fused makes a missing kernel an error.
"""
_PACKAGES = (
    "transformers4rec_ext",
    "torch",
    "transformers",
    "torchmetrics",
    "numpy",
    "pyarrow",
    "matplotlib",
)


def add_parser(commands: Any) -> None:
    """Add the command."""
    shared.add_command(commands, "doctor", "what is installed, built and fused", _EPILOG, run)


def run(options: argparse.Namespace) -> int:
    """Print the report."""
    import torch

    from transformers4rec_ext import _backend, _native

    # Registers the operators and loads the library, as a training step would.
    importlib.import_module("transformers4rec_ext.functional")
    lines = [("python", f"{platform.python_version()} on {platform.system()} {platform.machine()}")]
    lines += [(name, _version(name)) for name in _PACKAGES]
    lines.append(("threads", str(torch.get_num_threads())))
    lines.append(("backend", _backend.current()))
    lines += [("gpu", gpu) for gpu in _gpus() or ["none visible"]]
    for name, value in lines:
        shared.say(f"{name:<24}{value}")
    shared.say("")
    for name, value in _native.report().items():
        if name == "ops":
            _say_ops(value)
        elif name != "reason" or value:
            shared.say(f"{name:<24}{'none' if value is None else value}")
    return 0


def _gpus() -> list[str]:
    """Return the GPUs that torch sees, with their architecture."""
    import torch

    from transformers4rec_ext import _native

    found = []
    for index in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
        arch = ".".join(map(str, torch.cuda.get_device_capability(index)))
        found.append(f"{index}: {torch.cuda.get_device_name(index)}, {arch}")
        if _native.cuda_archs() and not _native.runs_on(arch):
            found[-1] += f": the library has no code for {arch}"
    return found


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"


def _say_ops(ops: dict[str, dict[str, str]]) -> None:
    """Print for each operator and device what runs; a reason has a number and is said below."""
    devices = list(next(iter(ops.values()), {}))
    reasons: list[str] = []
    shared.say(f"\n{'operator':<24}" + "".join(f"{device:<16}" for device in devices).rstrip())
    for name, states in ops.items():
        cells = []
        for device in devices:
            state, _, why = states[device].partition(": ")
            if why and why not in reasons:
                reasons.append(why)
            cells.append(f"{state} ({reasons.index(why) + 1})" if why else state)
        shared.say(f"{name:<24}" + "".join(f"{cell:<16}" for cell in cells).rstrip())
    for number, why in enumerate(reasons, 1):
        shared.say(f"({number}) {why}")
