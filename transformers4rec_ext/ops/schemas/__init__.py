"""All operators: schema, implementation, fake kernel and autograd formula, for all devices."""

from __future__ import annotations

from transformers4rec_ext.ops.schemas import items, log_uniform, rows, sampled, weighted
from transformers4rec_ext.ops.schemas.library import DEFINED, operators

__all__ = ["DEFINED", "items", "log_uniform", "operators", "rows", "sampled", "weighted"]
