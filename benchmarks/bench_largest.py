"""100 million items on one machine: a training step, ranks and top-k, beside 1 million of them.

A table of that size leaves no room for two moments of every weight: the optimizer is row-wise
Adagrad, which keeps one number for each item. At width 32 the larger catalogue takes 12.3 GiB, and
is left out where less than 15.4 GiB are free.
"""

from __future__ import annotations

from typing import Any

import torch

from benchmarks import bench_step, cases, harness, inputs, tables
from benchmarks.bench_evaluation import CHUNK_ITEMS
from benchmarks.harness import Provider, Session
from transformers4rec_ext import functional
from transformers4rec_ext.optim import LazyAdagrad

ROWS = 32  # that are ranked at once


def _gemm(hidden: torch.Tensor, weight: torch.Tensor) -> Provider:
    """Return the products of the ranks alone; all of them at once would not fit the memory."""
    scores = hidden.new_empty(len(hidden), CHUNK_ITEMS)

    def run() -> None:
        for first in range(0, len(weight), CHUNK_ITEMS):
            some = weight[first : first + CHUNK_ITEMS]
            torch.mm(hidden, some.T, out=scores[:, : len(some)])

    return run


def providers(case: cases.StepCase, session: Session) -> dict[str, Provider]:
    """Return what is timed, having checked that it reaches the last rows of the table."""
    found = {"floor": bench_step.floor(case, session.device)}
    if not session.fits("ours", case, tables.held_bytes(case._asdict())):
        return found
    trained = bench_step.model(case, sparse=True).to(session.device).train()
    step = bench_step.training(trained, LazyAdagrad(trained.parameters(), rowwise=True))
    ids = inputs.sessions(case, session.device)
    ids[0, 0] = case.items - 1  # a row that a signed index of 32 bits would miss
    body: Any = trained.heads[0].body
    weight = body.inputs.item_embedding_table.weight.detach()
    check_step(lambda: step(ids), weight, ids)
    targets = torch.arange(case.items - ROWS, case.items, device=session.device)
    hidden = torch.nn.functional.normalize(weight[targets])
    found |= {
        "ours": lambda: step(ids),
        "gemm": _gemm(hidden, weight),
        "rank": lambda: functional.target_rank(hidden, weight, targets),
        "top-k": lambda: functional.topk_items(hidden, weight, cases.TOP_K),
    }
    check(found, targets)
    return found


def check_step(step: Provider, weight: torch.Tensor, ids: torch.Tensor) -> None:
    """Raise unless a step changes the rows of all items that it was given."""
    rows = ids.unique()
    before = weight[rows]
    step()
    assert bool((weight[rows] != before).any(1).all()), "an item of the batch was not trained"


def check(found: dict[str, Provider], targets: torch.Tensor) -> None:
    """Raise unless a target is among the best items exactly where its rank says so."""
    best, ranks = found["top-k"]()[1], found["rank"]()
    among = (best == targets.unsqueeze(1)).any(1)
    assert among.equal(ranks < cases.TOP_K), "ranks and top-k disagree"
    assert bool(among.any()), "no item is among the best of its own vector"


BENCHMARK = harness.Benchmark(
    name="largest",
    groups=cases.LARGEST,
    providers=providers,
    rounds={"tiny": 1, "quick": 5, "full": 5},
    floor="floor",
    no_memory=("gemm",),
)

if __name__ == "__main__":
    harness.main(BENCHMARK, __doc__)
