"""Blocks: modules that know the size of what they return."""

from transformers4rec_ext._lazy import submodules

__getattr__ = submodules(__name__)
