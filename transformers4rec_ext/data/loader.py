"""Training batches: windows of sessions, shuffled by (seed, epoch), resumable at any step."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from transformers4rec_ext import _checks
from transformers4rec_ext._errors import value_error
from transformers4rec_ext.data.catalogue import Catalogue
from transformers4rec_ext.data.parquet import ParquetSessions, SessionChunk
from transformers4rec_ext.data.split import TRAIN_MINIMUM, Part, padded, windows

_BATCHES_PER_GROUP = 16


def _even_cuts(lengths: np.ndarray, parts: int) -> np.ndarray:
    """Return where to cut windows, int64 [parts - 1], so that parts have as many targets.

    ``lengths`` int64 [windows] rise. A part's sum differs from the mean by less than a window's.
    """
    targets = lengths - 1
    total = np.cumsum(targets)
    cut = np.arange(1, parts)
    # The first window of a part is the first that begins at its share of the sum or behind it.
    first = np.searchsorted(total - targets, total[-1] * cut / parts)
    # Where the last windows are longer than a share, each part after the cut still gets one.
    cuts: np.ndarray = np.minimum(first, len(lengths) - parts + cut)
    return cuts


def _small_cuts(lengths: np.ndarray, parts: int) -> np.ndarray:
    """Return where to cut windows of rising ``lengths`` so that the largest part is smallest.

    By its size in memory, rows times width.
    """
    least, enough = int(lengths[-1]), int(len(lengths) * lengths[-1])
    while least < enough:
        middle = (least + enough) // 2
        if len(_filled(lengths, middle)) < parts:
            enough = middle
        else:
            least = middle + 1
    cuts = _filled(lengths, least)
    while len(cuts) < parts - 1:  # fewer would do: halve the part of most rows
        bounds = np.concatenate([[0], cuts, [len(lengths)]])
        largest = int(np.argmax(np.diff(bounds)))
        cuts = np.insert(cuts, largest, (bounds[largest] + bounds[largest + 1]) // 2)
    return cuts


def _filled(lengths: np.ndarray, size: int) -> np.ndarray:
    """Return the cuts of parts that are as large as ``size``, rows times width, allows."""
    cuts = [0]
    while cuts[-1] < len(lengths):
        rest = lengths[cuts[-1] :]
        sizes = np.arange(1, len(rest) + 1) * rest
        cuts.append(cuts[-1] + int(np.searchsorted(sizes, size, side="right")))
    return np.array(cuts[1:-1], dtype=np.int64)


class KnownItems(NamedTuple):
    """A chunk's items as ids of the catalogue, the unknown ones left out."""

    ids: np.ndarray
    """int64, all > 0."""
    position: np.ndarray
    """Maps a position in the chunk (0 .. len) to the position in ``ids``."""

    @classmethod
    def of(cls, chunk: SessionChunk, catalogue: Catalogue) -> KnownItems:
        """Encode a chunk."""
        ranks = catalogue.encode(chunk.items)
        known = ranks > 0
        position = np.concatenate([np.zeros(1, np.int64), np.cumsum(known)])
        return cls(ranks[known], position)


class SessionLoader:
    """Batches ``{items_name: int64 [B, T]}`` of training windows, right-padded with 0.

    A session longer than a row is cut into windows (:func:`transformers4rec_ext.data.windows`), so
    that no interaction is lost. Shuffling is a pure function of ``(seed, epoch)``: the row groups
    are read in a random order, their windows go through a shuffle buffer, and inside every 16
    batches' worth of shuffled windows those of like length share a batch, whose width is that of
    its longest (this saves the padding; the batches then go out in random order). So
    ``batches(epoch, start)`` gives exactly what a run that was stopped before step ``start`` would
    have seen next.

    A loss is the mean over the targets of its batch: with as many windows in each, a target of a
    short session would weigh as many times more than one of a long session as that is longer. So
    a batch of short windows holds more of them, and the 16 have about as many targets: each as
    many as the mean, but for less than those of the longest window. Where that would make a batch
    larger than ``batch_size`` rows of the full width, because a few long windows follow on many
    short ones, the largest of the 16 is made as small as can be instead.

    Parameters
    ----------
    sessions : ParquetSessions
    catalogue : Catalogue
        Items it does not know are left out of their session.
    max_length : int
        Items that the model sees: rows hold up to ``max_length + 1``, the last being a target.
    batch_size : int
        Windows in a batch, on average; a batch has at most ``batch_size * (max_length + 1)`` ids.
        Without shuffling or balance exactly, but for the last.
    balance : "targets" or "rows"
        What the batches have as many of. "rows" is for tasks with one label a session.
    part : "train", "train+validation" or "all"
        Leave out what is held out (see :mod:`transformers4rec_ext.data.split`), the test alone, or
        nothing.
    shuffle : bool
        Off: file order, and rows as long as the longest of their batch.
    seed : int
    buffer_windows : int
        Windows held in memory by the shuffle buffer, ``8 (max_length + 1)`` bytes each.
    name : str
        The key of the batches' dictionary.
    on_sessions : callable
        Called, while the windows are counted, with how many sessions have been read since the last
        call.

    Raises
    ------
    ValueError
        If a number is out of range, or no session has two known items to train on.

    Notes
    -----
    Iterating the loader itself yields one epoch and moves on to the next, so it can be given to
    ``Model.fit``; and to ``Trainer``, which chooses the epoch when it resumes a run.
    """

    def __init__(
        self,
        sessions: ParquetSessions,
        catalogue: Catalogue,
        *,
        max_length: int,
        batch_size: int,
        part: Part = "train",
        balance: Literal["targets", "rows"] = "targets",
        shuffle: bool = True,
        seed: int = 0,
        buffer_windows: int = 65_536,
        name: str = "item_id",
        on_sessions: Callable[[int], None] = lambda sessions: None,
    ) -> None:
        for argument, value, least in (
            ("max_length", max_length, 1),
            ("batch_size", batch_size, 1),
            ("seed", seed, 0),
            ("buffer_windows", buffer_windows, 1),
        ):
            _checks.integer("SessionLoader", argument, value, minimum=least)
        if balance not in ("targets", "rows"):
            raise value_error("SessionLoader", "balance", 'be "targets" or "rows"', repr(balance))
        self.balance = balance
        self.sessions = sessions
        self.catalogue = catalogue
        self.width = max_length + 1
        self.batch_size = batch_size
        self.part = part
        self.shuffle = shuffle
        self.seed = seed
        self.name = name
        self.epoch = 0
        # What leaves the buffer at once is a whole number of groups of batches.
        group = batch_size * _BATCHES_PER_GROUP
        self._emit = group * max(1, buffer_windows // (2 * group))
        self.num_windows = sum(len(start) for _, start, _ in self._windows(None, on_sessions))
        if self.num_windows == 0:
            raise value_error(
                "SessionLoader",
                "sessions",
                "hold a session with at least two items to train on",
                f"{sessions.num_sessions} shorter ones",
                ""
                if part == "all" or sessions.marks is not None
                else f"Of which something is held out, it needs {TRAIN_MINIMUM[part]}.",
            )

    def __len__(self) -> int:
        """Return the number of batches in an epoch."""
        return -(-self.num_windows // self.batch_size)

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        """Yield the current epoch and move on to the next."""
        epoch = self.epoch
        self.epoch += 1
        yield from self.batches(epoch)

    def set_epoch(self, epoch: int) -> None:
        """Make ``epoch`` the one that is iterated next."""
        self.epoch = epoch

    def batches(self, epoch: int, start: int = 0) -> Iterator[dict[str, Tensor]]:
        """Yield the batches of ``epoch`` from step ``start`` on.

        Parameters
        ----------
        epoch : int
        start : int
            How many batches to leave out; they are read but not made into tensors.
        """
        for step, rows in enumerate(self._batched(epoch)):
            if step >= start:
                longest = int((rows != 0).sum(axis=1).max())
                yield {self.name: torch.from_numpy(np.ascontiguousarray(rows[:, :longest]))}

    def _batched(self, epoch: int) -> Iterator[np.ndarray]:
        """Yield the rows of each batch, [B, width]."""
        rng = np.random.default_rng([self.seed, epoch])
        size = self.batch_size
        for block in self._blocks(rng):
            for at in range(0, len(block), size * _BATCHES_PER_GROUP):
                group = block[at : at + size * _BATCHES_PER_GROUP]
                cuts = np.arange(size, len(group), size)
                if not self.shuffle:
                    yield from np.split(group, cuts)
                    continue
                length = (group != 0).sum(axis=1)
                order = np.argsort(length, kind="stable")
                if self.balance == "targets":
                    cuts = self._cuts(length[order], len(cuts) + 1)
                batches = np.split(group[order], cuts)
                for chosen in rng.permutation(len(batches)):
                    yield batches[chosen]

    def _cuts(self, lengths: np.ndarray, parts: int) -> np.ndarray:
        cuts = _even_cuts(lengths, parts)
        bounds = np.concatenate([[0], cuts, [len(lengths)]])
        if (np.diff(bounds) * lengths[bounds[1:] - 1]).max() <= self.batch_size * self.width:
            return cuts
        # Hundreds of short windows were padded to a long one that makes up their targets.
        return _small_cuts(lengths, parts)

    def _blocks(self, rng: np.random.Generator) -> Iterator[np.ndarray]:
        """Yield blocks of padded windows; all but the last hold a multiple of the batch size."""
        order = rng.permutation(len(self.sessions.row_groups)) if self.shuffle else None
        held: list[np.ndarray] = []
        count = 0
        for ids, start, stop in self._windows(order):
            held.append(padded(ids, start, stop, self.width))
            count += len(start)
            while count >= 2 * self._emit:
                rows = self._mixed(held, rng)
                yield rows[: self._emit]
                held = [rows[self._emit :]]
                count -= self._emit
        yield self._mixed(held, rng)

    def _mixed(self, held: list[np.ndarray], rng: np.random.Generator) -> np.ndarray:
        rows = np.concatenate(held)
        return rows[rng.permutation(len(rows))] if self.shuffle else rows

    def _windows(
        self, order: np.ndarray | None, on_sessions: Callable[[int], None] = lambda sessions: None
    ) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """Yield known ids and the windows' bounds, chunk by chunk."""
        wanted = None if order is None else order.tolist()
        for chunk in self.sessions.chunks(wanted):
            known = KnownItems.of(chunk, self.catalogue)
            start, stop = chunk.training_bounds(self.part)
            on_sessions(len(start))
            yield (
                known.ids,
                *windows(known.position[start], known.position[stop], self.width),
            )
