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
    import numpy as np

    from transformers4rec_ext.data.parquet import ParquetSessions
    from transformers4rec_ext.data.split import Part
    from transformers4rec_ext.training.config import RunConfig
    from transformers4rec_ext.training.folder import RunFolder
    from transformers4rec_ext.training.run import Judgement

_EPILOG = f"""\
Without FILE, the test items of the training files are ranked, as at the end of `train` (a run with
--hold-out none has none). With FILE, the last item of each of its sessions is ranked given all
items before it (sessions of one item are left out), or with --every-item every item but the first.
Items that the model does not know are left out of the context. A target that it does not know, or
that nothing known comes before, counts as a miss: 0 in every metric. The table shows some of the
metrics, --out writes all of them.

With --by-count a second table tells the targets apart by how often the training part holds them:
0 (or unknown), 1-5, 6-20, 21-100 and more. A model that knows little but what sells best gets its
hits in the last rows. The first table is the mean of these rows, weighed by their share
(but for the standard error, +-SE).

{shared.NULLS}

examples:
  python -m transformers4rec_ext evaluate runs/first
  python -m transformers4rec_ext evaluate runs/first --by-count
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
    parser.add_argument(
        "--by-count",
        action="store_true",
        help="also tell rare targets from frequent ones, by how often the training part holds them",
    )
    parser.add_argument(
        "--sessions",
        type=int,
        metavar="N",
        help="rank a random sample of at most N sessions (default: all, without FILE as many as "
        "--test-sessions in training; a catalogue of millions of items is read once for some 256)",
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
    from transformers4rec_ext.training.folder import RunFolder
    from transformers4rec_ext.training.run import judge

    shared.use_threads(options)
    device = shared.model_device(options)
    _check(options)
    folder = RunFolder(Path(options.run_dir))
    config, catalogue, model = folder.load()
    model.to(device)
    if options.exclude_seen is not None:
        config = dataclasses.replace(config, exclude_seen=options.exclude_seen)
    sessions, part = _sessions(options, folder, config)
    out = None if options.out is None else Path(options.out)
    if out is not None:
        shared.check_out_is_not_read("evaluate", out, folder, sessions.paths)
    shown = not options.no_progress
    limit = options.sessions
    if limit is None and options.file is None:
        limit = config.test_sessions
    found = judge(model, sessions, catalogue, config, part, limit=limit, progress=shown)
    metrics: dict[str, Any] = {**found.metrics()}
    number, unknown = len(found.targets), int((found.targets == 0).sum())
    shared.say(f"{number:,} targets ranked, {unknown:,} of them unknown to the model")
    shared.say(shared.metrics_table(metrics))
    metrics |= {"targets": number, "unknown_targets": unknown}
    if options.by_count:
        metrics["by_count"] = _by_count(found, catalogue.popularity[found.targets])
        shared.say(f"\n{_count_table(metrics['by_count'])}")
    if out is not None:
        write_text(out, json.dumps(metrics, indent=2) + "\n")
    return 0


def _check(options: argparse.Namespace) -> None:
    """Raise for a bad --out or --sessions, and for options that would have no effect."""
    if options.sessions is not None and options.sessions < 1:
        raise value_error("evaluate", "--sessions", "be at least 1", options.sessions)
    if options.out is not None:
        shared.check_out_file("evaluate", Path(options.out))
    for name in ("every_item", "items_column"):
        if options.file is None and getattr(options, name) is not None:
            hint = "It is for other sessions than the run's."
            flag = f"--{name.replace('_', '-')}"
            raise value_error("evaluate", flag, "come with a FILE", "none", hint)


def _sessions(
    options: argparse.Namespace, folder: RunFolder, config: RunConfig
) -> tuple[ParquetSessions, Part]:
    """Return the sessions and which of their items are ranked."""
    from transformers4rec_ext.data.parquet import ParquetSessions

    if options.file is None:
        if not config.tests:
            hint = "It was trained on all of its own files."
            raise value_error("evaluate", "FILE.parquet", "be given for this run", "none", hint)
        return folder.sessions(), "test"
    every = config.split_column is not None if options.every_item is None else options.every_item
    sessions = ParquetSessions(options.file, shared.items_column(options, config.items_column))
    return sessions, "every" if every else "last"


def _by_count(found: Judgement, counts: np.ndarray) -> dict[str, Any]:
    """Return the metrics of each group of targets by ``counts`` in the training part."""
    from transformers4rec_ext.training.evaluation import count_groups

    groups = {}
    for name, mask in count_groups(counts).items():
        (of_group,) = mask.nonzero()
        metrics = found.chosen(of_group).metrics()
        share = len(of_group) / len(counts)
        groups[name] = {"targets": len(of_group), "share": share, **metrics}
    return groups


def _count_table(groups: dict[str, Any]) -> str:
    head = f"{'in training':<12}{'targets':>10}{'share':>8}"
    head += "".join(f"{ranker:>12} NDCG@10{'Recall@10':>11}" for ranker in ("model", "popularity"))
    lines = [head]
    for name, group in groups.items():
        line = f"{name:<12}{group['targets']:>10,}{group['share']:>8.1%}"
        for ranker in ("model", "popularity"):
            line += f"{group[ranker]['ndcg_at_10']:>20.4f}{group[ranker]['recall_at_10']:>11.4f}"
        lines.append(line)
    return "\n".join(lines)
