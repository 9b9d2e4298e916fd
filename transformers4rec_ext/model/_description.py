"""A model in words: JSON from which it is built again, as it was built.

What is written are the calls that made the model, with their arguments (``_recipe``): the schema,
the features, blocks, heads and tasks. An object that is an argument twice, or part of another one
(``masking=inputs.masking``), is written once and referred to.

Reading calls classes by their names, so only those are called that describe models: this
package's, torch's modules and optimizers, Hugging Face configurations, torchmetrics, and those the
caller names.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import json
from collections.abc import Iterable, Mapping
from enum import Enum
from typing import Any

import numpy as np
import torch

from transformers4rec_ext._errors import value_error
from transformers4rec_ext._recipe import Recorded, calls_of, may_be_called
from transformers4rec_ext.schema import Schema, as_schema

_MODULES = ("transformers4rec_ext", "torch", "transformers", "torchmetrics")
_PLAIN = (bool, int, float, str, type(None))


class Writer:
    """Turns objects into JSON, and their tensors into ``tensors``."""

    def __init__(self) -> None:
        self.tensors: dict[str, torch.Tensor] = {}
        self._known: dict[int, dict[str, Any]] = {}
        self._alive: list[Any] = []  # an id is an object's only while the object lives
        self._written = 0

    def write(self, value: Any) -> Any:
        """Return the JSON of ``value``; ValueError if it cannot be written."""
        if type(value) in _PLAIN:
            return value
        if isinstance(value, np.generic):
            return value.item()
        if id(value) in self._known:
            return self._known[id(value)]
        if isinstance(value, Enum):
            return {"enum": _path(type(value)), "value": value.value}
        if isinstance(value, list):
            return [self.write(item) for item in value]
        if isinstance(value, tuple):
            return {"tuple": [self.write(item) for item in value]}
        if isinstance(value, Schema) or _is_foreign_schema(value):
            return {"schema": json.loads(as_schema(value).to_json())}
        if isinstance(value, torch.Tensor | np.ndarray):
            name = f"argument.{len(self.tensors)}"
            self.tensors[name] = torch.as_tensor(value).detach()
            return {"tensor": name}
        if isinstance(value, functools.partial):
            parts = (value.func, list(value.args), dict(value.keywords))
            return {"partial": [self.write(part) for part in parts]}
        if isinstance(value, type) or (callable(value) and not isinstance(value, torch.nn.Module)):
            return {"name": _path(value)}
        if isinstance(value, Mapping) and not isinstance(value, torch.nn.Module):
            return {"dict": [[self.write(k), self.write(v)] for k, v in value.items()]}
        return self._object(value)

    def _object(self, value: Any) -> dict[str, Any]:
        node: dict[str, Any] = {"class": _path(type(value))}
        if isinstance(value, Recorded):
            node["calls"] = [
                [call.name, [self.write(arg) for arg in call.args], self._named(call.kwargs)]
                for call in calls_of(value)
            ]
            node["settings"] = self._named({key: getattr(value, key) for key in value.settings})
        elif _is_config(value):
            node["config"] = json.loads(value.to_json_string(use_diff=False))
        elif isinstance(value, torch.nn.Module) and _is_config(getattr(value, "config", None)):
            node["model_of"] = self.write(value.config)
        else:
            node["calls"] = [["__init__", [], self._named(_arguments(value))]]
        number, self._written = self._written, self._written + 1
        self._remember(value, number)
        return {"number": number, **node}

    def _named(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        return {name: self.write(value) for name, value in arguments.items()}

    def _remember(self, value: Any, number: int) -> None:
        parts = value.named_modules() if isinstance(value, torch.nn.Module) else [("", value)]
        for path, part in parts:
            self._known.setdefault(id(part), {"object": number, "part": path})
            self._alive.append(part)


class Reader:
    """Builds again what :class:`Writer` wrote."""

    def __init__(self, tensors: Mapping[str, torch.Tensor], classes: Iterable[Any] = ()) -> None:
        self._tensors = tensors
        self._classes = {_path(cls): cls for cls in classes}
        self._made: dict[int, Any] = {}

    def read(self, node: Any) -> Any:
        """Return the object of a node; ValueError if a name in it is not to be called."""
        if isinstance(node, list):
            return [self.read(item) for item in node]
        if not isinstance(node, dict):
            return node
        if "object" in node:
            made = self._made[node["object"]]
            return made.get_submodule(node["part"]) if node["part"] else made
        if "enum" in node:
            return self._name(node["enum"])(node["value"])
        if "tuple" in node:
            return tuple(self.read(node["tuple"]))
        if "schema" in node:
            return Schema.from_json(json.dumps(node["schema"]))
        if "tensor" in node:
            return self._tensors[node["tensor"]]
        if "partial" in node:
            function, args, kwargs = (self.read(part) for part in node["partial"])
            return functools.partial(function, *args, **kwargs)
        if "name" in node:
            return self._name(node["name"])
        if "dict" in node:
            return {self.read(key): self.read(value) for key, value in node["dict"]}
        made = self._made[node["number"]] = self._object(node)
        return made

    def _object(self, node: dict[str, Any]) -> Any:
        cls = self._name(node["class"])
        if "config" in node:
            return cls.from_dict(node["config"])
        if "model_of" in node:
            return cls(self.read(node["model_of"]))
        made: Any = None
        for name, args, kwargs in node["calls"]:
            if not may_be_called(cls, name):
                raise _refused(f"{node['class']}.{name}")
            arguments = [self.read(arg) for arg in args]
            named = {key: self.read(value) for key, value in kwargs.items()}
            if made is None:
                make = cls if name == "__init__" else getattr(cls, name)
                made = make(*arguments, **named)
            else:
                getattr(made, name)(*arguments, **named)
        for name, value in node.get("settings", {}).items():
            if name not in getattr(cls, "settings", ()):
                raise _refused(f"{node['class']}.{name}")
            setattr(made, name, self.read(value))
        return made

    def _name(self, path: str) -> Any:
        if path in self._classes:
            return self._classes[path]
        module, _, name = path.partition(":")
        if module.split(".")[0] not in _MODULES:
            raise _refused(path)
        found: Any = importlib.import_module(module)
        for part in name.split("."):
            found = getattr(found, part, None)
            if inspect.ismodule(found):  # from which a name leads to all that it imports
                raise _refused(path)
        initializer = inspect.isfunction(found) and found.__module__ == "torch.nn.init"
        if not (_describes(found) or initializer):
            raise _refused(path)
        return found


def _describes(found: Any) -> bool:
    """Tell whether a name in a description may be called: a class that models are made of."""
    if not isinstance(found, type):
        return False
    bases = (Recorded, Enum, torch.nn.Module, torch.optim.Optimizer)
    return issubclass(found, bases) or _is_config(found)


def _is_foreign_schema(value: Any) -> bool:
    """Tell whether ``value`` is a schema of merlin or of tensorflow_metadata."""
    return hasattr(value, "column_schemas") or hasattr(value, "SerializeToString")


def _is_config(value: Any) -> bool:
    """Tell whether ``value`` is a Hugging Face configuration, or a class of them."""
    return hasattr(value, "to_diff_dict")


def _path(named: Any) -> str:
    """Return ``module:name`` of a class or function that can be found by it."""
    module, name = getattr(named, "__module__", None), getattr(named, "__qualname__", "<lambda>")
    if module is None or "<" in name:
        raise _unwritable(f"{named!r}, which has no name to find it by")
    return f"{module}:{name}"


def _arguments(module: Any) -> dict[str, Any]:
    """Return the constructor's arguments of a module of torch or torchmetrics, read off it."""
    if not isinstance(module, torch.nn.Module) or (
        type(module).__module__.split(".")[0] not in ("torch", "torchmetrics")
    ):
        raise _unwritable(
            f"a {type(module).__name__}, whose class does not derive from "
            "transformers4rec_ext.BlockBase"
        )
    arguments = {}
    for name, parameter in inspect.signature(type(module)).parameters.items():
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            continue
        if name == "bias":
            arguments[name] = getattr(module, name, None) is not None
        elif hasattr(module, name):
            arguments[name] = getattr(module, name)
        elif parameter.default is parameter.empty:
            raise _unwritable(f"a {type(module).__name__}, whose {name!r} is not kept")
    return arguments


def _unwritable(what: str) -> ValueError:
    return value_error(
        "Model.save_pretrained",
        "model",
        "be made of named classes and values",
        what,
        "Model.save writes the weights of any model.",
    )


def _refused(path: str) -> ValueError:
    return value_error(
        "Model.from_pretrained",
        "config.json",
        "name classes that models are made of",
        repr(path),
        "If it is a class of yours, give it: classes=[...].",
    )
