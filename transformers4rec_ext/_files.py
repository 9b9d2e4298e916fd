"""Files that are either the old one or the new one, never half of each."""

from __future__ import annotations

import contextlib
import glob
import os
import secrets
from collections.abc import Iterator
from pathlib import Path

_TEMPORARY = ".{}.{}.tmp"  # of the name, and of who writes


@contextlib.contextmanager
def atomic_path(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary path beside ``path`` that replaces it when the block ends well.

    The bytes are flushed to the disk before the rename, so that after a crash, a kill or a full
    disk ``path`` holds a complete file: the new one or the one that was there before. When the
    block raises, the temporary file is removed.

    Parameters
    ----------
    path : path-like
        The file to write; its folder must exist. Of a link, the file that it names.

    Raises
    ------
    OSError
        If the file cannot be written; ``path`` is then what it was before.

    Examples
    --------
    >>> import tempfile, pathlib
    >>> target = pathlib.Path(tempfile.mkdtemp()) / "note.txt"
    >>> with atomic_path(target) as temporary:
    ...     _ = temporary.write_text("whole")
    >>> target.read_text()
    'whole'
    """
    target = Path(os.path.realpath(path))  # a link stays one
    # Processes of two containers may have one number, and threads of a process do.
    writer = f"{os.getpid()}-{secrets.token_hex(4)}"
    temporary = target.with_name(_TEMPORARY.format(target.name, writer))
    try:
        yield temporary
        with open(temporary, "rb") as written:
            os.fsync(written.fileno())
        os.replace(temporary, target)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise
    _sync_folder(target.parent)


def remove_leftovers(path: str | os.PathLike[str]) -> None:
    """Remove what processes that were killed within :func:`atomic_path` left beside ``path``.

    Only for files that no other process is writing.
    """
    target = Path(os.path.realpath(path))
    for left in target.parent.glob(_TEMPORARY.format(glob.escape(target.name), "*")):
        left.unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    # The rename itself lives in the folder; not every system can open a folder for this.
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write ``text`` (UTF-8) to ``path`` by :func:`atomic_path`."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
