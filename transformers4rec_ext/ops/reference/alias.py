"""Laws given by weights: Walker's alias table, draws from it."""

from __future__ import annotations

import torch
from torch import Tensor

from transformers4rec_ext.ops.reference.draws import draw_distinct, uniforms


def alias_table(probability: Tensor) -> tuple[Tensor, Tensor]:
    """Walker's table of ``probability`` (float64 [R], sum 1): (threshold float64, alias int64).

    Bucket b, drawn uniformly, stands for class b with chance ``threshold[b]``, else for
    ``alias[b]``. With ``w = R p``, light classes (w < 1) leave ``1 - w`` of their bucket to heavy
    ones. Taken in order, light class i falls to the first heavy class whose running excess exceeds
    the deficits before i; a heavy class whose excess is used up by deficits D shares what is
    missing of its own bucket, ``D - excess``, with the next heavy one. So sums and binary searches
    make the table, without a loop (the sweep of Hübschle-Schneider & Sanders, "Parallel Weighted
    Random Sampling", 2022, as prefix sums).
    """
    w = probability * probability.numel()
    light = (w < 1).nonzero().squeeze(1)
    heavy = (w >= 1).nonzero().squeeze(1)
    if heavy.numel() == 0:  # rounding left even the largest below 1: all are equal
        return torch.ones_like(w), torch.arange(w.numel(), device=w.device)
    deficit = torch.nn.functional.pad((1 - w[light]).cumsum(0), (1, 0))  # before light class i
    excess = (w[heavy] - 1).cumsum(0)  # up to and including heavy class j
    last = heavy.numel() - 1
    threshold = w.clone()
    alias = torch.arange(w.numel(), device=w.device)
    alias[light] = heavy[torch.searchsorted(excess, deficit[:-1], right=True).clamp_(max=last)]
    used_up = torch.searchsorted(deficit, excess).clamp_(max=deficit.numel() - 1)
    threshold[heavy] = (1 + excess - deficit[used_up]).clamp_(0, 1)
    threshold[heavy[last]] = 1.0  # no heavy class is left to share with
    alias[heavy[:-1]] = heavy[1:]
    return threshold, alias


def alias_classes(seed: Tensor, start: int, count: int, threshold: Tensor, alias: Tensor) -> Tensor:
    """Draws ``start .. start + count``: bucket ``floor(u_2i R)``, the coin ``u_2i+1``: int64."""
    u = uniforms(seed, 2 * start, 2 * count).view(-1, 2)
    bucket = (u[:, 0] * threshold.numel()).to(torch.int64).clamp_(max=threshold.numel() - 1)
    return torch.where(u[:, 1] < threshold[bucket], bucket, alias[bucket].to(torch.int64))


def alias_sample(
    seed: Tensor, threshold: Tensor, alias: Tensor, num_samples: int, min_id: int, unique: bool
) -> tuple[Tensor, Tensor]:
    """Draw candidates by an alias table: ``(ids int64 [S], num_tries int64 [])``.

    Unique: draw until S distinct classes are found, in the order found; there must be as many of
    positive probability. ``num_tries`` is the number of draws M.
    """

    def draw(start: int, count: int) -> Tensor:
        return alias_classes(seed, start, count, threshold, alias)

    if unique:
        classes, tries = draw_distinct(draw, num_samples, seed.device)
    else:
        classes, tries = draw(0, num_samples), num_samples
    return classes + min_id, torch.tensor(tries, dtype=torch.int64, device=seed.device)
