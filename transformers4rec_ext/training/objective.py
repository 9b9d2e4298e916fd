"""What a run minimises: the task with its loss, and where its negatives come from."""

from __future__ import annotations

import numpy as np
import torch

from transformers4rec_ext._errors import value_error
from transformers4rec_ext.losses import GBCELoss
from transformers4rec_ext.model.prediction_task import NextItemPredictionTask
from transformers4rec_ext.samplers import (
    CandidateSampler,
    InBatchSampler,
    LogUniformSampler,
    MixedSampler,
    PopularitySampler,
    UniformSampler,
)
from transformers4rec_ext.training.config import BINARY_LOSSES, RunConfig


def make_task(
    config: RunConfig,
    num_items: int,
    *,
    sparse: bool,
    popularity: np.ndarray | None = None,
    served: bool = False,
) -> NextItemPredictionTask:
    """Return the next-item task of ``config.loss``, with tied weights.

    Parameters
    ----------
    config : RunConfig
    num_items : int
        V, rows of the item table; row 0 is padding.
    sparse : bool
        Row gradients of the item table.
    popularity : int64 [V], optional
        Training counts by id, for the samplers that go by them.
    served : bool
        Scores and no loss: without a sampler.

    Raises
    ------
    ValueError
        As :func:`make_sampler`.
    """
    temperature, cosine_scale = config.temperature or 1.0, config.cosine_scale
    if served and config.loss in BINARY_LOSSES:
        temperature = 1.0  # theirs is the loss's alone
    if config.loss == "full" or served:
        return NextItemPredictionTask(
            weight_tying=True, softmax_temperature=temperature, cosine_scale=cosine_scale
        )
    sampler = make_sampler(config, num_items, popularity)
    if config.loss in BINARY_LOSSES:
        # At the start one item in V - 1 is the target: with the loss's own prior, S negatives first
        # push all scores down together, and the rows of the item table one way.
        prior = 1 / max(2, num_items - 1)
        loss = GBCELoss(
            sampler,
            t=config.gbce_t or 0.0,
            prior=prior,
            temperature=temperature,
            sparse_grad=sparse,
        )
        return NextItemPredictionTask(loss, weight_tying=True)
    return NextItemPredictionTask(
        weight_tying=True,
        softmax_temperature=temperature,
        sampled_softmax=True,
        sampler=sampler,
        corrected=config.loss == "corrected",
        sparse_grad=sparse,
        cosine_scale=cosine_scale,
    )


def make_sampler(
    config: RunConfig, num_items: int, popularity: np.ndarray | None = None
) -> CandidateSampler:
    """Return the sampler that ``config.sampler`` names, over the ids 1 .. V - 1.

    It has no generator of its own: torch's global one, which a checkpoint keeps, decides.

    Raises
    ------
    ValueError
        If it needs the counts and there are none, or if so many distinct negatives would take too
        many tries by popularity.
    """
    size = config.num_negatives or 0
    if config.sampler == "log-uniform":
        return LogUniformSampler(size, num_items, min_id=1)
    if config.sampler == "uniform":
        return UniformSampler(size, num_items, min_id=1)
    if popularity is None:
        expectation = f"be given with sampler={config.sampler!r}"
        raise value_error("make_sampler", "popularity", expectation, "none")
    counts = torch.from_numpy(popularity)
    if config.sampler == "popularity":
        return PopularitySampler(size, counts, min_id=1)
    in_batch = InBatchSampler(counts, min_id=1)
    if config.sampler == "in-batch":
        return in_batch
    return MixedSampler([in_batch, UniformSampler(size, num_items, min_id=1)])
