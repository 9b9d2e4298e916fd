"""Hugging Face configurations, made from the few numbers that matter for sessions.

This module imports transformers, so it is itself imported on first use only.
"""

from transformers4rec_ext.config._base import T4RecConfig, transformer_registry
from transformers4rec_ext.config._bert import (
    AlbertConfig,
    BertConfig,
    ElectraConfig,
    RobertaConfig,
)
from transformers4rec_ext.config._gpt2 import GPT2Config
from transformers4rec_ext.config._long import LongformerConfig, ReformerConfig
from transformers4rec_ext.config._transfo_xl import TransfoXLConfig
from transformers4rec_ext.config._xlnet import XLNetConfig

__all__ = [
    "AlbertConfig",
    "BertConfig",
    "ElectraConfig",
    "GPT2Config",
    "LongformerConfig",
    "ReformerConfig",
    "RobertaConfig",
    "T4RecConfig",
    "TransfoXLConfig",
    "XLNetConfig",
    "transformer_registry",
]
