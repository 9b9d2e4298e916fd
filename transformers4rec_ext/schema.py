"""What the columns of a data set are: names, tags, types and the range of their ids."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from enum import Enum

from transformers4rec_ext._errors import type_error, value_error

DTYPES = ("int64", "float32")


class Tags(str, Enum):
    """The meaning of a column. A plain string works wherever a tag is asked for."""

    CATEGORICAL = "categorical"
    CONTINUOUS = "continuous"
    LIST = "list"
    SEQUENCE = "sequence"
    TEXT = "text"
    TOKENIZED = "tokenized"
    TIME = "time"
    EMBEDDING = "embedding"
    ID = "id"
    USER = "user"
    ITEM = "item"
    SESSION = "session"
    CONTEXT = "context"
    USER_ID = "user_id"
    ITEM_ID = "item_id"
    SESSION_ID = "session_id"
    TARGET = "target"
    BINARY = "binary"
    BINARY_CLASSIFICATION = "binary_classification"
    MULTI_CLASS = "multi_class"
    MULTI_CLASS_CLASSIFICATION = "multi_class_classification"
    REGRESSION = "regression"


Tag = str | Tags


def tag_names(tags: Tag | Iterable[Tag] | None) -> tuple[str, ...]:
    """Return ``tags`` as plain lower-case strings; one tag, several or None are accepted."""
    if tags is None:
        return ()
    if isinstance(tags, str):  # Tags members are strings as well
        tags = (tags,)
    return tuple((tag.value if isinstance(tag, Tags) else str(tag)).lower() for tag in tags)


@dataclass(frozen=True)
class IntDomain:
    """The ids of a categorical column: ``min`` to ``max``, both included; 0 is padding.

    Examples
    --------
    >>> IntDomain(1, 9).max
    9
    """

    min: int
    max: int

    def __post_init__(self) -> None:
        for name in ("min", "max"):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool):
                raise type_error("IntDomain", name, "be an int", repr(value))
        if not 0 <= self.min <= self.max:
            raise value_error(
                "IntDomain", "min and max", "satisfy 0 <= min <= max", f"{self.min}, {self.max}"
            )


@dataclass(frozen=True)
class ColumnSchema:
    """One column: its name, tags, type and, when it holds ids, their range.

    Parameters
    ----------
    name : str
    tags : tag or tags
        Kept as a tuple of plain strings.
    dtype : {"int64", "float32"}
    is_list : bool
        Whether a row holds a sequence of values ([B, T]) instead of one ([B]).
    int_domain : IntDomain, optional
        The range of the ids of a categorical column.
    max_length : int, optional
        The longest sequence of a list column.

    Examples
    --------
    >>> ColumnSchema("item_id", tags=Tags.ITEM_ID, is_list=True, int_domain=IntDomain(1, 9)).tags
    ('item_id',)
    """

    name: str
    tags: tuple[str, ...] = ()
    dtype: str = "int64"
    is_list: bool = False
    int_domain: IntDomain | None = None
    max_length: int | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not self.name:
            raise value_error("ColumnSchema", "name", "be a non-empty str", repr(self.name))
        object.__setattr__(self, "tags", tag_names(self.tags))
        if self.dtype not in DTYPES:
            raise value_error(
                "ColumnSchema",
                "dtype",
                f"be one of {DTYPES}",
                repr(self.dtype),
                f"Column {self.name!r}.",
            )
        if self.max_length is not None and self.max_length < 1:
            raise value_error(
                "ColumnSchema",
                "max_length",
                "be at least 1",
                self.max_length,
                f"Column {self.name!r}.",
            )

    @property
    def cardinality(self) -> int:
        """Rows of an embedding table for this column: ``int_domain.max + 1`` (padding included)."""
        if self.int_domain is None:
            raise value_error(
                "ColumnSchema.cardinality",
                "int_domain",
                "be set",
                "None",
                f"Give column {self.name!r} an IntDomain(min, max).",
            )
        return self.int_domain.max + 1

    def has_tag(self, tag: Tag) -> bool:
        """Return whether the column carries ``tag``."""
        return tag_names(tag)[0] in self.tags


@dataclass(frozen=True)
class Schema:
    """Columns in order, chosen by name or tag.

    Parameters
    ----------
    columns : sequence of ColumnSchema
        Names must be unique.

    Examples
    --------
    >>> schema = Schema.from_item_column("item_id", num_items=1000, max_length=20)
    >>> schema.column_names
    ['item_id']
    >>> schema["item_id"].cardinality
    1001
    """

    columns: Sequence[ColumnSchema] = field(default_factory=tuple)

    def __post_init__(self) -> None:
        object.__setattr__(self, "columns", tuple(self.columns))
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
        if not isinstance(num_items, int) or isinstance(num_items, bool) or num_items < 1:
            raise value_error(
                "Schema.from_item_column", "num_items", "be a positive int", repr(num_items)
            )
        column = ColumnSchema(
            name,
            tags=tag_names((Tags.ITEM_ID, Tags.ITEM, Tags.CATEGORICAL, Tags.LIST)),
            is_list=True,
            int_domain=IntDomain(1, num_items),
            max_length=max_length,
        )
        return cls((column,))

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

    def select_by_tag(self, tags: Tag | Iterable[Tag] | None) -> Schema:
        """Return the columns that carry at least one of ``tags``; None selects nothing."""
        wanted = set(tag_names(tags))
        return Schema([column for column in self.columns if wanted & set(column.tags)])

    def select_by_name(self, names: str | Iterable[str]) -> Schema:
        """Return the named columns, in the order of the schema; an unknown name is an error."""
        wanted = {names} if isinstance(names, str) else set(names)
        missing = sorted(wanted - set(self.column_names))
        if missing:
            raise value_error(
                "Schema.select_by_name",
                "names",
                "be columns of the schema",
                missing,
                f"The columns are {self.column_names}.",
            )
        return Schema([column for column in self.columns if column.name in wanted])

    def excluding_by_name(self, names: str | Iterable[str]) -> Schema:
        """Return all columns but the named ones."""
        unwanted = {names} if isinstance(names, str) else set(names)
        return Schema([column for column in self.columns if column.name not in unwanted])

    def cardinalities(self) -> dict[str, int]:
        """Return ``{name: rows of an embedding table}`` of the columns that hold ids."""
        return {c.name: c.cardinality for c in self.columns if c.int_domain is not None}

    def embedding_sizes(self, multiplier: float = 2.0) -> dict[str, int]:
        """Return ``{name: ceil(cardinality ** 0.25 * multiplier)}`` of the columns with ids."""
        return {
            name: math.ceil(cardinality**0.25 * multiplier)
            for name, cardinality in self.cardinalities().items()
        }

    def __add__(self, other: Schema) -> Schema:
        if not isinstance(other, Schema):
            return NotImplemented
        return Schema((*self.columns, *other.columns))

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
