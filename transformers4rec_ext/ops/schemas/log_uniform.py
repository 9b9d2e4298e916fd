"""Log-uniform candidates: schema, implementation, fake kernel."""

from __future__ import annotations

import torch
from torch import Tensor

from transformers4rec_ext.ops import reference
from transformers4rec_ext.ops.schemas.library import define


def _log_uniform_sample_fake(
    seed: Tensor, num_samples: int, num_items: int, min_id: int, unique: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    size = min(num_samples, num_items - min_id) if unique else num_samples
    return (
        seed.new_empty(size),
        seed.new_empty(size, dtype=torch.float32),
        seed.new_empty(()),
        seed.new_empty(()),
    )


def _log_uniform_log_q(
    ids: Tensor, num_tries: Tensor, num_items: int, min_id: int, unique: bool
) -> Tensor:
    if (
        ids.device.type == "cpu"
        and ids.numel()
        and not bool(((ids >= min_id) & (ids < num_items)).all())
    ):
        raise RuntimeError("log_uniform_log_q: an id is out of range")
    return reference.log_uniform_log_q(ids, num_tries, num_items, min_id, unique)


define(
    "log_uniform_sample(Tensor seed, int num_samples, int num_items, int min_id, bool unique) "
    "-> (Tensor ids, Tensor log_q, Tensor num_tries, Tensor count)",
    reference.log_uniform_sample,
    _log_uniform_sample_fake,
)
define(
    "log_uniform_log_q(Tensor ids, Tensor num_tries, int num_items, int min_id, bool unique) "
    "-> Tensor",
    _log_uniform_log_q,
    lambda ids, num_tries, num_items, min_id, unique: torch.empty(
        ids.shape, dtype=torch.float32, device=ids.device
    ),
)
