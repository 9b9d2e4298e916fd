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


if __name__ == "__main__":
    for stream in (sys.stdout, sys.stderr):  # a terminal that cannot show a name shows its escape
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    sys.exit(main())
