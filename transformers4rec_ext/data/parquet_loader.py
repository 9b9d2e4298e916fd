"""Batches of a schema's columns: shuffled by (seed, epoch), sharded, resumable at any step."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from itertools import islice
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import BatchSampler, DataLoader, Dataset, Sampler

from transformers4rec_ext import _checks
from transformers4rec_ext._errors import type_error, value_error
from transformers4rec_ext.data.columns import Column, ParquetColumns
from transformers4rec_ext.data.files import Paths, RowGroup
from transformers4rec_ext.schema import Schema, Tags, as_schema

_NAME = "ParquetLoader"
_INPUT_TAGS = (Tags.CATEGORICAL, Tags.CONTINUOUS, Tags.EMBEDDING)
SHUFFLE_ROWS = 65_536

Batch = tuple[dict[str, Tensor], dict[str, Tensor] | None]
Transform = Callable[[dict[str, Tensor]], dict[str, Tensor]]


class ParquetLoader(DataLoader[Batch]):
    """A DataLoader of ``(inputs, targets)``: the columns of ``schema`` in parquet files.

    Ids stay as they are in the file. List columns are padded on the right with 0. The order of an
    epoch is a pure function of ``(seed, epoch)``, the same for any ``batch_size`` and
    ``world_size``: row groups in random order are taken together until they hold
    ``shuffle_buffer_size`` rows, and these are shuffled. Whoever starts in the middle of an epoch
    reads only what comes after it.

    Parameters
    ----------
    paths : path or sequence of paths
        Files, folders of ``*.parquet`` files, or patterns.
    schema : Schema
        Columns tagged categorical, continuous or embedding are inputs, those tagged target are
        targets; others are not read.
    batch_size : int
        Rows of a batch of one process.
    max_sequence_length : int, optional
        List columns are [B, max_sequence_length], longer rows cut behind it. By default they are
        as wide as the longest row of the batch.
    shuffle : bool
    shuffle_buffer_size : int
        Rows that are shuffled together, at least; with the row group that makes it full they are
        what is held in memory.
    drop_last : bool
        Leave out an incomplete batch at the end.
    seed : int
    rank, world_size : int
        This process and how many there are. A step's batches of all processes are the batch of
        ``world_size * batch_size`` rows that one process alone would get, in order.
    transforms : sequence of callables
        Each makes new inputs of the inputs of a batch, such as
        :class:`~transformers4rec_ext.data.EmbeddingOperator`; where there are workers, they do.
    **options
        Of ``torch.utils.data.DataLoader``: ``num_workers``, ``pin_memory``, ... Each worker reads
        and decodes the whole file, for its share of the batches: one is enough to read ahead.

    Raises
    ------
    FileNotFoundError, TypeError, ValueError
        As :class:`~transformers4rec_ext.data.columns.ParquetColumns`; or if the schema has no
        inputs, or a number is out of range.

    Notes
    -----
    Iterating yields one epoch and moves on to the next; :meth:`set_epoch` chooses it.
    torch's global generator is not touched.
    """

    dataset: ParquetRows

    def __init__(
        self,
        paths: Paths,
        schema: Schema,
        batch_size: int,
        *,
        max_sequence_length: int | None = None,
        shuffle: bool = False,
        shuffle_buffer_size: int = SHUFFLE_ROWS,
        drop_last: bool = False,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        transforms: Sequence[Transform] = (),
        **options: Any,
    ) -> None:
        for transform in transforms:
            if not callable(transform):
                raise type_error(
                    _NAME,
                    "transforms",
                    "be functions from the inputs of a batch to new ones",
                    type(transform).__name__,
                    "For vectors by id there is transformers4rec_ext.data.EmbeddingOperator.",
                )
        for argument, value, least in (
            ("batch_size", batch_size, 1),
            ("max_sequence_length", max_sequence_length, 1),
            ("shuffle_buffer_size", shuffle_buffer_size, 1),
            ("seed", seed, 0),
            ("rank", rank, 0),
            ("world_size", world_size, 1),
        ):
            if value is not None:
                _checks.integer(_NAME, argument, value, minimum=least)
        if rank >= world_size:
            raise value_error(_NAME, "rank", f"lie in [0, world_size={world_size})", rank)
        rows = ParquetRows(paths, schema, max_sequence_length)
        if shuffle:
            rows.shuffle(seed, shuffle_buffer_size)
        self.positions = EpochPositions(len(rows))
        batches: dict[str, Any]
        if world_size == 1:
            batches = {"batch_size": batch_size, "sampler": self.positions, "drop_last": drop_last}
        else:
            shared = RankBatches(self.positions, batch_size, drop_last, rank, world_size)
            batches = {"batch_sampler": shared}
        own = torch.Generator().manual_seed(seed)
        finish = partial(_transformed, list(transforms))
        super().__init__(rows, collate_fn=finish, generator=own, **batches, **options)

    def set_epoch(self, epoch: int) -> None:
        """Make ``epoch`` the one that is iterated next."""
        self.positions.epoch = epoch


class EpochPositions(Sampler[tuple[int, int]]):
    """Yields ``(epoch, position)`` for every position of an epoch, then moves on to the next."""

    def __init__(self, num_rows: int) -> None:
        self.num_rows = num_rows
        self.epoch = 0

    def __len__(self) -> int:
        return self.num_rows

    def __iter__(self) -> Iterator[tuple[int, int]]:
        epoch = self.epoch
        self.epoch += 1
        for position in range(self.num_rows):
            yield epoch, position


class RankBatches(BatchSampler):
    """One process's share of batches of ``world_size * batch_size`` positions.

    An incomplete batch is shared out as evenly as it goes: every process takes as many steps.

    Parameters
    ----------
    sampler : iterable of positions, the same in every process
    batch_size : int
        Of one process.
    drop_last : bool
    rank, world_size : int
    least : int
        Leave out a last batch of fewer positions, in all processes.
    """

    def __init__(
        self,
        sampler: Iterable[Any],
        batch_size: int,
        drop_last: bool,
        rank: int,
        world_size: int,
        least: int = 1,
    ) -> None:
        super().__init__(sampler, batch_size * world_size, drop_last)
        self.rank = rank
        self.world_size = world_size
        self.least = self.batch_size if drop_last else least

    def __len__(self) -> int:
        complete, rest = divmod(len(self.sampler), self.batch_size)  # type: ignore[arg-type]
        return complete + (rest >= self.least)

    def __iter__(self) -> Iterator[list[Any]]:
        positions = iter(self.sampler)
        while len(batch := list(islice(positions, self.batch_size))) >= self.least:
            size = len(batch)
            start = size * self.rank // self.world_size
            yield batch[start : size * (self.rank + 1) // self.world_size]


class _Order(NamedTuple):
    """In which order an epoch reads the row groups, and which are held at once."""

    epoch: int
    blocks: list[list[RowGroup]]
    ends: np.ndarray
    """Rows up to the end of each block, int64 [blocks]."""


class ParquetRows(Dataset[Batch]):
    """Rows of parquet files in the order of an epoch, by ``(epoch, position)``.

    Parameters
    ----------
    paths, schema, max_sequence_length
        As for :class:`ParquetLoader`.
    """

    def __init__(self, paths: Paths, schema: Schema, max_sequence_length: int | None) -> None:
        schema = as_schema(schema, _NAME)
        self.inputs, self.targets = input_and_target_names(schema)
        domains = {name: schema[name].int_domain for name in self.inputs}
        self._largest = {
            name: domain.max
            for name, domain in domains.items()
            if domain is not None and domain.is_categorical
        }
        self.max_sequence_length = max_sequence_length
        self._seed: int | None = None
        self._block_rows = SHUFFLE_ROWS
        self._order: _Order | None = None
        self._held: tuple[tuple[int, int], np.ndarray, dict[str, Column]] | None = None
        self.read_from(paths)

    def read_from(self, paths: Paths) -> None:
        """From now on be the rows of ``paths``."""
        self.columns = ParquetColumns(paths, [*self.inputs, *self.targets], self._largest)
        self._order = self._held = None

    def shuffle(self, seed: int, buffer_rows: int) -> None:
        """From now on shuffle epochs by ``seed``, at least ``buffer_rows`` at once."""
        self._seed, self._block_rows = seed, buffer_rows
        self._order = self._held = None

    def __len__(self) -> int:
        return self.columns.num_rows

    def __getitem__(self, place: tuple[int, int]) -> Batch:
        return self.__getitems__([place])

    def __getitems__(self, places: Sequence[tuple[int, int]]) -> Batch:
        """Return the batch of the rows at ``(epoch, position)``, of one epoch and rising."""
        if not places:
            return self._batch(self.columns.empty(), np.zeros(0, np.int64))
        order = self._order_of(places[0][0])
        positions = np.array([position for _, position in places])
        block = np.searchsorted(order.ends, positions, side="right")
        parts = []
        for number in np.unique(block):
            shuffled, columns = self._block(order, int(number))
            first = order.ends[number] - len(shuffled)
            rows = shuffled[positions[block == number] - first]
            parts.append((columns, rows))
        if len(parts) == 1:
            return self._batch(*parts[0])
        return _stacked([self._batch(*part, self._width(parts)) for part in parts])

    def _width(self, parts: list[tuple[dict[str, Column], np.ndarray]]) -> dict[str, int] | None:
        """Return the width of each list column over all parts of a batch."""
        if self.max_sequence_length is not None:
            return None
        widths: dict[str, int] = {}
        for columns, rows in parts:
            for name, (_, offsets) in columns.items():
                if offsets is not None:
                    longest = int((offsets[rows + 1] - offsets[rows]).max(initial=1))
                    widths[name] = max(longest, widths.get(name, 1))
        return widths

    def _batch(
        self, columns: dict[str, Column], rows: np.ndarray, widths: dict[str, int] | None = None
    ) -> Batch:
        def tensors(names: list[str]) -> dict[str, Tensor]:
            found = {}
            for name in names:
                width = self.max_sequence_length if widths is None else widths.get(name)
                found[name] = torch.from_numpy(columns[name].take(rows, width))
            return found

        return tensors(self.inputs), tensors(self.targets) if self.targets else None

    def _order_of(self, epoch: int) -> _Order:
        if self._order is None or self._order.epoch != epoch:
            groups = [group for group in self.columns.row_groups if group.rows]
            if self._seed is not None:
                rng = np.random.default_rng([self._seed, epoch])
                groups = [groups[at] for at in rng.permutation(len(groups))]
            blocks: list[list[RowGroup]] = []
            size = self._block_rows
            for group in groups:
                if size >= self._block_rows:
                    blocks.append([])
                    size = 0
                blocks[-1].append(group)
                size += group.rows
            ends = np.cumsum([sum(group.rows for group in block) for block in blocks])
            self._order = _Order(epoch, blocks, ends)
        return self._order

    def _block(self, order: _Order, number: int) -> tuple[np.ndarray, dict[str, Column]]:
        """Return the order of a block's rows, and its columns; the last block is remembered."""
        key = (order.epoch if self._seed is not None else 0, number)
        if self._held is None or self._held[0] != key:
            self._held = None  # before the next is read: one block in memory, not two
            columns = self.columns.read(order.blocks[number])
            size = sum(group.rows for group in order.blocks[number])
            rows = np.arange(size)
            if self._seed is not None:
                rows = np.random.default_rng([self._seed, *key]).permutation(size)
            self._held = key, rows, columns
        return self._held[1], self._held[2]


def input_and_target_names(schema: Schema) -> tuple[list[str], list[str]]:
    """Return the columns that a model reads and those that it is to predict, by their tags."""
    targets = schema.select_by_tag(Tags.TARGET).column_names
    tagged = schema.select_by_tag(_INPUT_TAGS, pred_fn=any).column_names
    inputs = [name for name in tagged if name not in targets]
    if not inputs:
        raise value_error(
            _NAME,
            "schema",
            "tag at least one column as categorical, continuous or embedding",
            schema.column_names,
        )
    return inputs, targets


def _transformed(transforms: list[Transform], batch: Batch) -> Batch:
    inputs, targets = batch
    for transform in transforms:
        inputs = transform(inputs)
    return inputs, targets


def _stacked(parts: list[Batch]) -> Batch:
    def joined(dicts: list[dict[str, Tensor]]) -> dict[str, Tensor]:
        return {name: torch.cat([part[name] for part in dicts]) for name in dicts[0]}

    targets = [part[1] for part in parts if part[1] is not None]
    return joined([part[0] for part in parts]), joined(targets) if targets else None
