"""The table of the README: what changes for whoever comes from Transformers4Rec, in six lines."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from benchmarks import tables

HEADER = [
    *("what", "ours", "ours / floor", "Transformers4Rec / ours"),
    *("peak extra memory, ours", "peak extra memory, Transformers4Rec"),
]
#: Who is compared with, the best known first, and the mark of what stands for Transformers4Rec.
RIVALS = {
    "transformers4rec": "",
    "Adam": " [2]",
    "eager": " [3]",
    "torch top-k": " [4]",
}


class Line(NamedTuple):
    """One line: what is done, the result that tells, whose time, the floor below it, which rows."""

    what: str
    result: str
    ours: str
    floor: str
    wanted: dict[str, int]
    note: str = ""
    """Mark of what Transformers4Rec does besides."""


LINES = [
    Line("a training step", "step", "ours", "floor", {}),
    Line("candidates, log q", "sampler", "fused", "uniform numbers", {"samples": 1000}),
    Line("sampled softmax", "sampled_softmax", "fused", "gemms", {"width": 64, "samples": 1000}),
    Line("full softmax", "full_softmax", "fused", "gemms", {}),
    Line("ranks of the targets", "evaluation", "rank", "gemm", {}, " [1]"),
    Line("update of the item table", "optim", "ours", "stream", {"rows": 10_240}),
]


def _chosen(rows: list[dict[str, Any]], line: Line) -> tuple[dict[str, Any], str] | None:
    """Return the row of the largest catalogue that a rival takes part in, and the rival."""
    found = [
        (row["items"], row.get("rows", 0), row, rival)
        for row in rows
        if all(row.get(key, value) == value for key, value in line.wanted.items())
        for rival in RIVALS
        if rival in row["seconds"] and line.ours in row["seconds"]
    ]
    if not found:
        return None
    largest = max(found, key=lambda each: (each[0], -list(RIVALS).index(each[3]), each[1]))
    return largest[2], largest[3]


def _rows(load: Callable[[str], dict[str, Any] | None]) -> list[list[str]]:
    rows = []
    for line in LINES:
        content = load(line.result)
        chosen = _chosen(content["rows"], line) if content else None
        if chosen is None:
            continue
        row, rival = chosen
        times = tables.medians(row)
        rows.append(
            [
                f"{line.what} ({tables.shape(row)})",
                tables.time(times[line.ours]),
                tables.over(times, line.ours, line.floor),
                tables.over(times, rival, line.ours) + (RIVALS[rival] or line.note),
                *(tables.mebibytes(row, name) for name in (line.ours, rival)),
            ]
        )
    return rows


NOTES = {
    "[1]": "it builds all scores and computes its three metrics from them",
    "[2]": "torch's dense Adam, with which Transformers4Rec trains",
    "[3]": "plain PyTorch: logits, then cross-entropy",
    "[4]": "plain PyTorch: scores, then top-k",
}


def summary(load: Callable[[str], dict[str, Any] | None]) -> str:
    """Return the table, from a function that loads a result by its name, or None."""
    rows = _rows(load)
    used = [f"{mark} {text}" for mark, text in NOTES.items() if any(mark in row[3] for row in rows)]
    notes = f"\n\n{'; '.join(used)}." if used else ""
    return f"{tables.table(HEADER, rows)}{notes}"
