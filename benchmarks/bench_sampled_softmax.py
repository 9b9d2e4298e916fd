"""Sampled softmax, forward and backward, beside its own three GEMMs and its peers."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from typing import Any

import torch

from benchmarks import cases, timing
from benchmarks.peers import tensorflow_peer, upstream
from transformers4rec_ext import functional

Provider = Callable[[], Any]


def gemms(hidden: torch.Tensor, rows: torch.Tensor) -> Provider:
    """Return the floor: the three matrix products that no implementation can leave out."""
    logits = torch.empty(len(hidden), len(rows))
    grad = torch.randn(len(hidden), len(rows))
    grad_hidden, grad_rows = torch.empty_like(hidden), torch.empty_like(rows)

    def run() -> None:
        torch.mm(hidden, rows.T, out=logits)
        torch.mm(grad, rows, out=grad_hidden)
        torch.mm(grad.T, hidden, out=grad_rows)

    return run


def providers(case: cases.SoftmaxCase, tf: Any) -> dict[str, Provider]:
    """Return what is timed, having checked that all compute the same loss."""
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(case.rows, case.width, generator=generator).requires_grad_()
    weight = (0.1 * torch.randn(case.items, case.width, generator=generator)).requires_grad_()
    targets = torch.randint(case.items, (case.rows,), generator=generator)
    drawn = functional.log_uniform_sample(case.samples, case.items, generator=generator)
    log_q = functional.log_uniform_log_q(targets, case.items, num_tries=drawn.num_tries)
    corrections = {"target_log_q": log_q, "candidate_log_q": drawn.log_q}

    def step(loss: Callable[[], torch.Tensor]) -> Provider:
        def run() -> float:
            value = loss()
            value.backward()
            # a provider pays for freeing its own gradients, not for those of the one before it
            hidden.grad = weight.grad = None
            return value.item()

        return run

    def ours(backend: str, sparse: bool) -> Provider:
        return step(
            lambda: functional.sampled_softmax_loss(
                hidden,
                weight,
                targets,
                drawn.ids,
                sparse_grad=sparse,
                backend=backend,
                **corrections,
            )
        )

    compiled = torch.compile(
        lambda h, w: functional.sampled_softmax_loss(
            h, w, targets, drawn.ids, backend="reference", **corrections
        )
    )
    found = {
        "gemms": gemms(hidden.detach(), weight.detach()[drawn.ids]),
        "fused": ours("fused", True),
        "reference": ours("reference", False),
        "compiled reference": step(lambda: compiled(hidden, weight)),
        "upstream": step(
            lambda: upstream.sampled_softmax(hidden, weight, targets, drawn.ids, log_q, drawn.log_q)
        ),
    }
    if tf is not None:
        sampled = (drawn.ids.numpy(), log_q.exp().numpy(), drawn.log_q.exp().numpy())
        found["tensorflow"] = tensorflow_peer.SampledSoftmax(
            tf, weight.detach().numpy(), hidden.detach().numpy(), targets.numpy(), sampled
        )
    expected = found["fused"]()
    for name in found.keys() - {"gemms"}:
        if abs(found[name]() - expected) > 1e-3 * abs(expected):
            raise AssertionError(f"{name} computes another loss than the fused op")
    return found


def main() -> None:
    """Measure every case and write ``results/sampled_softmax.json``."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="rounds of each case (default: 5)")
    widths = sorted({case.width for case in cases.SOFTMAX})
    parser.add_argument(
        "--widths",
        type=int,
        nargs="+",
        choices=widths,
        default=widths,
        help="measure these D only and keep the other rows of the result (default: all)",
    )
    parser.add_argument("--no-tensorflow", action="store_true", help="leave TensorFlow out")
    options = parser.parse_args()
    timing.keep_memory()
    threads = os.cpu_count() or 1
    torch.set_num_threads(threads)
    tf = None if options.no_tensorflow else tensorflow_peer.load(threads)
    rows = timing.kept_rows("sampled_softmax", "width", options.widths)
    for case in cases.SOFTMAX:
        if case.width not in options.widths:
            continue
        times = timing.interleaved(providers(case, tf), rounds=options.rounds)
        rows.append({**case._asdict(), "seconds": times})
        floor = times["gemms"]["median"]
        print(case, {name: f"{t['median'] / floor:.2f}" for name, t in times.items()}, flush=True)
    rows.sort(key=lambda row: (row["width"], row["samples"]))
    timing.save("sampled_softmax", threads, rows, tensorflow=getattr(tf, "__version__", None))


if __name__ == "__main__":
    main()
