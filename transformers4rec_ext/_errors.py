"""Error messages of one form, so that every one says what was wrong and what to do."""

from __future__ import annotations


def _message(function: str, argument: str, expectation: str, got: object, hint: str) -> str:
    text = f"{function}: {argument} must {expectation}; got {got}."
    return f"{text} {hint}" if hint else text


def value_error(
    function: str, argument: str, expectation: str, got: object, hint: str = ""
) -> ValueError:
    """Return ``ValueError("{function}: {argument} must {expectation}; got {got}. {hint}")``."""
    return ValueError(_message(function, argument, expectation, got, hint))


def type_error(
    function: str, argument: str, expectation: str, got: object, hint: str = ""
) -> TypeError:
    """Return ``TypeError("{function}: {argument} must {expectation}; got {got}. {hint}")``."""
    return TypeError(_message(function, argument, expectation, got, hint))
