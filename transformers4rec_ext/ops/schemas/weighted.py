"""Uniform and weighted candidates: schema, implementation, fake kernel."""

from __future__ import annotations

import torch
from torch import Tensor

from transformers4rec_ext.ops import reference
from transformers4rec_ext.ops.schemas.library import define
from transformers4rec_ext.ops.schemas.log_uniform import sample_fake

define(
    "uniform_sample(Tensor seed, int num_samples, int num_items, int min_id, bool unique) "
    "-> (Tensor ids, Tensor log_q, Tensor num_tries, Tensor count)",
    reference.uniform_sample,
    sample_fake,
)


def _alias_sample_fake(
    seed: Tensor, threshold: Tensor, alias: Tensor, num_samples: int, min_id: int, unique: bool
) -> tuple[Tensor, Tensor]:
    return seed.new_empty(num_samples), seed.new_empty(())


define(
    "alias_sample(Tensor seed, Tensor threshold, Tensor alias, int num_samples, int min_id, "
    "bool unique) -> (Tensor ids, Tensor num_tries)",
    reference.alias_sample,
    _alias_sample_fake,
)
define(
    "log_expected_count(Tensor p, Tensor num_tries, bool unique) -> Tensor",
    reference.log_expected_count,
    lambda p, num_tries, unique: torch.empty(p.shape, dtype=torch.float32, device=p.device),
)
