"""Contexts to rank from: what a session held before the item that is to be predicted."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from transformers4rec_ext._errors import value_error
from transformers4rec_ext.data.catalogue import Catalogue
from transformers4rec_ext.data.loader import KnownItems
from transformers4rec_ext.data.parquet import ParquetSessions
from transformers4rec_ext.data.split import Part, padded, target_positions


class ContextBatch(NamedTuple):
    """Some contexts as tensors."""

    rows: np.ndarray
    """Which rows of the :class:`Contexts` these are, int64 [B]."""
    ids: Tensor
    """The last T known items before the target, int64 [B, T], right-padded with 0."""
    seen: Tensor
    """All known items before the target, int64 [B, L], padded with -1."""


class Contexts(NamedTuple):
    """Contexts of a chunk of sessions: row ``i`` is ``ids[start[i]:stop[i]]``, known items only."""

    ids: np.ndarray
    start: np.ndarray
    stop: np.ndarray
    targets: np.ndarray
    """The held-out items, int64 [rows]; 0 where it is not in the catalogue or there is none."""
    sessions: pa.Array | None
    first: int
    """The number of the first row's session (rows follow each other only where all are kept)."""
    num_unknown: int

    @property
    def lengths(self) -> np.ndarray:
        """The number of known items of each context."""
        lengths: np.ndarray = self.stop - self.start
        return lengths

    def batches(self, batch_size: int, max_length: int) -> Iterator[ContextBatch]:
        """Yield the contexts that hold a known item, those of like length together.

        Parameters
        ----------
        batch_size, max_length : int
            At most ``[batch_size, max_length]`` ids; rows are as wide as their longest context.
        """
        lengths = self.lengths
        order = np.argsort(lengths, kind="stable")
        order = order[np.searchsorted(lengths[order], 1) :]
        for at in range(0, len(order), batch_size):
            rows = order[at : at + batch_size]
            longest = int(lengths[rows].max())
            start, stop = self.start[rows], self.stop[rows]
            yield ContextBatch(
                rows,
                torch.from_numpy(padded(self.ids, start, stop, min(longest, max_length))),
                torch.from_numpy(padded(self.ids, start, stop, longest, fill=-1)),
            )


def held_out(
    sessions: ParquetSessions,
    catalogue: Catalogue,
    part: Part,
    *,
    limit: int | None = None,
    seed: int = 0,
) -> Iterator[Contexts]:
    """Yield the held-out items of a part with their contexts, chunk by chunk.

    Parameters
    ----------
    sessions : ParquetSessions
    catalogue : Catalogue
    part : "validation", "test" or "last"
        See :func:`transformers4rec_ext.data.split.target_positions`.
    limit : int, optional
        Take a random sample of this many sessions, the same for the same ``seed``.
    seed : int

    Raises
    ------
    ValueError
        If ``limit`` is not positive.
    """
    wanted = None
    if limit is not None and limit < 1:
        raise value_error("held_out", "limit", "be >= 1 or None", limit)
    if limit is not None and limit < sessions.num_sessions:
        chosen = np.random.default_rng(seed).choice(sessions.num_sessions, limit, replace=False)
        wanted = np.zeros(sessions.num_sessions, bool)
        wanted[chosen] = True
    for chunk in sessions.chunks():
        position = target_positions(chunk.offsets, part)
        keep = position >= 0
        if wanted is not None:
            keep &= wanted[chunk.first : chunk.first + len(keep)]
        known = KnownItems.of(chunk, catalogue)
        at = position[keep]
        bounds = known.position
        inside = bounds[at + 1] > bounds[at]
        targets = np.where(inside, _take(known.ids, bounds[at]), 0)
        start = bounds[chunk.offsets[:-1][keep]]
        yield Contexts(known.ids, start, bounds[at], targets, None, chunk.first, known.num_unknown)


def whole_sessions(sessions: ParquetSessions, catalogue: Catalogue) -> Iterator[Contexts]:
    """Yield every session in file order as the context of what comes next."""
    for chunk in sessions.chunks():
        known = KnownItems.of(chunk, catalogue)
        start, stop = known.position[chunk.offsets[:-1]], known.position[chunk.offsets[1:]]
        none = np.zeros(len(start), np.int64)
        yield Contexts(known.ids, start, stop, none, chunk.sessions, chunk.first, known.num_unknown)


def _take(ids: np.ndarray, position: np.ndarray) -> np.ndarray:
    """Return ``ids[position]``, 0 for a position past the end."""
    taken: np.ndarray = np.append(ids, 0)[position]
    return taken
