"""Objects that remember how they were made, so that a file can say it.

A class derives from :class:`Recorded`, and the arguments of its constructor are kept. Class methods
that make an object (``@builder``) and methods that change one for good (``@recorded``) take the
constructor's place, or follow it. Calls that such a call makes itself are not recorded: repeating
the outer one repeats them. ``model/_description.py`` writes and reads what is recorded here.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar, cast

#: The attribute that holds an object's recipe, and the one that marks what may be in it.
_RECIPE = "_recipe"
_MARK = "_is_recorded"

_Function = TypeVar("_Function", bound=Callable[..., Any])


class Call(NamedTuple):
    """A call of a method, by name; ``__init__`` stands for the constructor."""

    name: str
    args: tuple[Any, ...]
    kwargs: dict[str, Any]


class _Recipe:
    def __init__(self, *calls: Call) -> None:
        self.calls = list(calls)
        self.running = False


def recorded(method: _Function) -> _Function:
    """Decorate a method, such as a setter, that belongs to how an object was made."""

    @functools.wraps(method)
    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        # Past nn.Module.__setattr__, which works only after its constructor.
        recipe = self.__dict__.get(_RECIPE)
        if recipe is None:
            recipe = _Recipe()
            object.__setattr__(self, _RECIPE, recipe)
        if recipe.running:
            return method(self, *args, **kwargs)
        recipe.running = True
        try:
            result = method(self, *args, **kwargs)
        finally:
            recipe.running = False
        recipe.calls.append(Call(method.__name__, args, kwargs))
        return result

    setattr(call, _MARK, True)
    return cast(_Function, call)


def builder(method: _Function) -> _Function:
    """Decorate the function of a class method that makes an object (or None)."""

    @functools.wraps(method)
    def call(cls: type, *args: Any, **kwargs: Any) -> Any:
        made = method(cls, *args, **kwargs)
        if made is not None:
            made.__dict__[_RECIPE] = _Recipe(Call(method.__name__, args, kwargs))
        return made

    setattr(call, _MARK, True)
    return cast(_Function, call)


class Recorded:
    """Base of the classes whose objects remember how they were made."""

    #: Attributes that may be assigned later, and are written as they are then.
    settings: tuple[str, ...] = ()

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "__init__" in vars(cls):
            cls.__init__ = recorded(vars(cls)["__init__"])  # type: ignore[method-assign]


def calls_of(made: Recorded) -> list[Call]:
    """Return the calls that make an object like ``made``, the first of which makes it."""
    recipe = vars(made).get(_RECIPE)
    # A class without a constructor of its own takes no arguments.
    return list(recipe.calls) if recipe is not None else [Call("__init__", (), {})]


def may_be_called(cls: type, name: str) -> bool:
    """Tell whether a recipe may say to call ``cls.name``."""
    return name == "__init__" or hasattr(getattr(cls, name, None), _MARK)
