"""Checks of arguments; each raises with the function's name and what to do."""

from __future__ import annotations

import math
import operator
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch._subclasses import FakeTensor
from torch.autograd import forward_ad

from transformers4rec_ext._errors import type_error, value_error
from transformers4rec_ext._numbers import is_number

_MAX_ITEMS = 2**53  # beyond it a class is no longer exact in float64


def describe(tensor: Any) -> str:
    """``float32 [4, 8]`` for a tensor, the type's name for anything else."""
    if not isinstance(tensor, Tensor):
        return type(tensor).__name__
    return f"{str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}"


def integer(function: str, argument: str, value: Any, *, minimum: int) -> int:
    """Return ``value`` as an int of at least ``minimum``."""
    if isinstance(value, bool):
        raise type_error(function, argument, "be an int", "bool")
    try:
        result = operator.index(value)
    except TypeError:
        raise type_error(function, argument, "be an int", type(value).__name__) from None
    if result < minimum:
        raise value_error(function, argument, f"be at least {minimum}", result)
    return result


def positive_or_none(function: str, argument: str, value: Any) -> None:
    """Raise unless ``value`` is None or an int of at least 1."""
    if value is not None:
        integer(function, argument, value, minimum=1)


def id_range(
    function: str, num_items: Any, min_id: Any, *, argument: str = "num_items"
) -> tuple[int, int]:
    """Return ``(num_items, min_id)`` with at least one id in ``[min_id, num_items)``."""
    min_id = integer(function, "min_id", min_id, minimum=0)
    num_items = integer(function, argument, num_items, minimum=1)
    if num_items <= min_id:
        hint = f"Ids lie in [min_id, {argument})."
        raise value_error(function, argument, f"exceed min_id={min_id}", num_items, hint)
    if num_items > _MAX_ITEMS:
        raise value_error(function, argument, "be at most 2^53", num_items)
    return num_items, min_id


def tensor(function: str, argument: str, value: Any) -> Tensor:
    """Return ``value`` if it is a tensor."""
    if not isinstance(value, Tensor):
        raise type_error(function, argument, "be a Tensor", type(value).__name__)
    return value


def int64(function: str, argument: str, value: Any) -> None:
    """Raise unless ``value`` is an int64 tensor."""
    if tensor(function, argument, value).dtype != torch.int64:
        hint = "Ids stay int64 from the loader to the kernel; pass them unchanged."
        raise type_error(function, argument, "be int64", describe(value), hint)


def integers(function: str, argument: str, values: Any) -> np.ndarray:
    """Return ``values`` as an int64 array, if they are such; a cast would change others."""
    array = np.asarray(values)
    if array.size and array.dtype.kind not in "iu":
        raise type_error(function, argument, "be integers", array.dtype)
    if array.size and array.dtype == np.uint64 and int(array.max()) >= 2**63:
        raise value_error(function, argument, "fit in 63 bits", int(array.max()))
    return array.astype(np.int64)


def ids_within(function: str, argument: str, ids: Tensor, low: int, high: int) -> None:
    """Raise if an id is outside ``[low, high)``; CPU only, where a look needs no host sync."""
    if not looking_is_free(ids) or ids.numel() == 0:
        return
    smallest, largest = (int(value) for value in torch.aminmax(ids))
    if smallest < low or largest >= high:
        got = smallest if smallest < low else largest
        hint = "The table is too small, or the ids are not the table's row numbers."
        raise value_error(function, argument, f"lie in [{low}, {high})", got, hint)


def values_within(function: str, argument: str, values: Tensor, low: float, high: float) -> None:
    """Raise if a value is outside ``[low, high]``, or none; CPU only, as :func:`ids_within`."""
    if not looking_is_free(values) or values.numel() == 0:
        return
    outside = ~((values >= low) & (values <= high))
    if bool(outside.any()):
        raise value_error(
            function, argument, f"lie in [{low:g}, {high:g}]", f"{values[outside][0].item():g}"
        )


def looking_is_free(ids: Tensor) -> bool:
    """Tell whether a look at values needs no host sync, and is possible: not inside torch.func."""
    return (
        ids.device.type == "cpu"
        and not torch.compiler.is_compiling()
        and not isinstance(ids, FakeTensor)
        and not torch._C._functorch.is_functorch_wrapped_tensor(ids)
    )


def only_backward(function: str, *tensors: Tensor) -> None:
    """Raise if ``torch.func`` or forward-mode AD is to differentiate an operator in ``tensors``.

    The operators have a backward only. Autograd would fail in its own words under
    ``torch.func.grad``, and give tangents of zero without a word in forward mode.
    """
    if torch.compiler.is_compiling():
        return
    for tensor in tensors:
        asked = forward_ad.unpack_dual(tensor).tangent is not None
        while not asked and torch._C._functorch.is_functorch_wrapped_tensor(tensor):
            asked = torch._C._functorch.is_gradtrackingtensor(tensor)
            tensor = torch._C._functorch.get_unwrapped(tensor)
        if asked:
            raise RuntimeError(
                f"{function}: its gradient must be asked for by backward() or torch.autograd.grad; "
                "got a transform of torch.func or forward-mode AD. Use backend='reference', which "
                "is plain PyTorch."
            )


def _matrix(function: str, argument: str, value: Any, shape: str) -> None:
    if not tensor(function, argument, value).is_floating_point():
        raise type_error(function, argument, f"be floating {shape}", describe(value))
    if value.dim() != 2:
        raise value_error(function, argument, f"be {shape}", describe(value))


# Sizes are put into words only where something is wrong: a size that torch.compile has made
# symbolic becomes a constant of the graph when it is.


def _vector(function: str, argument: str, value: Any, size: int, letter: str) -> None:
    if not tensor(function, argument, value).is_floating_point():
        raise type_error(function, argument, f"be floating [{letter}={size}]", describe(value))
    if value.dim() != 1 or value.shape[0] != size:
        raise value_error(function, argument, f"be [{letter}={size}]", describe(value))


def _ids(function: str, argument: str, value: Any, size: int | None, letter: str) -> None:
    int64(function, argument, value)
    if value.dim() != 1 or (size is not None and value.shape[0] != size):
        shape = f"[{letter}]" if size is None else f"[{letter}={size}]"
        raise value_error(function, argument, f"be int64 {shape}", describe(value))


def same_device(
    function: str,
    argument: str,
    value: Tensor | None,
    other: Tensor,
    name: str = "hidden",
    hint: str = "",
) -> None:
    """Raise unless ``value`` lies where ``other`` does, which is called ``name``."""
    if value is not None and value.device != other.device:
        expectation = f"be on {other.device} like {name}"
        raise value_error(function, argument, expectation, value.device, hint)


def _number(function: str, argument: str, value: Any) -> float:
    if not is_number(value):
        raise type_error(function, argument, "be a number", type(value).__name__)
    return float(value)


def finite(function: str, argument: str, value: Any) -> float:
    """Return ``value`` as a finite float."""
    result = _number(function, argument, value)
    if not abs(result) < math.inf:  # no math.isfinite: torch.compile has symbolic floats
        raise value_error(function, argument, "be finite", value)
    return result


def positive(function: str, argument: str, value: Any) -> float:
    """Return ``value`` as a float that is positive and finite."""
    result = _number(function, argument, value)
    if not 0 < result < math.inf:
        raise value_error(function, argument, "be positive and finite", value)
    return result


def not_negative(function: str, argument: str, value: Any) -> float:
    """Return ``value`` as a float that is finite and at least 0."""
    result = _number(function, argument, value)
    if not 0 <= result < math.inf:
        raise value_error(function, argument, "be finite and at least 0", value)
    return result


def fraction(function: str, argument: str, value: Any) -> float:
    """Return ``value`` as a float in [0, 1]."""
    result = _number(function, argument, value)
    if not 0 <= result <= 1:
        raise value_error(function, argument, "lie in [0, 1]", value)
    return result


def open_fraction(function: str, argument: str, value: Any) -> float:
    """Return ``value`` as a float in (0, 1)."""
    result = _number(function, argument, value)
    if not 0 < result < 1:
        raise value_error(function, argument, "lie in (0, 1)", value)
    return result


def item(function: str, argument: str, value: Any, num_items: int) -> int:
    """Return ``value`` as the id of one of ``num_items`` items."""
    result = integer(function, argument, value, minimum=0)
    if result >= num_items:
        raise value_error(function, argument, f"be below V={num_items}", result)
    return result


def full_arguments(function: str, hidden: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Check what the functions of all items take; return ``hidden`` in the compute dtype."""
    _table(function, hidden, weight)
    if weight.shape[0] == 0:
        raise value_error(function, "weight", "have at least one row", describe(weight))
    if bias is not None:
        _vector(function, "bias", bias, weight.shape[0], "V")
    same_device(function, "weight", weight, hidden)
    same_device(function, "bias", bias, hidden)
    return _compute_dtype(function, hidden, weight)


def targets(
    function: str, hidden: Tensor, value: Any, num_items: int, ignore_index: int | None
) -> None:
    """Raise unless ``value`` is int64 [N], each id in ``[0, num_items)`` or ``ignore_index``."""
    _ids(function, "targets", value, hidden.shape[0], "N")
    same_device(function, "targets", value, hidden)
    if ignore_index is not None and looking_is_free(value):
        value = value[value != ignore_index]
    ids_within(function, "targets", value, 0, num_items)


def _table(function: str, hidden: Tensor, weight: Tensor) -> None:
    _matrix(function, "hidden", hidden, "[N, D]")
    _matrix(function, "weight", weight, "[V, D]")
    width = hidden.shape[1]
    if weight.shape[1] != width:
        raise value_error(function, "weight", f"be [V, D={width}]", describe(weight))


def _compute_dtype(function: str, hidden: Tensor, weight: Tensor) -> Tensor:
    device = hidden.device.type
    lowers = not hidden.dtype == weight.dtype == torch.float64  # which autocast leaves as it is
    # meta has no autocast, and asking whether it is enabled there is an error; asking whether it
    # is available breaks the graph of torch.compile of torch 2.10
    if lowers and device != "meta" and torch.is_autocast_enabled(device):
        # weight is not cast: that would cost V x D; its rows are, where they are read
        return hidden.to(torch.get_autocast_dtype(device))
    if hidden.dtype != weight.dtype:
        hint = "Cast one of them, or use torch.autocast."
        got = f"{describe(hidden)} and {describe(weight)}"
        raise type_error(function, "hidden and weight", "share a dtype", got, hint)
    return hidden


def target_and_candidate_ids(
    function: str, targets: Any, candidate_ids: Any, num_rows: int
) -> None:
    """Raise unless the ids are int64, [N] of targets and [S] of candidates, S >= 1."""
    _ids(function, "targets", targets, num_rows, "N")
    _ids(function, "candidate_ids", candidate_ids, None, "S")
    if candidate_ids.shape[0] == 0:
        raise value_error(function, "candidate_ids", "hold at least one id", "S=0")


def sampled_arguments(
    function: str,
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    candidate_ids: Tensor,
    target_log_q: Tensor | None,
    candidate_log_q: Tensor | None,
    temperature: float,
) -> tuple[Tensor, tuple[Any, ...]]:
    """Check what the sampled functions take; return ``hidden`` in the compute dtype, the rest."""
    _table(function, hidden, weight)
    num_rows = hidden.shape[0]
    target_and_candidate_ids(function, targets, candidate_ids, num_rows)
    if target_log_q is not None:
        _vector(function, "target_log_q", target_log_q, num_rows, "N")
    if candidate_log_q is not None:
        _vector(function, "candidate_log_q", candidate_log_q, candidate_ids.shape[0], "S")
    for argument, value in (
        ("weight", weight),
        ("targets", targets),
        ("candidate_ids", candidate_ids),
        ("target_log_q", target_log_q),
        ("candidate_log_q", candidate_log_q),
    ):
        same_device(function, argument, value, hidden)
    temperature = positive(function, "temperature", temperature)
    ids_within(function, "targets", targets, 0, weight.shape[0])
    ids_within(function, "candidate_ids", candidate_ids, 0, weight.shape[0])
    hidden = _compute_dtype(function, hidden, weight)
    rest = (weight, targets, candidate_ids, target_log_q, candidate_log_q, temperature)
    return hidden, rest
