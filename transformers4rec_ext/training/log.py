"""The log of a run: one JSON object a line, cut back to the checkpoint when a run is resumed."""

from __future__ import annotations

import json
import os
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformers4rec_ext._files import atomic_path

if TYPE_CHECKING:
    from matplotlib.axes import Axes


class RunLog:
    """A JSONL file that can be cut back to what a checkpoint has seen.

    Parameters
    ----------
    path : path
    keep_bytes : int
        Keep this much of an existing file; the rest was written after the checkpoint.
    """

    def __init__(self, path: str | os.PathLike[str], keep_bytes: int = 0) -> None:
        self.path = Path(path)
        self.path.touch()
        os.truncate(self.path, min(keep_bytes, self.path.stat().st_size))
        self._file = open(self.path, "ab")  # noqa: SIM115 - closed by close()

    def write(self, event: str, **values: Any) -> None:
        """Append one line, for whoever reads the file while it grows."""
        line = json.dumps({"event": event, **values}, allow_nan=False)
        self._file.write(line.encode() + b"\n")
        self._file.flush()

    def sync(self) -> int:
        """Bring the lines to the disk; return the size of the file."""
        os.fsync(self._file.fileno())
        return self._file.tell()

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def read_log(path: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """Return the complete lines of a log: one of a killed run, or a damaged file, may be half."""
    lines = []
    for line in Path(path).read_text(encoding="utf-8", errors="replace").split("\n")[:-1]:
        with suppress(ValueError):
            lines.append(json.loads(line))
    return lines


def plot_curves(
    path: str | os.PathLike[str], log: list[dict[str, Any]], baseline: float | None = None
) -> None:
    """Write a PNG of the training loss and, where there was a validation, of its NDCG@10.

    Parameters
    ----------
    path : path
        Where the PNG goes.
    log : list of dict
        The lines of a run's log.
    baseline : float, optional
        NDCG@10 of the popularity baseline, drawn as a line.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    train = [line for line in log if line["event"] == "train"]
    valid = [line for line in log if line["event"] == "validation"]
    figure = Figure(figsize=(9 if valid else 5, 3.5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, 2 if valid else 1, squeeze=False)[0]
    axes[0].plot([line["step"] for line in train], [line["loss"] for line in train], linewidth=1)
    axes[0].set(title="training loss", xlabel="step", ylabel="loss (nats)")
    if valid:
        _plot_validation(axes[1], valid, baseline)
    for axis in axes:
        axis.grid(alpha=0.3)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=120)


def _plot_validation(axis: Axes, valid: list[dict[str, Any]], baseline: float | None) -> None:
    from matplotlib.ticker import MaxNLocator

    axis.plot(
        [line["epoch"] for line in valid],
        [line["ndcg_at_10"] for line in valid],
        marker="o",
        markersize=3,
        label="model",
    )
    if baseline is not None:
        axis.axhline(baseline, color="gray", linestyle="--", label="popularity")
    axis.set(title="validation NDCG@10", xlabel="epoch")
    axis.set_ylim(bottom=0)
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    axis.legend(loc="lower right")
