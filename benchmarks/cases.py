"""The shapes that are measured, named once."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

TARGETS = 2048  # whose log q the sampler is asked for


class SamplerCase(NamedTuple):
    """Candidates of one batch: V items, S samples, and the log q of that many targets."""

    items: int
    samples: int
    targets: int = TARGETS


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


TOP_K = 20
LAYERS, HEADS, DROPOUT = 2, 2, 0.1  # of the transformer of a step
MILLION = 1_000_000

#: How much is measured: "tiny" tries the machinery in seconds and means nothing, "quick" takes
#: minutes, "full" is what the tables of the documents are made of.
SCALES = ("tiny", "quick", "full")

# Of each benchmark, by scale, groups of cases; those of a group are timed in the same rounds.
Groups = dict[str, list[list[Any]]]


def _alone(cases: Iterable[Any]) -> list[list[Any]]:
    return [[case] for case in cases]


SAMPLER: Groups = {
    "tiny": [[SamplerCase(1000, 20, 64)]],
    "quick": [[SamplerCase(items, 1000) for items in (10_000, MILLION, 10 * MILLION)]],
    # the catalogues of one S in the same rounds: what V costs is read off them
    "full": [
        [
            SamplerCase(items, samples)
            for items in (10_000, 100_000, MILLION, 10 * MILLION, 100 * MILLION)
        ]
        for samples in (100, 1000, 8192)
    ],
}
SOFTMAX: Groups = {
    "tiny": [[SoftmaxCase(1000, 64, 16, 20)]],
    "quick": _alone(SoftmaxCase(items, 2048, 64, 1000) for items in (10_000, 100_000, MILLION)),
    "full": _alone(
        [
            *(SoftmaxCase(items, 2048, 64, 1000) for items in (10_000, 100_000)),
            *(
                SoftmaxCase(MILLION, 2048, width, samples)
                for width in (64, 128, 256)
                for samples in (100, 1000, 8192)
            ),
            SoftmaxCase(10 * MILLION, 2048, 64, 1000),
        ]
    ),
}
# fewer rows in the largest catalogues: some peers need twelve bytes for every score
FULL_SOFTMAX: Groups = {
    "tiny": [[FullCase(1000, 100, 16)]],
    "quick": _alone([FullCase(100_000, 256, 64)]),
    "full": _alone(
        [
            FullCase(10_000, 1024, 64),
            FullCase(100_000, 1024, 64),
            FullCase(MILLION, 256, 64),
            FullCase(10 * MILLION, 32, 64),
        ]
    ),
}
EVALUATION: Groups = {
    "tiny": [[FullCase(1000, 32, 16)]],
    "quick": _alone(FullCase(items, 32, 64) for items in (10_000, 100_000, MILLION)),
    "full": _alone(
        [
            *(FullCase(items, 32, 64) for items in (10_000, 100_000, MILLION, 10 * MILLION)),
            *(FullCase(items, 512, 64) for items in (100_000, MILLION)),
        ]
    ),
}
# what all optimizers but the dense ones do does not depend on V, and each has a table of its own
OPTIM: Groups = {
    "tiny": [[OptimCase(1000, 100, 16)]],
    "quick": [[OptimCase(MILLION, 10_240, 64)]],
    "full": _alone(
        [
            OptimCase(100_000, 10_240, 64),
            *(OptimCase(MILLION, rows, 64) for rows in (1024, 10_240, 102_400)),
        ]
    ),
}
# one group: whether a step costs more in a larger catalogue is read off the same rounds
STEP: Groups = {
    "tiny": [
        [StepCase(items, sessions=4, length=5, width=16, samples=20) for items in (500, 1000)]
    ],
    "quick": [[StepCase(items) for items in (10_000, MILLION)]],
    "full": [[StepCase(items) for items in (10_000, 100_000, MILLION, 10 * MILLION)]],
}
# one group, as above; what is larger than the first is what the benchmark is for
LARGEST: Groups = {
    "tiny": [
        [StepCase(items, sessions=4, length=5, width=16, samples=20) for items in (500, 1000)]
    ],
    "quick": [[StepCase(items, width=32) for items in (MILLION, 10 * MILLION)]],
    "full": [[StepCase(items, width=32) for items in (MILLION, 100 * MILLION)]],
}


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
