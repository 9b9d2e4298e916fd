"""The picture of all sets: what ours end with, beside what is published."""

from __future__ import annotations

from typing import Any, NamedTuple

from matplotlib.figure import Figure

from benchmarks import plots
from benchmarks.quality import records, report
from benchmarks.quality.matrix import COUNTED, DATASETS, FULL, Dataset

PATH = records.FOLDER.parent / "quality.png"


class Line(NamedTuple):
    """A set and a metric that somebody has published, and what ours end with in the test."""

    title: str
    published: list[float]
    counted: float | None
    full: list[float]
    """By seed; empty where it has not run."""
    sampled: list[float]


def drawn_of() -> list[Line]:
    """Return the lines of the picture, from the top; empty before any run."""
    return [line for dataset in DATASETS for line in _lines(dataset)]


def _lines(dataset: Dataset) -> list[Line]:
    found = report.found_of(dataset)
    which = report.best_with_negatives(found)
    lines = []
    for metric, title in dataset.metrics:
        bars = [(label, value) for label, name, value in dataset.bars if name == metric]
        published = [value for label, value in bars if label != COUNTED]
        if not found or not published:
            continue
        counted = [value for label, value in bars if label == COUNTED]

        def values(objective: Any, metric: str = metric) -> list[float]:
            return [record["model"][metric] for record in found.get(objective, [])]

        name = f"{dataset.title}, {title}"
        first = counted[0] if counted else None
        lines.append(Line(name, published, first, values(FULL), values(which)))
    return lines


def draw() -> None:
    """Write the picture, if there is a run."""
    lines = drawn_of()
    if not lines:
        return
    figure = Figure(figsize=(9, 0.55 * len(lines) + 1.6), layout="constrained")
    axis = figure.subplots()
    axis.axvline(1, color=plots.GREY, linewidth=1)
    for place, line in enumerate(reversed(lines)):
        best = max(line.published)
        _dots(axis, [value / best for value in line.published], place, "|", plots.GREY, 12)
        if line.counted is not None:
            _dots(axis, [line.counted / best], place, "x", plots.VERMILION, 6)
        _dots(axis, [value / best for value in line.full], place + 0.13, "o", plots.BLACK, 6)
        _dots(axis, [value / best for value in line.sampled], place - 0.13, "s", plots.BLUE, 6)
    axis.set_yticks(range(len(lines)), [line.title for line in reversed(lines)])
    axis.set(ylim=(-0.6, len(lines) - 0.4), xlabel="test metric / the best published one at hand")
    for label, marker, colour in (
        ("full softmax (a seed each)", "o", plots.BLACK),
        ("best with negatives", "s", plots.BLUE),
        ("published", "|", plots.GREY),
        ("best counted baseline", "x", plots.VERMILION),
    ):
        axis.plot([], [], marker, color=colour, label=label, markersize=7)
    figure.legend(fontsize=8, loc="outside lower center", ncols=4)
    axis.grid(axis="x", alpha=0.3)
    figure.suptitle("What the command line's models reach")
    plots.save(figure, PATH, lines)


def _dots(
    axis: Any, values: list[float], place: float, marker: str, colour: str, size: float
) -> None:
    axis.plot(values, [place] * len(values), marker, color=colour, markersize=size, alpha=0.8)
