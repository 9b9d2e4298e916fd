"""Ranks of the targets and the k best items, over tiles of items: the table is read once."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from transformers4rec_ext.ops.reference import (
    MISSED,
    accumulate_dtype,
    outside_autocast,
    row_norms,
    rows_like,
)
from transformers4rec_ext.ops.tiles import full_precision, tile_scale
from transformers4rec_ext.ops.tiles.items import ItemTiles, tile_pieces

_ops = torch.ops.transformers4rec_ext


def pair_scores(hidden: Tensor, weight: Tensor, bias: Tensor | None, ids: Tensor) -> Tensor:
    """``h . w + b`` in float64 of rows and their items ``ids`` [N, L]: float64 [N, L].

    Of a negative item it is -inf, of one beyond the table NaN: neither is read.
    """
    wide = hidden.to(accumulate_dtype(hidden.dtype)).contiguous()
    out = torch.empty(ids.shape, dtype=torch.float64, device=hidden.device)
    ids = ids.contiguous()
    if weight.dtype == wide.dtype == hidden.dtype and weight.stride(1) == 1:
        _ops.pair_scores(wide, weight, bias, ids, out)
        return out
    # a table in half precision (or rounded to it): rows are gathered and widened piece by piece
    elements = 2 * 1024 * 1024 * tile_scale(hidden.device)
    step = max(1, elements // max(1, ids.shape[1] * hidden.shape[1]))
    for first in range(0, ids.shape[0], step):
        part = ids[first : first + step]
        at = part.flatten().clamp(min=0, max=weight.shape[0] - 1)
        local = torch.arange(at.numel(), device=ids.device).view_as(part)
        local = torch.where(part < weight.shape[0], local, at.numel())  # still beyond the table
        _ops.pair_scores(
            wide[first : first + step],
            rows_like(hidden, weight, at),
            None if bias is None else bias[at],
            torch.where(part < 0, -1, local),
            out[first : first + step],
        )
    return out


class Ranks:
    """Running ranks: what competes with at least the target's score, and NaNs on the way."""

    def __init__(
        self, hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor
    ) -> None:
        self.targets = targets
        self.scores = pair_scores(hidden, weight, bias, targets[:, None])[:, 0].contiguous()
        self.norms = row_norms(hidden)
        self.above = torch.zeros_like(targets)
        self.nan = torch.zeros_like(targets)

    def add(
        self, block: slice, scores: Tensor, hidden: Tensor, rows: Tensor, bias: Tensor | None
    ) -> None:
        """Count a tile."""
        _ops.rank_tile(
            scores,
            hidden,
            rows,
            bias,
            self.scores[block],
            self.norms[block],
            self.above[block],
            self.nan[block],
        )

    def result(
        self,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        exclude_ids: Tensor | None,
        padding_idx: int | None,
    ) -> Tensor:
        """Take the target itself and the items that do not compete out of the count: int64 [N]."""
        rank, nan = self.above - 1, self.nan
        ids = _excluded(self.targets, exclude_ids, padding_idx)
        if ids is not None:
            repeated = torch.nn.functional.pad(ids[:, 1:] == ids[:, :-1], (1, 0))
            ids = torch.where(repeated | (ids == self.targets[:, None]), -1, ids)
            scores = pair_scores(hidden, weight, bias, ids)
            counted = ids >= 0
            rank = rank - (counted & (scores >= self.scores[:, None])).sum(1)
            nan = nan - (counted & scores.isnan()).sum(1)
        lost = (nan > 0) | self.scores.isnan() | (self.targets < 0)
        return torch.where(lost, MISSED, rank)


def _excluded(
    targets: Tensor, exclude_ids: Tensor | None, padding_idx: int | None
) -> Tensor | None:
    """Return the ids that do not compete, int64 [N, L], each row sorted; None without any."""
    parts = [] if exclude_ids is None else [exclude_ids]
    if padding_idx is not None:
        parts.append(targets.new_full((targets.shape[0], 1), padding_idx))
    return torch.cat(parts, dim=1).sort(dim=1).values if parts else None


@outside_autocast
@torch.no_grad()  # a traced program calls it with gradients enabled, and it has none
def target_rank(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    bias: Tensor | None,
    exclude_ids: Tensor | None,
    padding_idx: int | None,
) -> Tensor:
    """Rank of the target among all items that compete, int64 [N]; `MISSED` where a NaN is met."""
    rounded = hidden
    hidden = hidden.to(accumulate_dtype(hidden.dtype)).contiguous()
    bias = None if bias is None else bias.to(hidden.dtype).contiguous()
    ranks = Ranks(rounded, weight, bias, targets.contiguous())
    tiles = ItemTiles(hidden, weight, bias, rounded.dtype)
    of_blocks = [(block, hidden[block]) for block in tiles.blocks]
    with full_precision():
        for items, rows, tile_bias in tiles:
            for block, of_block in of_blocks:
                scores = tiles.scores(block, of_block, items, rows)
                ranks.add(block, scores, of_block, rows, tile_bias)
    return ranks.result(rounded, weight, bias, exclude_ids, padding_idx)


@outside_autocast
@torch.no_grad()
def topk_items(
    hidden: Tensor,
    weight: Tensor,
    k: int,
    bias: Tensor | None,
    exclude_ids: Tensor | None,
    padding_idx: int | None,
) -> tuple[Tensor, Tensor]:
    """Find the k best items, sorted, ties to the lower id: scores [N, k], ids [N, k]."""
    rounded = hidden.dtype
    hidden = hidden.to(accumulate_dtype(rounded)).contiguous()
    bias = None if bias is None else bias.to(hidden.dtype).contiguous()
    capacity = k + max(k, 64)
    tiles = ItemTiles(hidden, weight, bias, rounded)
    pieces = tile_pieces(hidden.shape[0], tiles.step, capacity, hidden.device)
    best = hidden.new_full((hidden.shape[0], pieces, capacity), -math.inf)
    ids = torch.full(best.shape, -1, dtype=torch.int64, device=hidden.device)
    fill = torch.zeros_like(ids[..., 0])
    threshold = torch.full_like(best[..., 0], -math.inf)
    excluded = _excluded(fill[:, 0], exclude_ids, padding_idx)
    states = [
        (
            b,
            hidden[b],
            None if excluded is None else excluded[b],
            [state[b].flatten(0, 1) for state in (best, ids, fill, threshold)],
        )
        for b in tiles.blocks
    ]
    for items, rows, tile_bias in tiles:
        for block, of_block, block_excluded, state in states:
            scores = tiles.scores(block, of_block, items, rows)
            _ops.topk_tile(scores, tile_bias, items.start, block_excluded, k, *state)
    ids, order = ids.flatten(1).sort(dim=1, stable=True)
    best, order = best.flatten(1).gather(1, order).sort(dim=1, descending=True, stable=True)
    return best[:, :k].contiguous(), ids.gather(1, order)[:, :k].contiguous()
