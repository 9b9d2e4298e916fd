"""The loops over tiles of items: full softmax, rank of the target, top-k, in one reading of W.

Tiles of items are the outer loop and blocks of rows the inner one, so that the table is read once
(twice where a gradient is asked for) and an item's gradient is finished before the next tile. The
gradient makes the scores again instead of keeping them: one GEMM more, and never [N, V]; only the
first tiles' scores are kept, as many as a fixed amount of memory holds, which spares a small
catalogue that GEMM. Extra memory: O(N), one tile and that.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import nullcontext

import torch
from torch import Tensor

from transformers4rec_ext._memory import empty_large
from transformers4rec_ext.ops.reference import MISSED, accumulate_dtype, outside_autocast, rows_like
from transformers4rec_ext.ops.tiles import full_precision, new_tile, tile_scale

_ops = torch.ops.transformers4rec_ext
# A tile of scores is read again right after the GEMM wrote it, so it should still be in cache;
# beyond this many rows a GEMM gains nothing, and below this many items it loses.
TILE_ELEMENTS = 512 * 1024
BLOCK_ROWS = 1024
LEAST_ITEMS = 256
MOST_ITEMS = 16 * 1024
KEPT_ELEMENTS = 16 * 1024 * 1024
# Of rows that are narrower than the accumulation a tile is widened: as many elements at once.
WIDENED_ELEMENTS = 16 * 1024 * 1024
# Tiles begin on a cache line, of scores and of a bias: a GPU reads 16 bytes at once where it can.
LINE_ITEMS = 16


def tile_items(num_rows: int, num_items: int, scale: int = 1) -> int:
    """Items of a tile for blocks of ``num_rows`` rows; ``scale``: of the device, `tile_scale`."""
    wanted = scale * TILE_ELEMENTS // max(1, min(num_rows, BLOCK_ROWS))
    return min(num_items, _in_lines(max(LEAST_ITEMS, min(scale * MOST_ITEMS, wanted))))


def widened_items(width: int) -> int:
    """Items of a tile at most, where its rows of ``width`` elements have to be widened."""
    return _in_lines(max(LEAST_ITEMS, WIDENED_ELEMENTS // max(1, width)))


def kept_items(num_rows: int, num_items: int) -> int:
    """How many items' scores [N, K] the forward pass keeps for the backward: the first K."""
    # How many rows there are may depend on the data, of which a trace knows nothing.
    most = _in_lines(KEPT_ELEMENTS // torch.sym_max(1, num_rows))
    kept: int = torch.sym_min(num_items, most)
    return kept


def _in_lines(size: int) -> int:
    return size - size % LINE_ITEMS


class _Tiles:
    """The walk over a table: tiles of items, and for each the blocks of rows.

    Parameters
    ----------
    hidden : Tensor, [N, D], wide
    weight : Tensor, [V, D]
    bias : Tensor, [V], wide, optional
    rounded : torch.dtype
        What the table's rows are rounded to before they are widened: hidden's dtype.
    kept : Tensor, [N, K], wide
        Takes the scores of the first K items, or has them already.
    """

    def __init__(
        self,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        rounded: torch.dtype,
        kept: Tensor | None = None,
    ) -> None:
        self.hidden, self.weight, self.bias, self.rounded = hidden, weight, bias, rounded
        num_rows, self.num_items = hidden.shape[0], weight.shape[0]
        self.step = tile_items(num_rows, self.num_items, tile_scale(hidden.device))
        if not weight.dtype == rounded == hidden.dtype:
            self.step = min(self.step, widened_items(weight.shape[1]))
        size = -(-num_rows // max(1, -(-num_rows // BLOCK_ROWS)))
        self.blocks = [
            slice(first, min(first + size, num_rows)) for first in range(0, num_rows, size or 1)
        ]
        self.tile = new_tile(hidden, size, self.step)
        self.kept = kept
        self.num_kept = 0 if kept is None else kept.shape[1]

    def __iter__(self) -> Iterator[tuple[slice, Tensor, Tensor | None]]:
        """Yield ``(items, rows [m, D], bias [m])``, rows rounded and widened."""
        for first, last in ((0, self.num_kept), (self.num_kept, self.num_items)):
            for begin in range(first, last, self.step):
                items = slice(begin, min(begin + self.step, last))
                rows = self.weight[items].to(self.rounded).to(self.hidden.dtype)
                if rows.stride(1) != 1:
                    rows = rows.contiguous()
                yield items, rows, None if self.bias is None else self.bias[items]

    def scores(
        self, block: slice, of_block: Tensor, items: slice, rows: Tensor, have_kept: bool = False
    ) -> Tensor:
        """``hidden . rows`` [n, m] of a block of rows, made unless it was kept."""
        if items.start < self.num_kept and self.kept is not None:
            scores = self.kept[block, items]
            if have_kept:
                return scores
        else:
            scores = self.tile[: of_block.shape[0], : rows.shape[0]]
        return torch.mm(of_block, rows.T, out=scores)


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
    step = max(1, 2 * 1024 * 1024 // max(1, ids.shape[1] * hidden.shape[1]))
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


class _Ranks:
    """Running ranks: what competes with at least the target's score, and NaNs on the way."""

    def __init__(
        self, hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor
    ) -> None:
        self.targets = targets
        self.scores = pair_scores(hidden, weight, bias, targets[:, None])[:, 0].contiguous()
        self.norms = torch.linalg.vector_norm(hidden, dim=1, dtype=torch.float64)
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
def linear_cross_entropy(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    targets: Tensor,
    temperature: float,
    ignore_index: int,
    label_smoothing: float,
    with_rank: bool,
    padding_idx: int | None,
    keep: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Losses [N]; maximum and total [N] of the softmax and kept scores [N, K] for the backward.

    Between them the ranks [N] ([0] if not asked for). Without ``keep`` K is 0.
    """
    rounded = hidden
    wide = accumulate_dtype(hidden.dtype)
    hidden, num_items = hidden.to(wide).contiguous(), weight.shape[0]
    bias = None if bias is None else bias.to(wide).contiguous()
    ids = torch.where(targets == ignore_index, -1, targets)
    maximum = hidden.new_full(hidden.shape[:1], -math.inf)
    total = torch.zeros_like(maximum, dtype=torch.float64)
    row_sum = torch.zeros(weight.shape[1], dtype=torch.float64, device=hidden.device)
    ranks = _Ranks(rounded, weight, bias, ids)
    size = (hidden.shape[0], kept_items(hidden.shape[0], num_items) if keep else 0)
    kept = empty_large(size, wide, hidden.device)
    tiles = _Tiles(hidden, weight, bias, rounded.dtype, kept)
    states = [(b, hidden[b], maximum[b], total[b]) for b in tiles.blocks]
    with full_precision() if with_rank else nullcontext():
        for items, rows, tile_bias in tiles:
            if label_smoothing:
                row_sum += rows.sum(0, dtype=torch.float64)
            for block, of_block, block_maximum, block_total in states:
                scores = tiles.scores(block, of_block, items, rows)
                _ops.logsumexp_tile(scores, tile_bias, temperature, block_maximum, block_total)
                if with_rank:
                    ranks.add(block, scores, of_block, rows, tile_bias)
    lse = (maximum.double() + total.log2()) * math.log(2.0)
    loss = lse - ranks.scores / temperature
    loss = loss.clamp(min=0.0)  # the sums of a GEMM may round to below the target's
    if label_smoothing:
        mean = hidden.double() @ row_sum + (0.0 if bias is None else bias.double().sum())
        mean = mean / (num_items * temperature)
        loss = (1 - label_smoothing) * loss + label_smoothing * (lse - mean)
    loss = torch.where(ids < 0, 0.0, loss).to(wide)
    if not with_rank:
        return loss, maximum, total, ids.new_empty(0), kept
    rank = ranks.result(rounded, weight, bias, None, padding_idx)
    return loss, maximum, total, rank, kept


@outside_autocast
def linear_cross_entropy_backward(
    row_grad: Tensor,
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    targets: Tensor,
    maximum: Tensor,
    total: Tensor,
    kept: Tensor,
    temperature: float,
    ignore_index: int,
    label_smoothing: float,
    with_rank: bool,
    with_weight: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of hidden [N, D], weight ([V, D]; [0] if not asked for) and bias ([V] or [0])."""
    rounded = hidden.dtype
    wide = accumulate_dtype(rounded)
    hidden, (num_items, width) = hidden.to(wide).contiguous(), weight.shape
    wide_bias = None if bias is None else bias.to(wide).contiguous()
    ignored = targets == ignore_index
    row_grad = torch.where(ignored, 0.0, row_grad / temperature).to(wide)
    hidden = hidden.masked_fill(ignored[:, None], 0.0)  # 0 times NaN is NaN
    targets = targets.contiguous()
    grad_hidden = torch.zeros_like(hidden)
    size = weight.shape if with_weight else (0,)
    grad_weight = empty_large(size, weight.dtype, weight.device)
    grad_bias = hidden.new_empty(0 if bias is None else num_items)
    tiles = _Tiles(hidden, weight, wide_bias, rounded, kept)
    # the sums are of such scores: those that are made again are to be the same
    precision = full_precision if with_rank else nullcontext
    gradient = new_tile(hidden, *tiles.tile.shape)
    # the GEMM writes the table's gradient itself, unless that has to be narrowed
    narrowed = with_weight and grad_weight.dtype != wide
    widened = hidden.new_empty(tiles.step, width) if narrowed else None
    states = [
        (b, hidden[b], targets[b], maximum[b], total[b], row_grad[b], grad_hidden[b])
        for b in tiles.blocks
    ]
    smoothing, target_weight = label_smoothing / num_items, 1 - label_smoothing
    for items, rows, tile_bias in tiles:
        grad_rows = grad_weight[items] if widened is None else widened[: rows.shape[0]]
        for block, of_block, ids, block_maximum, block_total, g, grad_block in states:
            first = block.start == 0
            with precision():
                scores = tiles.scores(block, of_block, items, rows, have_kept=True)
            p = gradient[: of_block.shape[0], : rows.shape[0]]
            _ops.softmax_grad_tile(
                scores,
                tile_bias,
                ids,
                items.start,
                temperature,
                smoothing,
                target_weight,
                block_maximum,
                block_total,
                g,
                p,
            )
            grad_block.addmm_(p, rows)
            if with_weight and first:
                torch.mm(p.T, of_block, out=grad_rows)
            elif with_weight:
                grad_rows.addmm_(p.T, of_block)
            if bias is not None:
                summed = p.sum(0)
                grad_bias[items] = summed if first else grad_bias[items] + summed
        if widened is not None:
            grad_weight[items] = grad_rows
    if not states:
        grad_weight.zero_()
        grad_bias.zero_()
    return grad_hidden, grad_weight, grad_bias


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
    ranks = _Ranks(rounded, weight, bias, targets.contiguous())
    tiles = _Tiles(hidden, weight, bias, rounded.dtype)
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
    best = hidden.new_full((hidden.shape[0], capacity), -math.inf)
    ids = torch.full(best.shape, -1, dtype=torch.int64, device=hidden.device)
    fill = torch.zeros_like(ids[:, 0])
    threshold = torch.full_like(best[:, 0], -math.inf)
    excluded = _excluded(fill, exclude_ids, padding_idx)
    tiles = _Tiles(hidden, weight, bias, rounded)
    states = [
        (
            b,
            hidden[b],
            None if excluded is None else excluded[b],
            (best[b], ids[b], fill[b], threshold[b]),
        )
        for b in tiles.blocks
    ]
    for items, rows, tile_bias in tiles:
        for block, of_block, block_excluded, state in states:
            scores = tiles.scores(block, of_block, items, rows)
            _ops.topk_tile(scores, tile_bias, items.start, block_excluded, k, *state)
    ids, order = ids.sort(dim=1, stable=True)
    best, order = best.gather(1, order).sort(dim=1, descending=True, stable=True)
    return best[:, :k].contiguous(), ids.gather(1, order)[:, :k].contiguous()
