"""A schema: the columns of a data set, chosen by name, tag or type."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from transformers4rec_ext._errors import type_error, value_error
from transformers4rec_ext._numbers import is_integer
from transformers4rec_ext.schema.columns import DTYPES, ColumnSchema, FeatureType, IntDomain
from transformers4rec_ext.schema.tags import Tag, Tags, tag_names, with_implied

Names = str | Iterable[str] | Callable[[str], bool]
#: What merlin.schema.Schema has, and what does it here.
_MERLIN = {
    "excluding_by_name": "remove_by_name(names)",
    "without": "remove_by_name(names)",
    "remove_col": "remove_by_name(name)",
    "first": "columns[0]",
}


@dataclass(frozen=True)
class Schema:
    """Columns in order, chosen by name, tag or type.

    Parameters
    ----------
    feature : sequence of ColumnSchema
        The columns. Names must be unique.

    Examples
    --------
    >>> schema = Schema.from_item_column("item_id", num_items=1000, max_length=20)
    >>> schema.column_names
    ['item_id']
    >>> schema["item_id"].cardinality
    1001
    >>> Schema.from_json(schema.to_json()) == schema
    True
    """

    feature: Sequence[ColumnSchema] = field(default_factory=tuple)

    def __post_init__(self) -> None:
        object.__setattr__(self, "feature", tuple(self.feature))
        for column in self.columns:
            if not isinstance(column, ColumnSchema):
                raise type_error(
                    "Schema", "columns", "be ColumnSchema objects", type(column).__name__
                )
        names = self.column_names
        repeated = sorted({name for name in names if names.count(name) > 1})
        if repeated:
            raise value_error("Schema", "columns", "have unique names", f"{repeated} twice")

    @classmethod
    def create(
        cls,
        column_schemas: Iterable[ColumnSchema | str] | Mapping[str, ColumnSchema | str] = (),
    ) -> Schema:
        """Return the schema of columns, of which a name alone may be known."""
        if isinstance(column_schemas, Mapping):
            column_schemas = column_schemas.values()
        return cls(
            [ColumnSchema(c, dtype=None) if isinstance(c, str) else c for c in column_schemas]
        )

    @classmethod
    def from_item_column(
        cls, name: str = "item_id", *, num_items: int, max_length: int | None = None
    ) -> Schema:
        """Return the schema of sessions that are lists of item ids 1 to ``num_items``.

        Parameters
        ----------
        name : str
            The column's name.
        num_items : int
            The largest id, the padding id 0 not counted; the item table gets ``num_items + 1``
            rows.
        max_length : int, optional
            The longest session.
        """
        if not is_integer(num_items) or num_items < 1:
            raise value_error(
                "Schema.from_item_column", "num_items", "be a positive int", repr(num_items)
            )
        column = ColumnSchema(
            name,
            tags=tag_names((Tags.ITEM_ID, Tags.ITEM, Tags.CATEGORICAL, Tags.LIST)),
            is_list=True,
            int_domain=IntDomain(1, int(num_items)),
            max_length=max_length,
        )
        return cls((column,))

    @classmethod
    def from_json(cls, value: str | bytes | os.PathLike[str]) -> Schema:
        """Return the schema of a file, or a text, in the JSON of ``tensorflow_metadata``.

        Fields that its messages do not have are passed over.

        Raises
        ------
        ValueError   if it is neither a file nor such a text, or a column contradicts itself.
        """
        from transformers4rec_ext.schema import proto

        return cls(proto.columns(proto.parse_json(value)))

    @classmethod
    def from_proto_text(cls, path_or_proto_text: str | os.PathLike[str]) -> Schema:
        """Return the schema of a file (``schema.pbtxt``), or a text, of ``tensorflow_metadata``.

        Raises
        ------
        ValueError   if it is neither a file nor such a text, or a column contradicts itself.
        """
        from transformers4rec_ext.schema import proto

        return cls(proto.columns(proto.parse_text(path_or_proto_text)))

    @classmethod
    def from_proto(cls, message: Any) -> Schema:
        """Return the schema of a ``tensorflow_metadata.proto.v0.schema_pb2.Schema``."""
        from transformers4rec_ext.schema import proto

        return cls(proto.columns(message))

    def to_proto(self) -> Any:
        """Return the ``schema_pb2.Schema`` of ``tensorflow_metadata``; its bounds are float32."""
        from transformers4rec_ext.schema import proto

        return proto.message(self.columns)

    def to_proto_text(self) -> str:
        """Return the text that :meth:`from_proto_text` reads."""
        from transformers4rec_ext.schema import proto

        return proto.text(self.to_proto())

    def to_json(self) -> str:
        """Return the text that :meth:`from_json` reads."""
        from transformers4rec_ext.schema import proto

        return proto.json_text(self.to_proto())

    @property
    def columns(self) -> tuple[ColumnSchema, ...]:
        """The columns, in order."""
        return tuple(self.feature)

    @property
    def column_schemas(self) -> list[ColumnSchema]:
        """The columns, in order."""
        return list(self.feature)

    @property
    def column_names(self) -> list[str]:
        """The names, in order."""
        return [column.name for column in self.columns]

    @property
    def item_id_column_name(self) -> str | None:
        """The name of the one column tagged ``item_id``, or None."""
        names = self.select_by_tag(Tags.ITEM_ID).column_names
        if len(names) > 1:
            raise ValueError(
                "Multiple columns with tag ITEM_ID found. Please specify the item_id column name. "
                f"The columns are {names}."
            )
        return names[0] if names else None

    def select_by_tag(
        self,
        tags: Tag | Iterable[Tag] | Callable[[tuple[str, ...]], bool] | None,
        pred_fn: Callable[[Iterable[bool]], bool] = all,
    ) -> Schema:
        """Return the columns that carry the tag; of several, all (``pred_fn=any``: any) of them.

        An ``item_id`` is an ``item`` and an ``id`` as well, and so on. None selects nothing; a
        function is asked with the tags of each column.
        """
        if callable(tags):
            return self._where(lambda column: tags(column.tags))
        wanted = tag_names(tags)
        if not wanted:
            return Schema()
        return self._where(
            lambda column: pred_fn(tag in with_implied(column.tags) for tag in wanted)
        )

    def remove_by_tag(
        self, tags: Tag | Iterable[Tag] | Callable[[tuple[str, ...]], bool] | None
    ) -> Schema:
        """Return all columns but those that :meth:`select_by_tag` gives for ``tags``."""
        return self - self.select_by_tag(tags)

    def select_by_name(self, names: Names) -> Schema:
        """Return the named columns, in the order of the schema; an unknown name is an error."""
        if callable(names):
            return self._where(lambda column: names(column.name))
        wanted = _name_set("Schema.select_by_name", names)
        missing = sorted(wanted - set(self.column_names))
        if missing:
            raise value_error(
                "Schema.select_by_name",
                "names",
                "be columns of the schema",
                missing,
                f"The columns are {self.column_names}.",
            )
        return self._where(lambda column: column.name in wanted)

    def remove_by_name(self, names: Names) -> Schema:
        """Return all columns but the named ones."""
        if callable(names):
            return self._where(lambda column: not names(column.name))
        unwanted = _name_set("Schema.remove_by_name", names)
        return self._where(lambda column: column.name not in unwanted)

    def select_by_type(self, types: Any) -> Schema:
        """Return the columns of a type, or of one of several.

        Parameters
        ----------
        types : FeatureType, its name or number, a dtype such as "int64", a list of them, or a
            function of the FeatureType
        """
        if callable(types):
            return self._where(lambda column: types(column.type))
        several = types if isinstance(types, list | tuple | set) else [types]
        wanted = {_feature_type(value) for value in several}
        return self._where(lambda column: column.type in wanted)

    def remove_by_type(self, types: Any) -> Schema:
        """Return all columns but those that :meth:`select_by_type` gives for ``types``."""
        return self - self.select_by_type(types)

    def filter_column_schemas(
        self, filter_fn: Callable[[ColumnSchema], bool], negate: bool = False
    ) -> Schema:
        """Return the columns for which ``filter_fn`` is true, or with ``negate`` false."""
        return self._where(lambda column: bool(filter_fn(column)) != negate)

    def map_column_schemas(self, map_fn: Callable[[ColumnSchema], ColumnSchema]) -> Schema:
        """Return the schema of ``map_fn(column)`` for every column."""
        return Schema([map_fn(column) for column in self.columns])

    def with_tags_based_on_properties(
        self, using_value_count: bool = True, using_domain: bool = True
    ) -> Schema:
        """Return the columns tagged by what they are; see :class:`ColumnSchema`."""
        return self.map_column_schemas(
            lambda column: column.with_tags_based_on_properties(using_value_count, using_domain)
        )

    def filter_columns_from_dict(self, input_dict: Mapping[str, Any]) -> dict[str, Any]:
        """Return what of ``input_dict`` is named as a column."""
        return {name: value for name, value in input_dict.items() if name in self}

    def categorical_cardinalities(self) -> dict[str, int]:
        """Return ``{name: rows of an embedding table}`` of the columns that hold ids."""
        return {column.name: column.cardinality for column in self.columns if column.is_categorical}

    def embedding_sizes(self, multiplier: float = 2.0) -> dict[str, int]:
        """Return ``{name: ceil(cardinality ** 0.25 * multiplier)}`` of the columns with ids."""
        return {
            name: math.ceil(cardinality**0.25 * multiplier)
            for name, cardinality in self.categorical_cardinalities().items()
        }

    def copy(self) -> Schema:
        """Return an equal schema."""
        return Schema(self.feature)

    def _where(self, wanted: Callable[[ColumnSchema], bool]) -> Schema:
        return Schema([column for column in self.columns if wanted(column)])

    def __getattr__(self, name: str) -> Any:
        # called for what there is not
        hint = f". It is merlin.schema's; use {_MERLIN[name]}" if name in _MERLIN else ""
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}{hint}")

    def __add__(self, other: Schema) -> Schema:
        """Return the columns of both. One that is in both must be the same, but for its tags."""
        if not isinstance(other, Schema):
            return NotImplemented
        merged = {column.name: column for column in self.columns}
        for column in other.columns:
            known = merged.setdefault(column.name, column)
            merged[column.name] = known.with_tags(column.tags)
            if replace(known, tags=()) != replace(column, tags=()):
                raise value_error(
                    "Schema",
                    "columns",
                    "have unique names, or be the same but for their tags",
                    f"{known!r} and {column!r}",
                )
        return Schema(list(merged.values()))

    def __sub__(self, other: Schema) -> Schema:
        if not isinstance(other, Schema):
            return NotImplemented
        return self.remove_by_name(other.column_names)

    def __iter__(self) -> Iterator[ColumnSchema]:
        return iter(self.columns)

    def __len__(self) -> int:
        return len(self.columns)

    def __contains__(self, name: object) -> bool:
        return name in self.column_names

    def __getitem__(self, name: str) -> ColumnSchema:
        for column in self.columns:
            if column.name == name:
                return column
        raise KeyError(f"{name!r} is no column of the schema; the columns are {self.column_names}")


def _name_set(function: str, names: str | Iterable[str]) -> set[str]:
    found = [names] if isinstance(names, str) or not isinstance(names, Iterable) else list(names)
    if not all(isinstance(name, str) for name in found):
        raise type_error(function, "names", "be a column name, or several", repr(names))
    return set(found)


def _feature_type(value: Any) -> FeatureType:
    if isinstance(value, str):
        if value in DTYPES:
            return ColumnSchema("column", dtype=value).type
        value = FeatureType.__members__.get(value.upper(), value)
    try:
        return FeatureType(value)
    except ValueError:
        known = [*FeatureType.__members__, *DTYPES]
        raise value_error("Schema", "type", f"be one of {known}", repr(value)) from None
