"""Fixtures of the tests of the Trainer: what makes many short runs fast."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest
import torch


@pytest.fixture(scope="module", autouse=True)
def _quick() -> Iterator[None]:
    """Use one thread, and spare what was imported the collections at the start of each run."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()
    torch.set_num_threads(threads)
