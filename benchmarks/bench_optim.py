"""Updating N distinct rows of a table: lookup, backward and step, beside peers and floors."""

from __future__ import annotations

from itertools import cycle
from typing import Any

import torch
from torch import Tensor

from benchmarks import cases, harness
from benchmarks.harness import Provider, Session
from benchmarks.peers import fbgemm_peer
from transformers4rec_ext._backend import use_backend
from transformers4rec_ext.optim import LazyAdagrad, LazyAdam

LR = 0.01
BATCHES = 8  # different rows in every call, as in training: they are not in the cache already


class Batches:
    """Sets of ids of distinct rows, and one gradient of what they look up."""

    def __init__(self, case: cases.OptimCase, device: str) -> None:
        generator = torch.Generator().manual_seed(0)
        self.sets = [
            torch.randperm(case.items, generator=generator)[: case.rows].to(device, copy=True)
            for _ in range(BATCHES)
        ]
        self.grad = torch.randn(case.rows, case.width, generator=generator).to(device)


def table(case: cases.OptimCase, device: str) -> torch.nn.Parameter:
    """Return the table, the same for everybody."""
    generator = torch.Generator().manual_seed(1)
    return torch.nn.Parameter(torch.randn(case.items, case.width, generator=generator).to(device))


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
    tables = [batches.grad.new_ones(case.items, case.width) for _ in range(3)]
    buffer = torch.empty_like(batches.grad)
    sets = cycle(batches.sets)
    slabs = cycle(batches.grad.new_ones(BATCHES, 3 * case.rows, case.width))

    def rows() -> None:
        ids = next(sets)
        for each in tables:
            torch.index_select(each, 0, ids, out=buffer)
            each.index_copy_(0, ids, buffer)

    return {"rows": rows, "stream": lambda: next(slabs).mul_(1.0)}


def providers(case: cases.OptimCase, session: Session) -> dict[str, Provider]:
    """Return what is timed, having checked it; every optimizer has a table of its own."""
    fbgemm = session.peer("fbgemm", fbgemm_peer.load)
    torch.sparse.check_sparse_tensor_invariants.disable()  # said once, instead of a warning
    check(session.device, fbgemm)
    batches = Batches(case, session.device)
    made: dict[str, tuple[Any, bool]] = {
        "ours": (LazyAdam, True),
        "ours, row-wise": (lambda p, lr: LazyAdam(p, lr, rowwise=True), True),
        "ours, reference": (LazyAdam, True),
        "SparseAdam": (torch.optim.SparseAdam, True),
        "Adam": (torch.optim.Adam, False),
        "fused Adam": (lambda p, lr: torch.optim.Adam(p, lr, fused=True), False),
        "Adagrad": (torch.optim.Adagrad, True),
        "our Adagrad": (LazyAdagrad, True),
        "our Adagrad, row-wise": (lambda p, lr: LazyAdagrad(p, lr, rowwise=True), True),
    }
    found = floors(case, batches)
    for name, (make, sparse) in made.items():
        weight = table(case, session.device)
        optimizer = make([weight], lr=LR)
        run = whole(weight, optimizer, batches, sparse=sparse)
        found[name] = _by_the_reference(run) if name == "ours, reference" else run
        if name in ("ours", "ours, row-wise", "SparseAdam"):
            found[f"{name}, step"] = only_step(weight, optimizer, batches)
    if fbgemm is not None:
        peer = fbgemm_peer.RowwiseAdagrad(fbgemm, case.items, case.width, LR, 1e-10)
        sets = cycle(batches.sets)
        found["FBGEMM Adagrad, row-wise"] = lambda: peer(next(sets), batches.grad)
    return found


def _by_the_reference(run: Provider) -> Provider:
    def by_the_reference() -> None:
        with use_backend("reference"):
            run()

    return by_the_reference


def check(device: str, fbgemm: Any) -> None:
    """Raise unless those that follow one rule come to the same table."""
    case = cases.OptimCase(1000, 100, 64)
    batches = Batches(case, device)
    for pair, tolerance in (
        ((lambda p: LazyAdagrad(p, LR), lambda p: torch.optim.Adagrad(p, LR)), 1e-5),
        ((lambda p: LazyAdam(p, LR), lambda p: torch.optim.SparseAdam(p, LR)), 1e-4),
    ):
        results = []
        for make in pair:
            weight = table(case, device)
            whole(weight, make([weight]), batches, sparse=True)()
            results.append(weight.detach())
        torch.testing.assert_close(*results, rtol=0, atol=tolerance)
    if fbgemm is not None:
        peer = fbgemm_peer.RowwiseAdagrad(fbgemm, case.items, case.width, LR, 1e-10)
        weight = table(case, device)
        peer.weight.copy_(weight.detach())
        peer(batches.sets[0], batches.grad)
        whole(weight, LazyAdagrad([weight], LR, rowwise=True), batches, sparse=True)()
        torch.testing.assert_close(peer.weight, weight.detach(), rtol=0, atol=1e-5)


BENCHMARK = harness.Benchmark(
    name="optim",
    groups=cases.OPTIM,
    providers=providers,
    rounds={"tiny": 1, "quick": 7, "full": 15},
    floor="stream",
    memory=False,
)

if __name__ == "__main__":
    harness.main(BENCHMARK, __doc__)
