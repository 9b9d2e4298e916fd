"""Input blocks: from a batch of columns to vectors."""

from transformers4rec_ext._lazy import submodules

__getattr__ = submodules(__name__)
