"""Sessions from parquet files: reading, the catalogue, the split, batches, synthetic sessions."""

from __future__ import annotations

from transformers4rec_ext.data.catalogue import Catalogue
from transformers4rec_ext.data.contexts import ContextBatch, Contexts, held_out, whole_sessions
from transformers4rec_ext.data.dataset import ParquetDataset
from transformers4rec_ext.data.embeddings import EmbeddingOperator
from transformers4rec_ext.data.files import RowGroup
from transformers4rec_ext.data.loader import SessionLoader
from transformers4rec_ext.data.parquet import ParquetSessions, SessionChunk
from transformers4rec_ext.data.parquet_loader import ParquetLoader
from transformers4rec_ext.data.split import padded, target_bounds, training_bounds, windows
from transformers4rec_ext.data.synthetic import synthetic_sessions, write_sessions
from transformers4rec_ext.data.testing import (
    music_streaming_testing_data,
    tabular_sequence_testing_data,
    tabular_testing_data,
)

__all__ = [
    "Catalogue",
    "ContextBatch",
    "Contexts",
    "EmbeddingOperator",
    "ParquetDataset",
    "ParquetLoader",
    "ParquetSessions",
    "RowGroup",
    "SessionChunk",
    "SessionLoader",
    "held_out",
    "music_streaming_testing_data",
    "padded",
    "synthetic_sessions",
    "tabular_sequence_testing_data",
    "tabular_testing_data",
    "target_bounds",
    "training_bounds",
    "whole_sessions",
    "windows",
    "write_sessions",
]
