"""The walk over tiles of items: full softmax, ranks and top-k in one reading of the table.

Tiles of items are the outer loop and blocks of rows the inner one, so that the table is read once
(twice where a gradient is asked for) and an item's gradient is finished before the next tile. Extra
memory: O(N), one tile and the scores that are kept.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from transformers4rec_ext.ops.tiles import new_tile, tile_scale

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
# A GPU works on so many buffers of best items at a time, about two for each SM of an H100, and on
# pieces of tiles that are not smaller than this, nor than two buffers.
BUSY_BUFFERS = 256
LEAST_PIECE = 4 * 1024


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


def tile_pieces(num_rows: int, items: int, capacity: int, device: torch.device) -> int:
    """Into how many pieces top-k cuts a row of a tile, so that few rows keep a GPU busy.

    Each has a buffer of ``capacity`` items: together they take no more than half a tile.
    """
    if device.type != "cuda":
        return 1
    return max(1, min(BUSY_BUFFERS // max(1, num_rows), items // max(LEAST_PIECE, 2 * capacity)))


def _in_lines(size: int) -> int:
    return size - size % LINE_ITEMS


class ItemTiles:
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
