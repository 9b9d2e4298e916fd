"""Which sessions of parquet files are for training, validation and test, by a column of theirs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from transformers4rec_ext import _checks
from transformers4rec_ext._errors import type_error, value_error
from transformers4rec_ext.data.files import decoded_type, is_string, open_parquet, unreadable
from transformers4rec_ext.data.split import MARKS

#: What SR-GNN and GCE-GNN validate on, of their training examples.
VALIDATION_FRACTION = 0.1
_NAME = "ParquetSessions"
_TRAIN, _VALIDATION = MARKS.index("train"), MARKS.index("validation")


def read_marks(
    paths: Sequence[Path], column: str, validation_fraction: float | None = None
) -> np.ndarray:
    """Return what each session of the files is marked as.

    Parameters
    ----------
    paths : sequence of Path
        Files that have the column.
    column : str
        Of strings, each one of ``MARKS``.
    validation_fraction : float, optional
        Where no session is marked "validation", this part of those marked "train" is: the last
        ones in file order, and at least one. By default ``VALIDATION_FRACTION``.

    Returns
    -------
    int8 [sessions]
        Indices in ``MARKS``.

    Raises
    ------
    TypeError
        If the column does not hold strings.
    ValueError
        If a mark is null or none of ``MARKS`` (the message names the row), or
        ``validation_fraction`` is not in (0, 1) or given where sessions are marked "validation".
    """
    if validation_fraction is not None:
        _checks.open_fraction(_NAME, "validation_fraction", validation_fraction)
    marks = np.concatenate([_marks_of(path, column) for path in paths])
    if np.any(marks == _VALIDATION):
        if validation_fraction is not None:
            expectation = f"be left out where {column!r} marks sessions as 'validation'"
            raise value_error(_NAME, "validation_fraction", expectation, validation_fraction)
        return marks
    fraction = VALIDATION_FRACTION if validation_fraction is None else validation_fraction
    train = np.flatnonzero(marks == _TRAIN)
    marks[train[len(train) - max(1, round(fraction * len(train))) :]] = _VALIDATION
    return marks


def _marks_of(path: Path, column: str) -> np.ndarray:
    """Return the marks of one file, int8."""
    found = [np.zeros(0, np.int8)]
    first = 0
    with open_parquet(_NAME, path) as file:
        kind = decoded_type(file.schema_arrow.field(column).type)
        if not is_string(kind):
            expectation = f"be strings, of {', '.join(map(repr, MARKS))}"
            raise type_error(_NAME, f"column {column!r}", expectation, f"{kind} in {path}")
        try:
            for batch in file.iter_batches(columns=[column]):
                found.append(_indices(batch.column(0), column, path, first))
                first += batch.num_rows
        except (pa.ArrowException, OSError) as error:
            raise unreadable(_NAME, path, error) from error
    return np.concatenate(found)


def _indices(values: pa.Array, column: str, path: Path, first: int) -> np.ndarray:
    index = pc.index_in(values.cast(pa.string()), pa.array(MARKS))
    if index.null_count:
        row = int(np.flatnonzero(index.is_null().to_numpy(zero_copy_only=False))[0])
        mark = values[row].as_py()
        raise value_error(
            _NAME,
            f"column {column!r}",
            f"mark every session as one of {', '.join(map(repr, MARKS))}",
            f"{'null' if mark is None else repr(mark)} in {path}, row {first + row}",
        )
    return index.to_numpy().astype(np.int8)
