"""Full softmax, forward and backward, beside its GEMMs and every other way to compute it."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from typing import Any

import torch

from benchmarks import cases, timing
from benchmarks.peers import linear_cross_entropy as peers
from transformers4rec_ext import functional
from transformers4rec_ext.ops.tiles import items as tiles

Provider = Callable[[], Any]
CHUNK_ROWS = 64


def whole_gemms(hidden: torch.Tensor, weight: torch.Tensor) -> Provider:
    """Return the floor: the three matrix products on whole, preallocated matrices."""
    scores = torch.empty(len(hidden), len(weight))
    grad_hidden, grad_weight = torch.empty_like(hidden), torch.empty_like(weight)

    def run() -> None:
        torch.mm(hidden, weight.T, out=scores)
        torch.mm(scores, weight, out=grad_hidden)
        torch.mm(scores.T, hidden, out=grad_weight)

    return run


def chunked_gemms(hidden: torch.Tensor, weight: torch.Tensor) -> Provider:
    """Return the same three products in chunks of rows, as whoever saves memory runs them."""
    scores = torch.empty(CHUNK_ROWS, len(weight))
    grad_hidden, grad_weight = torch.empty_like(hidden), torch.empty_like(weight)

    def run() -> None:
        grad_weight.zero_()
        for first in range(0, len(hidden), CHUNK_ROWS):
            rows = slice(first, first + CHUNK_ROWS)
            torch.mm(hidden[rows], weight.T, out=scores)
            torch.mm(scores, weight, out=grad_hidden[rows])
            grad_weight.addmm_(scores.T, hidden[rows])

    return run


def own_gemms(hidden: torch.Tensor, weight: torch.Tensor) -> Provider:
    """Return the products that the fused op runs, in its tiles: four, less the scores it keeps."""
    num_rows, num_items = len(hidden), len(weight)
    step, kept = tiles.tile_items(num_rows, num_items), tiles.kept_items(num_rows, num_items)
    scores = torch.empty(num_rows, step)
    grad_hidden, grad_rows = torch.zeros_like(hidden), hidden.new_empty(hidden.shape[1], step)

    def run() -> None:
        for first in range(0, num_items, step):
            rows = weight[first : first + step]
            torch.mm(hidden, rows.T, out=scores[:, : len(rows)])
        for first in range(0, num_items, step):
            rows = weight[first : first + step]
            tile = scores[:, : len(rows)]
            if first + step <= num_items - kept:
                torch.mm(hidden, rows.T, out=tile)
            grad_hidden.addmm_(tile, rows)
            torch.mm(hidden.T, tile, out=grad_rows[:, : len(rows)])

    return run


def providers(case: cases.FullCase) -> tuple[dict[str, Provider], list[torch.Tensor]]:
    """Return what is timed, having checked that all compute the same loss, and the parameters."""
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(case.rows, case.width, generator=generator).requires_grad_()
    weight = (0.1 * torch.randn(case.items, case.width, generator=generator)).requires_grad_()
    targets = torch.randint(case.items, (case.rows,), generator=generator)

    def step(loss: Callable[..., torch.Tensor], **options: Any) -> Provider:
        def run() -> float:
            value = loss(hidden, weight, targets, **options)
            value.backward()
            hidden.grad = weight.grad = None
            return value.item()

        return run

    found = {
        "fused": step(functional.linear_cross_entropy, backend="fused"),
        "fused with rank": step(
            lambda *inputs: functional.linear_cross_entropy(*inputs, return_rank=True)[0]
        ),
        **{name: step(loss) for name, loss in peers.available().items()},
    }
    expected = found["fused"]()
    for name, run in found.items():
        if abs(run() - expected) > 1e-3 * abs(expected):
            raise AssertionError(f"{name} computes another loss than the fused op")
    found["gemms"] = whole_gemms(hidden.detach(), weight.detach())
    found["own gemms"] = own_gemms(hidden.detach(), weight.detach())
    found["chunked gemms"] = chunked_gemms(hidden.detach(), weight.detach())
    return found, [hidden, weight]


def main() -> None:
    """Measure every case and write ``results/full_softmax.json``."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="rounds of each case (default: 5)")
    options = parser.parse_args()
    timing.keep_memory()
    threads = os.cpu_count() or 1
    torch.set_num_threads(threads)
    rows = []
    for case in cases.FULL_SOFTMAX:
        found, _ = providers(case)
        memory = {
            name: timing.peak_mebibytes(run) for name, run in found.items() if "gemms" not in name
        }
        times = timing.interleaved(found, rounds=options.rounds)
        rows.append({**case._asdict(), "seconds": times, "peak_mebibytes": memory})
        floor = times["gemms"]["median"]
        print(case, {name: f"{t['median'] / floor:.2f}" for name, t in times.items()}, flush=True)
        del found
    timing.save("full_softmax", threads, rows)


if __name__ == "__main__":
    main()
