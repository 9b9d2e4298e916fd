"""The command line: one small file per command; errors are one line and status 2."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from typing import NoReturn

from transformers4rec_ext.cli import demo, doctor, evaluate, recommend, train

PROGRAM = "python -m transformers4rec_ext"
_COMMANDS = (train, evaluate, recommend, demo, doctor)
_DESCRIPTION = """\
Train next-item recommenders on sessions in parquet files, rank, recommend."""
_EPILOG = f"""\
A file holds one session a row, its items (the caller's own ids: integers >= 0 or strings)
in time order in a list column.

examples:
  {PROGRAM} demo
  {PROGRAM} train sessions.parquet --items-column item_id --out runs/first
  {PROGRAM} train --resume --out runs/first
  {PROGRAM} evaluate runs/first
  {PROGRAM} recommend runs/first sessions.parquet --top-k 10 --out recs.parquet
  {PROGRAM} doctor

`COMMAND --help` explains a command's options. Exit status: 0 done, 2 wrong input or options,
or no memory left; 130 stopped by Ctrl-C (`train` leaves a checkpoint to resume from), 141 by
`| head`, 143 by SIGTERM (where `train` leaves a checkpoint too, and ends with 130).
"""
_MEMORY_HINT = (
    " A training needs less with a smaller --d-model, --max-length, --batch-size or"
    " --num-negatives, ranking with a smaller --eval-batch-size; a run keeps its own, so begin"
    " another."
)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """Raise instead of printing the whole usage: one line is easier to read."""
        raise ValueError(f"{message}. See `{self.prog} --help`.")


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of all commands."""
    parser = _Parser(
        prog=PROGRAM,
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    for command in _COMMANDS:
        command.add_parser(commands)
    return parser


def run(argv: Sequence[str]) -> int:
    """Run a command; print a wrong input as one line and return 2.

    ``T4R_EXT_TRACEBACK=1`` shows the traceback instead.
    """
    try:
        options, unknown = build_parser().parse_known_args(list(argv))
        if unknown:
            found, where = " ".join(unknown), f"{PROGRAM} {options.command}"
            files = not any(word.startswith("-") for word in unknown)
            hint = "Files come before the options. " if files else ""
            raise ValueError(f"unrecognized arguments: {found}. {hint}See `{where} --help`.")
        status: int = options.run(options)
        if sys.stdout is not None:  # there is none where it was closed
            sys.stdout.flush()
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 130
    except BrokenPipeError:  # whoever reads what is printed has gone, as `| head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141  # what a shell makes of SIGPIPE
    except (ValueError, TypeError, OSError, MemoryError, RuntimeError) as error:
        hint = ""
        if isinstance(error, MemoryError | RuntimeError):
            from transformers4rec_ext._memory import ran_out  # with torch, which `--help` spares

            if not ran_out(error):
                raise
            hint = _MEMORY_HINT
        if os.environ.get("T4R_EXT_TRACEBACK") == "1":
            raise
        print(f"error: {' '.join(str(error).split())}{hint}", file=sys.stderr)
        return 2
    return status
