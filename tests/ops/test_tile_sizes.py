"""How large tiles are: for the CPU's cache, and larger on a GPU."""

from __future__ import annotations

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from transformers4rec_ext.ops.tiles import items, new_tile, sampled, tile_scale


@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.parametrize("num_rows", [1, 33, 1024, 25_600])
@pytest.mark.parametrize("size", [7, 1000, 100_000])
def test_a_tile_keeps_to_its_limits(device: str, num_rows: int, size: int) -> None:
    scale = tile_scale(torch.device(device))
    rows = sampled.tile_rows(num_rows, size, scale)
    assert 1 <= rows <= num_rows
    assert rows * size <= scale * sampled.MOST_ELEMENTS
    columns = items.tile_items(num_rows, size, scale)
    assert 1 <= columns <= size
    assert columns * min(num_rows, items.BLOCK_ROWS) <= scale * items.TILE_ELEMENTS


@pytest.mark.parametrize(("num_rows", "pieces"), [(1, 64), (2, 64), (32, 8), (256, 1), (5000, 1)])
def test_few_rows_keep_a_gpu_busy(num_rows: int, pieces: int) -> None:
    gpu = torch.device("cuda")
    columns = items.tile_items(num_rows, 10**7, tile_scale(gpu))
    assert items.tile_pieces(num_rows, columns, 120, gpu) == pieces
    assert columns // pieces >= items.LEAST_PIECE
    assert items.tile_pieces(num_rows, 100, 120, gpu) == 1
    assert items.tile_pieces(num_rows, columns, 120, torch.device("cpu")) == 1


@pytest.mark.parametrize("k", [1, 100, 10_000, 10**6])
@pytest.mark.parametrize("num_rows", [1, 7, 5000])
def test_buffers_of_the_best_stay_small_beside_a_tile(num_rows: int, k: int) -> None:
    gpu, capacity = torch.device("cuda"), k + max(k, 64)
    columns = items.tile_items(num_rows, 10**7, tile_scale(gpu))
    pieces = items.tile_pieces(num_rows, columns, capacity, gpu)
    assert pieces == 1 or pieces * capacity <= columns // 2


@pytest.mark.parametrize("num_rows", [1, 999, 1638])
def test_tiles_begin_on_cache_lines(num_rows: int) -> None:
    size = 30_001
    assert items.tile_items(num_rows, size, 16) % 16 == 0 or num_rows == 1
    assert items.kept_items(num_rows, 10**8) % 16 == 0
    assert items.kept_items(num_rows, size) in (size, 16 * (2**20 // num_rows))
    made = items.ItemTiles(torch.empty(num_rows, 2), torch.empty(size, 2), None, torch.float32)
    assert [of.start % 16 for of, _, _ in made] == [0] * -(-size // made.step)


def test_rows_of_a_tile_are_widened_piece_by_piece() -> None:
    """A tile for 32 rows of a GPU has 262,144 items: in bfloat16 of width 512 half a gigabyte."""
    with FakeTensorMode():
        hidden = torch.empty(32, 512, device="cuda")
        narrow = torch.empty(10**6, 512, device="cuda", dtype=torch.bfloat16)
        made = items.ItemTiles(hidden, narrow, None, torch.bfloat16)
        assert made.step * 512 == items.WIDENED_ELEMENTS
        assert items.ItemTiles(hidden, narrow.float(), None, torch.float32).step == 262_144


def test_a_gpu_takes_sixteen_of_the_cpus_tiles_at_once() -> None:
    assert [items.tile_items(1024, 10**6, scale) for scale in (1, 16)] == [512, 8192]
    assert [sampled.tile_rows(8192, 1024, scale) for scale in (1, 16)] == [512, 8192]


@pytest.mark.parametrize(("device", "step"), [("cpu", 512), ("cuda", 8192)])
def test_the_loop_asks_its_device(device: str, step: int) -> None:
    with FakeTensorMode():
        hidden = torch.empty(1024, 8, device=device)
        weight = torch.empty(100_000, 8, device=device)
        assert items.ItemTiles(hidden, weight, None, torch.float32).step == step


@pytest.mark.parametrize("size", [1, 16, 17, 512, 1000, 16_384])
def test_rows_of_a_tile_lie_an_odd_number_of_cache_lines_apart(size: int) -> None:
    tile = new_tile(torch.empty(1), 3, size)
    lines, rest = divmod(tile.stride(0), 16)
    assert tile.shape == (3, size)
    assert tile.stride(1) == 1
    assert (rest, lines % 2) == (0, 1)
    assert size <= tile.stride(0) < size + 32
