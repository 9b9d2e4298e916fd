"""What documents and the package's front door promise: tables, variables, names."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

import transformers4rec_ext

ROOT = Path(__file__).resolve().parent.parent


def test_tables_are_made_from_the_results() -> None:
    command = [sys.executable, "-m", "benchmarks.report", "--check"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_page_lists_every_environment_variable() -> None:
    sources = [*ROOT.glob("transformers4rec_ext/**/*.py"), *ROOT.glob("csrc/**/*.cpp")]
    used = set(re.findall(r"T4R_EXT_[A-Z_]+", "".join(path.read_text() for path in sources)))
    listed = set(
        re.findall(r"\| `(T4R_EXT_[A-Z_]+)` \|", (ROOT / "docs" / "install.md").read_text())
    )
    assert used | {"T4R_EXT_SHARED"} == listed


@pytest.mark.parametrize("name", transformers4rec_ext.__all__)
def test_public_names_resolve(name: str) -> None:
    assert getattr(transformers4rec_ext, name) is not None
    assert name in dir(transformers4rec_ext)


def test_missing_names_say_what_to_do() -> None:
    with pytest.raises(AttributeError, match=r"no 'nonsense'; see `dir\(transformers4rec_ext\)`"):
        _ = transformers4rec_ext.nonsense


def test_import_loads_nothing_heavy() -> None:
    code = (
        "import torch, sys; before = set(sys.modules); import transformers4rec_ext; "
        "import transformers4rec_ext.functional; new = set(sys.modules) - before; "
        "print(sorted({name.split('.')[0] for name in new}))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    heavy = {
        "transformers",
        "accelerate",
        "torchmetrics",
        "pyarrow",
        "matplotlib",
        "tqdm",
        "pandas",
        "safetensors",
        "lightning",
        "tensorflow_metadata",
        "google",
    }
    assert not heavy & set(re.findall(r"'(\w+)'", done.stdout)), done.stdout


def test_package_is_marked_as_typed_and_versioned() -> None:
    assert (ROOT / "transformers4rec_ext" / "py.typed").exists()
    version = re.search(r'^version = "(.+)"$', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert version is not None
    assert version[1] == transformers4rec_ext.__version__
