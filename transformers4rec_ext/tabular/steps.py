"""Steps of a tabular module: transformations of columns, and aggregations to one tensor."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from transformers4rec_ext._errors import type_error
from transformers4rec_ext.block.base import SequentialBlock, right_shift_block
from transformers4rec_ext.block.sizes import OutputSizeMixin
from transformers4rec_ext.registry import Registry
from transformers4rec_ext.tabular.columns import column_names, columns_of
from transformers4rec_ext.typing import TabularData

tabular_transformation_registry = Registry(
    "tabular transformation", instantiate=True, home="transformers4rec_ext.tabular.transformations"
)
tabular_aggregation_registry = Registry(
    "tabular aggregation", instantiate=True, home="transformers4rec_ext.tabular.aggregation"
)


class TabularTransformation(OutputSizeMixin, nn.Module):
    """Columns to columns. Define ``forward(inputs)``; sizes stay as they are unless you say so."""

    #: Whether one that was made by its name does nothing before ``build(sizes)``.
    needs_build = False

    def forward(self, inputs: Any, **kwargs: Any) -> Any:
        """Return the transformed columns."""
        raise NotImplementedError(f"{type(self).__name__} must define forward(inputs)")

    def forward_output_size(self, input_size: Any) -> Any:
        """Return ``input_size``."""
        return input_size

    @classmethod
    def parse(cls, class_or_str: Any) -> Any:
        """Return a new transformation of a registered name; anything else unchanged."""
        return tabular_transformation_registry.parse(class_or_str)

    def __rrshift__(self, other: Any) -> SequentialBlock:
        return right_shift_block(self, other)


class TabularAggregation(OutputSizeMixin, nn.Module):
    """Columns to one tensor. Define ``forward(inputs)`` and ``forward_output_size(input_size)``.

    The latter is asked for the sizes of columns, a dict of at least one.
    """

    def forward(self, inputs: TabularData) -> Tensor:
        """Return one tensor made of all columns."""
        raise NotImplementedError(f"{type(self).__name__} must define forward(inputs)")

    def output_size(self, input_size: Any = None) -> Any:
        """Return the size of the tensor; None where the sizes of the columns are unknown."""
        size = self.input_size if input_size is None else input_size
        return self.forward_output_size(size) if isinstance(size, Mapping) and size else None

    @classmethod
    def parse(cls, class_or_str: Any) -> Any:
        """Return a new aggregation of a registered name; anything else unchanged."""
        return tabular_aggregation_registry.parse(class_or_str)

    def __rrshift__(self, other: Any) -> SequentialBlock:
        return right_shift_block(self, other)


TabularTransformationType = str | TabularTransformation
TabularTransformationsType = TabularTransformationType | Sequence[TabularTransformationType]
TabularAggregationType = str | TabularAggregation


class SequentialTabularTransformations(SequentialBlock):
    """Transformations one after the other.

    Parameters
    ----------
    *transformation : str or TabularTransformation, or one list of them

    Examples
    --------
    >>> len(SequentialTabularTransformations("layer-norm", "dropout"))
    2
    """

    def __init__(self, *transformation: Any) -> None:
        super().__init__(*(_transformation(part) for part in flat(transformation)))

    def append(self, transformation: Any) -> SequentialTabularTransformations:
        """Add a transformation, or the registered name of one, at the end; return the block."""
        super().append(_transformation(transformation))
        return self


def flat(parts: Any) -> list[Any]:
    """Return what is in a list of lists, without None; what is no list as a list of one."""
    if not isinstance(parts, list | tuple):
        return [parts]
    return [inner for part in parts if part is not None for inner in flat(part)]


def _transformation(part: Any) -> nn.Module:
    parsed = TabularTransformation.parse(part)
    if not isinstance(parsed, nn.Module):
        raise type_error(
            "SequentialTabularTransformations",
            "transformation",
            "be a TabularTransformation or the name of one",
            type(part).__name__,
            f"Known names: {', '.join(tabular_transformation_registry.names())}.",
        )
    return parsed


def transformations(given: Any) -> nn.Module | None:
    """Return what a name, a module or a list of them stands for; None of nothing."""
    if given is None or (isinstance(given, list | tuple) and not given):
        return None
    return given if isinstance(given, nn.Module) else SequentialTabularTransformations(given)


def aggregation(function: str, given: Any) -> nn.Module:
    """Return the aggregation that a name, or a module, stands for; ``function`` asks."""
    parsed = TabularAggregation.parse(given)
    if not isinstance(parsed, nn.Module):
        raise type_error(
            function,
            "aggregation",
            "be a TabularAggregation or the name of one",
            type(given).__name__,
            f"Known names: {', '.join(tabular_aggregation_registry.names())}.",
        )
    return parsed


class FilterFeatures(TabularTransformation):
    """Keep some of the columns.

    Parameters
    ----------
    to_include : list of str
        The columns to keep; a batch must have them all.
    pop : bool
        Whether to take them out of the dict that is given.

    Examples
    --------
    >>> FilterFeatures(["a"])({"a": 1, "b": 2})
    {'a': 1}
    """

    def __init__(self, to_include: Sequence[str], pop: bool = False) -> None:
        super().__init__()
        self.to_include = column_names("FilterFeatures", "to_include", to_include)
        self.pop = pop

    def forward(self, inputs: Any, **kwargs: Any) -> Any:
        """Return ``{name: inputs[name]}`` of the columns to keep; ValueError if one is missing."""
        outputs = columns_of("FilterFeatures", inputs, self.to_include)
        if self.pop:
            for name in outputs:
                inputs.pop(name)
        return outputs

    def forward_output_size(self, input_shape: Any) -> Any:
        """Return the sizes of the columns to keep."""
        if not isinstance(input_shape, Mapping):
            return None
        return {name: input_shape[name] for name in self.to_include if name in input_shape}
