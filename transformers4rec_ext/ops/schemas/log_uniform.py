"""Log-uniform candidates: schema, implementation, fake kernel."""

from __future__ import annotations

import torch
from torch import Tensor

from transformers4rec_ext.ops import reference
from transformers4rec_ext.ops.schemas.library import define


def sample_fake(
    seed: Tensor, num_samples: int, num_items: int, min_id: int, unique: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Give the shapes of candidates drawn from a range: ids, log_q, num_tries, count."""
    size = min(num_samples, num_items - min_id) if unique else num_samples
    return (
        seed.new_empty(size),
        seed.new_empty(size, dtype=torch.float32),
        seed.new_empty(()),
        seed.new_empty(()),
    )


def _check_range(ids: Tensor, num_items: int, min_id: int) -> None:
    # as the kernel does; `functional` makes an error of it that says more
    on_cpu = ids.device.type == "cpu"
    if on_cpu and ids.numel() and not bool(((ids >= min_id) & (ids < num_items)).all()):
        raise RuntimeError("log_uniform_log_q: an id is out of range")


def _log_uniform_draw(
    seed: Tensor, targets: Tensor, num_samples: int, num_items: int, min_id: int, unique: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    _check_range(targets, num_items, min_id)
    return reference.log_uniform_draw(seed, targets, num_samples, num_items, min_id, unique)


def _log_uniform_draw_fake(
    seed: Tensor, targets: Tensor, num_samples: int, num_items: int, min_id: int, unique: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    drawn = sample_fake(seed, num_samples, num_items, min_id, unique)
    return *drawn, torch.empty_like(targets, dtype=torch.float32)


def _log_uniform_log_q(
    ids: Tensor, num_tries: Tensor, num_items: int, min_id: int, unique: bool
) -> Tensor:
    _check_range(ids, num_items, min_id)
    return reference.log_uniform_log_q(ids, num_tries, num_items, min_id, unique)


define(
    "log_uniform_sample(Tensor seed, int num_samples, int num_items, int min_id, bool unique) "
    "-> (Tensor ids, Tensor log_q, Tensor num_tries, Tensor count)",
    reference.log_uniform_sample,
    sample_fake,
)
define(
    "log_uniform_log_q(Tensor ids, Tensor num_tries, int num_items, int min_id, bool unique) "
    "-> Tensor",
    _log_uniform_log_q,
    lambda ids, num_tries, num_items, min_id, unique: torch.empty(
        ids.shape, dtype=torch.float32, device=ids.device
    ),
)
define(
    "log_uniform_draw(Tensor seed, Tensor targets, int num_samples, int num_items, int min_id, "
    "bool unique) -> (Tensor ids, Tensor log_q, Tensor num_tries, Tensor count, "
    "Tensor target_log_q)",
    _log_uniform_draw,
    _log_uniform_draw_fake,
)
