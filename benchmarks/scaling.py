"""Pictures of what the size of the catalogue costs: time and memory against V, on log axes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib.figure import Figure

from benchmarks import plots, tables, timing
from benchmarks.plots import BLUE, GREEN, GREY, VERMILION

PAPER = {"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 0.8}


class Panel(NamedTuple):
    """One kind of work: the result that tells of it, and whose lines are drawn."""

    title: str
    result: str
    ours: str
    floor: str
    floor_label: str
    wanted: dict[str, int]


STEP = Panel(
    "A training step", "step", "ours", "floor", "floor: transformer and GEMMs", {"width": 64}
)
SAMPLER = Panel(
    "Candidates and their log q", "sampler", "fused", "uniform numbers",
    "floor: random numbers", {"samples": 1000},
)  # fmt: skip
SOFTMAX = Panel(
    "Sampled softmax, forward and backward", "sampled_softmax", "fused", "gemms",
    "floor: its 3 GEMMs", {"width": 64, "samples": 1000},
)  # fmt: skip
EVALUATION = Panel(
    "Ranks of the targets", "evaluation", "rank", "gemm", "floor: the GEMM of all scores",
    {"width": 64},
)  # fmt: skip
TIMES = (STEP, SAMPLER, SOFTMAX, EVALUATION)
MEMORY = (STEP, SOFTMAX, EVALUATION)


class Curve(NamedTuple):
    """One line: y against V."""

    label: str
    colour: str
    marker: str
    items: list[int]
    values: list[float]


def _series(rows: list[dict[str, Any]], panel: Panel) -> list[dict[str, Any]]:
    """Return the rows that differ in V alone: of the wanted shape, those of the most catalogues."""
    groups: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        if all(row.get(key, value) == value for key, value in panel.wanted.items()):
            shape = {k: v for k, v in row.items() if isinstance(v, int) and k != "items"}
            groups.setdefault(json.dumps(shape), []).append(row)
    longest = max(groups.values(), key=len, default=[])
    return sorted(longest, key=lambda row: int(row["items"]))


def _curves(rows: list[dict[str, Any]], panel: Panel, memory: bool) -> list[Curve]:
    lines = [
        (panel.ours, "ours", BLUE, "o"),
        ("transformers4rec", tables.NAMES["transformers4rec"], VERMILION, "s"),
    ]
    if not memory:
        lines += [
            ("tensorflow", tables.NAMES["tensorflow"], GREEN, "^"),
            (panel.floor, panel.floor_label, GREY, ""),
        ]
    found: list[Curve] = []
    for name, label, colour, marker in lines:
        points = [(row["items"], y) for row in rows if (y := _value(row, name, memory)) is not None]
        if points:
            items, values = ([point[at] for point in points] for at in (0, 1))
            found.append(Curve(label, colour, marker, items, values))
    if memory:
        items = [row["items"] for row in rows]
        sizes = [4 * row["items"] * row["width"] / 2**20 for row in rows]
        found.append(Curve("for scale: the item table", GREY, "", items, sizes))
    return found


def _value(row: dict[str, Any], name: str, memory: bool) -> float | None:
    if memory:
        found = row.get("peak_mebibytes", {}).get(name)
        return None if found is None else max(float(found), 0.1)
    return float(row["seconds"][name]["median"]) * 1e3 if name in row["seconds"] else None


def _spread(values: list[float], step: float) -> list[float]:
    """Move labels (logarithms of their heights) apart to at least ``step``, in their order."""
    order = np.argsort(values)
    placed = [0.0] * len(values)
    last = -np.inf
    for at in order:
        last = placed[at] = max(values[at], last + step)
    return placed


def _draw_panel(axis: Any, curves: list[Curve], subtitle: str, title: str) -> None:
    for curve in curves:
        width = 2.4 if curve.label == "ours" else 1.6
        axis.plot(
            curve.items, curve.values, color=curve.colour, marker=curve.marker, markersize=5,
            linewidth=width, linestyle="-" if curve.marker else "--",
        )  # fmt: skip
    axis.set(xscale="log", yscale="log", xlabel="V, items in the catalogue")
    axis.set_title(f"{title}\n", fontsize=11, fontweight="bold")
    axis.text(0.5, 1.02, subtitle, transform=axis.transAxes, ha="center", fontsize=8, color=GREY)
    low, high = axis.get_ylim()
    axis.set_ylim(low, high * 1.6)
    left, right = axis.get_xlim()
    axis.set_xlim(left, right * (right / left) ** 0.6)  # room for the labels
    ticks = sorted({number for curve in curves for number in curve.items})
    axis.set_xticks(ticks, [tables.items(number) for number in ticks])
    axis.minorticks_off()
    axis.grid(alpha=0.3)
    low, high = np.log10(axis.get_ylim())
    heights = _spread([float(np.log10(c.values[-1])) for c in curves], 0.062 * (high - low))
    for curve, height in zip(curves, heights, strict=True):
        axis.annotate(
            curve.label, (curve.items[-1], 10**height), xytext=(9, 0), textcoords="offset points",
            va="center", color=curve.colour, fontsize=9,
            fontweight="bold" if curve.label == "ours" else "normal", bbox=PAPER,
        )  # fmt: skip
    _distance(axis, curves)


def _distance(axis: Any, curves: list[Curve]) -> None:
    """Write between ours and upstream's, at the largest V of both, how many times more it is."""
    ours = next(curve for curve in curves if curve.label == "ours")
    theirs = next((curve for curve in curves if curve.colour == VERMILION), None)
    if theirs is None:
        return
    common = max(set(ours.items) & set(theirs.items), default=None)
    if common is None:
        return
    mine, other = (curve.values[curve.items.index(common)] for curve in (ours, theirs))
    arrow = {"arrowstyle": "<->", "color": VERMILION, "alpha": 0.6, "shrinkA": 5, "shrinkB": 5}
    axis.annotate("", (common, mine), (common, other), arrowprops=arrow)
    axis.annotate(
        f"{tables.ratio(other / mine)}x", (common, (mine * other) ** 0.5), ha="right",
        xytext=(-5, 0), textcoords="offset points",
        va="center", fontsize=11, fontweight="bold", color=VERMILION, bbox=PAPER,
    )  # fmt: skip


def _subtitle(row: dict[str, Any], content: dict[str, Any]) -> str:
    shape = tables.shape({key: value for key, value in row.items() if key != "items"})
    machine = content["environment"]
    return f"{shape}; {machine['threads']} thread(s) of {machine['cpu']}; {machine['commit']}"


def load(folder: Path, panels: tuple[Panel, ...]) -> dict[str, dict[str, Any]]:
    """Return the results that a picture is drawn of, those that there are."""
    found = {panel.result: timing.load(panel.result, folder) for panel in panels}
    return {name: content for name, content in found.items() if content}


def _picture(folder: Path, name: str, panels: tuple[Panel, ...], memory: bool) -> Path | None:
    contents = load(folder, panels)
    drawn = []
    for panel in panels:
        if panel.result in contents:
            rows = _series(contents[panel.result]["rows"], panel)
            curves = _curves(rows, panel, memory)
            if len(rows) > 1 and curves and curves[0].label == "ours":
                drawn.append((panel, rows, curves))
    if not drawn:
        return None
    columns = 2 if len(drawn) in (2, 4) else len(drawn)
    lines = -(-len(drawn) // columns)
    figure = Figure(figsize=(6.2 * columns, 4.3 * lines + 0.5), layout="constrained")
    axes = figure.subplots(lines, columns, squeeze=False).flat
    for axis, (panel, rows, curves) in zip(axes, drawn, strict=False):
        _draw_panel(axis, curves, _subtitle(rows[0], contents[panel.result]), panel.title)
        axis.set_ylabel("peak extra memory, MiB" if memory else "time, ms")
    what = "How much memory" if memory else "How much time"
    figure.suptitle(f"{what} does a larger catalogue cost? (lower is better)", fontsize=14)
    path = folder / f"{name}.png"
    plots.save(figure, path, contents)
    return path


PICTURES = {"time": (TIMES, False), "memory": (MEMORY, True)}


def draw(folder: Path) -> list[Path]:
    """Draw what the results of a folder allow; return the pictures."""
    made = [_picture(folder, name, *what) for name, what in PICTURES.items()]
    return [path for path in made if path is not None]
