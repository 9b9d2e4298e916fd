"""``python -m transformers4rec_ext``: train, evaluate, recommend, doctor, demo."""

from __future__ import annotations

import io
import sys
from collections.abc import Sequence

from transformers4rec_ext.cli import run


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit status.

    Parameters
    ----------
    argv : sequence of str, optional
        The arguments after the program's name; those of the process by default.
    """
    return run(sys.argv[1:] if argv is None else argv)


def program() -> int:
    """Run the command line of this process, whose terminal may not have every character."""
    for stream in (sys.stdout, sys.stderr):  # it shows the escape of one that it has not
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    return main()


if __name__ == "__main__":
    sys.exit(program())
