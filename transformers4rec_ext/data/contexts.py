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
from transformers4rec_ext.data.parquet import CHUNK_ROWS, ParquetSessions, SessionChunk
from transformers4rec_ext.data.split import Part, padded

_JOINED_BYTES = 2**30  # of strings arrow joins less than twice as many: its offsets have 32 bits


class ContextBatch(NamedTuple):
    """Some contexts N as what a causal model reads, B rows, and where it answers for each."""

    ids: Tensor
    """Items of sessions, int64 [B, T], right-padded with 0."""
    rows: np.ndarray
    """Which rows of the :class:`Contexts` these are, int64 [N]."""
    at: tuple[Tensor, Tensor]
    """The row of ``ids`` and the position in it, both int64 [N], that a context ends with."""


class Contexts(NamedTuple):
    """Contexts of a chunk of sessions: row ``i`` is ``ids[start[i]:stop[i]]``, known items only.

    The rows of a session begin at the same place.
    """

    ids: np.ndarray
    start: np.ndarray
    stop: np.ndarray
    targets: np.ndarray
    """The held-out items, int64 [rows]; 0 where it is not in the catalogue or there is none."""
    sessions: pa.Array | None
    first: int
    """The number of the first session, counted over all files."""

    @property
    def lengths(self) -> np.ndarray:
        """The number of known items of each context."""
        lengths: np.ndarray = self.stop - self.start
        return lengths

    def seen(self, rows: np.ndarray) -> Tensor:
        """Return all items of the contexts of some rows, int64 [N, L], padded with -1."""
        start, stop = self.start[rows], self.stop[rows]
        longest = int((stop - start).max(initial=0))
        return torch.from_numpy(padded(self.ids, start, stop, longest, fill=-1))

    def batches(self, batch_size: int, max_length: int) -> Iterator[ContextBatch]:
        """Yield the contexts that hold a known item, those of like length together.

        The contexts of a session are the beginnings of the longest of them: a causal model reads
        that one and answers for all. Only of contexts of more than ``max_length`` items each is
        read on its own, since the model sees the last ``max_length`` of each, at positions that no
        other context has them at.

        Parameters
        ----------
        batch_size, max_length : int
            At most ``[batch_size, max_length]`` ids; as wide as the longest row.
        """
        lengths = self.lengths
        known = np.flatnonzero(lengths)
        # Rows with one key are read at once; where a session is too long, a row has its own.
        own_key = len(self.ids) + known
        key = np.where(lengths[known] <= max_length, self.start[known], own_key)
        _, first, read = np.unique(key, return_index=True, return_inverse=True)
        start, stop = self.start[known[first]], self.stop[known[first]]
        np.maximum.at(stop, read, self.stop[known])
        order = np.argsort(stop - start, kind="stable")
        start, stop = start[order], stop[order]
        place = np.argsort(order)[read]  # of each context's row among those that are read
        by_place = np.argsort(place, kind="stable")
        sorted_place = place[by_place]
        for begin in range(0, len(order), batch_size):
            some = slice(begin, begin + batch_size)
            longest = min(int((stop[some] - start[some]).max()), max_length)
            low, high = np.searchsorted(sorted_place, [begin, begin + batch_size])
            inside = by_place[low:high]
            rows = known[inside]
            position = np.minimum(lengths[rows], max_length) - 1
            yield ContextBatch(
                torch.from_numpy(padded(self.ids, start[some], stop[some], longest)),
                rows,
                (torch.from_numpy(place[inside] - begin), torch.from_numpy(position)),
            )


def held_out(
    sessions: ParquetSessions,
    catalogue: Catalogue,
    part: Part,
    *,
    limit: int | None = None,
    seed: int = 0,
) -> Iterator[Contexts]:
    """Yield the held-out items of a part with their contexts, in file order.

    As many sessions at once as a chunk has, however few of each chunk are held out: what ranks them
    reads the whole item table for every batch.

    Parameters
    ----------
    sessions : ParquetSessions
    catalogue : Catalogue
    part : "validation", "test", "last" or "every"
        See :func:`transformers4rec_ext.data.split.target_bounds`.
    limit : int, optional
        Take a random sample of this many of the sessions that have a target, the same for the same
        ``seed``.
    seed : int

    Raises
    ------
    ValueError
        If ``limit`` is not positive.
    """
    if limit is not None and limit < 1:
        raise value_error("held_out", "limit", "be >= 1 or None", limit)
    for chunk in _with_targets(sessions, part, _sample(sessions, part, limit, seed)):
        start, stop = chunk.target_bounds(part)
        count = stop - start
        session = np.repeat(np.arange(len(count)), count)
        at = np.arange(len(session)) + np.repeat(start - (np.cumsum(count) - count), count)
        known = KnownItems.of(chunk, catalogue)
        bounds = known.position
        inside = bounds[at + 1] > bounds[at]
        targets = np.where(inside, _take(known.ids, bounds[at]), 0)
        begin = bounds[chunk.offsets[session]]
        yield Contexts(known.ids, begin, bounds[at], targets, None, chunk.first)


def num_held_out(
    sessions: ParquetSessions, part: Part, *, limit: int | None = None, seed: int = 0
) -> int:
    """Return how many targets :func:`held_out` yields for the same arguments."""
    counts, wanted = sessions.target_counts(part), _sample(sessions, part, limit, seed)
    return int((counts if wanted is None else counts[wanted]).sum())


def _with_targets(
    sessions: ParquetSessions, part: Part, wanted: np.ndarray | None
) -> Iterator[SessionChunk]:
    """Yield the wanted sessions that have a target, about as many at once as a chunk has."""
    held: list[SessionChunk] = []
    number = size = 0
    for chunk in sessions.chunks():
        start, stop = chunk.target_bounds(part)
        some = stop > start
        if wanted is not None:
            some &= wanted[chunk.first : chunk.first + len(some)]
        if not some.any():
            continue  # of a file in order of time most chunks are for training alone
        chunk = chunk if some.all() else chunk.chosen(some)
        if held and size + chunk.items.nbytes > _JOINED_BYTES:
            yield SessionChunk.joined(held)
            held, number, size = [], 0, 0
        held.append(chunk)
        number += int(some.sum())
        size += chunk.items.nbytes
        if number >= CHUNK_ROWS // 2:
            yield SessionChunk.joined(held)
            held, number, size = [], 0, 0
    if held:
        yield SessionChunk.joined(held)


def _sample(
    sessions: ParquetSessions, part: Part, limit: int | None, seed: int
) -> np.ndarray | None:
    """Return which sessions are in a sample of ``limit``, bool [sessions]; None for all."""
    if limit is None or limit >= sessions.num_sessions:
        return None
    candidates = np.flatnonzero(sessions.target_counts(part))
    if limit >= len(candidates):
        return None
    chosen = np.random.default_rng(seed).choice(len(candidates), limit, replace=False)
    wanted = np.zeros(sessions.num_sessions, bool)
    wanted[candidates[chosen]] = True
    return wanted


def whole_sessions(sessions: ParquetSessions, catalogue: Catalogue) -> Iterator[Contexts]:
    """Yield every session in file order as the context of what comes next."""
    for chunk in sessions.chunks():
        known = KnownItems.of(chunk, catalogue)
        start, stop = known.position[chunk.offsets[:-1]], known.position[chunk.offsets[1:]]
        none = np.zeros(len(start), np.int64)
        yield Contexts(known.ids, start, stop, none, chunk.sessions, chunk.first)


def _take(ids: np.ndarray, position: np.ndarray) -> np.ndarray:
    """Return ``ids[position]``, 0 for a position past the end."""
    taken: np.ndarray = np.append(ids, 0)[position]
    return taken
