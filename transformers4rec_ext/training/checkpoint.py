"""State of a run on disk: written whole or not at all, and checked when read."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch

from transformers4rec_ext._errors import value_error
from transformers4rec_ext._files import atomic_path


def save_state(path: str | os.PathLike[str], state: dict[str, Any]) -> None:
    """Write ``state`` (tensors, numbers, strings and containers of them) atomically.

    Raises
    ------
    OSError
        If it cannot be written, for example on a full disk; the earlier file is unchanged.
    """
    try:
        with atomic_path(path) as temporary, open(temporary, "wb") as file:
            torch.save(state, file)
    except OSError as error:
        raise _not_written(path, error) from error
    except RuntimeError as error:
        # torch's zip writer hides the OSError of the file in its own RuntimeError.
        cause = error.__cause__ or error.__context__
        raise _not_written(path, cause if isinstance(cause, OSError) else error) from error


def _not_written(path: str | os.PathLike[str], error: Exception) -> OSError:
    number = error.errno if isinstance(error, OSError) else None
    reason = os.strerror(number) if number else " ".join(str(error).split())[:200]
    text = f"save_state: {path} could not be written ({reason}); an earlier file is unchanged."
    wrapped = OSError(text)
    wrapped.errno = number
    return wrapped


def load_state(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read what :func:`save_state` wrote, without running any code of the file.

    Raises
    ------
    FileNotFoundError
        If ``path`` is absent.
    ValueError
        If the file is truncated or something else.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"load_state: path must exist; {path} does not.")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        # torch.load raises RuntimeError, UnpicklingError, EOFError, ... by the kind of damage.
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise value_error(
            "load_state", "path", "be a complete file of save_state", f"{path} ({reason})"
        ) from error
    if not isinstance(state, dict):
        raise value_error("load_state", "path", "hold a dictionary", type(state).__name__)
    return state
