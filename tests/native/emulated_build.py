"""Build kernels with the emulation: once for each state of the sources, whoever asks."""

from __future__ import annotations

import functools
import hashlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

from transformers4rec_ext import _build

ROOT = Path(__file__).resolve().parent.parent.parent
EMULATION = Path(__file__).resolve().parent / "emulation"
CACHE = ROOT / "build" / "emulation"  # git ignores it

COMMON_FLAGS = ("-std=c++20", "-g1", "-fPIC", "-ffp-contract=off", "-fno-gnu-unique")
WARNINGS = ("-Wall", "-Wextra", "-Werror", "-Wno-unknown-pragmas")
# every access is a call: none is merged into a vector or a call of memset
CHECKED_FLAGS = (
    "-O1",
    "-fno-tree-loop-distribute-patterns",
    "-fsanitize=alignment,bounds,shift,signed-integer-overflow,integer-divide-by-zero,"
    "float-cast-overflow",
)
SHADOW = 1 << 44
MODE_FLAGS = {
    "plain": ("-O2",),
    "race": (*CHECKED_FLAGS, "-fsanitize=thread"),
    # the kernel's kind of address sanitizer calls functions and lets us choose where its shadow is
    "asan": (
        *CHECKED_FLAGS,
        "-fsanitize=kernel-address",
        f"-fasan-shadow-offset={SHADOW:#x}",
        "--param=asan-stack=1",
        "--param=asan-instrumentation-with-call-threshold=0",
    ),
}


def _run(command: Sequence[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)}\n{done.stderr}")


def _made(suffix: str, parts: Sequence[str], *command: str) -> Path:
    """Return what ``command -o FILE`` makes of these parts, which are files or words."""
    digest = hashlib.sha256()
    for part in (*command, *parts):
        path = Path(part)
        digest.update(path.read_bytes() if path.is_file() else part.encode())
        digest.update(b"\0")
    made = CACHE / (digest.hexdigest()[:32] + suffix)
    if not made.exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(suffix, dir=CACHE)
        os.close(handle)
        _run([*command, "-o", name])
        os.replace(name, made)  # at once, whoever else builds it
    return made


def _headers() -> list[str]:
    folders = (EMULATION, ROOT / "csrc", ROOT / "csrc" / "core", ROOT / "csrc" / "cuda")
    suffixes = (".h", ".cuh", ".inc")
    return sorted(str(p) for folder in folders for p in folder.iterdir() if p.suffix in suffixes)


def _compiler() -> str:
    compiler = shutil.which("g++")
    assert compiler is not None, "the emulation needs GCC, whose sanitizers' hooks it stands in for"
    return compiler


def _object(source: Path, *flags: str) -> str:
    command = [
        _compiler(),
        *COMMON_FLAGS,
        *WARNINGS,
        *flags,
        f"-I{EMULATION}",
        f"-I{ROOT / 'csrc'}",
    ]
    return str(_made(".o", _headers(), *command, "-x", "c++", "-c", str(source)))


def _linked(*parts: str) -> Path:
    # without the sanitizers' libraries: the emulation has their functions
    return _made(".so", [], _compiler(), "-shared", "-Wl,-Bsymbolic", "-Wl,-z,defs", *parts)


def _objects(sources: Sequence[Path], mode: str) -> list[str]:
    """Compile kernels, and the emulation for them."""
    shadow = f"-DT4R_SHADOW={SHADOW:#x}ull"
    return [
        *(_object(source, *MODE_FLAGS[mode]) for source in sources),
        *(_object(source, "-O2", shadow) for source in sorted(EMULATION.glob("*.cpp"))),
    ]


@functools.cache
def built(sources: tuple[Path, ...], mode: str) -> Path:
    """Return the library of these kernels, built for the mode, and the emulation."""
    return _linked(*_objects(sources, mode))


def bound() -> Path:
    """Return a library of operators: all kernels and the bindings over them, for the CPU key."""
    import torch.utils.cpp_extension as torch_build

    csrc = ROOT / "csrc"
    flags = [flag for flag in _build.COMPILE_ARGS if flag not in ("-O3", "-g0")]
    includes = [f"-isystem{path}" for path in torch_build.include_paths()]
    bindings = [
        _made(
            *(".o", _headers(), _compiler(), *flags, "-O1", "-fPIC", "-DT4R_EMULATED"),
            *(*includes, "-c", str(source)),
        )
        for source in sorted(csrc.glob("bind_*_cuda.cpp"))
    ]
    kernels = sorted(set((csrc / "cuda").glob("*_cuda.cu")) - {csrc / "cuda" / "library_cuda.cu"})
    libraries = [f"-L{path}" for path in torch_build.library_paths()]
    return _linked(
        *(*map(str, bindings), *_objects(kernels, "plain"), *libraries),
        *("-ltorch_cpu", "-ltorch", "-lc10"),
    )
