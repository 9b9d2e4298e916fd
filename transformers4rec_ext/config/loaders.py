"""The names of data loaders, for ``T4RecTrainingArguments(data_loader_engine=...)``."""

from __future__ import annotations

from transformers4rec_ext.registry import Registry

dataloader_registry = Registry("data loader", home="transformers4rec_ext.utils.data_utils")
