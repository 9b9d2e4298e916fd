"""Run the CUDA kernels' own source on the CPU: build it with the emulation, call its launchers.

::

    @emulated.every_run
    def test_scale(run: emulated.Run) -> None:
        rows = emulated.library("rows", run)
        rows.t4r_scale_cuda(weight, out, weight.shape[0], factor=2.0)

A launcher takes torch's CPU tensors for its pointers (None for a null one), in their order or by
name; ``device`` and ``stream`` may be left out. The tensors are laid out anew between
guard zones, at their own address modulo 256, and those that are not ``const`` are copied back.
"""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import functools
import os
import re
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from emulated_build import ROOT, built

ORDERS = ("forward", "reverse", "random", "preempt")
POISON = 0x7FE7  # as in the emulation: NaN in every type
GUARD = 64 * 1024


@dataclasses.dataclass(frozen=True)
class Run:
    """How kernels are compiled, and in which order their threads and blocks run."""

    # "race" checks each access for races and bounds, "asan" for bounds, of local arrays too
    mode: str = "plain"
    order: str = "forward"
    seed: int = 0  # of "random" and "preempt", which also interleaves three blocks

    def __str__(self) -> str:
        return f"{self.mode}-{self.order}"


RUNS = (
    Run("plain", "forward"),
    Run("plain", "reverse"),
    Run("plain", "random", seed=1),
    Run("plain", "preempt", seed=2),
    Run("race", "forward"),
    Run("race", "preempt", seed=3),
    Run("asan", "random", seed=4),
)
every_run = pytest.mark.parametrize("run", RUNS, ids=str)


class KernelError(AssertionError):
    """A kernel races, deadlocks, leaves its arrays, or reads what nobody has written."""


class LaunchError(AssertionError):
    """A launcher returned a cudaError."""

    def __init__(self, launcher: str, status: int) -> None:
        super().__init__(f"{launcher} returned cudaError {status}")
        self.status = status


_SCALARS = {
    "bool": ctypes.c_bool,
    "int": ctypes.c_int,
    "int32_t": ctypes.c_int32,
    "int64_t": ctypes.c_int64,
    "unsigned": ctypes.c_uint,
    "uint32_t": ctypes.c_uint32,
    "uint64_t": ctypes.c_uint64,
    "size_t": ctypes.c_size_t,
    "float": ctypes.c_float,
    "double": ctypes.c_double,
}
_DTYPES = {
    "float": {torch.float32},
    "double": {torch.float64},
    "int": {torch.int32},
    "int32_t": {torch.int32},
    "unsigned": {torch.int32},
    "uint32_t": {torch.int32},
    "int64_t": {torch.int64},
    "long long": {torch.int64},
    "unsigned long long": {torch.int64},
    "uint64_t": {torch.int64},
    "uint8_t": {torch.uint8, torch.bool},
    "bool": {torch.bool},
}


@dataclasses.dataclass(frozen=True)
class Parameter:
    """One of a launcher's, as its declaration has it."""

    type: str  # what a pointer points to, else its own
    name: str
    pointer: bool
    const: bool

    @property
    def ctype(self) -> Any:
        return ctypes.c_void_p if self.pointer else _SCALARS[self.type]


def _declarations(files: Sequence[Path]) -> dict[str, list[Parameter]]:
    found: dict[str, list[Parameter]] = {}
    for file in files:
        text = re.sub(r"//.*|/\*.*?\*/", "", file.read_text())
        for name, listed in re.findall(r"\bint\s+(t4r_\w+)\s*\(([^()]*)\)\s*[;{]", text):
            found[name] = [_parameter(item) for item in listed.split(",")]
    return found


def _parameter(declaration: str) -> Parameter:
    words = declaration.replace("*", " * ").split()
    types = [word for word in words[:-1] if word not in ("const", "*", "__restrict__")]
    type_name = " ".join(types).removeprefix("std::")
    return Parameter(type_name, words[-1], "*" in words, "const" in words)


class _Arrays:
    """Copies of tensors in memory that is theirs, with guard zones around each."""

    def __init__(self, tensors: dict[Parameter, torch.Tensor]) -> None:
        self.tensors = tensors
        extents = sorted((t.data_ptr(), t.data_ptr() + _bytes(t)) for t in tensors.values())
        merged: list[list[int]] = []  # tensors that share memory go on doing so
        for begin, end in extents:
            if merged and begin < merged[-1][1]:
                merged[-1][1] = max(merged[-1][1], end)
            else:
                merged.append([begin, end])
        size = sum(end - begin + GUARD + 512 for begin, end in merged) + GUARD
        self.memory = np.full(size // 2 + 1, POISON, dtype=np.uint16).view(np.uint8)
        self.places: list[tuple[int, int, int]] = []  # begin, end, new begin
        base = self.memory.ctypes.data
        free = base + GUARD
        for begin, end in merged:
            place = free + (begin - free) % 256
            ctypes.memmove(place, begin, end - begin)
            self.places.append((begin, end, place))
            free = place + (end - begin) + GUARD

    def address(self, tensor: torch.Tensor) -> int:
        at, size = tensor.data_ptr(), _bytes(tensor)
        return next(
            place + at - begin
            for begin, end, place in self.places
            if begin <= at and at + size <= end
        )

    def copy_back(self) -> None:
        for parameter, tensor in self.tensors.items():
            if not parameter.const:
                ctypes.memmove(tensor.data_ptr(), self.address(tensor), _bytes(tensor))

    def check_guards(self, launcher: str) -> None:
        guard = np.ones(len(self.memory), dtype=bool)
        base = self.memory.ctypes.data
        for begin, end, place in self.places:
            guard[place - base : place - base + end - begin] = False
        poison = np.full(len(guard) // 2, POISON, dtype=np.uint16).view(np.uint8)
        changed = np.flatnonzero(guard & (self.memory != poison))
        if changed.size:
            address = base + int(changed[0])
            nearest = min(
                self.tensors.items(),
                key=lambda item: abs(address - self.address(item[1])),
            )
            offset = address - self.address(nearest[1])
            raise KernelError(
                f"{launcher} wrote out of bounds: at {nearest[0].name} {offset:+d}, "
                f"which has {_bytes(nearest[1])} bytes"
            )


def _bytes(tensor: torch.Tensor) -> int:
    """Return the bytes from the first element to the last, both included."""
    if tensor.numel() == 0:
        return 0
    last = sum((n - 1) * s for n, s in zip(tensor.shape, tensor.stride(), strict=True))
    return (last + 1) * tensor.element_size()


class Library:
    """The launchers of a family of kernels, as functions."""

    def __init__(self, path: Path, declarations: dict[str, list[Parameter]], run: Run) -> None:
        self._path = path
        self._library = ctypes.CDLL(str(path), mode=os.RTLD_LOCAL | os.RTLD_NOW)
        self._library.t4r_emulation_report.restype = ctypes.c_char_p
        self._declarations = declarations
        self._run = run

    def current_device(self) -> int:
        """Return the device that is current after the last call."""
        return int(self._library.t4r_emulation_current_device())

    def __getattr__(self, name: str) -> Any:
        if name not in self._declarations:
            raise AttributeError(f"no launcher {name!r}; there are {sorted(self._declarations)}")
        return functools.partial(self._call, name)

    def _call(self, name: str, /, *arguments: Any, **named: Any) -> None:
        parameters = self._declarations[name]
        names = [p.name for p in parameters]
        defaults = {n: v for n, v in (("device", 0), ("stream", None)) if n in names}
        values = {**defaults, **dict(zip(names, arguments, strict=False)), **named}
        if set(values) != set(names) or len(arguments) > len(names):
            raise TypeError(
                f"{name} takes ({', '.join(names)}); got {len(arguments)} and {sorted(named)}"
            )
        tensors = {p: values[p.name] for p in parameters if p.pointer and p.name != "stream"}
        tensors = {p: tensor for p, tensor in tensors.items() if tensor is not None}
        for parameter, tensor in tensors.items():
            _check_dtype(name, parameter, tensor)
        arrays = _Arrays(tensors)
        converted = []
        for parameter in parameters:
            value = values[parameter.name]
            value = arrays.address(value) if isinstance(value, torch.Tensor) else value
            converted.append(_converted(name, parameter, value))
        status = self._run_kernels(name, arrays, converted)
        report = self._library.t4r_emulation_report().decode()
        if report:
            raise KernelError(self._with_lines(report))
        arrays.check_guards(name)
        if status != 0:
            raise LaunchError(name, status)
        arrays.copy_back()

    def _run_kernels(self, name: str, arrays: _Arrays, arguments: list[Any]) -> int:
        emulation = self._library
        order = ORDERS.index(self._run.order)
        emulation.t4r_emulation_schedule(ctypes.c_int(order), ctypes.c_uint64(self._run.seed))
        emulation.t4r_emulation_most_shared(ctypes.c_size_t(_most_shared))
        for parameter, tensor in arrays.tensors.items():
            emulation.t4r_emulation_add_array(
                ctypes.c_char_p(parameter.name.encode()),
                ctypes.c_void_p(arrays.address(tensor)),
                ctypes.c_size_t(_bytes(tensor)),
                ctypes.c_int(not parameter.const),
            )
        status: int = getattr(emulation, name)(*arguments)
        emulation.t4r_emulation_forget_arrays()
        return status

    def _with_lines(self, report: str) -> str:
        """Put the lines of the source, from the innermost function outwards, for offsets."""
        reader = shutil.which("addr2line")
        if reader is None:
            return report

        def lines(match: re.Match[str]) -> str:
            command = [reader, "-s", "-i", "-e", str(self._path), match[1]]
            found = subprocess.check_output(command, text=True).splitlines()
            return " < ".join(line.partition(" (discriminator")[0] for line in found)

        return re.sub(r"\[\+(0x[0-9a-f]+)\]", lines, report)


def _converted(launcher: str, parameter: Parameter, value: Any) -> Any:
    converted = parameter.ctype(value)
    integer = not parameter.pointer and parameter.type not in ("float", "double")
    if integer and converted.value != value:
        raise TypeError(f"{launcher}: {parameter.name} is {parameter.type}; got {value!r}")
    return converted


def _check_dtype(launcher: str, parameter: Parameter, tensor: Any) -> None:
    if not isinstance(tensor, torch.Tensor):
        raise TypeError(f"{launcher}: {parameter.name} must be a tensor or None; got {tensor!r}")
    allowed = _DTYPES.get(parameter.type)
    if allowed is not None and tensor.dtype not in allowed:
        raise TypeError(f"{launcher}: {parameter.name} is {parameter.type}*; got {tensor.dtype}")


_most_shared = 227 * 1024


@contextlib.contextmanager
def most_shared(size: int) -> Iterator[None]:
    """Let a block have at most these bytes of shared memory, instead of an H100's."""
    global _most_shared
    before, _most_shared = _most_shared, size
    try:
        yield
    finally:
        _most_shared = before


def library(name: str | Path, run: Run = RUNS[0]) -> Library:
    """Return the launchers of ``csrc/cuda/NAME*_cuda.cu``, or of a file, built for the run."""
    if isinstance(name, Path):
        sources = [name]
        declared = [name]
    else:
        folder = ROOT / "csrc" / "cuda"
        sources = sorted({*folder.glob(f"{name}_cuda.cu"), *folder.glob(f"{name}_*_cuda.cu")})
        declared = [folder / f"{name}.h"]
    assert sources, f"there is no csrc/cuda/{name}_cuda.cu"
    return Library(built(tuple(sources), run.mode), _declarations(declared), run)
