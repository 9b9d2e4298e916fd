"""The shapes that are measured, named once."""

from __future__ import annotations

from typing import NamedTuple


class SamplerCase(NamedTuple):
    """Candidates of one batch: V items, S samples, and the log q of that many targets."""

    items: int
    samples: int
    targets: int = 2048


class SoftmaxCase(NamedTuple):
    """One loss with its gradients: V items, N rows, D width, S candidates."""

    items: int
    rows: int
    width: int
    samples: int


SAMPLER = [
    SamplerCase(items, samples)
    for items in (10_000, 1_000_000, 10_000_000, 100_000_000)
    for samples in (100, 1000, 8192)
]
SOFTMAX = [
    SoftmaxCase(1_000_000, 2048, width, samples)
    for width in (64, 128, 256)
    for samples in (100, 1000, 8192)
]
