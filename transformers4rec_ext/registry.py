"""Names for classes, so that ``masking="clm"`` means ``CausalLanguageModeling``."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from transformers4rec_ext._errors import value_error

ClassT = TypeVar("ClassT", bound=type)


class Registry:
    """A table from name to class.

    Parameters
    ----------
    name : str
        What the registry holds; appears in its errors.
    instantiate : bool
        Whether names stand for an instance made without arguments, a new one at each look-up,
        instead of for the class.
    home : str, optional
        The module that registers the names of this package; imported before the first look-up.

    Examples
    --------
    >>> shapes = Registry("shape")
    >>> @shapes.register_with_multiple_names("circle", "round")
    ... class Circle: ...
    >>> shapes.parse("round") is Circle
    True
    """

    def __init__(self, name: str, *, instantiate: bool = False, home: str | None = None) -> None:
        self.name = name
        self._home = home
        self._instantiate = instantiate
        self._classes: dict[str, type] = {}

    def register_with_multiple_names(self, *names: str) -> Callable[[ClassT], ClassT]:
        """Return a class decorator that files the class under each of ``names``, in any case."""
        keys = [name.lower() for name in names]

        def register(cls: ClassT) -> ClassT:
            if taken := [name for name in keys if name in self._classes]:
                raise value_error(
                    "register", "names", f"be free in the {self.name} registry", repr(taken[0])
                )
            self._classes |= dict.fromkeys(keys, cls)
            return cls

        return register

    def register(self, name: str) -> Callable[[ClassT], ClassT]:
        """Return a class decorator that files the class under ``name``."""
        return self.register_with_multiple_names(name)

    def parse(self, name_or_object: Any) -> Any:
        """Return what ``name_or_object`` names; anything but a ``str`` is returned unchanged."""
        if not isinstance(name_or_object, str):
            return name_or_object
        try:
            cls = self._known()[name_or_object.lower()]
        except KeyError:
            raise value_error(
                "parse",
                "name",
                f"be a registered {self.name}",
                repr(name_or_object),
                f"Known names: {', '.join(self.names())}.",
            ) from None
        return self._made(cls)

    def names(self) -> list[str]:
        """Return all registered names, sorted."""
        return sorted(self._known())

    def keys(self) -> list[str]:
        """Return all registered names, sorted: :meth:`names` as upstream calls it."""
        return self.names()

    def get(self, name: str, default: Any = None) -> Any:
        """Return what :meth:`parse` returns for ``name``, or ``default``."""
        cls = self._known().get(name.lower())
        return default if cls is None else self._made(cls)

    def __getitem__(self, name: str) -> Any:
        return self._made(self._known()[name.lower()])

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and name.lower() in self._known()

    def __iter__(self) -> Iterator[str]:
        return iter(self.names())

    def __len__(self) -> int:
        return len(self._known())

    def _made(self, cls: type) -> Any:
        return cls() if self._instantiate else cls

    def _known(self) -> dict[str, type]:
        if self._home is not None:
            importlib.import_module(self._home)
        return self._classes
