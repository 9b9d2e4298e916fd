"""``evaluate``: ranking metrics of a finished or running run, beside popularity."""

from __future__ import annotations

import argparse
import dataclasses
import json
from pathlib import Path
from typing import Any

from transformers4rec_ext._errors import value_error
from transformers4rec_ext._files import write_text
from transformers4rec_ext.cli import options as shared

_EPILOG = f"""\
Without FILE, the test items of the training files are ranked, as at the end of `train`. With FILE,
the last item of each of its sessions is ranked given all items before it (sessions of one item are
left out), or with --every-item every item but the first. Items that the model does not know are
left out of the context. A target that it does not know, or that nothing known comes before,
counts as a miss: 0 in every metric. The table shows some of the metrics, --out writes all of them.

{shared.NULLS}

examples:
  python -m transformers4rec_ext evaluate runs/first
  python -m transformers4rec_ext evaluate runs/first next_week.parquet --exclude-seen
  python -m transformers4rec_ext evaluate runs/first next_week.parquet --every-item --out next.json
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
        "--every-item",
        action=argparse.BooleanOptionalAction,
        help="with FILE: rank every item of a session but the first, not only the last "
        "(default: as in training, where --split-column means every item)",
    )
    parser.add_argument("--out", metavar="OUT.json", help="write all metrics to this file")
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
    if options.out is not None:
        shared.check_out_file("evaluate", Path(options.out))
    if options.every_item is not None and options.file is None:
        hint = "The run says which items of the training files are for the test."
        raise value_error("evaluate", "--every-item", "come with a FILE", "none", hint)
    folder = RunFolder(Path(options.run_dir))
    config, catalogue, model = folder.load()
    if options.exclude_seen is not None:
        config = dataclasses.replace(config, exclude_seen=options.exclude_seen)
    part: Part = "test"
    if options.file is None:
        sessions = folder.sessions()
    else:
        column = options.items_column or config.items_column
        sessions = ParquetSessions(options.file, column)
        every = options.every_item
        if every is None:
            every = config.split_column is not None
        part = "every" if every else "last"
    metrics = {
        "model": evaluate_model(model, sessions, catalogue, config, part),
        "popularity": popularity_metrics(
            catalogue, held_out(sessions, catalogue, part), exclude_seen=config.exclude_seen
        ),
    }
    ranked, unknown = _count(held_out(sessions, catalogue, part))
    shared.say(f"{ranked:,} targets ranked, {unknown:,} of them unknown to the model")
    shared.say(shared.metrics_table(metrics))
    if options.out is not None:
        counts = {"targets": ranked, "unknown_targets": unknown}
        write_text(Path(options.out), json.dumps({**metrics, **counts}, indent=2) + "\n")
    return 0


def _count(contexts: Any) -> tuple[int, int]:
    ranked = unknown = 0
    for chunk in contexts:
        ranked += len(chunk.targets)
        unknown += int((chunk.targets == 0).sum())
    return ranked, unknown
