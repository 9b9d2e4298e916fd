"""Full softmax, forward and backward, beside its GEMMs and every other way to compute it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from benchmarks import cases, harness, inputs
from benchmarks.harness import Provider, Session
from benchmarks.peers import linear_cross_entropy as peers
from transformers4rec_ext import functional
from transformers4rec_ext.ops.tiles import items, new_tile

CHUNK_ROWS = 64


def whole_gemms(hidden: torch.Tensor, weight: torch.Tensor) -> Provider:
    """Return the floor: the three matrix products on whole, preallocated matrices."""
    scores = hidden.new_empty(len(hidden), len(weight))
    grad_hidden, grad_weight = torch.empty_like(hidden), torch.empty_like(weight)

    def run() -> None:
        torch.mm(hidden, weight.T, out=scores)
        torch.mm(scores, weight, out=grad_hidden)
        torch.mm(scores.T, hidden, out=grad_weight)

    return run


def chunked_gemms(hidden: torch.Tensor, weight: torch.Tensor) -> Provider:
    """Return the same three products in chunks of rows, as whoever saves memory runs them."""
    scores = hidden.new_empty(CHUNK_ROWS, len(weight))
    grad_hidden, grad_weight = torch.empty_like(hidden), torch.empty_like(weight)

    def run() -> None:
        grad_weight.zero_()
        for first in range(0, len(hidden), CHUNK_ROWS):
            rows = slice(first, first + CHUNK_ROWS)
            part = scores[: len(hidden[rows])]
            torch.mm(hidden[rows], weight.T, out=part)
            torch.mm(part, weight, out=grad_hidden[rows])
            grad_weight.addmm_(part.T, hidden[rows])

    return run


def own_gemms(hidden: torch.Tensor, weight: torch.Tensor) -> Provider:
    """Return the products that the fused op runs, in its tiles: four, less the scores it keeps."""
    num_rows, num_items = len(hidden), len(weight)
    step, kept = items.tile_items(num_rows, num_items), items.kept_items(num_rows, num_items)
    scores = new_tile(hidden, num_rows, step)
    grad_hidden, grad_weight = torch.zeros_like(hidden), torch.empty_like(weight)

    def run() -> None:
        for first in range(0, num_items, step):
            rows = weight[first : first + step]
            torch.mm(hidden, rows.T, out=scores[:, : len(rows)])
        for first in range(0, num_items, step):
            rows = weight[first : first + step]
            tile = scores[:, : len(rows)]
            if first >= kept:
                torch.mm(hidden, rows.T, out=tile)
            grad_hidden.addmm_(tile, rows)
            torch.mm(tile.T, hidden, out=grad_weight[first : first + step])

    return run


def providers(case: cases.FullCase, session: Session) -> dict[str, Provider]:
    """Return what is timed, having checked that all compute the same loss."""
    hidden, weight, targets = inputs.scoring(case, session.device)
    scores, table = 4 * case.rows * case.items, weight.nbytes
    found: dict[str, Provider] = {}
    if session.fits("gemms", case, scores + table):
        found["gemms"] = whole_gemms(hidden.detach(), weight.detach())
    found["own gemms"] = own_gemms(hidden.detach(), weight.detach())
    if case.rows > CHUNK_ROWS:  # otherwise there is one chunk, and it has been measured
        found["chunked gemms"] = chunked_gemms(hidden.detach(), weight.detach())
    hidden.requires_grad_()
    weight.requires_grad_()

    def step(loss: Callable[..., torch.Tensor], **options: Any) -> Provider:
        def run() -> float:
            value = loss(hidden, weight, targets, **options)
            value.backward()
            hidden.grad = weight.grad = None
            return value.item()

        return run

    ours: dict[str, Provider] = {
        "fused": step(functional.linear_cross_entropy, backend="fused"),
        "fused with rank": step(
            lambda *inputs: functional.linear_cross_entropy(*inputs, return_rank=True)[0]
        ),
    }
    if session.fits("reference", case, 3 * scores + table):
        ours["reference"] = step(functional.linear_cross_entropy, backend="reference")
    cut = session.peer("cut-cross-entropy")
    others = {
        name: step(loss)
        for name, loss in peers.available(cut).items()
        if session.fits(name, case, 3 * scores + table)
    }
    theirs = session.upstream("full_softmax", case, needed=4 * scores + 2 * table)
    losses = ours | others | theirs
    expected = ours["fused"]()
    for name, run in losses.items():
        if abs(run() - expected) > 1e-3 * abs(expected):
            raise AssertionError(f"{name} computes another loss than the fused op")
    return losses | found


BENCHMARK = harness.Benchmark(
    name="full_softmax",
    groups=cases.FULL_SOFTMAX,
    providers=providers,
    rounds={"tiny": 1, "quick": 3, "full": 5},
    floor="own gemms",
    no_memory=("gemms", "own gemms", "chunked gemms"),
)

if __name__ == "__main__":
    harness.main(BENCHMARK, __doc__)
