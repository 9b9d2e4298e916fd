"""Full softmax over tiles of items: the table is read once, twice where a gradient is asked for.

The gradient makes the scores again instead of keeping them: one GEMM more, and never [N, V]; only
the first tiles' scores are kept, as many as a fixed amount of memory holds, which spares a small
catalogue that GEMM.
"""

from __future__ import annotations

import math
from contextlib import nullcontext

import torch
from torch import Tensor

from transformers4rec_ext._memory import empty_large
from transformers4rec_ext.ops.reference import accumulate_dtype, outside_autocast
from transformers4rec_ext.ops.tiles import full_precision, new_tile
from transformers4rec_ext.ops.tiles.items import ItemTiles, kept_items
from transformers4rec_ext.ops.tiles.ranking import Ranks

_ops = torch.ops.transformers4rec_ext


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
    ranks = Ranks(rounded, weight, bias, ids)
    size = (hidden.shape[0], kept_items(hidden.shape[0], num_items) if keep else 0)
    kept = empty_large(size, wide, hidden.device)
    tiles = ItemTiles(hidden, weight, bias, rounded.dtype, kept)
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
    tiles = ItemTiles(hidden, weight, wide_bias, rounded, kept)
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
