"""One description of what to compile, used by ``setup.py`` and by the just-in-time build.

Imports nothing of the package, so that ``setup.py`` can load it by path before the package exists.
C++ is compiled by torch's extension builder; kernels by nvcc ahead of linking (`compile_cuda`),
because torch's builder refuses to call nvcc where torch itself is a CPU build.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

#: What the package and its library agree on, the operators' arguments and what they mean: in the
#: library's name, so that one that was compiled for others is not loaded.
INTERFACE = 1
NAME = f"transformers4rec_ext._kernels_{INTERFACE}"
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
NVCC_ARGS = [
    "-std=c++20",
    "-O3",
    "--fmad=false",  # as -ffp-contract=off; kernels say fmaf where they want one
    "-Xcompiler=-fPIC,-fvisibility=hidden,-ffp-contract=off",
    "-Xptxas=-v",  # registers and spills, kept beside the object: see benchmarks/registers.py
    "-t",
    "2",
]
LAUNCHERS = ("ccache", "sccache", "distcc", "env")
SYSTEM_TOOLKIT = Path("/usr/local/cuda")
CUDA_ARCHS = "7.5;8.0;8.6;8.9;9.0;10.0;12.0+PTX"
MODES = ("auto", "none", "cpu", "cuda")


class Toolkit(NamedTuple):
    """A CUDA toolkit: its compiler, version and the folder of ``libcudart_static.a``."""

    nvcc: Path
    version: tuple[int, int]
    libraries: Path

    def __str__(self) -> str:
        return f"{self.nvcc} of CUDA {self.version[0]}.{self.version[1]}"


def mode() -> str:
    """Return ``T4R_EXT_BUILD`` (auto, none, cpu or cuda); ValueError for anything else."""
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


def _output(*command: str | Path) -> str:
    """Return what a command prints; empty if it fails."""
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)
    return done.stdout + done.stderr if done.returncode == 0 else ""


def _homes() -> Iterator[Path]:
    """Yield the folders that may be a CUDA toolkit; ``CUDA_HOME`` alone if it is set."""
    if os.environ.get("CUDA_HOME"):
        yield Path(os.environ["CUDA_HOME"])
        return
    packages = importlib.util.find_spec("nvidia")  # PyPI's nvidia-cuda-nvcc and others: one folder
    for folder in (packages and packages.submodule_search_locations) or ():
        yield from sorted(Path(folder).glob("cu[0-9]*"), reverse=True)
    on_path = shutil.which("nvcc")
    if on_path:
        yield Path(on_path).resolve().parent.parent
        # a wrapper script: nvcc itself tells where it lies
        for top in re.findall(r"#\$ TOP=(.+)", _output(on_path, "--dryrun", "-c", "any.cu")):
            yield Path(top.strip()).resolve()
    yield SYSTEM_TOOLKIT


def toolkits() -> Iterator[Toolkit]:
    """Yield the CUDA toolkits that can compile: nvcc, headers and the static runtime are there."""
    for home in _homes():
        nvcc = home / "bin" / "nvcc"
        headers = [
            *home.glob("include/cuda_runtime.h"),
            *home.glob("targets/*/include/cuda_run*.h"),
        ]
        libraries = [
            path.parent
            for pattern in ("lib64", "lib", "targets/*/lib", "lib/*-linux-gnu")
            for path in home.glob(f"{pattern}/libcudart_static.a")
        ]
        if nvcc.exists() and headers and libraries:
            release = re.search(r"release (\d+)\.(\d+)", _output(nvcc, "--version"))
            if release:
                yield Toolkit(nvcc, (int(release[1]), int(release[2])), libraries[0])


def cuda_toolkit() -> Toolkit | None:
    """Return the toolkit that will compile the CUDA kernels; None if they are not to be compiled.

    ``auto`` asks whether torch was built for the toolkit's major version, never for a GPU: the
    machine that builds need not have one. Says in one line what is missing.

    Raises
    ------
    RuntimeError
        if ``T4R_EXT_BUILD=cuda`` and there is no nvcc.
    """
    wanted = mode()
    if wanted == "cuda":
        found = next(toolkits(), None)
        if found is None:
            where = f"CUDA_HOME={home}" if (home := os.environ.get("CUDA_HOME")) else "CUDA_HOME"
            raise RuntimeError(
                "T4R_EXT_BUILD=cuda needs nvcc, its headers and libcudart_static.a; found none. "
                f"Install a CUDA toolkit, let {where} name its folder, or {_from_pypi('13.0')}."
            )
        return found
    import torch

    version = torch.version.cuda
    if wanted != "auto" or version is None:
        return None
    major = version.partition(".")[0]
    available = list(toolkits())
    for toolkit in available:
        if str(toolkit.version[0]) == major:
            return toolkit
    print(
        f"transformers4rec_ext: torch is built for CUDA {version}, but found "
        f"{available[0] if available else 'no nvcc'}; building the CPU kernels only. On a GPU the "
        f"PyTorch reference runs (same results, slower). Install a CUDA {major} toolkit, or "
        f"{_from_pypi(version)}, and reinstall."
    )
    return None


def _from_pypi(version: str) -> str:
    major = version.partition(".")[0]
    if int(major) < 13:  # earlier packages lie in a folder each, which is no toolkit
        return f"set CUDA_HOME to one of CUDA {major}"
    packages = ("cuda-nvcc", "cuda-crt", "cuda-runtime", "cuda-cccl", "nvvm")
    return f"`pip install {' '.join(f'nvidia-{name}~={version}.0' for name in packages)}`"


def architectures(toolkit: Toolkit) -> list[str]:
    """Return what to compile for, as "9.0", the last with "+PTX": what this nvcc knows of it.

    ``T4R_EXT_CUDA_ARCHS`` or torch's ``TORCH_CUDA_ARCH_LIST`` names others than `CUDA_ARCHS`.

    Raises
    ------
    ValueError
        if one is not written so, or nvcc knows none of them.
    """
    source = "T4R_EXT_CUDA_ARCHS"
    value = os.environ.get(source)
    if not value:
        source = "TORCH_CUDA_ARCH_LIST"
        value = os.environ.get(source) or CUDA_ARCHS
    names = value.replace(";", " ").replace(",", " ").split()
    if not all(re.fullmatch(r"\d+\.\d[af]?(\+PTX)?", name) for name in names):
        raise ValueError(f'{source} must be like "8.0;9.0+PTX"; got {value!r}.')
    known = _output(toolkit.nvcc, "--list-gpu-arch").split()
    kept = [name for name in names if f"compute_{_number(name).rstrip('af')}" in known]
    if not kept:
        raise ValueError(f"{source} must name an architecture that {toolkit} knows; got {value!r}.")
    if left_out := [name for name in names if name not in kept]:
        print(f"transformers4rec_ext: {toolkit} does not know {', '.join(left_out)}; left out.")
    if names[-1] not in kept and names[-1].endswith("+PTX"):
        kept[-1] = kept[-1].removesuffix("+PTX") + "+PTX"  # for all that is newer
    return kept


def _number(arch: str) -> str:
    return arch.removesuffix("+PTX").replace(".", "")


def _code_flags(archs: list[str]) -> list[str]:
    """Return nvcc's flags for machine code of each architecture, and PTX where asked for."""
    flags = []
    for arch in archs:
        number = _number(arch)
        codes = (f"sm_{number}", f"compute_{number}") if "+PTX" in arch else (f"sm_{number}",)
        flags += [f"-gencode=arch=compute_{number},code={code}" for code in codes]
    return [*flags, f'-DT4R_CUDA_ARCHS="{";".join(archs)}"']


def _texts(source: Path, seen: set[Path]) -> Iterator[bytes]:
    """Yield the text of a source and of every file of the project that it includes."""
    seen.add(source)
    text = source.read_bytes()
    yield text
    for name in re.findall(rb'^\s*#\s*include\s+"(.+?)"', text, re.MULTILINE):
        included = (source.parent / name.decode()).resolve()
        if included.exists() and included not in seen:
            yield from _texts(included, seen)


def _compile_cuda(source: Path, command: list[str], folder: Path) -> Path:
    """Compile one file unless an object of the same text and flags is there; return the object."""
    # nvcc reads more flags from NVCC_PREPEND_FLAGS and NVCC_APPEND_FLAGS
    more = [value for name, value in sorted(os.environ.items()) if name.startswith("NVCC_")]
    digest = hashlib.sha256("\0".join([*command, *more]).encode())
    for text in _texts(source, set()):
        digest.update(text)
    target = folder / f"{source.stem}.{digest.hexdigest()[:16]}.o"
    log = target.with_suffix(".log")
    if target.exists() and log.exists():
        return target
    print(f"nvcc {source.name}", flush=True)
    partial = target.with_suffix(f".{os.getpid()}")
    done = subprocess.run(
        [*command, "-c", str(source), "-o", str(partial)],
        capture_output=True,
        text=True,
        check=False,
    )
    said = done.stdout + done.stderr
    if done.returncode:
        raise RuntimeError(f"nvcc failed on {source}:\n{said}")
    for warning in re.findall(r"^.*warning.*$", said, re.MULTILINE | re.IGNORECASE):
        print(warning, flush=True)
    for stale in folder.glob(f"{source.stem}.*.[ol]*"):
        stale.unlink()
    log.write_text(said)
    partial.rename(target)
    return target


def compile_cuda(toolkit: Toolkit, folder: Path = ROOT / "build" / "cuda") -> list[str]:
    """Compile the kernels with nvcc, those that changed; return the objects.

    An object's name holds a digest of what it was made from. What nvcc said (registers, spills) is
    beside it, in a file that ends in ``.log``.

    Raises
    ------
    RuntimeError
        if nvcc fails.
    """
    folder.mkdir(parents=True, exist_ok=True)
    command = [str(toolkit.nvcc), *NVCC_ARGS, *_code_flags(architectures(toolkit))]
    # of "ccache g++ -m64" the compiler, not its launcher
    words = [word for word in os.environ.get("CXX", "").split() if word not in LAUNCHERS]
    command += ["-ccbin", words[0]] if words else []
    sources = [ROOT / source for source in CUDA_SOURCES if source.endswith(".cu")]
    jobs = int(os.environ.get("MAX_JOBS") or os.cpu_count() or 1)
    with ThreadPoolExecutor(jobs) as pool:
        return list(map(str, pool.map(lambda one: _compile_cuda(one, command, folder), sources)))


def _cuda_parts() -> tuple[list[str], list[str], list[str]]:
    """Return what the CUDA kernels add: bindings, objects (compiled now) and flags of the linker.

    The runtime goes into the library, where no other library can see it.
    """
    toolkit = cuda_toolkit()
    if toolkit is None:
        return [], [], []
    bindings = [source for source in CUDA_SOURCES if source.endswith(".cpp")]
    hidden = "-Wl,--exclude-libs,libcudart_static.a"
    flags = [f"-L{toolkit.libraries}", "-lcudart_static", "-ldl", "-lrt", "-lpthread", hidden]
    return bindings, compile_cuda(toolkit), flags


def setup_arguments() -> dict[str, Any]:
    """Return the arguments of ``setup`` that compile; none for a pure-Python install.

    Raises
    ------
    RuntimeError
        if ``T4R_EXT_BUILD`` is cpu or cuda and there is no C++ compiler.
    """
    if mode() == "none":
        print("transformers4rec_ext: T4R_EXT_BUILD=none, installing without native kernels.")
        return {}
    if compiler() is None:
        if mode() != "auto":
            raise RuntimeError(
                f"T4R_EXT_BUILD={mode()} needs a C++ compiler; found none. Install g++, or set CXX."
            )
        print(
            "transformers4rec_ext: no C++ compiler found, installing without native kernels "
            "(same results, slower). Install g++ and reinstall to get them."
        )
        return {}
    try:
        from torch.utils.cpp_extension import BuildExtension, CppExtension
    except ModuleNotFoundError as error:
        hint = 'run `pip install torch "setuptools>=77" ninja pybind11` first.'
        raise RuntimeError(f"Kernels are built against the torch there is: {hint}") from error

    class BuildKernels(BuildExtension):
        """torch's builder, after nvcc has made the objects of the CUDA kernels."""

        def build_extensions(self) -> None:
            (extension,) = self.extensions
            bindings, objects, flags = _cuda_parts()
            extension.sources += bindings
            extension.extra_objects += objects
            extension.extra_link_args += flags
            super().build_extensions()
            remove_other_versions(Path(self.get_ext_fullpath(NAME)).parent)

    extension = CppExtension(
        NAME,
        sources=list(SOURCES),
        extra_compile_args={"cxx": COMPILE_ARGS},
        depends=[str(p.relative_to(ROOT)) for p in (ROOT / "csrc").rglob("*") if p.is_file()],
        py_limited_api=True,
    )
    return {
        "ext_modules": [extension],
        "cmdclass": {"build_ext": BuildKernels},
        "options": {"bdist_wheel": {"py_limited_api": "cp310"}},
    }


def remove_other_versions(folder: Path) -> None:
    """Remove libraries of other versions, which a wheel would hold and nothing would load."""
    for library in folder.glob("_kernels*.so"):
        if not library.name.startswith(f"{NAME.rpartition('.')[2]}."):
            library.unlink()


def compile_now() -> Path:
    """Compile with torch's just-in-time builder and return the library's path.

    Raises
    ------
    FileNotFoundError
        if the sources are not beside the package (an installed wheel does not carry them).
    RuntimeError
        if a compiler fails, or ``T4R_EXT_BUILD=cuda`` and there is no nvcc.
    """
    if not (ROOT / SOURCES[0]).exists():
        raise FileNotFoundError(
            f"{ROOT / SOURCES[0]} does not exist; T4R_EXT_JIT=1 needs a source checkout. "
            "Use `pip install --no-build-isolation .` there instead."
        )
    from torch.utils.cpp_extension import load

    bindings, objects, flags = _cuda_parts()
    path = load(
        name="transformers4rec_ext_kernels",
        sources=[str(ROOT / source) for source in SOURCES + bindings],
        extra_cflags=COMPILE_ARGS,
        extra_ldflags=objects + flags,
        is_python_module=False,
    )
    return Path(path)
