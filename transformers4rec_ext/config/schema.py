"""What classes share that know the schema of their inputs."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeVar

from torch import Tensor

from transformers4rec_ext._errors import value_error
from transformers4rec_ext.schema import Schema, as_schema

if TYPE_CHECKING:
    from typing_extensions import Self

ClassT = TypeVar("ClassT", bound=type)


class SchemaMixin:
    """A schema, set once; classes marked by :func:`requires_schema` insist on it."""

    REQUIRES_SCHEMA = False

    _schema: Schema | None = None

    def set_schema(self, schema: Any = None) -> Self:
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

    def item_id_name(self) -> str:
        """Return the name of the column that the schema tags ``item_id``; ValueError if none."""
        if self._schema is None:
            raise ValueError(f"{type(self).__name__} requires a schema.")
        name = self._schema.item_id_column_name
        if name is None:
            raise ValueError(
                "There is no column tagged as item id. "
                f"Tag one of the columns {self._schema.column_names} as item_id."
            )
        return name

    def get_item_ids_from_inputs(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """Return the column of ``inputs`` that the schema tags ``item_id``.

        Raises
        ------
        ValueError   if there is no schema, no such tag, or no such column.
        """
        name = self.item_id_name()
        if name not in inputs:
            raise value_error(
                type(self).__name__,
                "inputs",
                f"have the item id column {name!r}",
                f"columns {sorted(inputs)}",
            )
        return inputs[name]

    def get_padding_mask_from_item_id(
        self, inputs: Mapping[str, Tensor], pad_token: int = 0
    ) -> Tensor:
        """Return bool [B, T], true where there is an item."""
        item_ids = self.get_item_ids_from_inputs(inputs)
        if item_ids.dim() != 2:
            raise ValueError(
                "To extract the padding mask from item id tensor it is expected to have 2 dims, "
                f"but it has {item_ids.dim()} dims: {list(item_ids.shape)}."
            )
        return item_ids != pad_token


def requires_schema(module: ClassT) -> ClassT:
    """Mark a class whose objects cannot do without a schema, neither built nor called.

    Examples
    --------
    >>> @requires_schema
    ... class Features(SchemaMixin):
    ...     def forward(self, inputs): ...
    >>> Features().forward({})
    Traceback (most recent call last):
    ValueError: Features requires a schema.
    """
    module.REQUIRES_SCHEMA = True  # type: ignore[attr-defined]
    forward = getattr(module, "forward", None)
    if forward is not None:

        @functools.wraps(forward)
        def checked(self: Any, *args: Any, **kwargs: Any) -> Any:
            self.check_schema()
            return forward(self, *args, **kwargs)

        module.forward = checked  # type: ignore[attr-defined]
    return module
