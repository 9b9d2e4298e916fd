"""Draw the pictures and write the tables of the documents from the JSON results."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks import plots, race_report, scaling, summary, tables, timing
from benchmarks.quality import overview
from benchmarks.quality import report as quality
from benchmarks.quality.matrix import DATASETS

RESULTS = timing.RESULTS
#: The most warps that a multiprocessor holds, by architecture (CUDA programming guide).
MOST_WARPS = {"7.5": 32, "8.0": 64, "8.6": 48, "8.9": 48, "9.0": 64, "10.0": 64, "12.0": 48}


def _load(name: str) -> dict[str, Any]:
    return timing.load(name, RESULTS)


def time_to_quality() -> str:
    """Return the section of the race to a quality; nothing before one is recorded."""
    content = _load("time_to_quality")
    if not content:
        return ""
    table = tables.table(*race_report.table(content))
    return f"{race_report.text(content)}\n{table}\n\n{tables.machine(content)}"


def occupancy(registers: int, arch: str) -> float:
    """Return which part of a multiprocessor's warps the registers of a thread leave room for."""
    of_warp = -(-registers * 32 // 256) * 256  # they are given to a warp in pieces of 256
    warps = 4 * (16 * 1024 // of_warp)  # a multiprocessor has four parts with 16 K each
    return min(MOST_WARPS[arch], warps) / MOST_WARPS[arch]


def registers() -> str:
    """Return the table of the CUDA kernels' registers, and the occupancy that they allow."""
    content = _load("registers")
    archs = [arch.removesuffix("+PTX") for arch in content["archs"]]
    rows = []
    for row in content["rows"]:
        used = row["registers"]
        cells = [f"{used[arch]} ({100 * occupancy(used[arch], arch):.0f} %)" for arch in archs]
        rows.append([f"`{row['file']}`", f"`{row['kernel']}`", str(row["variants"]), *cells])
    table = tables.table(["file", "kernel", "variants", *archs], rows)
    return f"{table}\n\nnvcc {content['nvcc']}; no kernel spills a register."


def inclusion() -> str:
    """Return the table of candidates found and claimed, by decade of rank."""
    content = _load("statistics")
    rows = []
    for row in content["rows"]:
        for at, (low, high) in enumerate(row["ranks"]):
            cells = []
            for who in ("ours", "upstream"):
                claimed, found, error = (
                    row[who][name][at] for name in ("claimed", "found", "error")
                )
                cells += [f"{claimed:.2f}", f"{found:.2f} ± {error:.2f}", f"{found / claimed:.3f}"]
            shape = [f"{row['items']:,}", str(row["samples"])] if at == 0 else ["", ""]
            rows.append([*shape, f"{low:,} to {high:,}", *cells])
    header = ["V", "S", "ranks", "ours: claimed", "drawn", "ratio"]
    table = tables.table([*header, "upstream: claimed", "drawn", "ratio"], rows)
    draws = ", ".join(f"{row['draws']:,}" for row in content["rows"])
    largest = ", ".join(f"{row['upstream_largest_rank']:,}" for row in content["rows"])
    return (
        f"{table}\n\nDraws of each catalogue: {draws}. The largest rank that upstream's sampler "
        f"drew in them: {largest}."
    )


def probabilities() -> str:
    """Return the table of upstream's float32 probabilities against the exact law."""
    rows = [
        [
            f"{row['items']:,}",
            f"{tables.ratio(100 * row['median'])} %",
            f"{tables.ratio(100 * row['worst'])} %",
            f"{100 * row['zero']:.1f} %",
            f"{row['ours_worst']:.1e}",
        ]
        for row in _load("statistics")["probabilities"]
    ]
    names = ["median error of p", "largest", "items with p = 0", "largest error of our q"]
    return tables.table(["V", *names], rows)


def gradients() -> str:
    """Return the table of the bias of sampled softmax's gradient."""
    rows = []
    for row in _load("statistics")["gradients"]:
        cells = [
            f"{100 * value[what]['size']:.2f} ± {100 * value[what]['error']:.2f} %"
            for value in row["bias"].values()
            for what in ("hidden", "items")
        ]
        rows.append([f"{row['items']:,}", str(row["samples"]), f"{row['draws']:,}", *cells])
    names = ["ours", "ours, corrected", "upstream"]
    columns = [f"{name}: {what}" for name in names for what in ("hidden", "item rows")]
    content = _load("statistics")
    return f"{tables.table(['V', 'S', 'draws', *columns], rows)}\n\n{tables.machine(content)}"


def timed(folder: Path) -> dict[str, Callable[[], str]]:
    """Return the tables of what was timed, of the results that a folder has."""
    load = partial(timing.load, folder=folder)
    found: dict[str, Callable[[], str]] = {"summary": partial(summary.summary, load)}
    for name, make in tables.TABLES.items():
        if content := load(name):
            found[name] = partial(make, content)
    return found


COUNTED: dict[str, Callable[[], str]] = {
    "time_to_quality": time_to_quality,
    "registers": registers,
    "inclusion": inclusion,
    "probabilities": probabilities,
    "gradients": gradients,
    **quality.TABLES,
}
DOCUMENTS = (
    "README.md",
    "benchmarks/README.md",
    "benchmarks/statistics.md",
    "benchmarks/quality.md",
    "docs/kernels.md",
)


def render(text: str) -> str:
    """Return ``text`` with every ``<!-- table: NAME -->`` section made anew from the results."""
    for name, table in {**timed(RESULTS), **COUNTED}.items():
        begin, end = f"<!-- table: {name} -->", f"<!-- end: {name} -->"
        if begin in text:
            head, _, rest = text.partition(begin)
            _, _, tail = rest.partition(end)
            text = f"{head}{begin}\n{table()}\n{end}{tail}"
    return text


def write(check: bool = False) -> None:
    """Write the tables into the documents, or only compare them and exit where they differ."""
    for name in DOCUMENTS:
        path = timing.ROOT / name
        text = path.read_text()
        new = render(text)
        if new == text:
            continue
        if check:
            sys.exit(f"{name} differs from results/*.json; run python -m benchmarks.report")
        path.write_text(new)


def draw() -> None:
    """Draw every picture of the documents anew from the results."""
    scaling.draw(RESULTS)
    plots.sampled_distribution()
    if content := _load("time_to_quality"):
        plots.time_to_quality(content, RESULTS / "time_to_quality.png")
    for dataset in DATASETS:
        quality.draw(dataset)
    overview.draw()


def page(folder: Path) -> None:
    """Write the pictures and one page of tables of results that are not those of the documents."""
    parts = [
        f"# Benchmarks: {folder.name}",
        "See benchmarks/README.md for what is measured, and how.",
    ]
    for picture in scaling.draw(folder):
        parts.append(f"![{picture.stem}]({picture.name})")
    for name, table in timed(folder).items():
        parts.append(f"## {name.replace('_', ' ').capitalize()}\n\n{table()}")
    path = folder / "README.md"
    path.write_text("\n\n".join(parts) + "\n")
    print(f"wrote {path}")


def main() -> None:
    """Draw and write, or with --check fail where tables differ from the results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="only compare the tables")
    parser.add_argument(
        "--folder", type=Path, default=RESULTS, help="results to read (default: the documents')"
    )
    options = parser.parse_args()
    if options.folder.resolve() != RESULTS:
        page(options.folder)
        return
    if not options.check:
        draw()
    write(check=options.check)


if __name__ == "__main__":
    main()
