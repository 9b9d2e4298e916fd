"""Tables and pictures of benchmarks/quality.md, from the records."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from functools import partial
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks import plots, tables
from benchmarks.quality import records
from benchmarks.quality.matrix import (
    COUNTED,
    DATASETS,
    FULL,
    OBJECTIVES,
    SEEDS,
    Dataset,
    Objective,
    Run,
)

_COLOURS = {
    "full": plots.BLACK,
    "log-uniform": plots.BLUE,
    "uniform": plots.GREEN,
    "popularity": plots.VERMILION,
    "corrected": plots.PURPLE,
    "gbce": plots.ORANGE,
}
_LINES = {"100": ":", "256": "-", "1000": "--", "3000": "-", "full": "-"}
#: What the axis of the test's metric spans at least, as a part of its end.
_LEAST_RANGE = 0.1

#: Of each objective that has run, the records by seed.
Found = dict[Objective, list[dict[str, Any]]]


def found_of(dataset: Dataset) -> Found:
    """Return the records of each objective that has any, by seed."""
    found = {}
    for objective in OBJECTIVES:
        runs = [records.read(Run(dataset, objective, seed)) for seed in SEEDS]
        if kept := [record for record in runs if record is not None]:
            found[objective] = kept
    return found


def _mean(kept: list[dict[str, Any]], metric: str) -> float:
    return statistics.fmean(record["model"][metric] for record in kept)


def _spread(kept: list[dict[str, Any]], metric: str) -> str:
    values = [record["model"][metric] for record in kept]
    mean = f"{statistics.fmean(values):.4f}"
    return mean if len(values) == 1 else f"{mean} ± {statistics.stdev(values):.4f}"


def _chosen(found: Found) -> Objective:
    """Return the objective that validates best, by the first seed."""
    return max(found, key=lambda objective: records.best_validation(found[objective][0]))


def best_with_negatives(found: Found) -> Objective | None:
    """Return the objective with negatives that validates best, None before any has run."""
    sampled = {objective: kept for objective, kept in found.items() if objective is not FULL}
    return _chosen(sampled) if sampled else None


def summary() -> str:
    """Return a row for each set: the full softmax, the best row with negatives, and the bars."""
    header = ["set", "metric", "full softmax", "with negatives", "which", "best counted"]
    rows = [_headline(dataset) for dataset in DATASETS]
    return tables.table([*header, "best published at hand", "ours / published"], rows)


def _headline(dataset: Dataset) -> list[str]:
    metric, title = dataset.metrics[0]
    found = found_of(dataset)

    def shown(objective: Objective) -> str:
        kept = found.get(objective)
        return f"{_spread(kept, metric)} ({len(kept)})" if kept else ""

    which = best_with_negatives(found)
    bars = {label: value for label, name, value in dataset.bars if name == metric}
    counted = bars.pop(COUNTED, None)
    best = max(bars.values(), default=None)
    return [
        *(dataset.title, title, shown(FULL)),
        *((shown(which), which.title) if which else ("", "")),
        *("" if bar is None else f"{bar:.4f}" for bar in (counted, best)),
        f"{_mean(found[_chosen(found)], metric) / best:.3f}" if found and best else "",
    ]


def table(dataset: Dataset) -> str:
    """Return the rows of a set: one an objective, best first, then what they are measured by."""
    found = found_of(dataset)
    if not found:
        return "Not run yet."
    names = [name for name, _ in dataset.metrics]
    header = ["loss", "seeds", *(title for _, title in dataset.metrics), "best epoch", "minutes"]
    lines = []
    for objective in reversed(_by_quality(dataset, found)):
        kept = found[objective]
        epochs = ", ".join(f"{record['best_epoch']} of {record['epochs']}" for record in kept)
        minutes = statistics.fmean(record["training_seconds"] for record in kept) / 60
        metrics = [_spread(kept, name) for name in names]
        lines.append([objective.title, str(len(kept)), *metrics, epochs, f"{minutes:.0f}"])
    popularity = next(iter(found.values()))[0]["popularity"]
    lines.append(["popularity", "", *(f"{popularity[name]:.4f}" for name in names), "", ""])
    command = f"All rows: `train interactions.parquet {' '.join(dataset.shared())}`"
    picture = f"![validation by epoch, test by loss](results/quality/{dataset.name}.png)"
    bars = [_bars(dataset, found)] if dataset.bars else []
    parts = [command, tables.table(header, lines), *bars, picture, _setting(found)]
    return "\n\n".join(parts)


def _by_quality(dataset: Dataset, found: Found) -> list[Objective]:
    """Return the objectives that have run, the best one last."""
    metric = dataset.metrics[0][0]
    return sorted(found, key=lambda objective: _mean(found[objective], metric))


def _bars(dataset: Dataset, found: Found) -> str:
    best = _chosen(found)
    titles = dict(dataset.metrics)
    lines = [
        [label, titles[metric], f"{value:.4f}", f"{_mean(found[best], metric) / value:.3f}"]
        for label, metric, value in dataset.bars
    ]
    return tables.table(["to reach", "metric", "theirs", f"{best.title} / theirs"], lines)


def _setting(found: Found) -> str:
    """Return on what the runs ran, and of which commits."""
    commits: dict[str, set[str]] = {}
    for environment in (record["environment"] for rows in found.values() for record in rows):
        commits.setdefault(tables.setting(environment), set()).add(environment["commit"])
    machines = "; ".join(
        f"{setting}, commit{'s' * (len(some) > 1)} {', '.join(sorted(some))}"
        for setting, some in sorted(commits.items())
    )
    return f"{machines}. Minutes are those of machines that did other things as well."


def drawn_of(dataset: Dataset) -> list[Any]:
    """Return what the picture of a set shows: records and what others reach; empty before any."""
    found = list(found_of(dataset).values())
    return [found, dataset.bars] if found else []


def draw(dataset: Dataset) -> None:
    """Write the picture of a set that has run: how validation rises, and where the test ends."""
    found = found_of(dataset)
    if not found:
        return
    figure = Figure(figsize=(11, 4.8), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(3, 2))
    order = _by_quality(dataset, found)
    shown, title = dataset.metrics[0]
    for place, objective in enumerate(order):
        kind, _, size = objective.name.rpartition("-")
        style = {"color": _COLOURS[kind or size], "linestyle": _LINES[size]}
        curve = found[objective][0]["validation"]
        epochs = range(1, len(curve) + 1)
        left.plot(epochs, curve, linewidth=1.4, label=objective.title, **style)
        for record in found[objective]:
            right.plot(record["model"][shown], place, "o", color=style["color"], markersize=6)
    left.set(title="validation NDCG@10", xlabel="epoch")
    figure.legend(fontsize=7, loc="outside lower center", ncols=4, reverse=True)
    left.xaxis.get_major_locator().set_params(integer=True)
    for label, metric, value in dataset.bars:
        if metric == shown:
            right.axvline(value, color=plots.GREY, linestyle="--", linewidth=1)
            right.annotate(label, (value, -0.5), rotation=90, va="bottom", ha="right", fontsize=7)
    right.set_yticks(range(len(order)), [objective.title for objective in order], fontsize=8)
    right.set(title=f"test {title} (each seed a dot)", ylim=(-0.6, len(order) - 0.3))
    widen(right)
    for axis in (left, right):
        axis.grid(alpha=0.3)
    figure.suptitle(dataset.title)
    plots.save(figure, records.FOLDER / f"{dataset.name}.png", drawn_of(dataset))


def widen(axis: Axes) -> None:
    """Let the horizontal axis span a tenth of its end at least: equal results are to look equal."""
    low, high = axis.get_xlim()
    spare = max(0.0, _LEAST_RANGE * high - (high - low)) / 2
    axis.set_xlim(low - spare, high + spare)
    axis.xaxis.get_major_locator().set_params(nbins=5)


TABLES: dict[str, Callable[[], str]] = {
    "quality": summary,
    **{f"quality {dataset.name}": partial(table, dataset) for dataset in DATASETS},
}
