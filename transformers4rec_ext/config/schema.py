"""What classes share that know the schema of their inputs."""

from __future__ import annotations

from typing import Any, TypeVar

from torch import Tensor

from transformers4rec_ext._errors import value_error
from transformers4rec_ext.schema import Schema, as_schema

ClassT = TypeVar("ClassT", bound=type)


class SchemaMixin:
    """A schema, set once; classes marked by :func:`requires_schema` insist on it."""

    REQUIRES_SCHEMA = False

    _schema: Schema | None = None

    def set_schema(self, schema: Any = None) -> SchemaMixin:
        """Remember ``schema``, unless there is one already; return the object itself."""
        self.check_schema(schema)
        if schema is not None and self._schema is None:
            self._schema = as_schema(schema, type(self).__name__)
        return self

    @property
    def schema(self) -> Schema | None:
        """The schema, or None."""
        return self._schema

    @schema.setter
    def schema(self, schema: Any) -> None:
        self._schema = None if schema is None else as_schema(schema, type(self).__name__)

    def check_schema(self, schema: Any = None) -> None:
        """Raise ValueError if a schema is required, and neither known nor given."""
        if self.REQUIRES_SCHEMA and self._schema is None and schema is None:
            raise ValueError(f"{type(self).__name__} requires a schema.")

    def get_item_ids_from_inputs(self, inputs: dict[str, Tensor]) -> Tensor:
        """Return the column of ``inputs`` that the schema tags ``item_id``."""
        name = None if self._schema is None else self._schema.item_id_column_name
        if name is None:
            raise value_error(
                type(self).__name__, "schema", "have a column tagged item_id", self._schema
            )
        return inputs[name]

    def get_padding_mask_from_item_id(
        self, inputs: dict[str, Tensor], pad_token: int = 0
    ) -> Tensor:
        """Return bool [B, T], true where there is an item."""
        item_ids = self.get_item_ids_from_inputs(inputs)
        if item_ids.dim() != 2:
            raise value_error(type(self).__name__, "item ids", "be [B, T]", list(item_ids.shape))
        return item_ids != pad_token


def requires_schema(module: ClassT) -> ClassT:
    """Mark a class whose objects cannot do without a schema.

    Examples
    --------
    >>> @requires_schema
    ... class Features(SchemaMixin): ...
    >>> Features().check_schema()
    Traceback (most recent call last):
    ValueError: Features requires a schema.
    """
    module.REQUIRES_SCHEMA = True  # type: ignore[attr-defined]
    return module
