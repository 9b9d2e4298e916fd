"""Fixtures of the operators' tests."""

from __future__ import annotations

import pytest

from transformers4rec_ext.ops.tiles import items


@pytest.fixture(params=["one tile", "many tiles"])
def small_tiles(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Walk small tables in one tile, or in many with few rows and few kept scores."""
    if request.param == "many tiles":
        monkeypatch.setattr(items, "TILE_ELEMENTS", 64)
        monkeypatch.setattr(items, "LEAST_ITEMS", 7)
        monkeypatch.setattr(items, "BLOCK_ROWS", 2)
        monkeypatch.setattr(items, "KEPT_ELEMENTS", 50)
        monkeypatch.setattr(items, "LINE_ITEMS", 1)
    return str(request.param)
