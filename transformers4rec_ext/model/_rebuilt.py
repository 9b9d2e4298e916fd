"""Whether a model that was built again is the one it was built from."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from transformers4rec_ext._errors import value_error
from transformers4rec_ext._numbers import is_number
from transformers4rec_ext._recipe import Recorded

_WITHOUT_COUNTERS = ("transformers4rec_ext", "torch", "torchmetrics")
#: From so many elements on a tensor is made without memory: no layer of a body has them (of GPT-2
#: from a width of 5,793 on), item tables do.
_LARGE = 2**27


class _LargeOnMeta(TorchFunctionMode):
    """Makes ``torch.empty`` and its like of large sizes on the meta device."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        if func in (torch.empty, torch.zeros, torch.ones, torch.randn) and _size(args) >= _LARGE:
            kwargs["device"] = "meta"
        return func(*args, **kwargs)


def _size(args: tuple[Any, ...]) -> int:
    sizes = args[0] if args and isinstance(args[0], tuple | list) else args
    size = 1
    for length in sizes:
        size *= int(length)
    return size


@contextmanager
def without_large_tensors() -> Iterator[None]:
    """Build modules whose large tables take no memory, and leave torch's random state alone."""
    with torch.random.fork_rng(devices=[]), _LargeOnMeta():
        yield


def check_same(model: torch.nn.Module, rebuilt: torch.nn.Module) -> None:
    """Raise ValueError unless both have the same modules, and parameters of the same shapes."""
    views: tuple[Callable[[torch.nn.Module], list[str]], ...] = (_modules, _parameters)
    for view in views:
        own, other = view(model), view(rebuilt)
        if own == other:
            continue
        differing = [line for line in own if line not in set(other)]
        missing = [line for line in other if line not in set(own)]
        _refuse(
            (missing or ["what it no longer has"])[0], (differing or ["nothing in its place"])[0]
        )
    others = dict(rebuilt.named_modules(remove_duplicate=False))
    for path, module in model.named_modules(remove_duplicate=False):
        for name, value in _numbers(others[path]).items():
            own = vars(module).get(name)
            of_a_batch = value in (None, []) and not _is_plain(own)
            if not of_a_batch and not (_is_plain(own) and own == value):
                prefix = f"{path}.{name}".lstrip(".")
                _refuse(f"{prefix}={value!r}", f"{prefix}={own!r}")


def _refuse(rebuilt: str, own: str) -> None:
    raise value_error(
        "Model.save_pretrained",
        "model",
        f"be as it was made: its arguments alone would give {rebuilt!r}",
        repr(own),
        "A part was changed by hand; give the constructor what it should be. Model.save writes "
        "the weights as they are.",
    )


def _numbers(module: torch.nn.Module) -> dict[str, Any]:
    """Return a module's plain values that say what it computes.

    Of this package's modules, torch's and torchmetrics', which count nothing under a public name;
    Hugging Face's write seeds and switches there, and a caller's own whatever he likes.
    """
    if type(module).__module__.partition(".")[0] not in _WITHOUT_COUNTERS:
        return {}
    settings = module.settings if isinstance(module, Recorded) else ()  # are written as they are
    return {
        name: value
        for name, value in vars(module).items()
        if _is_plain(value) and not name.startswith("_") and name not in ("training", *settings)
    }


def _is_plain(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return all(_is_plain(item) for item in value)
    return value is None or isinstance(value, bool | str) or is_number(value)


def _modules(model: torch.nn.Module) -> list[str]:
    """Return a line for each module: its path, class and what it says of itself."""
    return [
        f"{path}: {type(module).__name__}({module.extra_repr()})"
        for path, module in model.named_modules(remove_duplicate=False)
    ]


def _parameters(model: torch.nn.Module) -> list[str]:
    """Return a line for each key of the state_dict; tensors of several keys show as such."""
    first: dict[int, str] = {}
    return [
        f"{key}: {list(tensor.shape)} of {first.setdefault(id(tensor), key)}"
        for key, tensor in model.state_dict(keep_vars=True).items()
    ]


def parameter_settings(model: torch.nn.Module, rebuilt: torch.nn.Module) -> dict[str, Any]:
    """Return ``{name: [dtype, requires_grad]}`` of the parameters in which they differ.

    Of buffers, those that are not saved as well: numbers of a batch take the dtype of one.
    """
    settings = {}
    others = {**dict(rebuilt.named_parameters()), **dict(rebuilt.named_buffers())}
    for name, parameter in (*model.named_parameters(), *model.named_buffers()):
        other = others.get(name)
        if other is None:  # a buffer of the caller's own, which is not saved
            continue
        if (parameter.dtype, parameter.requires_grad) != (other.dtype, other.requires_grad):
            dtype = str(parameter.dtype).removeprefix("torch.")
            settings[name] = [dtype, parameter.requires_grad]
    return settings


def set_parameters(model: torch.nn.Module, settings: dict[str, Any]) -> None:
    """Give the tensors named in ``settings`` the dtype and ``requires_grad`` said there."""
    parameters = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    for name, (dtype, requires_grad) in settings.items():
        parameters[name].data = parameters[name].data.to(getattr(torch, dtype))
        parameters[name].requires_grad_(requires_grad)
