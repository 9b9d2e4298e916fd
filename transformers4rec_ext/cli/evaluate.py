"""``evaluate``: ranking metrics of a finished or running run, beside popularity."""

from __future__ import annotations

import argparse
import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformers4rec_ext._errors import value_error
from transformers4rec_ext._files import write_text
from transformers4rec_ext.cli import options as shared

if TYPE_CHECKING:
    from transformers4rec_ext.data.parquet import ParquetSessions
    from transformers4rec_ext.data.split import Part
    from transformers4rec_ext.training.config import RunConfig
    from transformers4rec_ext.training.run import RunFolder

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
    from transformers4rec_ext.training.run import RunFolder, evaluate_model

    shared.use_threads(options)
    _check(options)
    folder = RunFolder(Path(options.run_dir))
    config, catalogue, model = folder.load()
    if options.exclude_seen is not None:
        config = dataclasses.replace(config, exclude_seen=options.exclude_seen)
    sessions, part = _sessions(options, folder, config)
    out = None if options.out is None else Path(options.out)
    if out is not None:
        shared.check_out_is_not_read("evaluate", out, folder, sessions.paths)
    metrics = {
        "model": evaluate_model(model, sessions, catalogue, config, part),
        "popularity": popularity_metrics(
            catalogue, held_out(sessions, catalogue, part), exclude_seen=config.exclude_seen
        ),
    }
    ranked, unknown = _count(held_out(sessions, catalogue, part))
    shared.say(f"{ranked:,} targets ranked, {unknown:,} of them unknown to the model")
    shared.say(shared.metrics_table(metrics))
    if out is not None:
        counts = {"targets": ranked, "unknown_targets": unknown}
        write_text(out, json.dumps({**metrics, **counts}, indent=2) + "\n")
    return 0


def _check(options: argparse.Namespace) -> None:
    """Raise for a bad --out, and for options that would have no effect."""
    if options.out is not None:
        shared.check_out_file("evaluate", Path(options.out))
    for name in ("every_item", "items_column"):
        if options.file is None and getattr(options, name) is not None:
            hint = "Without it the test items of the run are ranked."
            flag = f"--{name.replace('_', '-')}"
            raise value_error("evaluate", flag, "come with a FILE", "none", hint)


def _sessions(
    options: argparse.Namespace, folder: RunFolder, config: RunConfig
) -> tuple[ParquetSessions, Part]:
    """Return the sessions and which of their items are ranked."""
    from transformers4rec_ext.data.parquet import ParquetSessions

    if options.file is None:
        return folder.sessions(), "test"
    every = config.split_column is not None if options.every_item is None else options.every_item
    sessions = ParquetSessions(options.file, options.items_column or config.items_column)
    return sessions, "every" if every else "last"


def _count(contexts: Any) -> tuple[int, int]:
    ranked = unknown = 0
    for chunk in contexts:
        ranked += len(chunk.targets)
        unknown += int((chunk.targets == 0).sum())
    return ranked, unknown
