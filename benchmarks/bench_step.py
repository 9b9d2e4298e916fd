"""A whole training step: candidates, forward, backward, optimizer.

What does the catalogue cost? Ours has row gradients and LazyAdam; the same network with dense
gradients and torch's Adam is the reference, and Transformers4Rec trains the same network too.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from benchmarks import cases, harness, inputs
from benchmarks.harness import Provider, Session
from transformers4rec_ext._backend import use_backend
from transformers4rec_ext.block.base import SequentialBlock
from transformers4rec_ext.model.model import Model
from transformers4rec_ext.optim import LazyAdam
from transformers4rec_ext.training.config import RunConfig
from transformers4rec_ext.training.network import ITEM, build_model

LR = 1e-3


def model(case: cases.StepCase, sparse: bool) -> Model:
    """Return a tied GPT-2 with sampled softmax."""
    config = RunConfig(
        items_column="items",
        max_length=case.length - 1,
        d_model=case.width,
        layers=cases.LAYERS,
        heads=cases.HEADS,
        dropout=cases.DROPOUT,
        num_negatives=case.samples,
        sparse=sparse,
    )
    return build_model(config, case.items)


def training(forward: Any, optimizer: torch.optim.Optimizer) -> Callable[[Tensor], float]:
    """Return a step from ids [B, T] to the loss."""

    def run(ids: Tensor) -> float:
        optimizer.zero_grad(set_to_none=True)
        loss = forward({ITEM: ids}, training=True)["loss"]
        loss.backward()
        optimizer.step()
        return float(loss.detach())

    return run


def ours(case: cases.StepCase, device: str) -> Provider:
    """Return our step: row gradients, and an optimizer that touches these rows only."""
    trained, ids = model(case, sparse=True).to(device).train(), inputs.sessions(case, device)
    step = training(trained, LazyAdam(trained.parameters(), lr=LR))
    return lambda: step(ids)


def reference(case: cases.StepCase, device: str, compiled: bool) -> Provider:
    """Return the step in plain PyTorch: dense gradients of the table, and torch's Adam.

    The compiler is kept from the sampler, which draws until it has enough: Inductor's code of that
    loop crashes (torch 2.13).
    """
    trained, ids = model(case, sparse=False).to(device).train(), inputs.sessions(case, device)
    forward: Any = trained
    if compiled:
        (task,) = trained.prediction_tasks
        task.sampler.draw = torch.compiler.disable(task.sampler.draw)
        forward = torch.compile(trained)
    step = training(forward, torch.optim.Adam(trained.parameters(), lr=LR))

    def run() -> float:
        with use_backend("reference"):
            return step(ids)

    return run


def _small(case: cases.StepCase) -> cases.StepCase:
    return case._replace(items=case.samples + 2)


def parameters(case: cases.StepCase) -> int:
    """Return how many parameters our network has, without making its table."""
    small = _small(case)
    rest = sum(p.numel() for p in model(small, sparse=False).parameters())
    return rest + (case.items - small.items) * case.width


def floor(case: cases.StepCase, device: str) -> Provider:
    """Return what no step can leave out, whatever the catalogue: the body and the loss's GEMMs.

    Forward and backward of the transformer from given embeddings, and the three products of its
    hidden states with the rows of S candidates.
    """
    body = model(_small(case), sparse=False).to(device).train().heads[0].body
    assert isinstance(body, SequentialBlock)
    transformer = body[1]
    embedded = torch.randn(case.sessions, case.length, case.width, device=device)
    rows = torch.randn(case.samples, case.width, device=device)
    embedded.requires_grad_()
    grad = torch.randn(case.sessions * (case.length - 1), case.samples, device=device)

    def run() -> None:
        hidden = transformer(embedded)[:, :-1].flatten(end_dim=1)
        hidden @ rows.T
        grad.T @ hidden.detach()
        hidden.backward(grad @ rows)
        embedded.grad = None
        body.zero_grad(set_to_none=True)

    return run


def providers(case: cases.StepCase, session: Session) -> dict[str, Provider]:
    """Return what is timed, having checked that the networks have as many parameters."""
    # the table, the gradients of its two uses and their sum, two moments
    dense = 6 * 4 * case.items * case.width
    found: dict[str, Provider] = {}

    def add(name: str, run: Provider) -> None:
        run()  # moments are made in the first step; who asks for memory next must find them
        found[name] = run

    add("floor", floor(case, session.device))
    add("ours", ours(case, session.device))
    if session.fits("reference", case, dense):
        add("reference", reference(case, session.device, compiled=False))
    if session.fits("compiled reference", case, dense):
        add("compiled reference", reference(case, session.device, compiled=True))
    theirs = session.upstream("step", case, needed=dense)
    for run in theirs.values():
        assert run() == parameters(case), "Transformers4Rec trains another network than ours"
    return found | theirs


BENCHMARK = harness.Benchmark(
    name="step",
    groups=cases.STEP,
    providers=providers,
    rounds={"tiny": 1, "quick": 5, "full": 15},
    floor="floor",
)

if __name__ == "__main__":
    harness.main(BENCHMARK, __doc__)
