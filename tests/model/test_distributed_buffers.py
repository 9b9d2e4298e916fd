"""What DistributedDataParallel sends at every step."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from task_helpers import V, next_item_model
from torch.nn.parallel import DistributedDataParallel

from transformers4rec_ext.samplers import (
    InBatchSampler,
    MixedSampler,
    PopularitySampler,
    UniformSampler,
)

COUNTS = torch.arange(V)
POPULARITY = PopularitySampler(9, COUNTS, 1)


@pytest.fixture
def one_process(tmp_path: Path) -> Iterator[None]:
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{tmp_path / 'store'}", rank=0, world_size=1
    )
    yield
    torch.distributed.destroy_process_group()


@pytest.mark.skipif(not torch.distributed.is_gloo_available(), reason="torch is without gloo")
@pytest.mark.usefixtures("one_process")
@pytest.mark.parametrize(
    "sampler",
    [
        POPULARITY,
        InBatchSampler(COUNTS, 1),
        MixedSampler([POPULARITY, UniformSampler(9, V, 1)]),
    ],
)
def test_no_table_of_a_sampler(sampler: Any) -> None:
    """They are alike everywhere, and of 10 million items 114 MiB."""
    model = next_item_model(sampled_softmax=True, sampler=sampler)
    held = [
        b for module in model.modules() for b in module.buffers(recurse=False) if len(b) == V - 1
    ]
    assert held or isinstance(sampler, InBatchSampler)
    DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(model, ["more"])
    assert "more" in model._ddp_params_and_buffers_to_ignore
    wrapped = DistributedDataParallel(model, find_unused_parameters=True)
    assert sum(buffer.numel() for buffer in wrapped.modules_buffers) < V - 1
