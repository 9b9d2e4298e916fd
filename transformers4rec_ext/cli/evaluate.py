"""``evaluate``: ranking metrics of a finished or running run, beside popularity."""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path
from typing import Any

from transformers4rec_ext.cli import options as shared

_EPILOG = f"""\
Without FILE, the test items of the training files are ranked (the last item of each session, as
at the end of `train`). With FILE, the last item of each of its sessions is ranked given all items
before it (sessions of one item are left out). Items that the model does not know are left out of
the context; a target that it does not know, or that nothing known comes before, counts as a miss:
0 in every metric.

{shared.NULLS}

examples:
  python -m transformers4rec_ext evaluate runs/first
  python -m transformers4rec_ext evaluate runs/first next_week.parquet --exclude-seen
"""


def add_parser(commands: Any) -> None:
    """Add the command."""
    parser = shared.add_command(
        commands, "evaluate", "ranking metrics of a trained model", _EPILOG, run
    )
    parser.add_argument("run_dir", metavar="RUN_DIR", help="folder written by `train`")
    parser.add_argument("file", nargs="?", metavar="FILE.parquet", help="other sessions")
    parser.add_argument("--items-column", metavar="C", help="default: as in training")
    parser.add_argument(
        "--exclude-seen",
        action=argparse.BooleanOptionalAction,
        help="rank only items that the session has not held yet (default: as in training)",
    )
    shared.add_common(parser)


def run(options: argparse.Namespace) -> int:
    """Evaluate."""
    from transformers4rec_ext.baselines import popularity_metrics
    from transformers4rec_ext.data.contexts import held_out
    from transformers4rec_ext.data.parquet import ParquetSessions
    from transformers4rec_ext.data.split import Part
    from transformers4rec_ext.training.run import RunFolder, evaluate_model

    shared.use_threads(options)
    folder = RunFolder(Path(options.run_dir))
    config, catalogue, model = folder.load()
    if options.exclude_seen is not None:
        config = dataclasses.replace(config, exclude_seen=options.exclude_seen)
    part: Part = "test"
    if options.file is None:
        sessions = folder.sessions()
    else:
        column = options.items_column or config.items_column
        sessions, part = ParquetSessions(options.file, column), "last"
    rows = {
        "model": evaluate_model(model, sessions, catalogue, config, part),
        "popularity": popularity_metrics(
            catalogue, held_out(sessions, catalogue, part), exclude_seen=config.exclude_seen
        ),
    }
    ranked, unknown = _count(held_out(sessions, catalogue, part))
    shared.say(f"{ranked:,} sessions ranked, {unknown:,} of their targets unknown to the model")
    shared.say(shared.metrics_table(rows))
    return 0


def _count(contexts: Any) -> tuple[int, int]:
    ranked = unknown = 0
    for chunk in contexts:
        ranked += len(chunk.targets)
        unknown += int((chunk.targets == 0).sum())
    return ranked, unknown
