"""A small file of sessions, a finished run on it, and a way to call the command line."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from cli_helpers import TINY, write_named

from transformers4rec_ext.__main__ import main
from transformers4rec_ext.data import synthetic_sessions


@pytest.fixture(autouse=True)
def _threads(keep_threads: None) -> None:
    """Undo what ``--threads`` sets."""


@pytest.fixture(scope="session")
def sessions_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a parquet file of 300 sessions over 40 items."""
    path = tmp_path_factory.mktemp("sessions") / "sessions.parquet"
    return write_named(path, synthetic_sessions(300, 40, seed=1))


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory, sessions_file: Path) -> Path:
    """Return the folder of a finished run; tests must not change it."""
    out = tmp_path_factory.mktemp("runs") / "finished"
    columns = ["--items-column=items", "--session-column=who"]
    assert main(["train", str(sessions_file), f"--out={out}", *columns, *TINY]) == 0
    return out


@pytest.fixture
def fails(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Return ``fails(*arguments) -> message``: status 2, one line of error, no traceback."""

    def fails(*arguments: object) -> str:
        capsys.readouterr()
        assert main([str(argument) for argument in arguments]) == 2
        captured = capsys.readouterr().err
        assert captured.startswith("error: ")
        assert captured.count("\n") == 1
        return captured

    return fails
