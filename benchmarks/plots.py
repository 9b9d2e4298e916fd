"""Pictures of the recorded results, and what those of other modules have in common with them."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from benchmarks import timing

# Okabe & Ito (2008): told apart with any colour vision; markers differ too.
BLUE, SKY, GREEN, ORANGE, VERMILION = "#0072B2", "#56B4E9", "#009E73", "#E69F00", "#D55E00"
PURPLE, BLACK, GREY = "#CC79A7", "#000000", "#555555"
_STYLES = [(BLUE, "o"), (SKY, "D"), (VERMILION, "s"), (ORANGE, "^"), (PURPLE, "v")]


def digest(results: Any) -> str:
    """Return what a picture carries to tell of which results it was drawn."""
    return hashlib.sha256(json.dumps(results, sort_keys=True).encode()).hexdigest()


def save(figure: Figure, path: Path, results: Any, dpi: int = 110) -> None:
    """Write a PNG that carries the `digest` of its results."""
    figure.savefig(path, dpi=dpi, metadata={"Description": digest(results)})


def sampled_distribution(path: Path = timing.RESULTS / "statistics.png") -> None:
    """Draw into a PNG how often an item is a candidate, by its rank, against what is claimed."""
    content = timing.load("statistics")
    curve = content["curve"]
    figure = Figure(figsize=(10, 4.4), layout="constrained")
    left, right = figure.subplots(1, 2, sharex=True, sharey=True)
    _panel(left, curve, "ours", "transformers4rec_ext", BLUE, "o")
    _panel(right, curve, "upstream", "Transformers4Rec (its formulas)", VERMILION, "s")
    left.set_ylabel("probability that an item is a candidate")
    last = curve["upstream_largest_rank"]
    share = 100 * (1 - last / curve["items"])
    right.axvspan(last, curve["items"], color=VERMILION, alpha=0.12, linewidth=0)
    right.annotate(
        f"never drawn:\nranks above {last:,},\n{share:.0f} % of the items",
        (last, 1e-4), xytext=(last * 0.45, 7e-5), ha="right", color=VERMILION,
        arrowprops={"arrowstyle": "->", "color": VERMILION},
    )  # fmt: skip
    # a bin of which next to nothing is drawn would stretch the axis over four decades
    left.set_ylim(4e-5, 2)
    figure.suptitle(
        f"How often is an item a candidate? {curve['samples']:,} of {curve['items']:,} items, "
        f"{curve['draws']:,} draws"
    )
    save(figure, path, content, dpi=120)


def _panel(
    axis: Any, curve: dict[str, Any], who: str, title: str, colour: str, marker: str
) -> None:
    ranks = np.array(curve["ranks"], dtype=float)
    sizes = ranks[:, 1] - ranks[:, 0] + 1
    middle = np.sqrt(ranks[:, 0] * ranks[:, 1])
    claimed, found, error = (
        np.array(curve[who][name]) / sizes for name in ("claimed", "found", "error")
    )
    law = "exact law, which the loss is told" if who == "ours" else "what the loss is told"
    axis.plot(middle, claimed, color=GREY, linewidth=1.5, label=law)
    drawn = found > 0
    axis.errorbar(
        middle[drawn], found[drawn], yerr=2 * error[drawn], color=colour, marker=marker,
        markersize=5, linestyle="none", label="as drawn",
    )  # fmt: skip
    axis.set(title=title, xscale="log", yscale="log", xlabel="rank of the item by popularity")
    axis.grid(alpha=0.3)
    axis.legend(loc="lower left", bbox_to_anchor=(0, 0.22))


def time_to_quality(content: dict[str, Any], path: Path) -> None:
    """Draw into a PNG the test NDCG@10 of every contender against its minutes of training."""
    figure = Figure(figsize=(8.5, 4.8), layout="constrained")
    axis = figure.subplots()
    target = content["target"]
    axis.axhline(target, color=GREY, linestyle="--", linewidth=1)
    for row, (colour, marker) in zip(content["rows"], _STYLES, strict=False):
        minutes = [point["seconds"] / 60 for point in row["curve"]]
        ndcg = [point["ndcg_at_10"] for point in row["curve"]]
        reached = row["reached"]
        found = f"{reached['seconds'] / 60:.1f} min" if reached else f"best {max(ndcg):.3f}"
        axis.plot(
            [0, *minutes], [0, *ndcg], color=colour, marker=marker, markersize=3.5,
            linewidth=2.2 if row["key"].startswith("ours") else 1.3,
            label=f"{row['name']}: {found}",
        )  # fmt: skip
        if reached:
            axis.plot(
                reached["seconds"] / 60, reached["ndcg_at_10"], color=colour, marker="*",
                markersize=15, markeredgecolor="white", zorder=5,
            )  # fmt: skip
    # in the middle and above the line: where a curve ends, and nowhere else, it is above as well
    axis.text(0.5, target, str(target), ha="center", va="bottom", color=GREY,
              transform=axis.get_yaxis_transform())  # fmt: skip
    machine = content["environment"]
    threads = f"{machine['threads']} thread{'s' * (machine['threads'] != 1)}"
    axis.set(
        title=f"How long does training take to NDCG@10 of {target}?",
        xlabel=f"minutes of training ({threads} of {machine['cpu']})",
        ylabel="test NDCG@10, MovieLens-1M",
    )
    axis.set_xlim(left=0)
    axis.set_ylim(bottom=0)
    axis.grid(alpha=0.3)
    axis.legend(loc="lower right", title=f"minutes to {target}")
    save(figure, path, content, dpi=120)
