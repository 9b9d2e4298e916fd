"""The uniform law over R classes: simple random samples, exactly."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from transformers4rec_ext.ops.reference.draws import INT64_MAX, draw_distinct, random_bits


def uniform_classes(seed: Tensor, start: int, count: int, num_classes: int) -> Tensor:
    """``x mod R`` of 63 random bits x; -1 where x is in the last, incomplete run of R values.

    Without that rejection the first ``2^63 mod R`` classes would be drawn more often.
    """
    x = random_bits(seed, start, count) & INT64_MAX
    last = 2**63 // num_classes * num_classes - 1
    return torch.where(x <= last, x % num_classes, -1)


def uniform_sample(
    seed: Tensor, num_samples: int, num_items: int, min_id: int, unique: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Draw candidates: ``(ids int64 [S], log_q float32 [S], num_tries int64 [], count int64 [])``.

    ``q = S / R`` for every item, unique or not. Unique: the first S distinct draws are a simple
    random sample, since no class is preferred; of more than half of the range it is the classes
    *not* to take that are drawn, so that no draw takes more than two tries on average. Such a
    sample is in ascending order. ``num_tries`` is S, or the largest int64 for the whole range.
    """
    num_classes = num_items - min_id
    size = min(num_samples, num_classes) if unique else num_samples

    def draw(start: int, count: int) -> Tensor:
        return uniform_classes(seed, start, count, num_classes)

    if not unique:
        classes = draw(0, 0)
        start = 0
        while classes.numel() < size:
            more = draw(start, size)
            classes = torch.cat([classes, more[more >= 0]])
            start += size
        classes = classes[:size]
    elif 2 * size <= num_classes:
        classes, _ = draw_distinct(draw, size, seed.device)
    else:
        taken = torch.ones(num_classes, dtype=torch.bool, device=seed.device)
        if size < num_classes:
            taken[draw_distinct(draw, num_classes - size, seed.device)[0]] = False
        classes = taken.nonzero().squeeze(1)
    log_q = torch.full_like(classes, math.log(size / num_classes), dtype=torch.float32)
    tries = INT64_MAX if unique and size == num_classes else size
    num_tries = torch.tensor(tries, dtype=torch.int64, device=seed.device)
    count = torch.tensor(size, dtype=torch.int64, device=seed.device)
    return classes + min_id, log_q, num_tries, count
