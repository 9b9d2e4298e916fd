"""A pytest plugin: the CUDA kernels and their bindings, on the host's tensors, as the CPU kernels.

``python -m pytest -p emulated_bindings`` (with this folder on PYTHONPATH) loads, in place of the
native library, all of ``csrc/bind_*_cuda.cpp`` over all of ``csrc/cuda``, built with the emulation
for the CPU key: whatever a test calls on CPU tensors then runs as it would on a device.
"""

from __future__ import annotations

import emulated_build
import pytest

from transformers4rec_ext import _native


@pytest.hookimpl(tryfirst=True)  # before tests/conftest.py loads the package's own library
def pytest_configure() -> None:
    """Choose the library; importing this file, as a collection of doctests does, must not."""
    _native._find = lambda folder: emulated_build.bound()
