"""State in a file: safetensors, streamed both ways, written whole or not at all.

Any safetensors reader opens the files. Tensors have the names of their places in the state
(``model.heads.0...``, ``optimizer.state.0.exp_avg``); what safetensors does not know (numbers,
strings, containers, which names are one tensor) is JSON in the metadata. Written here and not by
``safetensors.torch.save_file``, which copies the tensors in older releases and takes neither tied
nor non-contiguous ones in any.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from transformers4rec_ext._errors import type_error, value_error
from transformers4rec_ext._files import atomic_path

_STATE = "transformers4rec_ext.state"
_METADATA = "__metadata__"
_PIECE_BYTES = 8 << 20
_HEADER_BYTES = 100_000_000 - 8  # what readers of safetensors accept, less the padding
_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
_NAMES = {dtype: name for name, dtype in _DTYPES.items()}


def save_state(path: str | os.PathLike[str], state: Mapping[Any, Any]) -> None:
    """Write ``state`` atomically to a safetensors file.

    A tensor that stands in several places is written once. Nothing of the size of a tensor is
    allocated: it goes to the file in pieces of 8 MiB, from whatever device it is on.

    Parameters
    ----------
    path : path-like
        The file; its folder must exist.
    state : dict
        Dense tensors, numbers, strings, None, and dicts (keys str or int), lists and tuples of
        them: a module's or an optimizer's ``state_dict()``, or a dict of several. Subclasses come
        back as plain dict, list and tuple, tensors as CPU tensors without their strides. Views
        that share memory without being the same tensor are written each.

    Raises
    ------
    TypeError
        If ``state`` holds something else.
    ValueError
        If two tensors get the same name, as in ``{"a.b": x, "a": {"b": y}}``, or what is not
        tensors needs more than 100 MB.
    OSError
        If the file cannot be written, for example on a full disk; an earlier file is unchanged.
    """
    if not isinstance(state, Mapping):
        raise type_error("save_state", "state", "be a dictionary", type(state).__name__)
    tensors: dict[str, Tensor] = {}
    tree = _encode(state, "", tensors, {})
    # Wide elements first, after a header of a multiple of 8 bytes: readers that map the file into
    # memory need each tensor at a multiple of its element's size.
    names = sorted(tensors, key=lambda name: (-tensors[name].element_size(), name))
    header = _header(json.dumps(tree), {name: tensors[name] for name in names})
    try:
        with atomic_path(path) as temporary, open(temporary, "wb") as file:
            file.write(len(header).to_bytes(8, "little") + header)
            for name in names:
                for piece in _pieces(tensors[name]):
                    file.write(_as_bytes(piece.contiguous().cpu()))
    except OSError as error:
        raise _not_written(path, error) from error


def load_state(path: str | os.PathLike[str]) -> dict[Any, Any]:
    """Read all that :func:`save_state` wrote into new CPU tensors.

    What was one tensor in several places is one again.

    Raises
    ------
    FileNotFoundError
        If ``path`` is absent.
    ValueError
        If the file is truncated or something else.
    """
    with open_state(path) as file:
        state: dict[Any, Any] = file.read()
    return state


@contextlib.contextmanager
def open_state(path: str | os.PathLike[str]) -> Iterator[StateFile]:
    """Open a file of :func:`save_state` whose tensors stay on the disk until they are asked for.

    Raises
    ------
    FileNotFoundError
        If ``path`` is absent.
    ValueError
        If the file is truncated or something else.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"load_state: path must exist; {path} does not.")
    with open(path, "rb") as file:
        yield StateFile(Path(path), file, _read_header(Path(path), file))


@dataclass(frozen=True)
class _Stored:
    """A tensor that is in the file."""

    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]
    start: int


@dataclass(frozen=True)
class StateFile:
    """What :func:`open_state` yields: reads a part of the state, or fills tensors with it."""

    path: Path
    file: BinaryIO
    state: dict[Any, Any]

    def read(self, *keys: Any) -> Any:
        """Return ``state[keys[0]][keys[1]]...`` with new CPU tensors.

        Raises
        ------
        ValueError
            If there is no such part, or the file ends early.
        """
        made: dict[str, Tensor] = {}

        def read(node: Any) -> Any:
            if isinstance(node, _Stored):
                if node.name not in made:
                    made[node.name] = torch.empty(node.shape, dtype=node.dtype)
                    self._copy(node, made[node.name])
                return made[node.name]
            if isinstance(node, dict):
                return {key: read(value) for key, value in node.items()}
            if isinstance(node, list | tuple):
                return type(node)(read(value) for value in node)
            return node

        return read(self._part(keys))

    def fill(self, tensors: Mapping[str, Tensor], *keys: Any) -> None:
        """Overwrite ``tensors``, such as ``module.state_dict()``, with a part of the state.

        Nothing of the size of a tensor is allocated. Values are converted to the dtype of the
        tensor that receives them.

        Parameters
        ----------
        tensors : dict from str to Tensor
            Of any device and strides.
        *keys
            Where in the state the dictionary is that holds the values.

        Raises
        ------
        ValueError
            If names or shapes differ from those in the file, or names that are one tensor here
            are several there: nothing is changed then. Or if the file ends early.
        """
        stored = self._part(keys)
        if not isinstance(stored, dict):
            got = f"{type(stored).__name__} in {self.path}"
            raise value_error("load_state", "file", f"hold a dictionary at {keys}", got)
        sources: dict[tuple[Any, ...], _Stored] = {}
        wrong = [f"no {name}" for name in tensors if name not in stored]
        wrong += [f"an unexpected {name}" for name in stored if name not in tensors]
        for name in (name for name in tensors if name in stored):
            tensor, source = tensors[name], stored[name]
            shapes = [tuple(getattr(value, "shape", ["no tensor"])) for value in (source, tensor)]
            if not isinstance(source, _Stored) or shapes[0] != shapes[1]:
                wrong.append(f"{name} {shapes[0]} instead of {shapes[1]}")
            elif sources.setdefault(_identity(tensor, name), source) != source:
                wrong.append(f"{name} not tied")
        if wrong:
            got = f"{self.path} with {', '.join(sorted(wrong)[:5])}"
            raise value_error("load_state", "file", "have the tensors of the model", got)
        for name, tensor in tensors.items():
            source = sources.pop(_identity(tensor, name), None)
            if source is not None:
                self._copy(source, tensor)

    def _part(self, keys: tuple[Any, ...]) -> Any:
        node: Any = self.state
        for key in keys:
            if not isinstance(node, dict) or key not in node:
                raise value_error("load_state", "file", f"hold {key!r}", self.path)
            node = node[key]
        return node

    def _copy(self, source: _Stored, tensor: Tensor) -> None:
        self.file.seek(source.start)
        for piece in _pieces(tensor.detach()):
            direct = piece.dtype == source.dtype and piece.is_cpu and piece.is_contiguous()
            values = piece if direct else torch.empty(piece.shape, dtype=source.dtype)
            if self.file.readinto(_as_bytes(values)) != values.nbytes:  # type: ignore[attr-defined]
                raise _damaged(self.path, f"it ends within {source.name}")
            if not direct:
                piece.copy_(values)


def _encode(
    value: Any, place: str, tensors: dict[str, Tensor], names: dict[tuple[Any, ...], str]
) -> Any:
    """Return ``value`` as JSON; put its tensors into ``tensors``, each once, by place."""
    if isinstance(value, Tensor):
        return {"tensor": _add(value, place, tensors, names)}
    prefix = f"{place}." if place else ""
    if isinstance(value, Mapping):
        for key in value:
            if type(key) not in (str, int):
                raise type_error(
                    "save_state", f"state {place}".strip(), "have keys str or int", repr(key)
                )
        items = [[key, _encode(v, f"{prefix}{key}", tensors, names)] for key, v in value.items()]
        return {"dict": items}
    if isinstance(value, list | tuple):
        kind = "list" if isinstance(value, list) else "tuple"
        return {kind: [_encode(v, f"{prefix}{i}", tensors, names) for i, v in enumerate(value)]}
    if value is None or isinstance(value, bool | int | float | str):
        return value
    expected = "be a tensor, number, string, None, dict, list or tuple"
    raise type_error("save_state", f"state {place}", expected, type(value).__name__)


def _add(
    tensor: Tensor, place: str, tensors: dict[str, Tensor], names: dict[tuple[Any, ...], str]
) -> str:
    """Return the name under which ``tensors`` has a tensor, after adding it if it is new."""
    if tensor.layout != torch.strided or tensor.is_meta or tensor.dtype not in _NAMES:
        got = f"{tensor.dtype} {tensor.layout} on {tensor.device}"
        raise type_error("save_state", f"state {place}", "be a dense tensor of real numbers", got)
    name = names.setdefault(_identity(tensor, place), place)
    if name == place:
        if name in tensors or name == _METADATA:
            expected = "give each tensor a name of its own"
            raise value_error("save_state", "state", expected, repr(name))
        tensors[name] = tensor.detach()
    return name


def _header(tree: str, tensors: dict[str, Tensor]) -> bytes:
    """Return the JSON before the data of ``tensors``, which follow one another."""
    header: dict[str, Any] = {_METADATA: {"format": "pt", _STATE: tree}}
    end = 0
    for name, tensor in tensors.items():
        start, end = end, end + tensor.nbytes
        known = {"dtype": _NAMES[tensor.dtype], "shape": list(tensor.shape)}
        header[name] = {**known, "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    if len(text) > _HEADER_BYTES:
        expected = f"need at most {_HEADER_BYTES:,} bytes without its tensors' values"
        raise value_error("save_state", "state", expected, f"{len(text):,}")
    return text + b" " * (-len(text) % 8)


def _decode(node: Any, stored: dict[str, _Stored]) -> Any:
    """Return what :func:`_encode` was given, with the tensors of ``stored``."""
    if not isinstance(node, dict):
        return node
    ((kind, value),) = node.items()
    if kind == "tensor":
        return stored[value]
    if kind == "dict":
        return {key: _decode(item, stored) for key, item in value}
    return {"list": list, "tuple": tuple}[kind](_decode(item, stored) for item in value)


def _read_header(path: Path, file: BinaryIO) -> dict[Any, Any]:
    from safetensors import SafetensorError, safe_open

    try:
        # Checks all of the header against the file's size; what follows can rely on it.
        with safe_open(path, framework="np"):
            length = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(length))
        tree = json.loads(header.pop(_METADATA, {})[_STATE])
        stored = {
            name: _Stored(
                name,
                _DTYPES[known["dtype"]],
                tuple(known["shape"]),
                8 + length + known["data_offsets"][0],
            )
            for name, known in header.items()
        }
        state: dict[Any, Any] = _decode(tree, stored)
    except SafetensorError as error:
        raise _damaged(path, str(error)) from error
    except (KeyError, TypeError, ValueError) as error:
        raise _damaged(path, f"another program's safetensors; {error!r}") from error
    return state


def _pieces(tensor: Tensor) -> Iterator[Tensor]:
    """Yield views of at most 8 MiB that make up a tensor, in row-major order."""
    if tensor.nbytes <= _PIECE_BYTES:
        yield tensor
        return
    rows = _PIECE_BYTES * len(tensor) // tensor.nbytes
    if rows:
        yield from tensor.split(rows)
    else:
        for row in tensor:
            yield from _pieces(row)


def _as_bytes(tensor: Tensor) -> Any:
    """Return the memory of a contiguous CPU tensor as an array of bytes."""
    # not view(-1): a single element may have any stride, and then has no view as bytes
    return tensor.as_strided((tensor.numel(),), (1,)).view(torch.uint8).numpy()


def _identity(tensor: Tensor, name: str) -> tuple[Any, ...]:
    """Return what tensors with the same elements in the same memory have in common."""
    if not tensor.numel():
        return (name,)  # has no memory to share
    return (tensor.device, tensor.data_ptr(), tensor.dtype, tensor.shape, tensor.stride())


def _not_written(path: str | os.PathLike[str], error: OSError) -> OSError:
    reason = os.strerror(error.errno) if error.errno else str(error)
    text = f"save_state: {path} could not be written ({reason}); an earlier file is unchanged."
    wrapped = OSError(text)
    wrapped.errno = error.errno
    return wrapped


def _damaged(path: Path, reason: str) -> ValueError:
    got = f"{path} ({' '.join(reason.split())[:200]})"
    return value_error("load_state", "path", "be a complete file of save_state", got)
