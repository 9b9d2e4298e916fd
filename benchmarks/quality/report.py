"""Tables and pictures of benchmarks/quality.md, from the records."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from functools import partial
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from benchmarks import markdown
from benchmarks.quality import records
from benchmarks.quality.matrix import DATASETS, METRIC, OBJECTIVES, SEEDS, Dataset, Objective, Run

# Okabe & Ito (2008): told apart with any colour vision.
_COLOURS = {
    "full": "#000000",
    "log-uniform": "#0072B2",
    "uniform": "#009E73",
    "popularity": "#D55E00",
    "corrected": "#CC79A7",
    "gbce": "#E69F00",
}
_LINES = {"100": ":", "256": "-", "1000": "--", "3000": "-", "full": "-"}


def _records(dataset: Dataset) -> dict[Objective, list[dict[str, Any]]]:
    """Return the records of each objective that has any, by seed."""
    found = {}
    for objective in OBJECTIVES:
        runs = [records.read(Run(dataset, objective, seed)) for seed in SEEDS]
        if kept := [record for record in runs if record is not None]:
            found[objective] = kept
    return found


def _mean(kept: list[dict[str, Any]], metric: str = METRIC) -> float:
    return statistics.fmean(record["model"][metric] for record in kept)


def _spread(kept: list[dict[str, Any]], metric: str) -> str:
    values = [record["model"][metric] for record in kept]
    mean = f"{statistics.fmean(values):.4f}"
    return mean if len(values) == 1 else f"{mean} ± {statistics.stdev(values):.4f}"


def table(dataset: Dataset) -> str:
    """Return the rows of a set: one an objective, best first, then what they are measured by."""
    found = _records(dataset)
    if not found:
        return "Not run yet."
    header = ["loss", "seeds", "NDCG@10", "Recall@10", "MRR", "best epoch", "minutes"]
    lines = []
    for objective, kept in sorted(found.items(), key=lambda item: -_mean(item[1])):
        epochs = ", ".join(f"{record['best_epoch']} of {record['epochs']}" for record in kept)
        minutes = statistics.fmean(record["training_seconds"] for record in kept) / 60
        metrics = [_spread(kept, name) for name in (METRIC, "recall_at_10", "mrr")]
        lines.append([objective.title, str(len(kept)), *metrics, epochs, f"{minutes:.0f}"])
    popularity = next(iter(found.values()))[0]["popularity"]
    chance = [f"{popularity[name]:.4f}" for name in (METRIC, "recall_at_10", "mrr")]
    lines.append(["popularity", "", *chance, "", ""])
    command = f"All rows: `train interactions.parquet {' '.join(dataset.shared())}`"
    parts = [command, markdown.table(header, lines), _bars(dataset, found), _setting(found)]
    return "\n\n".join(parts)


def _bars(dataset: Dataset, found: dict[Objective, list[dict[str, Any]]]) -> str:
    best = max(found, key=lambda objective: _mean(found[objective]))
    lines = [
        [label, f"{value:.4f}", f"{_mean(found[best], metric) / value:.3f}"]
        for label, metric, value in dataset.bars
    ]
    return markdown.table(["to reach", "NDCG@10", f"{best.title} / it"], lines)


def _setting(found: dict[Objective, list[dict[str, Any]]]) -> str:
    """Return on what the runs ran."""
    kept = [record["environment"] for rows in found.values() for record in rows]
    machines = sorted(
        {
            f"{machine['cpu']}, {machine['threads']} thread(s), {machine['isa']}, "
            f"torch {machine['torch']}, commit {machine['commit']}"
            for machine in kept
        }
    )
    return f"{'; '.join(machines)}."


def draw(dataset: Dataset) -> None:
    """Write the picture of a set: how validation rises, and where the test ends."""
    found = _records(dataset)
    figure = Figure(figsize=(11, 4.4), layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2, width_ratios=(3, 2))
    order = sorted(found, key=lambda objective: _mean(found[objective]))
    for place, objective in enumerate(order):
        kind, _, size = objective.name.rpartition("-")
        style = {"color": _COLOURS[kind or size], "linestyle": _LINES[size]}
        curve = found[objective][0]["validation"]
        epochs = range(1, len(curve) + 1)
        left.plot(epochs, curve, linewidth=1.4, label=objective.title, **style)
        for record in found[objective]:
            right.plot(record["model"][METRIC], place, "o", color=style["color"], markersize=6)
    left.set(title="validation NDCG@10", xlabel="epoch", ylim=(0, None))
    if order:
        left.legend(fontsize=7, loc="lower right", reverse=True)
    left.xaxis.get_major_locator().set_params(integer=True)
    for label, metric, value in dataset.bars:
        if metric == METRIC:
            right.axvline(value, color="#555555", linestyle="--", linewidth=1)
            right.annotate(
                label, (value, len(order) - 0.4), rotation=90, va="top", ha="right", fontsize=7
            )
    right.set_yticks(range(len(order)), [objective.title for objective in order], fontsize=8)
    right.set(title="test NDCG@10 (each seed a dot)", ylim=(-0.6, len(order) - 0.3))
    for axis in (left, right):
        axis.grid(alpha=0.3)
    figure.suptitle(dataset.title)
    figure.savefig(records.FOLDER / f"{dataset.name}.png", dpi=110)


TABLES: dict[str, Callable[[], str]] = {
    f"quality {dataset.name}": partial(table, dataset) for dataset in DATASETS
}
