"""The loaders that upstream's users make by hand, over ours; nothing of Merlin is needed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from transformers4rec_ext._errors import type_error, value_error
from transformers4rec_ext._lazy import elsewhere
from transformers4rec_ext.data.files import Paths
from transformers4rec_ext.data.parquet_loader import (
    SHUFFLE_ROWS,
    ParquetLoader,
    input_and_target_names,
)
from transformers4rec_ext.registry import Registry
from transformers4rec_ext.schema import (
    ColumnSchema,
    Schema,
    Tags,
    as_merlin_schema,
    as_schema,
)

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = [
    "MerlinDataLoader",
    "PyarrowDataLoader",
    "T4RecDataLoader",
    "dataloader_registry",
    "to_core_schema",
]

_PREPARE = "prepare tables with the library they are in, such as pandas, before they are files"
__getattr__ = elsewhere(
    __name__,
    {
        "DLDataLoader": "use torch.utils.data.DataLoader",
        "NVTabularDataLoader": "use MerlinDataLoader, as it is called in later releases",
        "ParquetDataset": "use PyarrowDataLoader, or transformers4rec_ext.data.ParquetLoader",
        "ShuffleDataset": "use transformers4rec_ext.data.ParquetLoader(shuffle=True)",
        "add_item_first_seen_col_to_df": _PREPARE,
        "remove_consecutive_interactions": _PREPARE,
        "save_time_based_splits": _PREPARE,
        "session_aggregator": _PREPARE,
    },
)
_UNUSED = {
    "buffer_size": "use shuffle_buffer_size, in rows",
    "parts_per_chunk": "use shuffle_buffer_size, in rows",
    "row_groups_per_part": "row groups are always the parts",
    "engine": "files are parquet",
    "reader_kwargs": "files are read by pyarrow",
    "seed_fn": "use seed",
    "device": "Model.fit, Model.evaluate and Trainer move batches to the model's device",
    "collate_fn": "wrap the loader in one of your own",
    "list_features": "list columns are known by the file",
    "lists": "list columns are known by the file",
}

#: What ``T4RecTrainingArguments(data_loader_engine=...)`` may name.
dataloader_registry = Registry("data loader")

#: The name by which upstream calls it.
to_core_schema = as_merlin_schema


class T4RecDataLoader:
    """Base of the loaders that the Trainer makes of paths, by the name of one.

    One of your own defines :meth:`from_schema`; registered, it is
    ``T4RecTrainingArguments(data_loader_engine="mine")``.

    Examples
    --------
    >>> @dataloader_registry.register("mine")
    ... class Mine(T4RecDataLoader): ...
    >>> T4RecDataLoader.parse("mine") is Mine
    True
    """

    @classmethod
    def from_schema(
        cls,
        schema: Schema,
        paths_or_dataset: Any,
        batch_size: int,
        max_sequence_length: int | None = None,
        **kwargs: Any,
    ) -> Any:
        """Return a loader of ``(inputs, targets)``.

        Parameters
        ----------
        schema : Schema
            The columns.
        paths_or_dataset : path, sequence of paths, or what else a loader takes
            As the Trainer was given it.
        batch_size : int
            Rows of a batch of one process.
        max_sequence_length : int, optional
        **kwargs
            The Trainer gives ``shuffle``, ``shuffle_buffer_size``, ``drop_last``, ``seed``,
            ``global_rank``, ``global_size``, ``num_workers`` and ``pin_memory``.
        """
        raise NotImplementedError(f"{cls.__name__} must define from_schema(...)")

    def set_dataset(self, paths_or_dataset: Any) -> None:
        """Read ``paths_or_dataset`` from now on."""
        raise NotImplementedError(f"{type(self).__name__} must define set_dataset(...)")

    @classmethod
    def parse(cls, class_or_str: Any) -> Any:
        """Return the class registered under a name; a class unchanged."""
        return dataloader_registry.parse(class_or_str)


class _FileLoader(T4RecDataLoader, ParquetLoader):
    """What the loaders by upstream's arguments share; ``schema`` is that of a batch."""

    def __init__(
        self,
        paths_or_dataset: Paths,
        batch_size: int,
        schema: Schema,
        *,
        global_size: int | None = None,
        global_rank: int | None = None,
        transforms: Sequence[Any] | None = None,
        **options: Any,
    ) -> None:
        for argument in options:
            if argument in _UNUSED:
                raise type_error(
                    type(self).__name__,
                    "arguments",
                    "be of files and batches",
                    repr(argument),
                    f"Leave it out: {_UNUSED[argument]}.",
                )
        self.schema = schema
        self.transforms = list(transforms or ())
        super().__init__(
            paths_or_dataset,
            schema,
            batch_size,
            rank=global_rank or 0,
            world_size=global_size or 1,
            transforms=self.transforms,
            **options,
        )

    def set_dataset(self, paths_or_dataset: Paths) -> None:
        """Read other files from now on, with the same columns and the same arguments.

        Raises
        ------
        ValueError   with ``persistent_workers``, which keep the files they were started with.
        """
        if self.persistent_workers:
            raise value_error(
                f"{type(self).__name__}.set_dataset",
                "persistent_workers",
                "be False",
                True,
                "Workers keep their files: make another loader.",
            )
        self.dataset.read_from(paths_or_dataset)
        self.positions.num_rows = len(self.dataset)

    @property
    def output_schema(self) -> Schema:
        """The columns of a batch: targets, and what ``transforms`` with such a method add."""
        inputs, targets = input_and_target_names(self.schema)
        schema = self.schema.select_by_name([*inputs, *targets])
        for transform in self.transforms:
            if hasattr(transform, "output_schema"):
                schema = transform.output_schema(schema)
        return schema


@dataloader_registry.register_with_multiple_names(
    "merlin", "merlin_dataloader", "nvtabular", "nvtabular_dataloader"
)
class MerlinDataLoader(_FileLoader):
    """A :class:`~transformers4rec_ext.data.ParquetLoader` by the arguments of upstream's loader.

    Parameters
    ----------
    paths_or_dataset : path or sequence of paths
        Parquet files, folders of them, or patterns.
    batch_size : int
    max_sequence_length : int, optional
        List columns are [B, max_sequence_length], padded on the right with 0 or cut.
    conts, cats, labels : sequence of str, optional
        The continuous and categorical inputs and the targets; by default the columns that the
        schema tags so, "embedding" counting as continuous.
    shuffle, drop_last : bool
    shuffle_buffer_size : int
        Rows that are shuffled together; 0 for the number of ``ParquetLoader``.
    schema : Schema, optional
        Needed without ``conts`` and ``cats``. With it ids are held against their domain.
    global_size, global_rank : int, optional
        How many processes there are and which one this is.
    transforms : sequence of callables, optional
        See ``ParquetLoader``.
    **options
        Of ``ParquetLoader`` (``seed``) and torch's ``DataLoader``.

    Raises
    ------
    TypeError    for an argument of upstream's that means nothing here; it says what to use.
    ValueError   if neither a schema nor columns are given, or as ``ParquetLoader``.
    """

    def __init__(
        self,
        paths_or_dataset: Paths,
        batch_size: int,
        max_sequence_length: int | None = None,
        conts: Sequence[str] | None = None,
        cats: Sequence[str] | None = None,
        labels: Sequence[str] | None = None,
        *,
        shuffle: bool = False,
        shuffle_buffer_size: int = 0,
        drop_last: bool = False,
        schema: Schema | None = None,
        **options: Any,
    ) -> None:
        super().__init__(
            paths_or_dataset,
            batch_size,
            _chosen("MerlinDataLoader", schema, conts, cats, labels),
            max_sequence_length=max_sequence_length,
            shuffle=shuffle,
            shuffle_buffer_size=SHUFFLE_ROWS if shuffle_buffer_size == 0 else shuffle_buffer_size,
            drop_last=drop_last,
            **options,
        )

    @classmethod
    def from_schema(
        cls,
        schema: Schema,
        paths_or_dataset: Paths,
        batch_size: int,
        max_sequence_length: int | None = None,
        continuous_features: Sequence[str] | None = None,
        categorical_features: Sequence[str] | None = None,
        *,
        targets: Sequence[str] | None = None,
        shuffle: bool = True,
        **kwargs: Any,
    ) -> Self:
        """Return the loader of the columns that ``schema`` tags, or of those that are named.

        Parameters
        ----------
        schema : Schema
        paths_or_dataset, batch_size, max_sequence_length, shuffle, **kwargs
            As for the class.
        continuous_features, categorical_features, targets : sequence of str, optional
            By default the columns tagged continuous, categorical, target.
        """
        return cls(
            paths_or_dataset,
            batch_size,
            max_sequence_length,
            conts=continuous_features,
            cats=categorical_features,
            labels=targets,
            schema=schema,
            shuffle=shuffle,
            **kwargs,
        )


@dataloader_registry.register_with_multiple_names("pyarrow", "pyarrow_builder")
class PyarrowDataLoader(_FileLoader):
    """The same by the arguments of upstream's loader for pyarrow.

    Parameters
    ----------
    paths_or_dataset, batch_size, max_sequence_length
        As for :class:`MerlinDataLoader`.
    cols_to_read : sequence of str, optional
        The columns, targets among them; by default those that the schema tags.
    target_names : sequence of str, optional
    shuffle : bool
        With a ``shuffle_buffer_size`` above 0; with 0 the order is that of the file, as upstream's.
    shuffle_buffer_size : int
        Rows that are shuffled together.
    num_workers, pin_memory, drop_last
        Of torch's ``DataLoader``; by default this process reads, and pins nothing.
    schema : Schema, optional
        Needed without ``cols_to_read``. With it ids are held against their domain.
    **options
        As for :class:`MerlinDataLoader`.

    Raises
    ------
    TypeError, ValueError   as :class:`MerlinDataLoader`.
    """

    def __init__(
        self,
        paths_or_dataset: Paths,
        batch_size: int,
        max_sequence_length: int | None = None,
        cols_to_read: Sequence[str] | None = None,
        target_names: Sequence[str] | None = None,
        shuffle: bool = False,
        shuffle_buffer_size: int = 0,
        num_workers: int = 0,
        pin_memory: bool = False,
        drop_last: bool = False,
        *,
        schema: Schema | None = None,
        **options: Any,
    ) -> None:
        conts = cats = None
        if cols_to_read is not None:
            inputs = [name for name in _names(cols_to_read) if name not in _names(target_names)]
            known = Schema() if schema is None else as_schema(schema, "PyarrowDataLoader")
            conts = [name for name in inputs if name in known.select_by_tag(Tags.CONTINUOUS)]
            cats = [name for name in inputs if name not in conts]
        if shuffle and shuffle_buffer_size != 0:
            options["shuffle_buffer_size"] = shuffle_buffer_size
        super().__init__(
            paths_or_dataset,
            batch_size,
            _chosen("PyarrowDataLoader", schema, conts, cats, target_names),
            max_sequence_length=max_sequence_length,
            shuffle="shuffle_buffer_size" in options,
            num_workers=num_workers,
            pin_memory=pin_memory,
            drop_last=drop_last,
            **options,
        )

    @classmethod
    def from_schema(
        cls,
        schema: Schema,
        paths_or_dataset: Paths,
        batch_size: int,
        max_sequence_length: int | None = None,
        continuous_features: Sequence[str] | None = None,
        categorical_features: Sequence[str] | None = None,
        targets: Sequence[str] | None = None,
        **kwargs: Any,
    ) -> Self:
        """As :meth:`MerlinDataLoader.from_schema`; ``targets`` may be given by position."""
        chosen = _chosen(
            "PyarrowDataLoader", schema, continuous_features, categorical_features, targets
        )
        return cls(paths_or_dataset, batch_size, max_sequence_length, schema=chosen, **kwargs)


def _names(names: Sequence[str] | None) -> list[str]:
    """Return one name or several as a list."""
    return [names] if isinstance(names, str) else list(names or ())


def _chosen(
    function: str,
    schema: Schema | None,
    conts: Sequence[str] | None,
    cats: Sequence[str] | None,
    labels: Sequence[str] | None,
) -> Schema:
    """Return the schema of the named columns, and of those tagged where none are named."""
    known = Schema() if schema is None else as_schema(schema, function)
    columns: dict[str, ColumnSchema] = {}
    kinds: tuple[tuple[Sequence[str] | None, Tags], ...] = (
        (cats, Tags.CATEGORICAL),
        (conts, Tags.CONTINUOUS),
        (None if conts is None else [], Tags.EMBEDDING),
        (labels, Tags.TARGET),
    )
    for names, tag in kinds:
        chosen = known.select_by_tag(tag).column_names if names is None else _names(names)
        for name in chosen:
            column = known[name] if name in known else ColumnSchema(name, dtype=None)
            columns[name] = columns.get(name, column).with_tags(tag)
    return Schema(list(columns.values()))
