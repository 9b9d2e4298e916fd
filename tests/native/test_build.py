"""What is compiled, when, and what the library needs of others."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
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


def _setup(checkout: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run ``setup.py`` in a copy of the checkout, made on first use."""
    if not checkout.exists():
        checkout.mkdir()
        for name in ("csrc", "docs", "transformers4rec_ext"):
            ignore = shutil.ignore_patterns("*.so", "__pycache__")
            shutil.copytree(ROOT / name, checkout / name, ignore=ignore)
        for path in ROOT.glob("[A-Zs]*.[mpi]*"):
            shutil.copy(path, checkout)
        for name in ("pyproject.toml", "LICENSE"):
            shutil.copy(ROOT / name, checkout)
        (checkout / "tests").mkdir()
        shutil.copy(ROOT / "tests" / "test_docs.py", checkout / "tests")
    return subprocess.run(
        [sys.executable, "setup.py", "-q", *arguments],
        cwd=checkout,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **variables},
    )


def test_a_compiler_that_fails_fails_the_build(tmp_path: Path) -> None:
    done = _setup(tmp_path / "copy", "build_ext", CXX="false", T4R_EXT_BUILD="auto")
    assert done.returncode != 0


def test_a_module_that_is_gone_is_not_installed(tmp_path: Path) -> None:
    copy, variables = tmp_path / "copy", {"T4R_EXT_BUILD": "none"}
    assert _setup(copy, "build", **variables).returncode == 0
    (copy / "transformers4rec_ext" / "losses.py").unlink()
    assert _setup(copy, "build", **variables).returncode == 0
    built = {path.name for path in (copy / "build").rglob("transformers4rec_ext/*.py")}
    assert "baselines.py" in built
    assert "losses.py" not in built


def test_a_source_distribution_has_what_a_build_needs_and_no_part_of_the_tests(
    tmp_path: Path,
) -> None:
    copy = tmp_path / "copy"
    done = _setup(copy, "sdist", T4R_EXT_BUILD="none")
    assert done.returncode == 0, done.stderr
    (archive,) = (copy / "dist").iterdir()
    with tarfile.open(archive) as file:
        names = {name.partition("/")[2] for name in file.getnames()}
    sources = {str(path.relative_to(copy)) for path in (copy / "csrc").rglob("*.[ch]*")}
    assert sources <= names
    assert {"CHANGELOG.md", "docs/install.md", "transformers4rec_ext/py.typed"} <= names
    assert not [name for name in names if name.startswith("tests")]


def test_without_torch_the_build_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("T4R_EXT_BUILD", "auto")
    monkeypatch.setitem(sys.modules, "torch.utils.cpp_extension", None)
    with pytest.raises(RuntimeError, match=r"run `pip install torch .* first\."):
        _build.setup_arguments()


@pytest.mark.parametrize(
    ("cxx", "host"),
    [("", None), ("g++", "g++"), ("ccache g++", "g++"), ("env g++ -I inc", "g++")],
)
def test_nvcc_is_given_the_compiler_and_not_its_launcher(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cxx: str, host: str | None
) -> None:
    commands: list[list[str]] = []
    toolkit = _build.Toolkit(Path("nvcc"), (13, 0), tmp_path)
    monkeypatch.setenv("CXX", cxx)
    monkeypatch.setattr(_build, "architectures", lambda toolkit: ["9.0"])
    monkeypatch.setattr(_build, "_compile_cuda", lambda _, command, to: commands.append(command))
    _build.compile_cuda(toolkit, tmp_path)
    assert commands
    for command in commands:
        assert ("-ccbin" in command) == (host is not None)
        assert host is None or command[command.index("-ccbin") + 1] == host


def test_an_architecture_that_nvcc_does_not_know_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("T4R_EXT_CUDA_ARCHS", "9.0;99.0")
    monkeypatch.setattr(_build, "_output", lambda *command: "compute_80\ncompute_90\n")
    toolkit = _build.Toolkit(Path("nvcc"), (13, 0), tmp_path)
    assert _build.architectures(toolkit) == ["9.0"]
    assert "does not know 99.0; left out." in capsys.readouterr().out


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
