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


class FullCase(NamedTuple):
    """Everything about all items: V items, N rows, D width."""

    items: int
    rows: int
    width: int


class OptimCase(NamedTuple):
    """One update of N distinct rows of a table: V items, N rows, D width."""

    items: int
    rows: int
    width: int


class StepCase(NamedTuple):
    """A whole training step: V items, B sessions of T items, D width, S candidates."""

    items: int
    sessions: int = 64
    length: int = 20
    width: int = 64
    samples: int = 1000


SAMPLER = [
    SamplerCase(items, samples)
    for items in (10_000, 1_000_000, 10_000_000, 100_000_000)
    for samples in (100, 1000, 8192)
]
OPTIM = [OptimCase(1_000_000, rows, 64) for rows in (1024, 10_240, 102_400)]
SOFTMAX = [
    SoftmaxCase(1_000_000, 2048, width, samples)
    for width in (64, 128, 256)
    for samples in (100, 1000, 8192)
]
FULL_SOFTMAX = [FullCase(100_000, 1024, 64), FullCase(1_000_000, 256, 64)]
EVALUATION = [FullCase(100_000, 512, 64), FullCase(1_000_000, 512, 64)]
TOP_K = 20
STEP = [StepCase(items) for items in (10_000, 100_000, 1_000_000, 10_000_000)]


class StatisticsCase(NamedTuple):
    """Many draws of S candidates of V items."""

    items: int
    samples: int
    draws: int


INCLUSION = [
    StatisticsCase(3_416, 100, 20_000),
    StatisticsCase(100_000, 1000, 4000),
    StatisticsCase(1_000_000, 1000, 1000),
    StatisticsCase(10_000_000, 1000, 200),
]
CURVE = StatisticsCase(1_000_000, 1000, 1000)
GRADIENTS = [
    StatisticsCase(3_416, 100, 4000),
    StatisticsCase(3_416, 1000, 2000),
    StatisticsCase(100_000, 100, 400),
    StatisticsCase(100_000, 1000, 400),
]
