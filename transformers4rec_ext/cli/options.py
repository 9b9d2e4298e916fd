"""What several commands share: a command's parser, threads, the progress option, tables."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from typing import Any

from transformers4rec_ext._errors import value_error


def add_command(
    commands: Any, name: str, summary: str, epilog: str, run: Callable[[argparse.Namespace], int]
) -> argparse.ArgumentParser:
    """Return the parser of a command that calls ``run``."""
    parser: argparse.ArgumentParser = commands.add_parser(
        name,
        help=summary,
        description=summary,
        epilog=epilog,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.set_defaults(run=run)
    return parser


def add_common(parser: argparse.ArgumentParser) -> None:
    """Add --threads and --no-progress."""
    parser.add_argument(
        "--threads", type=int, metavar="N", help="CPU threads of torch (default: all cores)"
    )
    parser.add_argument("--no-progress", action="store_true", help="no progress bar")


def use_threads(options: argparse.Namespace) -> None:
    """Apply --threads."""
    if options.threads is None:
        return
    if options.threads < 1:
        raise value_error("train", "--threads", "be >= 1", options.threads)
    import torch

    torch.set_num_threads(options.threads)


def metrics_table(rows: Mapping[str, Mapping[str, float]]) -> str:
    """Return an aligned table, a row for each ranker and a column for each metric.

    Examples
    --------
    >>> print(metrics_table({"model": {"ndcg_at_10": 0.25, "mrr": 0.2}}))
               NDCG@10     MRR
    model       0.2500  0.2000
    """
    names = list(next(iter(rows.values())))
    titles = [name.upper().replace("_AT_", "@").replace("RECALL", "Recall") for name in names]
    lines = [f"{'':<10}" + "".join(f"{title:>{max(8, len(title) + 1)}}" for title in titles)]
    for ranker, metrics in rows.items():
        cells = (
            f"{metrics[name]:>{max(8, len(title) + 1)}.4f}"
            for name, title in zip(names, titles, strict=True)
        )
        lines.append(f"{ranker:<10}" + "".join(cells))
    return "\n".join(lines)


def say(line: str) -> None:
    """Print a line at once, so that it stands in the right place among progress bars."""
    print(line, flush=True)
