"""Tags: what a column means."""

from __future__ import annotations

from collections.abc import Iterable
from enum import Enum

from transformers4rec_ext._errors import type_error


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
    TARGET = "target"
    REGRESSION = "regression"
    CLASSIFICATION = "classification"
    BINARY = "binary"
    MULTI_CLASS = "multi_class"
    USER_ID = "user_id"
    ITEM_ID = "item_id"
    SESSION_ID = "session_id"
    TEXT_TOKENIZED = "text_tokenized"
    BINARY_CLASSIFICATION = "binary_classification"
    MULTI_CLASS_CLASSIFICATION = "multi_class_classification"

    def __str__(self) -> str:
        return str(self.value)


Tag = str | Tags

#: A column with the one tag has the others as well, and one with the others has it.
_COMPOUNDS = {
    "user_id": ("user", "id"),
    "item_id": ("item", "id"),
    "session_id": ("session", "id"),
    "text_tokenized": ("text", "tokenized"),
}


def tag_names(tags: Tag | Iterable[Tag] | None) -> tuple[str, ...]:
    """Return ``tags`` as plain lower-case strings, each once and in order.

    One tag, several or None are accepted; members of another library's enumeration (such as
    ``merlin.schema.Tags``) stand for their values.
    """
    if tags is None:
        return ()
    if isinstance(tags, str | Enum):  # members of Tags are both
        tags = (tags,)
    if not isinstance(tags, Iterable):
        raise type_error("tag_names", "tags", "be a tag or several, as str", repr(tags))
    names = (str(tag.value if isinstance(tag, Enum) else tag).lower() for tag in tags)
    return tuple(dict.fromkeys(names))


def with_implied(names: Iterable[str]) -> set[str]:
    """Return tag names and those that they imply.

    An ``item_id`` is an ``item`` and an ``id``; and what is both is an ``item_id``, which is how
    merlin writes one.
    """
    found = set(names)
    for compound, parts in _COMPOUNDS.items():
        if compound in found:
            found.update(parts)
        elif found.issuperset(parts):
            found.add(compound)
    return found
