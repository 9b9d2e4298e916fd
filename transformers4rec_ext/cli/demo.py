"""``demo``: train on synthetic sessions made on the spot, and compare with popularity."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from transformers4rec_ext._errors import value_error
from transformers4rec_ext.cli import options as shared
from transformers4rec_ext.cli.train import train_to_the_end

_EPILOG = """\
The sessions have a structure that can be learnt: more than half of the steps go to the successor
of the last item, a third stay in the session's topic. The folder is that of a `train` run, so
`evaluate` and `recommend` work on it.

example:
  python -m transformers4rec_ext demo --out demo_run
"""


def add_parser(commands: Any) -> None:
    """Add the command."""
    parser = shared.add_command(
        commands, "demo", "train on synthetic sessions, about a minute", _EPILOG, run
    )
    parser.add_argument(
        "--out", type=shared.folder, default="demo_run", metavar="DIR", help="(default: demo_run)"
    )
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="(default: 0)")
    parser.add_argument("--epochs", type=int, default=5, metavar="N", help="(default: 5)")
    parser.add_argument(
        "--sessions", type=int, default=12_000, metavar="N", help="(default: 12000)"
    )
    parser.add_argument(
        "--items", type=int, default=1000, metavar="N", help="size of the catalogue (default: 1000)"
    )
    shared.add_common(parser)


def run(options: argparse.Namespace) -> int:
    """Make the sessions and train."""
    from transformers4rec_ext.data.synthetic import synthetic_sessions, write_sessions
    from transformers4rec_ext.training.config import RunConfig
    from transformers4rec_ext.training.folder import RunFolder, open_sessions
    from transformers4rec_ext.training.run import begin_run

    shared.use_threads(options)
    device = shared.model_device(options)
    folder = RunFolder(Path(options.out))
    shared.check_out_folder("demo", folder.path)
    file = folder.path / "synthetic_sessions.parquet"
    if folder.status() != "new" and not file.exists():
        raise value_error(
            "demo", "--out", "be new or of an earlier demo", f"{options.out}, another run"
        )
    config = RunConfig(
        items_column="item_id",
        session_column="session_id",
        seed=options.seed,
        epochs=options.epochs,
        max_length=30,
        num_negatives=300,
        batch_size=128,
        lr=2e-3,
        validation_sessions=4000,
    )
    sessions = synthetic_sessions(options.sessions, options.items, seed=options.seed)
    with folder.held():
        write_sessions(file, sessions)
        begin_run(folder, config, open_sessions(config, file), progress=not options.no_progress)
        return train_to_the_end(folder, options, device)
