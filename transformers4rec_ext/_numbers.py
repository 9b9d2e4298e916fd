"""What counts as a number where an argument is one: numpy's too, and no bool."""

from __future__ import annotations

from numbers import Integral, Real
from typing import Any


def is_integer(value: Any) -> bool:
    """Tell whether ``value`` is an integer of Python or numpy."""
    return isinstance(value, Integral) and not isinstance(value, bool)


def is_number(value: Any) -> bool:
    """Tell whether ``value`` is an integer or a floating number of Python or numpy."""
    return isinstance(value, Real) and not isinstance(value, bool)
