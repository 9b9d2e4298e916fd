"""Sampled softmax, forward and backward, beside its own three GEMMs and its peers."""

from __future__ import annotations

from collections.abc import Callable

import torch

from benchmarks import cases, harness, inputs
from benchmarks.harness import Provider, Session
from benchmarks.peers import tensorflow_peer
from transformers4rec_ext import functional


def gemms(hidden: torch.Tensor, rows: torch.Tensor) -> Provider:
    """Return the floor: the three matrix products that no implementation can leave out."""
    logits = hidden.new_empty(len(hidden), len(rows))
    grad = torch.randn_like(logits)
    grad_hidden, grad_rows = torch.empty_like(hidden), torch.empty_like(rows)

    def run() -> None:
        torch.mm(hidden, rows.T, out=logits)
        torch.mm(grad, rows, out=grad_hidden)
        torch.mm(grad.T, hidden, out=grad_rows)

    return run


def providers(case: cases.SoftmaxCase, session: Session) -> dict[str, Provider]:
    """Return what is timed, having checked that all compute the same loss."""
    hidden, weight, targets = inputs.scoring(case, session.device)
    ids, log_q, target_log_q = inputs.candidates(case, targets)
    table = weight.nbytes
    found = {"gemms": gemms(hidden.detach(), weight[ids])}
    hidden.requires_grad_()
    weight.requires_grad_()

    def step(loss: Callable[[], torch.Tensor]) -> Provider:
        def run() -> float:
            value = loss()
            value.backward()
            # a provider pays for freeing its own gradients, not for those of the one before it
            hidden.grad = weight.grad = None
            return value.item()

        return run

    def ours(hidden: torch.Tensor, weight: torch.Tensor, backend: str) -> torch.Tensor:
        return functional.sampled_softmax_loss(
            hidden,
            weight,
            targets,
            ids,
            sparse_grad=backend == "fused",
            backend=backend,
            target_log_q=target_log_q,
            candidate_log_q=log_q,
        )

    compiled = torch.compile(ours)
    found["fused"] = step(lambda: ours(hidden, weight, "fused"))
    if session.fits("reference", case, 2 * table):
        found["reference"] = step(lambda: ours(hidden, weight, "reference"))
    if session.fits("compiled reference", case, 3 * table):
        found["compiled reference"] = step(lambda: compiled(hidden, weight, "reference"))
    tf = session.peer("tensorflow", lambda: tensorflow_peer.load(session.threads))
    if tf is not None and session.fits("tensorflow", case, 2 * table):
        drawn = (ids.numpy(), target_log_q.exp().numpy(), log_q.exp().numpy())
        found["tensorflow"] = tensorflow_peer.SampledSoftmax(
            tf, weight.detach().numpy(), hidden.detach().numpy(), targets.numpy(), drawn
        )
    found |= session.upstream("sampled_softmax", case, needed=4 * table)
    expected = found["fused"]()
    for name in found.keys() - {"gemms"}:
        if abs(found[name]() - expected) > 1e-3 * abs(expected):
            raise AssertionError(f"{name} computes another loss than the fused op")
    return found


BENCHMARK = harness.Benchmark(
    name="sampled_softmax",
    groups=cases.SOFTMAX,
    providers=providers,
    rounds={"tiny": 1, "quick": 5, "full": 5},
    floor="gemms",
    no_memory=("gemms", "tensorflow"),
)

if __name__ == "__main__":
    harness.main(BENCHMARK, __doc__)
