"""Rank of the target and top-k over all items, beside the one GEMM that makes the scores."""

from __future__ import annotations

import argparse
import importlib.util
import os
from collections.abc import Callable
from typing import Any

import torch

from benchmarks import cases, timing
from transformers4rec_ext import functional

Provider = Callable[[], Any]
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


def _upstream(hidden: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor) -> Provider:
    """Return upstream's evaluation, restated: scores, a one-hot copy of the labels, top-k."""

    def run() -> torch.Tensor:
        scores = hidden @ weight.T
        one_hot = torch.nn.functional.one_hot(targets, len(weight)).float()
        _, ids = torch.topk(scores, cases.TOP_K)
        return one_hot.gather(1, ids)

    return run


def providers(case: cases.FullCase) -> dict[str, Provider]:
    """Return what is timed, having checked that ranks and items agree."""
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(case.rows, case.width, generator=generator)
    weight = 0.1 * torch.randn(case.items, case.width, generator=generator)
    targets = torch.randint(case.items, (case.rows,), generator=generator)
    scores = torch.empty(case.rows, case.items)
    found: dict[str, Provider] = {
        "gemm": lambda: torch.mm(hidden, weight.T, out=scores),
        "rank": lambda: functional.target_rank(hidden, weight, targets),
        "top-k": lambda: functional.topk_items(hidden, weight, cases.TOP_K),
        "torch top-k": _full_topk(hidden, weight),
        "torch top-k in chunks": _chunked_topk(hidden, weight),
        "torch rank in chunks": _chunked_rank(hidden, weight, targets),
        "upstream": _upstream(hidden, weight, targets),
    }
    expected = found["top-k"]()[1]
    assert torch.equal(found["torch top-k"]()[1], expected)
    # a sum in another order moves a few items in a million past the target
    assert (found["torch rank in chunks"]() - found["rank"]()).abs().max() <= 20
    if importlib.util.find_spec("faiss"):
        import faiss

        faiss.omp_set_num_threads(torch.get_num_threads())
        index = faiss.IndexFlatIP(case.width)
        index.add(weight.numpy())
        found["faiss"] = lambda: index.search(hidden.numpy(), cases.TOP_K)
    return found


def main() -> None:
    """Measure every case and write ``results/evaluation.json``."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="rounds of each case (default: 5)")
    options = parser.parse_args()
    timing.keep_memory()
    threads = os.cpu_count() or 1
    torch.set_num_threads(threads)
    rows = []
    for case in cases.EVALUATION:
        found = providers(case)
        memory = {name: timing.peak_mebibytes(run) for name, run in found.items()}
        times = timing.interleaved(found, rounds=options.rounds)
        rows.append({**case._asdict(), "seconds": times, "peak_mebibytes": memory})
        floor = times["gemm"]["median"]
        print(case, {name: f"{t['median'] / floor:.2f}" for name, t in times.items()}, flush=True)
        del found
    timing.save("evaluation", threads, rows)


if __name__ == "__main__":
    main()
