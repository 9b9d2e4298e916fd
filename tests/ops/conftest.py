"""Fixtures of the operators' tests."""

from __future__ import annotations

import pytest

from transformers4rec_ext.ops.tiles import items, ranking


@pytest.fixture(params=["one tile", "many tiles", "tiles in pieces"])
def small_tiles(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Walk small tables in one tile, or in many with few rows and few kept scores.

    In pieces, top-k has several buffers for each row, as it has on a GPU.
    """
    if request.param == "tiles in pieces":
        monkeypatch.setattr(ranking, "tile_pieces", lambda *of_tile: 3)
    if request.param != "one tile":
        monkeypatch.setattr(items, "TILE_ELEMENTS", 64)
        monkeypatch.setattr(items, "LEAST_ITEMS", 7)
        monkeypatch.setattr(items, "BLOCK_ROWS", 2)
        monkeypatch.setattr(items, "KEPT_ELEMENTS", 50)
        monkeypatch.setattr(items, "LINE_ITEMS", 1)
    return str(request.param)
