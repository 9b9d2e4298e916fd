"""One description of what to compile, used by ``setup.py`` and by the just-in-time build.

Imports nothing of the package, so that ``setup.py`` can load it by path before the package exists.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

NAME = "transformers4rec_ext._kernels"
ROOT = Path(__file__).resolve().parent.parent
SOURCES = [
    "csrc/bind_cpu.cpp",
    "csrc/bind_items_cpu.cpp",
    "csrc/bind_weighted_cpu.cpp",
    "csrc/bind_rows_cpu.cpp",
    "csrc/cpu/dispatch_cpu.cpp",
    "csrc/cpu/isa_avx2_cpu.cpp",
    "csrc/cpu/isa_avx512_cpu.cpp",
    "csrc/cpu/isa_baseline_cpu.cpp",
    "csrc/cpu/log_uniform_cpu.cpp",
    "csrc/cpu/topk_cpu.cpp",
    "csrc/cpu/weighted_cpu.cpp",
    "csrc/cpu/rows_cpu.cpp",
]
# Kernels (nvcc) and their bindings (the host's compiler: torch's headers stay out of nvcc); none in
# an installed package.
CUDA_SOURCES = sorted(
    str(path.relative_to(ROOT))
    for pattern in ("bind_*_cuda.cpp", "cuda/*_cuda.cu")
    for path in (ROOT / "csrc").glob(pattern)
)
COMPILE_ARGS = [
    "-std=c++20",
    "-O3",
    "-g0",
    "-Wall",
    "-Wextra",
    "-fvisibility=hidden",
    # every operation rounded on its own: the same ids for the same seed on every instruction set
    "-ffp-contract=off",
    # neither changes a value; both let loops with floor, log and selects vectorise
    "-fno-math-errno",
    "-fno-trapping-math",
    # the stable ABI as of torch 2.10, so that the library loads under every later release
    "-DTORCH_TARGET_VERSION=0x020a000000000000",
]
MODES = ("auto", "none", "cpu")


def mode() -> str:
    """Return ``T4R_EXT_BUILD`` (auto, none or cpu); ValueError for anything else."""
    value = os.environ.get("T4R_EXT_BUILD", "auto")
    if value not in MODES:
        raise ValueError(f"T4R_EXT_BUILD must be one of {', '.join(MODES)}; got {value!r}.")
    return value


def compiler() -> str | None:
    """Return the C++ compiler that will be used (``CXX``, else c++, g++, clang++), or None."""
    wanted = os.environ.get("CXX")
    if wanted:
        return shutil.which(wanted.split()[0])
    return next(filter(None, map(shutil.which, ("c++", "g++", "clang++"))), None)


def extensions() -> list[Any]:
    """Return the extensions to build; empty for a pure-Python install.

    Raises
    ------
    RuntimeError
        if ``T4R_EXT_BUILD=cpu`` and there is no C++ compiler.
    """
    if mode() == "none":
        print("transformers4rec_ext: T4R_EXT_BUILD=none, installing without native kernels.")
        return []
    if compiler() is None:
        if mode() == "cpu":
            raise RuntimeError(
                "T4R_EXT_BUILD=cpu needs a C++ compiler; found none. Install g++, or set CXX."
            )
        print(
            "transformers4rec_ext: no C++ compiler found, installing without native kernels "
            "(same results, slower). Install g++ and reinstall to get them."
        )
        return []
    from torch.utils.cpp_extension import CppExtension

    return [
        CppExtension(
            NAME,
            sources=SOURCES,
            extra_compile_args={"cxx": COMPILE_ARGS},
            py_limited_api=True,
        )
    ]


def compile_now() -> Path:
    """Compile with torch's just-in-time builder and return the library's path.

    Raises
    ------
    FileNotFoundError
        if the sources are not beside the package (an installed wheel does not carry them).
    RuntimeError
        if the compiler fails.
    """
    if not (ROOT / SOURCES[0]).exists():
        raise FileNotFoundError(
            f"{ROOT / SOURCES[0]} does not exist; T4R_EXT_JIT=1 needs a source checkout. "
            "Use `pip install --no-build-isolation .` there instead."
        )
    from torch.utils.cpp_extension import load

    path = load(
        name="transformers4rec_ext_kernels",
        sources=[str(ROOT / source) for source in SOURCES],
        extra_cflags=COMPILE_ARGS,
        is_python_module=False,
    )
    return Path(path)
