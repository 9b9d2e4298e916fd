"""Configurations of transformers."""

from transformers4rec_ext._lazy import submodules

__getattr__ = submodules(__name__)
