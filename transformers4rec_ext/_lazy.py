"""Submodules of a package that are imported when they are first asked for."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any


def submodules(package: str) -> Callable[[str], Any]:
    """Return the ``__getattr__`` of ``package`` that imports its submodules.

    So ``tr.utils.padding`` is there after ``import transformers4rec_ext as tr``.
    """

    def __getattr__(name: str) -> Any:
        module = f"{package}.{name}"
        if not name.startswith("_"):
            try:
                return importlib.import_module(module)
            except ModuleNotFoundError as error:
                if error.name != module:
                    raise
        raise AttributeError(f"module {package!r} has no attribute {name!r}")

    return __getattr__
