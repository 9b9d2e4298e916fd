"""Fixtures shared by all tests: where the evaluation data lies, one thread, fixed seeds."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest
import torch

# the same examples everywhere and every time: a failure is the change's, not the day's
hypothesis.settings.register_profile("fixed", derandomize=True, deadline=None)
hypothesis.settings.load_profile("fixed")

REPOSITORY = Path(__file__).resolve().parent.parent


def _shared(*parts: str) -> Path:
    root = Path(os.environ.get("T4R_EXT_SHARED", REPOSITORY.parent / "shared"))
    path = root.joinpath(*parts)
    if not path.exists():
        pytest.skip(f"{path} is absent; set T4R_EXT_SHARED to the folder that holds it")
    return path


def pytest_configure() -> None:
    """Load the native kernels, which a test may ask for that imports none of their callers."""
    importlib.import_module("transformers4rec_ext.functional")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip, visibly, what needs a GPU where there is none."""
    if not torch.cuda.is_available():
        for item in items:
            if item.get_closest_marker("gpu"):
                item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def _forget_compiled() -> Iterator[None]:
    """Count a test's recompilations from nought, whatever other tests compiled."""
    yield
    if "torch._dynamo" in sys.modules:
        torch._dynamo.reset()


@pytest.fixture
def shared_data() -> Path:
    """Return the folder of real interaction data (skips visibly where it is absent)."""
    return _shared("data")


@pytest.fixture
def interactions() -> Callable[[str], Path]:
    """Return ``find(name) -> file`` of a real data set's interactions (skips visibly)."""
    return lambda name: _shared("data", name, "interactions.parquet")


@pytest.fixture(scope="session")
def on_standin() -> Callable[..., Any]:
    """Return ``run(code, *arguments) -> result``, with a device "standin" (see standin.py).

    The code prints its result as a line of JSON, the last one.
    """
    registration = importlib.import_module("torch.utils.backend_registration")
    if not hasattr(registration, "_setup_privateuseone_for_python_backend"):
        pytest.skip("this torch has no devices made in Python")
    only = {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}

    def run(code: str, *arguments: object) -> Any:
        command = [sys.executable, str(REPOSITORY / "tests" / "standin.py"), code]
        path = os.pathsep.join([str(REPOSITORY), os.environ.get("PYTHONPATH", "")])
        done = subprocess.run(
            [*command, *map(str, arguments)],
            env={**os.environ, "PYTHONPATH": path, **only},
            capture_output=True,
            text=True,
            check=False,
            timeout=1800,
        )
        assert done.returncode == 0, done.stderr[-4000:]
        return json.loads(done.stdout.splitlines()[-1])

    return run


@pytest.fixture
def keep_threads() -> Iterator[None]:
    """Give torch its number of threads back after the test."""
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def parity_json() -> Callable[[str], dict[str, Any]]:
    """Return ``load(group) -> json`` of what was recorded from upstream without tensors."""
    folder = _shared("parity")
    return lambda group: json.loads((folder / f"{group}.json").read_text())


@pytest.fixture
def parity() -> Callable[[str], tuple[dict[str, Any], dict[str, torch.Tensor]]]:
    """Return ``load(group) -> (json, tensors)`` of numbers recorded from upstream."""
    from safetensors.torch import load_file

    folder = _shared("parity")

    def load(group: str) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
        meta = json.loads((folder / f"{group}.json").read_text())
        return meta, load_file(folder / f"{group}.safetensors")

    return load
