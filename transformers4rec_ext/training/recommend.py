"""The best k items of each session, written as a stream."""

from __future__ import annotations

import math
import os

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from transformers4rec_ext._errors import type_error, value_error
from transformers4rec_ext._files import atomic_path
from transformers4rec_ext.data.catalogue import Catalogue
from transformers4rec_ext.data.contexts import Contexts, whole_sessions
from transformers4rec_ext.data.parquet import ParquetSessions
from transformers4rec_ext.functional import topk_items
from transformers4rec_ext.model.model import Model
from transformers4rec_ext.training.config import RunConfig
from transformers4rec_ext.training.evaluation import at_positions
from transformers4rec_ext.training.network import Query, evaluating, model_query


def write_recommendations(
    path: str | os.PathLike[str],
    model: Model,
    sessions: ParquetSessions,
    catalogue: Catalogue,
    config: RunConfig,
    *,
    top_k: int,
    exclude_seen: bool,
    progress: bool = False,
) -> int:
    """Write the best ``top_k`` items of every session, in the caller's ids.

    Parameters
    ----------
    path : path
        A parquet file, complete or not there: the session column (or ``row``), ``items``,
        ``scores``.
    model : Model
    sessions : ParquetSessions
    catalogue : Catalogue
    config : RunConfig
    top_k : int
    exclude_seen : bool
        Leave out what the session holds; a row is shorter where fewer than ``top_k`` are left.
    progress : bool
        Show a progress bar where stderr is a terminal.

    Returns
    -------
    int
        The number of sessions without a known item; their lists are empty.

    Raises
    ------
    ValueError
        If ``top_k`` is not in [1, V - 1], the session column is called as one of the output's, or
        the model's scores are not finite.
    TypeError
        If files disagree on the type of the session column.
    """
    from tqdm import tqdm

    if not 1 <= top_k < catalogue.num_items:
        raise value_error(
            "write_recommendations",
            "top_k",
            f"be in [1, {catalogue.num_items - 1}], the number of items",
            top_k,
        )
    if sessions.session_column in ("items", "scores"):
        raise value_error(
            "write_recommendations",
            "session_column",
            "be another than 'items' and 'scores', which hold the recommendations",
            repr(sessions.session_column),
            "Rename it in the file.",
        )
    if len(sessions.session_types) > 1:
        raise type_error(
            "write_recommendations",
            f"column {sessions.session_column!r}",
            "have one type in all files",
            ", ".join(map(str, sessions.session_types)),
            "Write it as one, or recommend for each file.",
        )
    query = model_query(model)
    writer: pq.ParquetWriter | None = None
    empty = 0
    bar = tqdm(total=sessions.num_sessions, unit="session", disable=None if progress else True)
    with atomic_path(path) as temporary, bar, evaluating(model):
        try:
            for chunk in whole_sessions(sessions, catalogue):
                table = _recommend(query, chunk, sessions, catalogue, config, top_k, exclude_seen)
                empty += int((chunk.lengths == 0).sum())
                if writer is None:
                    writer = pq.ParquetWriter(temporary, table.schema, compression="zstd")
                writer.write_table(table)
                bar.update(table.num_rows)
        finally:
            if writer is not None:
                writer.close()
    return empty


def _recommend(
    query: Query,
    chunk: Contexts,
    sessions: ParquetSessions,
    catalogue: Catalogue,
    config: RunConfig,
    top_k: int,
    exclude_seen: bool,
) -> pa.Table:
    """Return the recommendations of a chunk of sessions."""
    num_rows = len(chunk.start)
    scores = np.full((num_rows, top_k), -np.inf, np.float32)
    ids = np.zeros((num_rows, top_k), np.int64)
    for context, rows, at in chunk.batches(config.eval_batch_size, config.max_length):
        hidden, weights = query(context)
        last = at_positions(hidden, at)
        seen = chunk.seen(rows).to(weights.device) if exclude_seen else None
        values, found = topk_items(last, weights, top_k, exclude_ids=seen, padding_idx=0)
        if not (torch.isfinite(last).all() and (values < math.inf).all()):
            hint = "Its training diverged: train anew with a lower learning rate."
            got = "nan or inf"
            raise value_error("write_recommendations", "model", "have finite scores", got, hint)
        scores[rows], ids[rows] = values.cpu().numpy(), found.cpu().numpy()
    kept = np.isfinite(scores)
    offsets = pa.array(np.concatenate([[0], np.cumsum(kept.sum(axis=1))]), pa.int32())
    if chunk.sessions is None:
        name, key = "row", pa.array(np.arange(chunk.first, chunk.first + num_rows))
    else:
        name, key = str(sessions.session_column), chunk.sessions
    return pa.table(
        {
            name: key,
            "items": pa.ListArray.from_arrays(offsets, catalogue.decode(ids[kept])),
            "scores": pa.ListArray.from_arrays(offsets, pa.array(scores[kept])),
        }
    )
