"""One column: its name, tags, type, and the range of its values."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import IntEnum
from typing import Any

from transformers4rec_ext._errors import type_error, value_error
from transformers4rec_ext._numbers import is_integer
from transformers4rec_ext.schema.tags import Tag, Tags, tag_names, with_implied


class FeatureType(IntEnum):
    """The types of ``tensorflow_metadata``'s schema, by their numbers."""

    TYPE_UNKNOWN = 0
    BYTES = 1
    INT = 2
    FLOAT = 3


DTYPES = ("int64", "float32", "bytes")
TYPES = {
    "int64": FeatureType.INT,
    "float32": FeatureType.FLOAT,
    "bytes": FeatureType.BYTES,
    None: FeatureType.TYPE_UNKNOWN,
}


@dataclass(frozen=True)
class IntDomain:
    """The range of an integer column, ``min`` to ``max``, both included.

    Parameters
    ----------
    min, max : int
        Of ids at least 0; 0 is padding.
    is_categorical : bool
        Whether the integers are ids, which are embedded, rather than quantities.
    name : str, optional

    Examples
    --------
    >>> IntDomain(1, 9).max
    9
    """

    min: int
    max: int
    is_categorical: bool = True
    name: str | None = None

    def __post_init__(self) -> None:
        for name in ("min", "max"):
            value = getattr(self, name)
            if not is_integer(value):
                raise type_error("IntDomain", name, "be an int", repr(value))
            object.__setattr__(self, name, int(value))
        least = 0 if self.is_categorical else self.min
        if not least <= self.min <= self.max:
            of_ids = "0 <= min <= max" if self.is_categorical else "min <= max"
            raise value_error(
                "IntDomain", "min and max", f"satisfy {of_ids}", f"{self.min}, {self.max}"
            )


@dataclass(frozen=True)
class FloatDomain:
    """The range of a column of real numbers, ``min`` to ``max``."""

    min: float
    max: float
    name: str | None = None

    def __post_init__(self) -> None:
        if not self.min <= self.max:
            raise value_error(
                "FloatDomain", "min and max", "satisfy min <= max", f"{self.min}, {self.max}"
            )


@dataclass(frozen=True)
class ValueCount:
    """How many values a row of a list column holds, ``min`` to ``max``; 0 is unknown."""

    min: int = 0
    max: int = 0


@dataclass(frozen=True)
class ColumnSchema:
    """One column: its name, tags, type and, when it holds ids, their range.

    Parameters
    ----------
    name : str
    tags : tag or tags
        Kept as a tuple of plain strings.
    dtype : {"int64", "float32", "bytes"} or None
        None where the type is unknown.
    is_list : bool
        Whether a row holds a sequence of values ([B, T]) instead of one ([B]).
    int_domain : IntDomain, optional
        The range of the ids of a categorical column, or of other integers.
    max_length, min_length : int, optional
        The longest and the shortest sequence of a list column.
    float_domain : FloatDomain, optional
        The range of a column of real numbers.
    shape : tuple of int, optional
        The shape of one value, where it is not a scalar: ``(D,)`` of a vector.
    properties : mapping, optional
        Whatever else is known of the column, for code that reads it.

    Examples
    --------
    >>> ColumnSchema("item_id", tags=Tags.ITEM_ID, is_list=True, int_domain=IntDomain(1, 9)).tags
    ('item_id',)
    """

    name: str
    tags: tuple[str, ...] = ()
    dtype: str | None = "int64"
    is_list: bool = False
    int_domain: IntDomain | None = None
    max_length: int | None = None
    min_length: int | None = None
    float_domain: FloatDomain | None = None
    shape: tuple[int, ...] | None = None
    properties: Mapping[str, Any] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not self.name:
            raise value_error("ColumnSchema", "name", "be a non-empty str", repr(self.name))
        object.__setattr__(self, "tags", tag_names(self.tags))
        hint = f"Column {self.name!r}."
        if self.dtype is not None and self.dtype not in DTYPES:
            expected = f"be one of {DTYPES}, or None"
            raise value_error("ColumnSchema", "dtype", expected, repr(self.dtype), hint)
        for name, domain in (("int_domain", IntDomain), ("float_domain", FloatDomain)):
            value = getattr(self, name)
            if value is not None and not isinstance(value, domain):
                expected = f"be of class {domain.__name__}"
                raise type_error("ColumnSchema", name, expected, repr(value), hint)
        if self.max_length is not None and self.max_length < 1:
            raise value_error("ColumnSchema", "max_length", "be at least 1", self.max_length, hint)
        if self.min_length is not None and not 0 <= self.min_length <= (
            self.min_length if self.max_length is None else self.max_length
        ):
            lengths = f"{self.min_length} with max_length {self.max_length}"
            raise value_error(
                "ColumnSchema", "min_length", "be from 0 to max_length", lengths, hint
            )
        if self.shape is not None:
            object.__setattr__(self, "shape", tuple(self.shape))

    @classmethod
    def create_categorical(
        cls,
        name: str,
        num_items: int,
        shape: Sequence[int] | None = None,
        value_count: ValueCount | None = None,
        min_index: int = 0,
        tags: Tag | Iterable[Tag] | None = None,
        **kwargs: Any,
    ) -> ColumnSchema:
        """Return a column of the ids ``min_index`` to ``num_items``, tagged categorical."""
        return cls(
            name,
            tags=tag_names((*tag_names(tags), Tags.CATEGORICAL)),
            int_domain=IntDomain(min_index, num_items, name=name),
            shape=None if shape is None else tuple(shape),
            **_lengths(value_count),
            **kwargs,
        )

    @classmethod
    def create_continuous(
        cls,
        name: str,
        is_float: bool = True,
        min_value: float | None = None,
        max_value: float | None = None,
        is_embedding: bool = False,
        shape: Sequence[int] | None = None,
        value_count: ValueCount | None = None,
        tags: Tag | Iterable[Tag] | None = None,
        **kwargs: Any,
    ) -> ColumnSchema:
        """Return a column of numbers, tagged continuous; with both bounds it has a domain.

        One that holds vectors ``is_embedding`` and is tagged embedding instead.
        """
        domain: dict[str, Any] = {}
        if min_value is not None and max_value is not None:
            if is_float:
                domain["float_domain"] = FloatDomain(float(min_value), float(max_value), name)
            else:
                domain["int_domain"] = IntDomain(int(min_value), int(max_value), False, name)
        kind = Tags.EMBEDDING if is_embedding else Tags.CONTINUOUS
        return cls(
            name,
            tags=tag_names((*tag_names(tags), kind)),
            dtype="float32" if is_float else "int64",
            shape=None if shape is None else tuple(shape),
            **domain,
            **_lengths(value_count),
            **kwargs,
        )

    @property
    def type(self) -> FeatureType:
        """The type by ``tensorflow_metadata``'s number."""
        return TYPES[self.dtype]

    @property
    def value_count(self) -> ValueCount | None:
        """How many values a row holds; None if the column is no list."""
        return ValueCount(self.min_length or 0, self.max_length or 0) if self.is_list else None

    @property
    def is_categorical(self) -> bool:
        """Whether the column holds ids of a known range."""
        return self.int_domain is not None and self.int_domain.is_categorical

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
        """Return whether the column carries ``tag``, or one that implies it."""
        return tag_names(tag)[0] in with_implied(self.tags)

    def with_name(self, name: str) -> ColumnSchema:
        """Return a copy with another name."""
        return replace(self, name=name)

    def with_tags(self, tags: Tag | Iterable[Tag]) -> ColumnSchema:
        """Return a copy that carries ``tags`` as well."""
        return replace(self, tags=tag_names((*self.tags, *tag_names(tags))))

    def with_properties(self, properties: Mapping[str, Any]) -> ColumnSchema:
        """Return a copy with more, or other, ``properties``."""
        return replace(self, properties={**self.properties, **properties})

    def with_tags_based_on_properties(
        self, using_value_count: bool = True, using_domain: bool = True
    ) -> ColumnSchema:
        """Return a copy tagged "list", "categorical", "continuous" by what the column is."""
        tags = [Tags.LIST] if using_value_count and self.is_list else []
        if using_domain and (self.int_domain is not None or self.float_domain is not None):
            tags.append(Tags.CATEGORICAL if self.is_categorical else Tags.CONTINUOUS)
        return self.with_tags(tags)

    def to_proto_text(self) -> str:
        """Return the column as the text of a ``tensorflow_metadata`` feature."""
        from transformers4rec_ext.schema.proto import feature_text

        return feature_text(self)

    def __str__(self) -> str:
        return self.name


def _lengths(value_count: ValueCount | None) -> dict[str, Any]:
    if value_count is None:
        return {}
    return {
        "is_list": True,
        "min_length": value_count.min or None,
        "max_length": value_count.max or None,
    }
