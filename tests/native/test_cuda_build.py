"""Which nvcc is found, when it is used, what it is told, and what it does not compile twice."""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path

import pytest
import torch

from transformers4rec_ext import _build

# Stands in for nvcc: tells a version and architectures, notes what it compiles.
NVCC = """#!/bin/sh
case "$1" in
  --version) echo "Cuda compilation tools, release {version}, V{version}.88"; exit 0;;
  --list-gpu-arch) printf 'compute_75\\ncompute_80\\ncompute_90\\n'; exit 0;;
esac
echo "$@" >> {home}/calls
while [ $# -gt 0 ]; do
  if [ "$1" = -c ]; then cp "$2" {home}/last; fi
  if [ "$1" = -o ]; then cp {home}/last "$2"; fi
  shift
done
if grep -q broken {home}/last; then echo "a.cu(1): error: broken" >&2; exit 1; fi
if grep -q doubtful {home}/last; then echo "a.cu(1): warning: doubtful" >&2; fi
"""


def script(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


def toolkit_in(home: Path, version: str = "13.0") -> Path:
    """Make a folder that looks like a CUDA toolkit."""
    script(home / "bin" / "nvcc", NVCC.format(version=version, home=home))
    for name in ("include/cuda_runtime.h", "lib64/libcudart_static.a"):
        (home / name).parent.mkdir()
        (home / name).touch()
    return home


@pytest.fixture
def nowhere(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Hide the toolkits of this machine, its variables and its GPU."""
    for name in ("CUDA_HOME", "T4R_EXT_CUDA_ARCHS", "TORCH_CUDA_ARCH_LIST", "T4R_EXT_BUILD"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(_build.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(_build.shutil, "which", lambda name: None)
    monkeypatch.setattr(_build, "SYSTEM_TOOLKIT", Path("/nowhere"))

    def asked() -> bool:
        raise AssertionError("the build asked for a GPU")

    monkeypatch.setattr(torch.cuda, "is_available", asked)
    return monkeypatch


def test_cuda_home_is_looked_at_alone(nowhere: pytest.MonkeyPatch, tmp_path: Path) -> None:
    wanted, other = toolkit_in(tmp_path / "wanted", "12.4"), toolkit_in(tmp_path / "other")
    nowhere.setattr(_build, "SYSTEM_TOOLKIT", other)
    nowhere.setenv("CUDA_HOME", str(wanted))
    (found,) = _build.toolkits()
    assert found == _build.Toolkit(wanted / "bin" / "nvcc", (12, 4), wanted / "lib64")
    nowhere.setenv("CUDA_HOME", str(tmp_path))
    assert not list(_build.toolkits())


def test_a_package_before_the_path_before_the_system(
    nowhere: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    package = toolkit_in(tmp_path / "site" / "nvidia" / "cu13")
    nowhere.undo()
    nowhere.delenv("CUDA_HOME", raising=False)
    nowhere.syspath_prepend(str(tmp_path / "site"))
    on_path = toolkit_in(tmp_path / "path", "12.9")
    nowhere.setenv("PATH", f"{on_path / 'bin'}:{os.environ['PATH']}")
    nowhere.setattr(_build, "SYSTEM_TOOLKIT", toolkit_in(tmp_path / "system", "12.1"))
    found = [(toolkit.nvcc.parent.parent, toolkit.version) for toolkit in _build.toolkits()]
    system = (tmp_path / "system", (12, 1))
    assert found == [(package, (13, 0)), (on_path, (12, 9)), system]


def test_a_wrapper_on_the_path_is_seen_through(nowhere: pytest.MonkeyPatch, tmp_path: Path) -> None:
    real = toolkit_in(tmp_path / "real")
    answer = f'[ "$1" = --dryrun ] && echo "#$ TOP={real}/bin/.." && exit'
    wrapper = script(tmp_path / "usr" / "bin" / "nvcc", f'#!/bin/sh\n{answer}\nexec {real} "$@"\n')
    nowhere.setattr(_build.shutil, "which", lambda name: str(wrapper))
    (found,) = _build.toolkits()
    assert found.nvcc == real / "bin" / "nvcc"


@pytest.mark.parametrize("missing", ["include/cuda_runtime.h", "lib64/libcudart_static.a"])
def test_half_a_toolkit_is_none(nowhere: pytest.MonkeyPatch, tmp_path: Path, missing: str) -> None:
    (toolkit_in(tmp_path / "half") / missing).unlink()
    nowhere.setenv("CUDA_HOME", str(tmp_path / "half"))
    assert not list(_build.toolkits())


@pytest.mark.parametrize(
    ("of_torch", "of_toolkit", "compiles"),
    [
        ("13.0", "13.2", True),
        ("12.8", "13.0", False),
        ("13.0", None, False),
        ("12.8", None, False),
        (None, "13.0", False),
    ],
)
def test_auto_compares_major_versions_and_says_what_is_missing(
    nowhere: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    of_torch: str | None,
    of_toolkit: str | None,
    compiles: bool,
) -> None:
    if of_toolkit:
        nowhere.setattr(_build, "SYSTEM_TOOLKIT", toolkit_in(tmp_path / "cuda", of_toolkit))
    nowhere.setattr(torch.version, "cuda", of_torch)
    assert (_build.cuda_toolkit() is not None) == compiles
    out = capsys.readouterr().out
    if compiles or of_torch is None:  # a CPU build of torch misses nothing
        assert out == ""
        return
    assert out.count("\n") == 1
    assert f"torch is built for CUDA {of_torch}, but found" in out
    assert ("nvcc of CUDA 13.0" if of_toolkit else "found no nvcc") in out
    assert "the PyTorch reference runs" in out
    wanted = "CUDA_HOME to one of CUDA 12" if of_torch == "12.8" else "nvidia-cuda-nvcc~=13.0.0"
    assert wanted in out


def test_auto_takes_the_toolkit_of_torchs_version(
    nowhere: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    first, second = toolkit_in(tmp_path / "first", "12.4"), toolkit_in(tmp_path / "second", "13.1")
    nowhere.setattr(_build.shutil, "which", lambda name: str(first / "bin" / "nvcc"))
    nowhere.setattr(_build, "SYSTEM_TOOLKIT", second)
    nowhere.setattr(torch.version, "cuda", "13.0")
    toolkit = _build.cuda_toolkit()
    assert toolkit is not None
    assert toolkit.nvcc == second / "bin" / "nvcc"


def test_cpu_looks_for_no_toolkit(nowhere: pytest.MonkeyPatch, tmp_path: Path) -> None:
    nowhere.setenv("CUDA_HOME", str(toolkit_in(tmp_path / "cuda")))
    nowhere.setattr(torch.version, "cuda", "13.0")
    nowhere.setenv("T4R_EXT_BUILD", "cpu")
    assert _build.cuda_toolkit() is None


def test_cuda_compiles_whatever_torch_is(nowhere: pytest.MonkeyPatch, tmp_path: Path) -> None:
    nowhere.setenv("T4R_EXT_BUILD", "cuda")
    with pytest.raises(RuntimeError, match="T4R_EXT_BUILD=cuda needs nvcc, its headers and libcud"):
        _build.cuda_toolkit()
    nowhere.setenv("CUDA_HOME", str(tmp_path))
    with pytest.raises(RuntimeError, match=f"let CUDA_HOME={tmp_path} name its folder"):
        _build.cuda_toolkit()
    nowhere.setenv("CUDA_HOME", str(toolkit_in(tmp_path / "cuda")))
    nowhere.setattr(torch.version, "cuda", None)
    assert _build.cuda_toolkit() is not None


@pytest.mark.parametrize(
    ("variable", "value", "expected"),
    [
        ("T4R_EXT_CUDA_ARCHS", "", ["7.5", "8.0", "9.0+PTX"]),
        ("T4R_EXT_CUDA_ARCHS", "9.0", ["9.0"]),
        ("T4R_EXT_CUDA_ARCHS", "8.0,9.0a+PTX", ["8.0", "9.0a+PTX"]),
        ("TORCH_CUDA_ARCH_LIST", "7.0 8.0 10.0+PTX", ["8.0+PTX"]),
    ],
)
def test_architectures_are_those_that_nvcc_knows(
    nowhere: pytest.MonkeyPatch, tmp_path: Path, variable: str, value: str, expected: list[str]
) -> None:
    toolkit = _build.Toolkit(toolkit_in(tmp_path / "cuda") / "bin" / "nvcc", (13, 0), tmp_path)
    nowhere.setenv(variable, value)
    assert _build.architectures(toolkit) == expected


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("Ampere", "must be like \"8.0;9.0\\+PTX\"; got 'Ampere'"),
        ("10.0", "must name .* that .* knows; got '10"),
    ],
)
def test_bad_architectures(
    nowhere: pytest.MonkeyPatch, tmp_path: Path, value: str, message: str
) -> None:
    toolkit = _build.Toolkit(toolkit_in(tmp_path / "cuda") / "bin" / "nvcc", (13, 0), tmp_path)
    nowhere.setenv("T4R_EXT_CUDA_ARCHS", value)
    with pytest.raises(ValueError, match=f"T4R_EXT_CUDA_ARCHS {message}"):
        _build.architectures(toolkit)


@pytest.fixture
def project(nowhere: pytest.MonkeyPatch, tmp_path: Path) -> tuple[_build.Toolkit, Path]:
    """Make a project of two kernel files, one of which includes a header; and its toolkit."""
    home = toolkit_in(tmp_path / "cuda")
    (tmp_path / "csrc").mkdir()
    (tmp_path / "csrc" / "a.cu").write_text('#include "deep.h"\n')
    (tmp_path / "csrc" / "deep.h").write_text('#include "deeper.h"\n#include <nothing.h>\n')
    (tmp_path / "csrc" / "deeper.h").write_text("// first\n")
    (tmp_path / "csrc" / "b.cu").write_text("// alone\n")
    nowhere.setattr(_build, "ROOT", tmp_path)
    nowhere.setattr(_build, "CUDA_SOURCES", ["csrc/a.cu", "csrc/b.cu", "csrc/bind_a.cpp"])
    nowhere.setenv("MAX_JOBS", "1")
    return _build.Toolkit(home / "bin" / "nvcc", (13, 0), home / "lib64"), tmp_path


def test_only_what_changed_is_compiled(
    nowhere: pytest.MonkeyPatch, project: tuple[_build.Toolkit, Path]
) -> None:
    toolkit, root = project
    calls = root / "cuda" / "calls"

    def compiled() -> tuple[list[str], list[str]]:
        calls.write_text("")
        objects = _build.compile_cuda(toolkit, root / "objects")
        assert all(Path(name).exists() for name in objects)
        return [name for name in ("a.cu", "b.cu") if name in calls.read_text()], objects

    first, objects = compiled()
    assert first == ["a.cu", "b.cu"]
    assert compiled() == ([], objects)
    (root / "csrc" / "deeper.h").write_text("// second\n")
    second, changed = compiled()
    assert second == ["a.cu"]
    assert changed[0] != objects[0]  # so that the library is linked again
    assert changed[1] == objects[1]
    assert not Path(objects[0]).exists()
    nowhere.setenv("T4R_EXT_CUDA_ARCHS", "8.0")
    assert compiled()[0] == ["a.cu", "b.cu"]
    nowhere.setenv("NVCC_APPEND_FLAGS", "-lineinfo")
    assert compiled()[0] == ["a.cu", "b.cu"]
    assert "-gencode=arch=compute_80,code=sm_80" in calls.read_text()
    assert "compute_90" not in calls.read_text()


def test_what_nvcc_says_is_kept_and_said(
    project: tuple[_build.Toolkit, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    toolkit, root = project
    (root / "csrc" / "b.cu").write_text("// doubtful\n")
    objects = _build.compile_cuda(toolkit, root / "objects")
    assert "a.cu(1): warning: doubtful" in capsys.readouterr().out
    assert "doubtful" in Path(objects[1]).with_suffix(".log").read_text()
    (root / "csrc" / "b.cu").write_text("// broken\n")
    with pytest.raises(RuntimeError, match=r"nvcc failed on .*b\.cu:\na\.cu\(1\): error: broken"):
        _build.compile_cuda(toolkit, root / "objects")


def test_every_registration_asks_for_the_driver() -> None:
    begin = r"STABLE_TORCH_LIBRARY_IMPL\(transformers4rec_ext, \w+, m\) \{\n"
    for path in (_build.ROOT / "csrc").glob("bind_*_cuda.cpp"):
        (first_line,) = re.findall(begin + "(.+)", path.read_text())
        assert re.fullmatch(r"  if \(!(\w+::)?(\w+::)?driver_suffices\(\)\) return;", first_line), (
            path
        )
