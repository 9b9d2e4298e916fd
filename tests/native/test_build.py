"""What is compiled, when, and what the library needs of others."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch.utils.cpp_extension

from transformers4rec_ext import _build, _native

ROOT = Path(__file__).resolve().parent.parent.parent


def test_none_builds_nothing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("T4R_EXT_BUILD", "none")
    assert _build.setup_arguments() == {}
    assert capsys.readouterr().out.count("\n") == 1


def test_unknown_mode(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("T4R_EXT_BUILD", "gpu")
    message = "T4R_EXT_BUILD must be one of auto, none, cpu, cuda; got 'gpu'"
    with pytest.raises(ValueError, match=message):
        _build.setup_arguments()


def test_no_compiler_is_one_calm_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("T4R_EXT_BUILD", "auto")
    monkeypatch.setattr(_build, "compiler", lambda: None)
    assert _build.setup_arguments() == {}
    out = capsys.readouterr().out
    assert out.count("\n") == 1
    assert "no C++ compiler found, installing without native kernels" in out


@pytest.mark.parametrize("mode", ["cpu", "cuda"])
def test_a_wanted_build_without_a_compiler_fails(
    monkeypatch: pytest.MonkeyPatch, mode: str
) -> None:
    monkeypatch.setenv("T4R_EXT_BUILD", mode)
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(RuntimeError, match=f"T4R_EXT_BUILD={mode} needs a C\\+\\+ compiler"):
        _build.setup_arguments()


def test_a_compiler_that_fails_fails_the_build(tmp_path: Path) -> None:
    for name in ("csrc", "transformers4rec_ext"):
        ignore = shutil.ignore_patterns("*.so", "__pycache__")
        shutil.copytree(ROOT / name, tmp_path / name, ignore=ignore)
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tmp_path)
    done = subprocess.run(
        [sys.executable, "setup.py", "-q", "build_ext"],
        cwd=tmp_path,
        capture_output=True,
        check=False,
        env={**os.environ, "CXX": "false", "T4R_EXT_BUILD": "auto"},
    )
    assert done.returncode != 0


def test_the_build_lists_every_source() -> None:
    files = {
        str(path.relative_to(ROOT))
        for pattern in ("*.cpp", "*.cu")
        for path in (ROOT / "csrc").rglob(pattern)
    }
    assert files == set(_build.SOURCES) | set(_build.CUDA_SOURCES)


def test_the_library_needs_no_cpp_symbol_of_torch_and_none_of_python() -> None:
    library = _native.report()["library"]
    listing = subprocess.run(
        ["nm", "-D", "--undefined-only", "-C", library], capture_output=True, text=True, check=True
    ).stdout
    foreign = [
        line for line in listing.splitlines() if any(s in line for s in (" c10::", " at::", " Py"))
    ]
    assert "torch_call_dispatcher" in listing or "aoti_torch" in listing
    assert not foreign


@pytest.mark.parametrize(
    "source",
    [*_build.SOURCES, *(s for s in _build.CUDA_SOURCES if s.endswith(".cpp"))],
)
def test_sources_compile_without_a_warning(source: str) -> None:
    includes = [f"-isystem{path}" for path in torch.utils.cpp_extension.include_paths()]
    arguments = [flag for flag in _build.COMPILE_ARGS if flag != "-O3"]
    compiler = _build.compiler()
    assert compiler is not None
    done = subprocess.run(
        [compiler, *arguments, "-Werror", "-fsyntax-only", *includes, str(ROOT / source)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_libraries_of_other_versions_are_removed(tmp_path: Path) -> None:
    current = f"{_build.NAME.rpartition('.')[2]}.abi3.so"
    for name in (current, "_kernels.abi3.so", f"_kernels_{_build.INTERFACE}0.abi3.so", "other.so"):
        (tmp_path / name).touch()
    _build.remove_other_versions(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [current, "other.so"]
