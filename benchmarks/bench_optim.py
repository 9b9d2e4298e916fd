"""Updating N distinct rows of a table: lookup, backward and step, beside peers and floors."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from itertools import cycle
from typing import Any

import torch
from torch import Tensor

from benchmarks import cases, timing
from benchmarks.peers import fbgemm_peer
from transformers4rec_ext.optim import LazyAdagrad, LazyAdam

Provider = Callable[[], Any]
LR = 0.01
BATCHES = 8  # different rows in every call, as in training: they are not in the cache already


class Batches:
    """Sets of ids of distinct rows, and one gradient of what they look up."""

    def __init__(self, case: cases.OptimCase) -> None:
        generator = torch.Generator().manual_seed(0)
        self.sets = [
            torch.randperm(case.items, generator=generator)[: case.rows].clone()
            for _ in range(BATCHES)
        ]
        self.grad = torch.randn(case.rows, case.width, generator=generator)


def table(case: cases.OptimCase) -> torch.nn.Parameter:
    """Return the table, the same for everybody."""
    generator = torch.Generator().manual_seed(1)
    return torch.nn.Parameter(torch.randn(case.items, case.width, generator=generator))


def whole(weight: Tensor, optimizer: Any, batches: Batches, *, sparse: bool) -> Provider:
    """Return zero_grad, lookup, backward and step."""
    sets = cycle(batches.sets)

    def run() -> None:
        optimizer.zero_grad()
        rows = torch.nn.functional.embedding(next(sets), weight, sparse=sparse)
        rows.backward(batches.grad)
        optimizer.step()

    return run


def only_step(weight: Tensor, optimizer: Any, batches: Batches) -> Provider:
    """Return the step alone, with gradients made beforehand, as the backward makes them."""
    grads = cycle(
        torch.sparse_coo_tensor(ids[None], batches.grad, weight.shape, check_invariants=False)
        for ids in batches.sets
    )

    def run() -> None:
        weight.grad = next(grads)
        optimizer.step()

    return run


def floors(case: cases.OptimCase, batches: Batches) -> dict[str, Provider]:
    """Return what moves the same bytes: rows gathered and scattered by torch, and a stream."""
    tables = [torch.randn(case.items, case.width) for _ in range(3)]
    buffer = torch.empty(case.rows, case.width)
    sets = cycle(batches.sets)
    slabs = cycle(torch.randn(BATCHES, 3 * case.rows, case.width))

    def rows() -> None:
        ids = next(sets)
        for each in tables:
            torch.index_select(each, 0, ids, out=buffer)
            each.index_copy_(0, ids, buffer)

    return {"rows": rows, "stream": lambda: next(slabs).mul_(1.0)}


def providers(case: cases.OptimCase, fbgemm: Any) -> dict[str, Provider]:
    """Return what is timed; every optimizer has a table of its own."""
    batches = Batches(case)
    made: dict[str, tuple[Any, bool]] = {
        "ours": (LazyAdam, True),
        "ours, row-wise": (lambda p, lr: LazyAdam(p, lr, rowwise=True), True),
        "SparseAdam": (torch.optim.SparseAdam, True),
        "Adam": (torch.optim.Adam, False),
        "fused Adam": (lambda p, lr: torch.optim.Adam(p, lr, fused=True), False),
        "Adagrad": (torch.optim.Adagrad, True),
        "our Adagrad": (LazyAdagrad, True),
        "our Adagrad, row-wise": (lambda p, lr: LazyAdagrad(p, lr, rowwise=True), True),
    }
    found = floors(case, batches)
    for name, (make, sparse) in made.items():
        weight = table(case)
        optimizer = make([weight], lr=LR)
        found[name] = whole(weight, optimizer, batches, sparse=sparse)
        if name in ("ours", "ours, row-wise", "SparseAdam"):
            found[f"{name}, step"] = only_step(weight, optimizer, batches)
    if fbgemm is not None:
        peer = fbgemm_peer.RowwiseAdagrad(fbgemm, case.items, case.width, LR, 1e-10)
        sets = cycle(batches.sets)
        found["FBGEMM Adagrad, row-wise"] = lambda: peer(next(sets), batches.grad)
    return found


def check(fbgemm: Any) -> None:
    """Raise unless those that follow one rule come to the same table."""
    case = cases.OptimCase(1000, 100, 64)
    batches = Batches(case)
    for pair, tolerance in (
        ((lambda p: LazyAdagrad(p, LR), lambda p: torch.optim.Adagrad(p, LR)), 1e-5),
        ((lambda p: LazyAdam(p, LR), lambda p: torch.optim.SparseAdam(p, LR)), 1e-4),
    ):
        results = []
        for make in pair:
            weight = table(case)
            whole(weight, make([weight]), batches, sparse=True)()
            results.append(weight.detach())
        torch.testing.assert_close(*results, rtol=0, atol=tolerance)
    if fbgemm is not None:
        peer = fbgemm_peer.RowwiseAdagrad(fbgemm, case.items, case.width, LR, 1e-10)
        weight = table(case)
        peer.weight.copy_(weight.detach())
        peer(batches.sets[0], batches.grad)
        whole(weight, LazyAdagrad([weight], LR, rowwise=True), batches, sparse=True)()
        torch.testing.assert_close(peer.weight, weight.detach(), rtol=0, atol=1e-5)


def main() -> None:
    """Measure every case and write ``results/optim.json``."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=15, help="rounds of each case (default: 15)")
    cores = os.cpu_count() or 1
    parser.add_argument("--threads", type=int, default=cores, help=f"threads (default: {cores})")
    parser.add_argument("--no-fbgemm", action="store_true", help="leave FBGEMM out")
    options = parser.parse_args()
    timing.keep_memory()
    torch.set_num_threads(options.threads)
    fbgemm = None if options.no_fbgemm else fbgemm_peer.load()
    check(fbgemm)
    rows = []
    for case in cases.OPTIM:
        times = timing.interleaved(providers(case, fbgemm), rounds=options.rounds)
        rows.append({**case._asdict(), "seconds": times})
        print(case, {name: f"{t['median'] * 1e3:.2f} ms" for name, t in times.items()}, flush=True)
    timing.save("optim", options.threads, rows, fbgemm=fbgemm_peer.version() if fbgemm else None)


if __name__ == "__main__":
    main()
