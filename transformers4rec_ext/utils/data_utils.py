"""The loader that upstream's users make by hand, over ours; nothing of Merlin is needed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from transformers4rec_ext._errors import type_error
from transformers4rec_ext.data.files import Paths
from transformers4rec_ext.data.parquet_loader import ParquetLoader, input_and_target_names
from transformers4rec_ext.schema import ColumnSchema, Schema, Tags, as_schema

__all__ = ["MerlinDataLoader"]

_ELSEWHERE = {
    "PyarrowDataLoader": "use MerlinDataLoader, which takes the same files",
    "DLDataLoader": "use torch.utils.data.DataLoader",
    "T4RecDataLoader": "pass any torch.utils.data.DataLoader of (inputs, targets)",
    "ParquetDataset": "use MerlinDataLoader, or transformers4rec_ext.data.ParquetLoader",
    "ShuffleDataset": "use transformers4rec_ext.data.ParquetLoader(shuffle=True)",
    "to_core_schema": "pass a merlin.schema.Schema where a schema is asked for",
}
_UNUSED = {
    "buffer_size": "use shuffle_buffer_size, in rows",
    "parts_per_chunk": "use shuffle_buffer_size, in rows",
    "row_groups_per_part": "row groups are always the parts",
    "engine": "files are parquet",
    "reader_kwargs": "files are read by pyarrow",
    "seed_fn": "use seed",
    "device": "Model.fit, Model.evaluate and Trainer move batches to the model's device",
    "transforms": "wrap the loader in one of your own",
    "collate_fn": "wrap the loader in one of your own",
    "list_features": "list columns are known by the file",
    "lists": "list columns are known by the file",
}


def __getattr__(name: str) -> Any:
    if name in _ELSEWHERE:
        raise AttributeError(f"{__name__} has no {name!r}. It is upstream's; {_ELSEWHERE[name]}.")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


class MerlinDataLoader(ParquetLoader):
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
        schema tags so.
    shuffle, drop_last : bool
    schema : Schema, optional
        Needed without ``conts`` and ``cats``. With it ids are held against their domain.
    global_size, global_rank : int, optional
        How many processes there are and which one this is.
    **options
        Of ``ParquetLoader`` (``seed``, ``shuffle_buffer_size``) and torch's ``DataLoader``.

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
        drop_last: bool = False,
        schema: Schema | None = None,
        global_size: int | None = None,
        global_rank: int | None = None,
        **options: Any,
    ) -> None:
        for argument in options:
            if argument in _UNUSED:
                raise type_error(
                    "MerlinDataLoader",
                    "arguments",
                    "be of files and batches",
                    repr(argument),
                    f"Leave it out: {_UNUSED[argument]}.",
                )
        self.schema = _chosen(schema, conts, cats, labels)
        super().__init__(
            paths_or_dataset,
            self.schema,
            batch_size,
            max_sequence_length=max_sequence_length,
            shuffle=shuffle,
            drop_last=drop_last,
            rank=global_rank or 0,
            world_size=global_size or 1,
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
    ) -> MerlinDataLoader:
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

    @property
    def output_schema(self) -> Schema:
        """The columns of a batch, targets among them."""
        inputs, targets = input_and_target_names(self.schema)
        return self.schema.select_by_name([*inputs, *targets])


def _chosen(
    schema: Schema | None,
    conts: Sequence[str] | None,
    cats: Sequence[str] | None,
    labels: Sequence[str] | None,
) -> Schema:
    """Return the schema of the named columns, and of those tagged where none are named."""
    known = Schema() if schema is None else as_schema(schema, "MerlinDataLoader")
    columns: dict[str, ColumnSchema] = {}
    for names, tag in ((cats, Tags.CATEGORICAL), (conts, Tags.CONTINUOUS), (labels, Tags.TARGET)):
        chosen = known.select_by_tag(tag).column_names if names is None else names
        for name in [chosen] if isinstance(chosen, str) else chosen:
            column = known[name] if name in known else ColumnSchema(name, dtype=None)
            columns[name] = columns.get(name, column).with_tags(tag)
    return Schema(list(columns.values()))
