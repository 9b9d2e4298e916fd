"""Modules from columns to columns, the steps before and after them, and how they are merged."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from torch import nn

from transformers4rec_ext._errors import type_error
from transformers4rec_ext.block.base import BlockBase, named_arguments
from transformers4rec_ext.block.sizes import OutputSizeMixin, module_output_size
from transformers4rec_ext.schema import Schema
from transformers4rec_ext.tabular.columns import merged
from transformers4rec_ext.tabular.module import TabularModule
from transformers4rec_ext.tabular.steps import (
    FilterFeatures,
    SequentialTabularTransformations,
    TabularAggregation,
    TabularAggregationType,
    TabularTransformation,
    TabularTransformationsType,
    TabularTransformationType,
    tabular_aggregation_registry,
    tabular_transformation_registry,
)
from transformers4rec_ext.typing import TabularData

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = [
    "AsTabular",
    "FilterFeatures",
    "MergeTabular",
    "SequentialTabularTransformations",
    "TabularAggregation",
    "TabularAggregationType",
    "TabularBlock",
    "TabularData",
    "TabularModule",
    "TabularTransformation",
    "TabularTransformationType",
    "TabularTransformationsType",
    "merge_tabular",
    "tabular_aggregation_registry",
    "tabular_transformation_registry",
]


class TabularBlock(BlockBase, TabularModule):
    """A tabular module that knows the size of its output.

    Parameters
    ----------
    pre, post, aggregation
        See :class:`TabularModule`.
    schema : Schema, optional
    """

    def __init__(
        self,
        pre: TabularTransformationsType | None = None,
        post: TabularTransformationsType | None = None,
        aggregation: TabularAggregationType | None = None,
        schema: Schema | None = None,
    ) -> None:
        super().__init__(pre=pre, post=post, aggregation=aggregation)
        self.schema = schema

    def to_module(self, shape_or_module: Any, device: Any = None) -> Self:
        """Build the block for a size, or for the output of a block; return the block."""
        if isinstance(shape_or_module, OutputSizeMixin):
            shape_or_module = shape_or_module.output_size()
        built = self.build(shape_or_module)
        return built if device is None else built.to(device)

    def build(self, input_size: Any, schema: Schema | None = None, **kwargs: Any) -> Self:
        """Build the steps for columns of ``input_size``, a dict of sizes; return the block."""
        super().build(input_size, schema=schema, **kwargs)
        # The steps see all columns of a batch, so they get the whole schema, if it is given.
        whole = self.schema if schema is None else schema
        size = _build_step(self.pre, input_size, whole)
        size = _build_step(self.post, self.columns_size(size), whole)
        _build_step(self.aggregation, size, whole)
        return self

    def forward_output_size(self, input_size: Any) -> Any:
        """Return the size of what ``forward`` returns; None where a subclass does not say it."""
        return input_size if type(self).forward is TabularModule.forward else None

    def columns_size(self, input_size: Any) -> Any:
        """Return the size of what ``post`` is given: by default of what ``forward`` returns."""
        return self.forward_output_size(input_size)

    def output_size(self, input_size: Any = None) -> Any:
        """Return the size of what a call returns; None where it is unknown."""
        size = self.input_size if input_size is None else input_size
        if self.pre is not None and size is not None:
            size = module_output_size(self.pre, size)
        return self.post_output_size(self.forward_output_size(size))

    def post_output_size(self, size: Any) -> Any:
        """Return the size after ``post`` and ``aggregation``; that of a tensor stays as it is."""
        for step in (self.post, self.aggregation):
            if step is not None and isinstance(size, Mapping):
                size = module_output_size(self._informed(step), size)
        return size


def _build_step(step: Any, size: Any, schema: Schema | None) -> Any:
    """Build a step for columns of ``size``; return the size of its output."""
    if step is None or size is None:
        return size
    if hasattr(step, "build"):
        step.build(size, schema=schema)
    return module_output_size(step, size)


class MergeTabular(TabularBlock):
    """The columns of several modules, all called with the same inputs, as one dict.

    Parameters
    ----------
    *modules_to_merge : TabularModule, or dicts from name to TabularModule
    pre, post, aggregation
        See :class:`TabularModule`.
    schema : Schema, optional
        That of the modules together when not given.

    Raises
    ------
    ValueError
        If modules and dicts are mixed or there are none; when called, if two modules return
        different columns of one name.

    Examples
    --------
    >>> both = FilterFeatures(["a"]), FilterFeatures(["b"])
    >>> MergeTabular(*both)({"a": 1, "b": 2, "c": 3})
    {'a': 1, 'b': 2}
    """

    to_merge: Any  # a ModuleDict or a ModuleList

    def __init__(
        self,
        *modules_to_merge: Any,
        pre: TabularTransformationsType | None = None,
        post: TabularTransformationsType | None = None,
        aggregation: TabularAggregationType | None = None,
        schema: Schema | None = None,
    ) -> None:
        super().__init__(pre=pre, post=post, aggregation=aggregation, schema=schema)
        if modules_to_merge and all(isinstance(part, Mapping) for part in modules_to_merge):
            self.to_merge = nn.ModuleDict(
                {name: module for part in modules_to_merge for name, module in part.items()}
            )
        elif modules_to_merge and all(isinstance(part, nn.Module) for part in modules_to_merge):
            self.to_merge = nn.ModuleList(modules_to_merge)
        else:
            raise ValueError(
                "Please provide one or multiple TabularBlock's to merge or "
                f"dictionaries of TabularBlocks. got: {modules_to_merge}"
            )
        schemas: list[Any] = [getattr(module, "schema", None) for module in self.merge_values]
        if self.schema is None and all(schemas):
            columns = {column.name: column for part in schemas for column in part}
            self.schema = Schema(list(columns.values()))

    @property
    def merge_values(self) -> list[Any]:
        """The modules that are merged."""
        to_merge = self.to_merge
        return list(to_merge.values() if isinstance(to_merge, nn.ModuleDict) else to_merge)

    def forward(
        self, inputs: Any, training: bool = False, testing: bool = False, **kwargs: Any
    ) -> Any:
        """Return the columns of every module, in order; the flags go to those that name them."""
        flags = {"training": training, "testing": testing}
        outputs = []
        for module in self.merge_values:
            accepted = named_arguments(module)
            named = {name: flag for name, flag in flags.items() if name in accepted}
            outputs.append(module(inputs, **named))
        return merged(outputs)

    def build(self, input_size: Any, schema: Schema | None = None, **kwargs: Any) -> Self:
        """Build the modules and the steps for columns of ``input_size``; return the block."""
        size = input_size
        if self.pre is not None and size is not None:
            size = module_output_size(self.pre, size)
        for module in self.merge_values:
            if hasattr(module, "build"):
                module.build(size, schema=schema)
        return super().build(input_size, schema=schema, **kwargs)

    def forward_output_size(self, input_size: Any) -> Any:
        """Return the sizes of the columns of every module; None if one is unknown."""
        sizes = [module_output_size(module, input_size) for module in self.merge_values]
        if not all(isinstance(size, Mapping) for size in sizes):
            return None
        return {name: size for part in sizes for name, size in part.items()}


class AsTabular(TabularBlock):
    """Gives a tensor a name: ``x`` to ``{output_name: x}``.

    Parameters
    ----------
    output_name : str

    Examples
    --------
    >>> AsTabular("a")(3)
    {'a': 3}
    """

    def __init__(self, output_name: str) -> None:
        super().__init__()
        if not isinstance(output_name, str):
            raise type_error("AsTabular", "output_name", "be a str", type(output_name).__name__)
        self.output_name = output_name

    def forward(self, inputs: Any, **kwargs: Any) -> Any:
        """Return ``{output_name: inputs}``."""
        return {self.output_name: inputs}

    def forward_output_size(self, input_size: Any) -> Any:
        """Return ``{output_name: input_size}``."""
        return None if input_size is None else {self.output_name: input_size}


def merge_tabular(self: Any, other: Any) -> MergeTabular:
    """Return ``MergeTabular(self, other)``."""
    return MergeTabular(self, other)
