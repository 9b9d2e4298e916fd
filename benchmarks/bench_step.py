"""A whole training step: candidates, forward, backward, optimizer.

What does the catalogue cost? Ours has row gradients and LazyAdam; upstream's formulas have dense
gradients and torch's Adam. Both train the same tied 2-layer GPT-2 on the same sessions.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from typing import Any

import torch

from benchmarks import cases, timing
from benchmarks.peers import upstream
from transformers4rec_ext.model.model import Model
from transformers4rec_ext.optim import LazyAdam
from transformers4rec_ext.training.config import RunConfig
from transformers4rec_ext.training.network import ITEM, build_model

Provider = Callable[[], Any]
MOST_ITEMS_OF_UPSTREAM = 1_000_000  # 2^24 is its limit, and dense Adam needs six tables' memory


def _model(case: cases.StepCase, sparse: bool) -> Model:
    config = RunConfig(
        items_column="items",
        max_length=case.length - 1,
        d_model=case.width,
        layers=2,
        heads=2,
        num_negatives=case.samples,
        sparse=sparse,
    )
    return build_model(config, case.items)


def _sessions(case: cases.StepCase) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(1, case.items, (case.sessions, case.length), generator=generator)


def ours(case: cases.StepCase, rowwise: bool = False) -> Provider:
    """Return our step."""
    model, ids = _model(case, sparse=True), _sessions(case)
    model.train()
    optimizer = LazyAdam(model.parameters(), lr=1e-3, rowwise=rowwise)

    def run() -> float:
        optimizer.zero_grad(set_to_none=True)
        loss = model({ITEM: ids}, training=True)["loss"]
        loss.backward()
        optimizer.step()
        return float(loss.detach())

    return run


def theirs(case: cases.StepCase) -> Provider:
    """Return upstream's step, restated on the same body."""
    model, ids = _model(case, sparse=False), _sessions(case)
    model.train()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    sampler = upstream.UpstreamSampler(case.items, case.samples)
    body = model.heads[0].body
    weight = body.inputs.item_embedding_table.weight
    targets = ids[:, 1:].flatten()

    def run() -> float:
        optimizer.zero_grad(set_to_none=True)
        hidden = body({ITEM: ids}, training=True)[:, :-1].flatten(end_dim=1)
        drawn, target_log_q, log_q = sampler(targets)
        loss = upstream.sampled_softmax(hidden, weight, targets, drawn, target_log_q, log_q)
        loss.backward()
        optimizer.step()
        return float(loss.detach())

    return run


def main() -> None:
    """Measure every catalogue in one interleaved run and write ``results/step.json``."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=15, help="rounds (default: 15)")
    parser.add_argument(
        "--most-items", type=int, default=10_000_000, help="largest V (default: ten million)"
    )
    options = parser.parse_args()
    timing.keep_memory()
    threads = os.cpu_count() or 1
    torch.set_num_threads(threads)
    steps: dict[tuple[str, int], Provider] = {}
    for case in cases.STEP:
        if case.items > options.most_items:
            continue
        steps["ours", case.items] = ours(case)
        if case.items <= MOST_ITEMS_OF_UPSTREAM:
            steps["upstream", case.items] = theirs(case)
    memory = {key: timing.peak_mebibytes(run) for key, run in steps.items()}
    times = timing.interleaved(
        {f"{name} {items}": run for (name, items), run in steps.items()}, rounds=options.rounds
    )
    rows = []
    for case in cases.STEP:
        names = [name for name, items in steps if items == case.items]
        if names:
            seconds = {name: times[f"{name} {case.items}"] for name in names}
            peaks = {name: memory[name, case.items] for name in names}
            rows.append({**case._asdict(), "seconds": seconds, "peak_mebibytes": peaks})
            print(case.items, {n: f"{s['median'] * 1e3:.1f} ms" for n, s in seconds.items()}, peaks)
    timing.save("step", threads, rows)


if __name__ == "__main__":
    main()
