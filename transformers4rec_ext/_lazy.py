"""Names that a package or module is asked for and does not hold: submodules, upstream's names."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
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


def elsewhere(module: str, names: Mapping[str, str]) -> Callable[[str], Any]:
    """Return the ``__getattr__`` of ``module`` that says what to use for upstream's ``names``."""

    def __getattr__(name: str) -> Any:
        if name in names:
            raise AttributeError(f"{module} has no {name!r}. It is upstream's; {names[name]}.")
        raise AttributeError(f"module {module!r} has no attribute {name!r}")

    return __getattr__
