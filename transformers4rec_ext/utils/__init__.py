"""Helpers that upstream's users import: padding, shapes of schemas, random batches."""

from transformers4rec_ext._lazy import submodules

__getattr__ = submodules(__name__)
