"""Batches as dicts of columns: filter, merge, transform and aggregate them."""

from transformers4rec_ext._lazy import submodules

__getattr__ = submodules(__name__)
