"""Rank of the target and top-k over all items, beside the one GEMM that makes the scores."""

from __future__ import annotations

from typing import Any

import torch

from benchmarks import cases, harness, inputs
from benchmarks.harness import Provider, Session
from transformers4rec_ext import functional

CHUNK_ITEMS = 16_384


def _full_topk(hidden: torch.Tensor, weight: torch.Tensor) -> Provider:
    return lambda: torch.topk(hidden @ weight.T, cases.TOP_K)


def _chunked_topk(hidden: torch.Tensor, weight: torch.Tensor) -> Provider:
    def run() -> tuple[torch.Tensor, torch.Tensor]:
        best, ids = [], []
        for first in range(0, len(weight), CHUNK_ITEMS):
            scores, at = torch.topk(hidden @ weight[first : first + CHUNK_ITEMS].T, cases.TOP_K)
            best.append(scores)
            ids.append(at + first)
        scores, order = torch.topk(torch.cat(best, dim=1), cases.TOP_K)
        return scores, torch.cat(ids, dim=1).gather(1, order)

    return run


def _chunked_rank(hidden: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor) -> Provider:
    def run() -> torch.Tensor:
        target = (hidden * weight[targets]).sum(1, keepdim=True)
        rank = torch.zeros_like(targets)
        for first in range(0, len(weight), CHUNK_ITEMS):
            rank += (hidden @ weight[first : first + CHUNK_ITEMS].T >= target).sum(1)
        return rank - 1

    return run


def providers(case: cases.FullCase, session: Session) -> dict[str, Provider]:
    """Return what is timed, having checked that ranks and items agree."""
    hidden, weight, targets = inputs.scoring(case, session.device)
    scores, table = 4 * case.rows * case.items, weight.nbytes
    found: dict[str, Provider] = {}
    if session.fits("gemm", case, scores):
        whole = hidden.new_empty(case.rows, case.items)
        found["gemm"] = lambda: torch.mm(hidden, weight.T, out=whole)
    found |= {
        "rank": lambda: functional.target_rank(hidden, weight, targets),
        "rank, reference": lambda: functional.target_rank(
            hidden, weight, targets, backend="reference"
        ),
        "top-k": lambda: functional.topk_items(hidden, weight, cases.TOP_K),
        "torch top-k in chunks": _chunked_topk(hidden, weight),
        "torch rank in chunks": _chunked_rank(hidden, weight, targets),
    }
    if session.fits("torch top-k", case, scores):
        found["torch top-k"] = _full_topk(hidden, weight)
        found["torch.compile top-k"] = torch.compile(_full_topk(hidden, weight))
    faiss = session.peer("faiss")
    if faiss is not None and session.fits("faiss", case, table):
        found["faiss"] = _faiss(faiss, hidden, weight, session.threads)
    theirs = session.upstream("evaluation", case, needed=5 * scores + table)
    check(found, theirs)
    return found | theirs


def _faiss(faiss: Any, hidden: torch.Tensor, weight: torch.Tensor, threads: int) -> Provider:
    faiss.omp_set_num_threads(threads)
    index = faiss.IndexFlatIP(weight.shape[1])
    index.add(weight.numpy())
    return lambda: torch.from_numpy(index.search(hidden.numpy(), cases.TOP_K)[1])


def check(found: dict[str, Provider], theirs: dict[str, Any]) -> None:
    """Raise unless all find the same items and ranks, but for ties of scores in float32."""
    expected = found["top-k"]()[1]
    for name in ("torch top-k", "torch.compile top-k", "torch top-k in chunks", "faiss"):
        if name in found:
            ids = found[name]()
            same = (ids if name == "faiss" else ids[1]) == expected
            assert same.double().mean() > 0.999, f"{name} finds other items than ours"
    ranks = found["rank"]()
    # a sum in another order moves a few items in a million past the target
    for name in ("rank, reference", "torch rank in chunks"):
        assert (found[name]() - ranks).abs().max() <= 20, f"{name} finds other ranks than ours"
    recall = float((ranks < cases.TOP_K).double().mean())
    for name, run in theirs.items():
        assert abs(run() - recall) <= 1.5 / len(ranks), f"{name} finds another recall than ours"


BENCHMARK = harness.Benchmark(
    name="evaluation",
    groups=cases.EVALUATION,
    providers=providers,
    rounds={"tiny": 1, "quick": 5, "full": 5},
    floor="rank",
    no_memory=("gemm", "faiss"),
)

if __name__ == "__main__":
    harness.main(BENCHMARK, __doc__)
