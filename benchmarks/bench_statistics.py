"""Whether candidates are drawn as often as claimed, and the gradient is right in expectation.

No timing: counts of many draws, ours and upstream's, against what each says they should be; the
error of upstream's float32 probabilities; and the mean gradient of sampled softmax against that of
the full one. Writes results/statistics.json and .png, and the tables of statistics.md.
"""

from __future__ import annotations

import argparse
import itertools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks import cases, plots, report, timing
from benchmarks.peers import upstream
from transformers4rec_ext import functional

THREADS = 1
GROUPS = 20  # a mean and its standard error come from this many groups of draws


def edges(items: int, per_decade: int) -> list[int]:
    """Return log-spaced bounds of classes from 0: ranks 1 to 10, 11 to 100, ... up to V."""
    steps = math.ceil(per_decade * math.log10(items))
    bounds = {min(items, round(10 ** (step / per_decade))) for step in range(1, steps + 1)}
    return [0, *sorted(bounds)]


def exact_probabilities(items: int) -> Tensor:
    """Return the law in float64, by a formula that cancels nothing: log1p(1 / rank) / log1p(V)."""
    ranks = torch.arange(1, items + 1, dtype=torch.float64)
    return ranks.reciprocal().log1p() / math.log1p(items)


def _totals(values: Tensor, bounds: list[int]) -> np.ndarray:
    """Return the sums of ``values`` between the bounds."""
    return np.add.reduceat(values.double().numpy(), bounds[:-1])


def _counts(ids: Tensor, bounds: list[int]) -> np.ndarray:
    return np.histogram(ids.numpy(), bounds)[0]


def claims_of_ours(items: int, tries: list[int], bounds: list[int]) -> np.ndarray:
    """Return what our log q claims for draws of that many tries, [draws, ranges].

    The sums over all items are smooth in the number of tries: a polynomial through nine values.
    """
    low, high = min(tries), max(tries) + 1
    every = torch.arange(items)

    def at(number: float) -> np.ndarray:
        log_q = functional.log_uniform_log_q(every, items, num_tries=round(number))
        return _totals(log_q.double().exp(), bounds)

    nodes = sorted({round(x) for x in np.linspace(low, high, 9)})
    powers = np.vander((np.array(nodes) - low) / (high - low), len(nodes))
    fitted = np.linalg.solve(powers, np.stack([at(node) for node in nodes]))
    return np.vander((np.array(tries) - low) / (high - low), len(nodes)) @ fitted


def inclusion(case: cases.StatisticsCase, bounds: list[int]) -> dict[str, Any]:
    """Return, by range of ranks, claimed and found candidates of a draw, ours and upstream's."""
    generator = torch.Generator().manual_seed(0)
    ours, tries = [], []
    for _ in range(case.draws):
        drawn = functional.log_uniform_sample(case.samples, case.items, generator=generator)
        ours.append(_counts(drawn.ids, bounds))
        tries.append(int(drawn.num_tries))
    torch.manual_seed(0)
    sampler = upstream.UpstreamSampler(case.items, case.samples)
    nothing = torch.zeros(0, dtype=torch.int64)
    theirs, largest = [], 0
    for _ in range(case.draws):
        ids = sampler(nothing)[0]
        theirs.append(_counts(ids, bounds))
        largest = max(largest, int(ids[-1]) + 1)
    of_upstream = np.tile(_totals(sampler.inclusion, bounds), (case.draws, 1))
    return {
        "ranks": [[low + 1, high] for low, high in itertools.pairwise(bounds)],
        "ours": _compared(np.stack(ours), claims_of_ours(case.items, tries, bounds)),
        "upstream": _compared(np.stack(theirs), of_upstream),
        "upstream_largest_rank": largest,
    }


def _compared(found: np.ndarray, claimed: np.ndarray) -> dict[str, list[float]]:
    error = (found - claimed).std(axis=0, ddof=1) / math.sqrt(len(found))
    values = {"found": found.mean(axis=0), "claimed": claimed.mean(axis=0), "error": error}
    return {name: [float(f"{x:.6g}") for x in column] for name, column in values.items()}


def probabilities(items: int) -> dict[str, Any]:
    """Return the relative errors of upstream's table of p, and of our q for 1,000 tries."""
    exact = exact_probabilities(items)
    table = upstream.UpstreamSampler(items, 1).probabilities
    error = (table.double() / exact - 1).abs()
    q = torch.expm1(1000 * torch.log1p(-exact)).neg()
    log_q = functional.log_uniform_log_q(torch.arange(items), items, num_tries=1000)
    return {
        "items": items,
        "median": float(error.median()),
        "worst": float(error.max()),
        "zero": float((table == 0).double().mean()),
        "ours_worst": float((log_q.double() - q.log()).expm1().abs().max()),
    }


def small_model(items: int, rows: int, width: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return hidden, weight and targets of a model that knows what is popular, and a taste.

    A score is log p of the item plus a normal deviate; targets are drawn from the model's softmax.
    """
    generator = torch.Generator().manual_seed(1)
    hidden = torch.randn(rows, width, generator=generator)
    weight = torch.randn(items, width, generator=generator) / math.sqrt(width - 1)
    hidden[:, 0] = 1
    weight[:, 0] = exact_probabilities(items).log().float()
    targets = torch.multinomial((hidden @ weight.T).softmax(1), 1, generator=generator).squeeze(1)
    return hidden, weight, targets


def losses(case: cases.StatisticsCase) -> dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]]:
    """Return what is compared: each draws candidates and returns the mean loss."""
    sampler = upstream.UpstreamSampler(case.items, case.samples)

    def ours(corrected: bool) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
        def loss(hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
            drawn, log_q = functional.log_uniform_draw(targets, case.samples, case.items)
            return functional.sampled_softmax_loss(
                hidden,
                weight,
                targets,
                drawn.ids,
                target_log_q=log_q,
                candidate_log_q=drawn.log_q,
                corrected=corrected,
            )

        return loss

    def theirs(hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
        return upstream.sampled_softmax(hidden, weight, targets, *sampler(targets))

    return {"ours": ours(False), "ours, corrected": ours(True), "upstream": theirs}


def gradient_bias(case: cases.StatisticsCase, rows: int = 64, width: int = 16) -> dict[str, Any]:
    """Return ``|E[g] - g_full| / |g_full|`` of the gradients of hidden states and of item rows."""
    model = small_model(case.items, rows, width)
    full = _gradients(functional.linear_cross_entropy, *model)
    biases = {}
    for name, loss in losses(case).items():
        torch.manual_seed(2)
        groups = [[torch.zeros_like(g) for g in full] for _ in range(GROUPS)]
        for draw in range(case.draws):
            for total, gradient in zip(
                groups[draw % GROUPS], _gradients(loss, *model), strict=True
            ):
                total += gradient * (GROUPS / case.draws)
        biases[name] = {
            what: _relative(torch.stack([group[at] for group in groups]), full[at])
            for at, what in enumerate(("hidden", "items"))
        }
    return {"items": case.items, "samples": case.samples, "draws": case.draws, "bias": biases}


def _gradients(loss: Callable[..., Tensor], *model: Tensor) -> tuple[Tensor, Tensor]:
    hidden, weight = (tensor.clone().requires_grad_() for tensor in model[:2])
    of_hidden, of_weight = torch.autograd.grad(loss(hidden, weight, model[2]), (hidden, weight))
    return of_hidden.double(), of_weight.double()


def _relative(means: Tensor, full: Tensor) -> dict[str, float]:
    """Return the size of the bias and its standard error, from the means of independent groups.

    The square of the bias is the mean product of the deviations of two *different* groups: the
    noise of one is not in it. Its error is that of the jackknife.
    """
    deviations = (means - full).flatten(1)
    products = deviations @ deviations.T
    count = len(means)

    def square(kept: Tensor) -> float:
        inner = products[kept][:, kept]
        number = len(kept)
        return float((inner.sum() - inner.trace()) / (number * (number - 1)))

    everything = torch.arange(count)
    value = square(everything)
    without = torch.tensor([square(everything[everything != k]) for k in range(count)])
    error = math.sqrt((count - 1) * float(without.double().var(correction=0)))
    size, norm = math.sqrt(max(value, 0.0)), float(full.norm())
    # of the square root: at a bias that is not there, the root of the square's error
    error_of_size = error / (2 * size) if value > error else math.sqrt(error)
    return {"size": size / norm, "error": error_of_size / norm}


def main() -> None:
    """Count, write ``results/statistics.json``, draw, and write the tables."""
    argparse.ArgumentParser(description=__doc__).parse_args()
    torch.set_num_threads(THREADS)
    rows = []
    for case in cases.INCLUSION:
        rows.append({**case._asdict(), **inclusion(case, edges(case.items, 1))})
        print(case, flush=True)
    timing.save(
        "statistics",
        THREADS,
        rows,
        curve={**cases.CURVE._asdict(), **inclusion(cases.CURVE, edges(cases.CURVE.items, 6))},
        probabilities=[probabilities(case.items) for case in cases.INCLUSION],
        gradients=[gradient_bias(case) for case in cases.GRADIENTS],
    )
    plots.sampled_distribution()
    report.write()


if __name__ == "__main__":
    main()
