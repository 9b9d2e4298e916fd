"""Parts of ours in the place of transformers' that serve only some of the cases."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

#: Types of models whose parts are exchanged: ``PARTS`` of the module of that name says for which.
_MODEL_TYPES = ("longformer", "reformer", "xlnet")


def exchange(transformer: Any, parts: Mapping[type, type]) -> None:
    """Make each module of a class in ``parts`` one of the class it maps to; its weights stay."""
    for module in transformer.modules():
        if type(module) in parts:
            module.__class__ = parts[type(module)]


def exchange_parts(transformer: Any) -> None:
    """Exchange what the type of ``transformer`` calls for, if anything."""
    model_type = transformer.config.model_type
    if model_type in _MODEL_TYPES:
        exchange(transformer, importlib.import_module(f"{__package__}.{model_type}").PARTS)
