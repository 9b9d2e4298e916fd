"""The folder of a run: its files, what they say, and who may write there."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from transformers4rec_ext._checkpoint import open_state
from transformers4rec_ext._errors import value_error
from transformers4rec_ext._files import remove_leftovers, write_text
from transformers4rec_ext._modes import weights_to_come
from transformers4rec_ext.data.catalogue import Catalogue
from transformers4rec_ext.data.files import Paths
from transformers4rec_ext.data.parquet import ParquetSessions
from transformers4rec_ext.model.model import Model
from transformers4rec_ext.training.config import RunConfig
from transformers4rec_ext.training.loop import Position
from transformers4rec_ext.training.network import build_model

try:
    import fcntl
except ImportError:  # not on Windows; there nothing keeps two runs apart
    fcntl = None  # type: ignore[assignment]

_FOOTER_BYTES = 1 << 16
_FILES = (
    "run.json",
    "metrics.json",
    "catalogue.parquet",
    "checkpoint.safetensors",
    "model.safetensors",
    "log.jsonl",
    "curves.png",
)


@dataclass(frozen=True)
class RunFolder:
    """The files of a run.

    ``run.json`` (options and the fingerprints of the data files), ``catalogue.parquet`` (the
    caller's ids by rank), ``checkpoint.safetensors`` (to resume from), ``model.safetensors`` (what
    validated best; the latest where nothing validates), ``log.jsonl``, and at the end
    ``metrics.json`` and ``curves.png``; besides, ``run.lock``, which one process at a time holds.
    """

    path: Path

    @property
    def files(self) -> list[Path]:
        """The files of a run, those that are not there as well."""
        return [self.path / name for name in _FILES]

    @property
    def lock(self) -> Path:
        """The file that the process that trains holds."""
        return self.path / "run.lock"

    def status(self) -> str:
        """Return "new" (nothing to lose yet), "unfinished", "finished" or "foreign".

        "foreign": there are files of these names, and no ``run.json`` that says whose they are.
        """
        there = {path.name for path in self.files if path.exists()}
        if there:
            try:
                self.read()
            except (FileNotFoundError, ValueError, TypeError):
                return "foreign"
        if "metrics.json" in there:
            return "finished"
        return "unfinished" if there & {"checkpoint.safetensors", "model.safetensors"} else "new"

    def lost(self) -> str | None:
        """Return the name of the file that is gone and without which a run cannot go on."""
        checkpoint, model = (self.path / f"{name}.safetensors" for name in ("checkpoint", "model"))
        if not checkpoint.exists():
            return checkpoint.name if self.status() in ("unfinished", "finished") else None
        if model.exists() or not self.read()[0].validates:  # else every epoch writes it
            return None
        with open_state(checkpoint) as file, _written_by_train(checkpoint):
            return model.name if file.read("position")["best_epoch"] else None

    def clear(self) -> None:
        """Remove the files of a run, and nothing else."""
        for path in self.files:
            path.unlink(missing_ok=True)
        self.tidy()

    @contextmanager
    def held(self) -> Iterator[None]:
        """Keep other processes from training in the folder until the block ends.

        The folder is made; where the block leaves no run in it, it is removed again.

        Raises
        ------
        ValueError
            If another process is at it.
        """
        made = [path for path in (self.path, *self.path.parents) if not path.exists()]
        self.path.mkdir(parents=True, exist_ok=True)
        with open(self.lock, "w") as file:
            _lock(file, self.path)
            try:
                yield
            finally:
                if not (self.path / "run.json").exists():
                    self.lock.unlink(missing_ok=True)
                    with suppress(OSError):  # other files in it
                        for path in made:
                            path.rmdir()

    def check_files_are_not_read(self, files: list[Path]) -> None:
        """Raise ValueError if one of the sessions' files is one that the run would write."""
        own = [path for path in self.files if path.exists()]
        for file in files:
            if any(file.samefile(path) for path in own):
                raise value_error(
                    "train",
                    "--out",
                    "be a folder where the run's files are not in the way of the sessions'",
                    f"{self.path}, which would replace {file}",
                    "Choose another folder.",
                )

    def tidy(self) -> None:
        """Remove what a killed run had half written: up to the size of a checkpoint."""
        for path in self.files:
            remove_leftovers(path)

    def describe(self, config: RunConfig, files: list[Path]) -> None:
        """Write ``run.json``."""
        known = {"config": config.as_dict(), "files": [_fingerprint(path) for path in files]}
        write_text(self.path / "run.json", json.dumps(known, indent=2) + "\n")

    def read(self) -> tuple[RunConfig, list[dict[str, Any]]]:
        """Return the config and the data files' fingerprints of ``run.json``.

        Raises
        ------
        FileNotFoundError
            If there is no run in the folder.
        ValueError
            If ``run.json`` is damaged.
        """
        path = self.path / "run.json"
        if not path.is_file():
            raise FileNotFoundError(f"RunFolder: path must hold a run; {path} does not exist.")
        with _written_by_train(path):
            known = json.loads(path.read_text(encoding="utf-8"))
            return RunConfig.from_dict(known["config"]), known["files"]

    def end(self) -> Position:
        """Return where a finished run ended: the epochs of ``metrics.json``.

        Raises
        ------
        ValueError
            If ``metrics.json`` is damaged.
        """
        path = self.path / "metrics.json"
        with _written_by_train(path):
            result = json.loads(path.read_text(encoding="utf-8"))
            return Position(epoch=int(result["epochs"]), best_epoch=int(result["best_epoch"]))

    def sessions(self) -> ParquetSessions:
        """Open the data files of the run, after checking that they are still the same.

        Raises
        ------
        FileNotFoundError
            If a file is not where it was.
        ValueError
            If it is not what it was.
        """
        config, files = self.read()
        for known in files:
            path = Path(known["path"])
            if not path.is_file():
                raise FileNotFoundError(
                    f"RunFolder: the run's data must be where they were; {path} is not. If they "
                    "were moved, name them: `train --resume FILE.parquet --out "
                    f"{self.path}` takes them from there on."
                )
            if _fingerprint(path) != known:
                raise value_error(
                    "RunFolder", "data", "be what the run began with", f"another {path}"
                )
        return open_sessions(config, [known["path"] for known in files])

    def move(self, files: list[Path]) -> None:
        """Take the data from other places from now on.

        Raises
        ------
        FileNotFoundError, ValueError
            If they are not there, or not the run's.
        """
        config, known = self.read()
        found = [_fingerprint(path) for path in files]
        if [_content(of) for of in found] != [_content(of) for of in known]:
            paths = ", ".join(of["path"] for of in known)
            expectation = f"be those of the run ({paths}), if elsewhere"
            raise value_error("train", "FILE.parquet", expectation, "others")
        if found != known:
            self.describe(config, files)

    def load(self) -> tuple[RunConfig, Catalogue, Model]:
        """Return the config, the catalogue and the model with the weights that were kept.

        The model is for serving: its loss is not that of the run.

        Raises
        ------
        FileNotFoundError, ValueError
            If a file is absent or damaged.
        """
        config, _ = self.read()
        catalogue = Catalogue.load(self.path / "catalogue.parquet")
        weights = self.path / "model.safetensors"
        if not weights.is_file():
            raise FileNotFoundError(
                f"RunFolder: path must hold a trained model; {weights} does not exist. The first "
                f"epoch writes it: continue the run with `train --resume --out {self.path}`."
            )
        with open_state(weights) as file:
            with weights_to_come():
                model = build_model(config, catalogue.num_items, served=True)
            file.fill(model.state_dict())
        model.eval()
        return config, catalogue, model


@contextmanager
def _written_by_train(path: Path) -> Iterator[None]:
    """Say of an error which file of a run is not as it should be."""
    try:
        yield
    except (KeyError, TypeError, ValueError) as error:
        raise value_error(
            "RunFolder", path.name, "be as `train` wrote it", f"{path} ({error})"
        ) from error


def open_sessions(config: RunConfig, files: Paths) -> ParquetSessions:
    """Return the sessions of parquet files, split as ``config`` says.

    Raises
    ------
    FileNotFoundError, TypeError, ValueError
        As :class:`ParquetSessions`.
    """
    return ParquetSessions(
        files,
        config.items_column,
        config.session_column,
        split_column=config.split_column,
        validation_fraction=config.validation_fraction,
    )


def _lock(file: IO[str], folder: Path) -> None:
    """Lock a file for this process, or raise ValueError; a file system may have no locks."""
    if fcntl is None:
        return
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        expectation = "be no folder that another process trains in"
        hint = "Wait for it, stop it, or choose another folder."
        raise value_error("train", "--out", expectation, folder, hint) from None
    except OSError:
        return


def _content(fingerprint: dict[str, Any]) -> dict[str, Any]:
    """Return what a fingerprint says of a file, less where it is."""
    return {name: value for name, value in fingerprint.items() if name != "path"}


def _fingerprint(path: Path) -> dict[str, Any]:
    """Return path, size and a hash of the end, where a parquet file keeps its statistics."""
    size = path.stat().st_size
    with open(path, "rb") as file:
        file.seek(max(0, size - _FOOTER_BYTES))
        digest = hashlib.sha256(file.read()).hexdigest()
    return {"path": str(path.resolve()), "bytes": size, "sha256_of_last_64_KiB": digest}
