"""``recommend``: the top k items of each session, in the caller's own ids, to parquet."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformers4rec_ext.cli import options as shared
from transformers4rec_ext.cli.signals import ended_by_sigterm

if TYPE_CHECKING:
    from transformers4rec_ext.data.parquet import ParquetSessions

_EPILOG = f"""\
The output has a row for each session of FILE, in its order: the session column (or `row`, the
number of the session from 0, where there is none), `items` (your own ids, the best first) and
`scores` (the model's logits). Items that the model does not know are left out of the context; a
session without any known item gets an empty list. The file appears when it is complete.

{shared.NULLS}

example:
  python -m transformers4rec_ext recommend runs/first sessions.parquet --top-k 10 \\
      --exclude-seen --out recs.parquet
"""


def add_parser(commands: Any) -> None:
    """Add the command."""
    parser = shared.add_command(
        commands, "recommend", "top-k items of each session, to parquet", _EPILOG, run
    )
    parser.add_argument("run_dir", metavar="RUN_DIR", help="folder written by `train`")
    parser.add_argument("file", metavar="FILE.parquet", help="sessions, one a row")
    parser.add_argument(
        "--top-k",
        type=int,
        default=10,
        metavar="K",
        help="items for each session, from 1 to the number of items in training (default: 10)",
    )
    parser.add_argument(
        "--out", default="recs.parquet", metavar="OUT.parquet", help="(default: recs.parquet)"
    )
    parser.add_argument(
        "--exclude-seen",
        action=argparse.BooleanOptionalAction,
        help="recommend only items that the session does not hold (default: as in training)",
    )
    parser.add_argument("--items-column", metavar="C", help="default: as in training")
    parser.add_argument("--session-column", metavar="C", help="default: as in training, if there")
    shared.add_common(parser)


def run(options: argparse.Namespace) -> int:
    """Recommend."""
    from transformers4rec_ext.training.folder import RunFolder
    from transformers4rec_ext.training.recommend import write_recommendations

    shared.use_threads(options)
    device = shared.model_device(options)
    out = Path(options.out)
    shared.check_out_file("recommend", out)
    folder = RunFolder(Path(options.run_dir))
    config, catalogue, model = folder.load()
    model.to(device)
    column = shared.items_column(options, config.items_column)
    sessions = _sessions(options, column, config.session_column)
    exclude = config.exclude_seen if options.exclude_seen is None else options.exclude_seen
    shared.check_out_is_not_read("recommend", out, folder, sessions.paths)
    with ended_by_sigterm():
        empty = write_recommendations(
            out,
            model,
            sessions,
            catalogue,
            config,
            top_k=options.top_k,
            exclude_seen=exclude,
            progress=not options.no_progress,
        )
    note = f", {empty:,} of them without a known item" if empty else ""
    if config.session_column is not None and sessions.session_column is None:
        note += f"; numbered in `row`: not every file has the column {config.session_column!r}"
    shared.say(f"{out}: top {options.top_k} of {sessions.num_sessions:,} sessions{note}")
    return 0


def _sessions(
    options: argparse.Namespace, column: str, session_column: str | None
) -> ParquetSessions:
    from transformers4rec_ext.data.parquet import ParquetSessions

    if options.session_column is not None:
        return ParquetSessions(options.file, column, options.session_column)
    plain = ParquetSessions(options.file, column)
    if session_column is not None and session_column in plain.columns:
        return ParquetSessions(options.file, column, session_column)
    return plain
