"""Negative samplers: objects that draw one set of candidates for a batch of targets."""

from __future__ import annotations

from transformers4rec_ext.samplers.in_batch import InBatchSampler
from transformers4rec_ext.samplers.log_uniform import LogUniformSampler
from transformers4rec_ext.samplers.mixed import MixedSampler
from transformers4rec_ext.samplers.popularity import PopularitySampler
from transformers4rec_ext.samplers.protocol import CandidateSampler, MixableSampler
from transformers4rec_ext.samplers.uniform import UniformSampler

__all__ = [
    "CandidateSampler",
    "InBatchSampler",
    "LogUniformSampler",
    "MixableSampler",
    "MixedSampler",
    "PopularitySampler",
    "UniformSampler",
]
