"""Everything that embeds a column, at upstream's import path."""

from __future__ import annotations

from transformers4rec_ext.features.lookup import EmbeddingFeatures, SequenceEmbeddingFeatures
from transformers4rec_ext.features.pretrained import PretrainedEmbeddingFeatures
from transformers4rec_ext.features.soft import SoftEmbeddingFeatures
from transformers4rec_ext.features.tables import (
    EmbeddingBagWrapper,
    FeatureConfig,
    PretrainedEmbeddingsInitializer,
    SoftEmbedding,
    TableConfig,
)

__all__ = [
    "EmbeddingBagWrapper",
    "EmbeddingFeatures",
    "FeatureConfig",
    "PretrainedEmbeddingFeatures",
    "PretrainedEmbeddingsInitializer",
    "SequenceEmbeddingFeatures",
    "SoftEmbedding",
    "SoftEmbeddingFeatures",
    "TableConfig",
]
