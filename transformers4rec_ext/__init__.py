"""Next-item recommenders over large catalogues, with the API of Transformers4Rec.

``import transformers4rec_ext as tr`` replaces ``import transformers4rec.torch as tr``. Names are
imported when they are first used, so that importing the package costs next to nothing.
"""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"

_EXPORTS = {
    "block.base": ("Block", "BlockBase", "SequentialBlock", "build_blocks", "right_shift_block"),
    "block.mlp": ("MLPBlock",),
    "block.transformer": ("TransformerBlock",),
    "config.schema": ("requires_schema",),
    "config.trainer": ("T4RecTrainingArguments",),
    "config.transformer": (
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
    ),
    "features.continuous": ("ContinuousFeatures",),
    "features.embedding": (
        "EmbeddingFeatures",
        "FeatureConfig",
        "PretrainedEmbeddingFeatures",
        "PretrainedEmbeddingsInitializer",
        "SoftEmbedding",
        "SoftEmbeddingFeatures",
        "TableConfig",
    ),
    "features.sequence": ("SequenceEmbeddingFeatures", "TabularSequenceFeatures"),
    "features.tabular": ("TabularFeatures",),
    "functional": ("Candidates",),
    "interop": ("accelerate",),
    "losses": (
        "CandidateLoss",
        "GBCELoss",
        "LabelSmoothCrossEntropyLoss",
        "SampledSoftmaxLoss",
    ),
    "model.base": ("PredictionTask",),
    "model.head": ("Head",),
    "model.model": ("Model",),
    "model.prediction_task": (
        "BinaryClassificationPrepareBlock",
        "BinaryClassificationTask",
        "NextItemPredictionPrepareBlock",
        "NextItemPredictionTask",
        "RegressionPrepareBlock",
        "RegressionTask",
    ),
    "samplers": (
        "CandidateSampler",
        "InBatchSampler",
        "LogUniformSampler",
        "MixableSampler",
        "MixedSampler",
        "PopularitySampler",
        "UniformSampler",
    ),
    "schema": ("ColumnSchema", "Schema", "Tags"),
    "tabular.aggregation": (
        "ConcatFeatures",
        "ElementwiseSum",
        "ElementwiseSumItemMulti",
        "StackFeatures",
    ),
    "tabular.base": (
        "AsTabular",
        "FilterFeatures",
        "MergeTabular",
        "SequentialTabularTransformations",
        "TabularAggregation",
        "TabularBlock",
        "TabularModule",
        "TabularTransformation",
    ),
    "tabular.transformations": ("StochasticSwapNoise", "TabularDropout", "TabularLayerNorm"),
    "trainer": ("Trainer",),
    "_backend": ("use_backend",),
}
_MODULES = (
    "block",
    "config",
    "data",
    "features",
    "functional",
    "interop",
    "losses",
    "masking",
    "model",
    "optim",
    "ranking_metric",
    "samplers",
    "schema",
    "tabular",
    "trainer",
    "utils",
)
_HOME = {name: module for module, names in _EXPORTS.items() for name in names}

__all__ = sorted([*_HOME, *_MODULES])


def __getattr__(name: str) -> Any:
    if name in _HOME:
        value = getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
    elif name in _MODULES:
        value = importlib.import_module(f"{__name__}.{name}")
    else:
        raise AttributeError(
            f"{__name__} has no {name!r}; see `dir({__name__})` for what there is."
        )
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
