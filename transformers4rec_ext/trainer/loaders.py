"""Loaders of the Trainer: from paths, datasets, DataLoaders and other iterables of batches."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence, Sized
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset, RandomSampler

from transformers4rec_ext._errors import type_error, value_error
from transformers4rec_ext.data.files import files_below, open_parquet
from transformers4rec_ext.data.parquet_loader import ParquetLoader, RankBatches
from transformers4rec_ext.schema import Schema, Tags, as_schema
from transformers4rec_ext.utils.data_utils import T4RecDataLoader

# What a DataLoader is made of besides its dataset and the order of its rows.
_COPIED = (
    "collate_fn",
    "generator",
    "in_order",
    "multiprocessing_context",
    "num_workers",
    "persistent_workers",
    "pin_memory",
    "prefetch_factor",
    "timeout",
    "worker_init_fn",
)


class DatasetMock(Dataset[Any], Sized):
    """Stands for the data in transformers' Trainer, which wants to be given a sized dataset."""

    def __init__(self, nsteps: int = 1) -> None:
        self.nsteps = nsteps

    def __len__(self) -> int:
        return self.nsteps


class Batches(IterableDataset[Any]):
    """An iterable of whole batches, such as a list, as a dataset."""

    def __init__(self, batches: Iterable[Any]) -> None:
        self.batches = batches

    def __iter__(self) -> Iterator[Any]:
        yield from self.batches


class SizedBatches(Batches):
    """The same of an iterable that knows its length."""

    def __len__(self) -> int:
        return len(self.batches)  # type: ignore[arg-type]


def make_loader(
    source: Any, kind: str, schema: Any, args: Any, *, batch_size: int, training: bool
) -> Any:
    """Return a loader of ``source``.

    Parameters
    ----------
    source : path, sequence of paths, torch Dataset, DataLoader or iterable of batches
        Or what else a loader takes that is registered as ``args.data_loader_engine``.
    kind : str
        "Train", "Eval" or "Test"; for errors. "Test" is for predictions: of paths, targets that a
        file lacks are not read.
    schema : Schema, optional
        Needed for paths.
    args : T4RecTrainingArguments
    batch_size : int
        Rows of a batch of one process, where ``source`` is not batched yet.
    training : bool
        Whether to shuffle, and to give all processes as many batches.
    """
    if isinstance(source, Mapping):
        expectation = "be data, not data by name, which evaluate takes"
        raise type_error("Trainer", f"{kind.lower()} data", expectation, type(source).__name__)
    if isinstance(source, Sequence) and not isinstance(source, str) and not source:
        raise value_error(
            "Trainer",
            f"{kind.lower()} data",
            "hold a path or a batch",
            f"an empty {type(source).__name__}",
            "If a pattern made it, did the pattern match a file?",
        )
    if isinstance(source, DataLoader):
        return _for_this_process(source, args, training)
    options = _options(args)
    engine = T4RecDataLoader.parse(args.data_loader_engine)
    if _is_paths(source) or not issubclass(engine, ParquetLoader):
        if schema is None:
            raise AssertionError(
                f"schema is required to generate {kind} Dataloader. Give Trainer the schema of "
                f"the columns in {source!r}."
            )
        schema = as_schema(schema, "Trainer")
        if kind == "Test" and issubclass(engine, ParquetLoader):
            schema = _without_absent_targets(schema, source)
        return engine.from_schema(
            schema,
            source,
            batch_size,
            max_sequence_length=args.max_sequence_length,
            shuffle=training,
            shuffle_buffer_size=args.shuffle_buffer_size,
            drop_last=args.dataloader_drop_last,
            seed=_seed(args),
            global_rank=args.process_index,
            global_size=args.world_size,
            **options,
        )
    if isinstance(source, Dataset):
        loader: DataLoader[Any] = DataLoader(
            source,
            batch_size,
            shuffle=training and not isinstance(source, IterableDataset),
            drop_last=args.dataloader_drop_last,
            **options,
        )
        return _for_this_process(loader, args, training)
    if isinstance(source, Iterable) and not isinstance(source, (str, bytes)):
        if args.world_size > 1:
            expectation = "be a path, a Dataset or a DataLoader with several processes"
            raise type_error("Trainer", f"{kind.lower()} data", expectation, type(source).__name__)
        dataset = SizedBatches(source) if isinstance(source, Sized) else Batches(source)
        return DataLoader(dataset, batch_size=None)
    expectation = "be a path, paths, a Dataset, a DataLoader or an iterable of batches"
    raise type_error("Trainer", f"{kind.lower()} data", expectation, type(source).__name__)


def _without_absent_targets(schema: Schema, paths: Any) -> Schema:
    """Leave out the targets that a file lacks: of what is to be predicted they may be unknown.

    A loader keeps targets apart from its inputs, so that there is none that a model reads.
    """
    targets = set(schema.select_by_tag(Tags.TARGET).column_names)
    absent: set[str] = set()
    if targets:
        for path in files_below("Trainer.predict", paths):
            with open_parquet("Trainer.predict", path) as file:
                absent |= targets.difference(file.schema_arrow.names)
    return schema.remove_by_name(absent)


def start_epoch(loader: Any, epoch: int, args: Any) -> None:
    """Make the order of ``epoch`` that of the loader's next pass, whatever was drawn before."""
    dataset, batch_sampler = (
        getattr(loader, "dataset", None),
        getattr(loader, "batch_sampler", None),
    )
    parts: tuple[Any, ...] = (loader, getattr(loader, "sampler", None), batch_sampler)
    for part in (*parts, dataset, _of_batches(dataset)):
        if hasattr(part, "set_epoch"):
            part.set_epoch(epoch)
    generator = getattr(getattr(batch_sampler, "sampler", None), "generator", None)
    if isinstance(generator, EpochGenerator):
        generator.manual_seed(_seed(args) + epoch)


def _of_batches(dataset: Any) -> Any:
    return dataset.batches if isinstance(dataset, Batches) else None


class EpochGenerator(torch.Generator):
    """The generator that the Trainer gives to a loader's sampler, seeded at each epoch."""


def _seed(args: Any) -> int:
    return int(args.seed if args.data_seed is None else args.data_seed)


def _options(args: Any) -> dict[str, Any]:
    workers = args.dataloader_num_workers
    options = {"num_workers": workers, "pin_memory": _pins(args)}
    if workers:
        options["persistent_workers"] = args.dataloader_persistent_workers
        options["prefetch_factor"] = args.dataloader_prefetch_factor
        for name in ("multiprocessing_context", "in_order"):  # not in transformers 5.0 yet
            if hasattr(args, f"dataloader_{name}"):
                options[name] = getattr(args, f"dataloader_{name}")
    return options


def _pins(args: Any) -> bool:
    return bool(args.dataloader_pin_memory and args.device.type == "cuda")


def _is_paths(source: Any) -> bool:
    if isinstance(source, (str, os.PathLike)):
        return True
    listed = isinstance(source, Sequence) and len(source) > 0
    return listed and all(isinstance(path, (str, os.PathLike)) for path in source)


def _for_this_process(loader: Any, args: Any, training: bool) -> Any:
    """Return a DataLoader that gives each process its own batches, the same after a resume."""
    sampler: Any = loader.sampler
    for own in (sampler, getattr(loader.batch_sampler, "sampler", None)):
        if isinstance(own, RandomSampler) and own.generator is None:
            own.generator = EpochGenerator()
    parts = (loader, sampler, loader.batch_sampler)
    if args.world_size == 1 or any(hasattr(part, "set_epoch") for part in parts):
        return loader
    if isinstance(loader.dataset, IterableDataset) or loader.batch_size is None:
        raise type_error(
            "Trainer",
            "a DataLoader",
            "have a map-style dataset and a batch_size with several processes",
            type(loader.dataset).__name__,
            "Or shard it yourself, with a sampler that has set_epoch, as DistributedSampler.",
        )
    of_rank = ShareOfRows if training else RowsOnce
    batches = of_rank(
        sampler, loader.batch_size, loader.drop_last, args.process_index, args.world_size
    )
    options = {name: getattr(loader, name) for name in _COPIED if hasattr(loader, name)}
    return DataLoader(loader.dataset, batch_sampler=batches, **options)


class ShareOfRows(RankBatches):
    """A process's share of training batches; a collate function cannot make one without a row."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.least = max(self.least, self.world_size)


class RowsOnce(RankBatches):
    """A process's share of evaluation batches; some processes may take a step less."""

    def __iter__(self) -> Iterator[list[Any]]:
        return (share for share in super().__iter__() if share)
