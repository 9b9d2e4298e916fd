"""Parquet files: which there are, how their lists lie, and what is wrong with them, in words."""

from __future__ import annotations

import glob
import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from transformers4rec_ext._errors import value_error

Paths = str | os.PathLike[str] | Sequence[str | os.PathLike[str]]


class RowGroup(NamedTuple):
    """One row group: the unit that is read, and that is put in another order by shuffling."""

    file: int
    group: int
    first: int
    rows: int


def path_list(function: str, paths: Paths) -> list[Path]:
    """Return ``paths``, one or several, as a list."""
    given = [paths] if isinstance(paths, (str, os.PathLike)) else list(paths)
    if not given:
        raise value_error(function, "paths", "name at least one file", "none")
    if any(os.fspath(path) == "" for path in given):  # which pathlib takes for the current folder
        raise value_error(function, "paths", "name files", "''")
    return [Path(path) for path in given]


def files_below(function: str, paths: Paths) -> list[Path]:
    """Return the parquet files that ``paths`` stand for: files, folders of them, or patterns.

    Those of a folder or a pattern are in the order of their names. In a pattern ``**`` stands for
    folders at any depth. What a folder or a pattern stands for has no name that begins with a dot
    or an underscore (unless the pattern says so): such files are not the data's.

    Raises
    ------
    FileNotFoundError   if a path is absent or nothing matches a pattern.
    ValueError          if a folder holds no parquet file.
    """
    return [file for path in path_list(function, paths) for file in _files_of(function, path)]


def check_distinct(function: str, files: Sequence[Path]) -> None:
    """Raise ValueError if one file is there twice: every one of its sessions would count twice."""
    known: dict[Path, Path] = {}
    for file in files:
        other = known.setdefault(file.resolve(), file)
        if other is not file:
            raise value_error(function, "paths", "name every file once", f"{other} and {file}")


def _files_of(function: str, path: Path) -> list[Path]:
    if path.is_dir():
        inside = _matching(path, str(Path(glob.escape(str(path))) / "*.parquet"))
        if not inside:
            expectation = "be files, or folders that hold *.parquet files"
            below = f"{path}/**/*.parquet"
            hint = f"Those in folders below it: '{below}'." if _matching(path, below) else ""
            raise value_error(function, "paths", expectation, f"{path}, which holds none", hint)
        return inside
    if path.exists():
        return [path]
    matching = _matching(path, str(path))
    if not matching:
        raise FileNotFoundError(f"{function}: paths must exist; {path} does not.")
    return matching


def _matching(given: Path, pattern: str) -> list[Path]:
    """Return what a pattern finds, less what others leave and folders of what it finds."""
    found = [
        path
        for path in map(Path, sorted(glob.glob(pattern, recursive=True)))
        if not any(part[0] in "._" for part in path.parts if part not in given.parts)
    ]
    above = {parent for path in found for parent in path.parents}
    return [path for path in found if path not in above]


def open_parquet(function: str, path: Path) -> pq.ParquetFile:
    """Open a file.

    Raises
    ------
    FileNotFoundError   if it is absent.
    PermissionError     if it may not be read.
    ValueError          if it is something else than a complete parquet file.
    """
    if not path.exists():
        raise FileNotFoundError(f"{function}: paths must exist; {path} does not.")
    if not path.is_file():
        hint = f"Those in a folder of this name: '{path}/*.parquet'." if path.is_dir() else ""
        raise value_error(function, "paths", "be files", f"{path}, which is not a file", hint)
    try:
        return pq.ParquetFile(path)
    except PermissionError:
        raise
    except (pa.ArrowException, OSError) as error:
        raise unreadable(function, path, error) from error


def unreadable(function: str, path: Path, error: Exception) -> ValueError:
    """Return an error for a file that arrow cannot read."""
    reason = " ".join(str(error).split()).rstrip(".")
    return value_error(
        function,
        "paths",
        "be complete parquet files",
        f"{path} ({reason})",
        "The file may be truncated or of another format; write it again.",
    )


def check_named_once(function: str, schema: pa.Schema, name: str, path: Path) -> None:
    """Raise ValueError if several columns of a file have this name."""
    if schema.names.count(name) > 1:
        got = f"{schema.names.count(name)} of them in {path}"
        raise value_error(function, f"column {name!r}", "be one", got, "Rename the others.")


def is_string(type_: pa.DataType) -> bool:
    """Return whether a column of this type holds strings."""
    types = pa.types
    # by name: arrow has had views only since its version 16
    return bool(
        types.is_string(type_) or types.is_large_string(type_) or str(type_) == "string_view"
    )


def is_list(type_: pa.DataType) -> bool:
    """Return whether a row of a column of this type is a list."""
    types = pa.types
    return bool(
        types.is_list(type_) or types.is_large_list(type_) or types.is_fixed_size_list(type_)
    )


def decoded_type(type_: pa.DataType) -> pa.DataType:
    """Return what a dictionary-encoded type stands for; any other unchanged."""
    return type_.value_type if pa.types.is_dictionary(type_) else type_


def list_offsets(lists: pa.Array) -> np.ndarray:
    """Return the ends of lists, of which none is null, with 0 before them: int64 [B+1]."""
    lengths = pc.list_value_length(lists).to_numpy(zero_copy_only=False)
    return np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths, dtype=np.int64)])
