"""The base of all modules from columns to columns: what a call does around ``forward``."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from torch import nn

from transformers4rec_ext._errors import value_error
from transformers4rec_ext.block.base import SequentialBlock, right_shift_block
from transformers4rec_ext.block.sizes import OutputSizeMixin
from transformers4rec_ext.schema import Schema, Tag
from transformers4rec_ext.tabular.columns import merged, outputs_of
from transformers4rec_ext.tabular.steps import (
    FilterFeatures,
    TabularAggregationType,
    TabularTransformationsType,
    flat,
)
from transformers4rec_ext.tabular.steps import aggregation as parse_aggregation
from transformers4rec_ext.tabular.steps import transformations as parse_transformations
from transformers4rec_ext.typing import TabularData

if TYPE_CHECKING:
    from typing_extensions import Self


def _is_among(part: Any, parts: list[Any]) -> bool:
    return any(part is other for other in parts)


def _unchanged(self: nn.Module, x: Any, *args: Any, **kwargs: Any) -> Any:
    """Return the columns ``x`` as they are."""
    return x


class TabularModule(nn.Module):
    """A module from columns to columns, with steps before and after its ``forward``.

    Calling it runs ``pre``, ``forward``, ``post`` and ``aggregation``; each can be given for one
    call as well, together with ``merge_with``: modules that are called with the same inputs, or
    dicts, whose columns are added before ``post``.

    Parameters
    ----------
    pre, post : str, TabularTransformation or list of them, optional
    aggregation : str or TabularAggregation, optional
        Makes one tensor of the columns.

    Examples
    --------
    >>> block = TabularModule(aggregation="concat")
    >>> import torch
    >>> block({"a": torch.zeros(2, 3), "b": torch.ones(2, 1)}).shape
    torch.Size([2, 4])
    """

    #: What a call takes besides the arguments of ``forward``.
    call_arguments = frozenset({"pre", "post", "merge_with", "aggregation"})

    def __init__(
        self,
        pre: TabularTransformationsType | None = None,
        post: TabularTransformationsType | None = None,
        aggregation: TabularAggregationType | None = None,
    ) -> None:
        super().__init__()
        self._set_step("pre", pre)
        self._set_step("post", post)
        self._set_step("aggregation", aggregation)

    @classmethod
    def from_schema(
        cls, schema: Schema, tags: Tag | Sequence[Tag] | None = None, **kwargs: Any
    ) -> Self | None:
        """Return the module of the columns of ``schema`` with ``tags``; None if there are none."""
        if tags:
            schema = schema.select_by_tag(tags)
        if not len(schema):
            return None
        output = cls.from_features(schema.column_names, **kwargs)
        if isinstance(output, OutputSizeMixin):
            output.set_schema(schema)
        return output

    @classmethod
    def from_features(
        cls,
        features: Sequence[str],
        pre: TabularTransformationsType | None = None,
        post: TabularTransformationsType | None = None,
        aggregation: TabularAggregationType | None = None,
    ) -> Self:
        """Return a module that sees the columns ``features`` only."""
        filtered = flat([FilterFeatures(features), pre])
        return cls(pre=filtered, post=post, aggregation=aggregation)

    # Saved weights know a step that was given as a module under its plain name ("post"), and one
    # that was made from a name or a list under "_post"; both are found here.

    def __setattr__(self, name: str, value: Any) -> None:
        if name in ("pre", "post", "aggregation"):
            self._set_step(name, value)
        else:
            super().__setattr__(name, value)

    def _set_step(self, name: str, value: Any) -> None:
        for key in (name, f"_{name}"):
            self._modules.pop(key, None)
        if value is None:
            return
        if isinstance(value, nn.Module):
            self._modules[name] = value
        elif name == "aggregation":
            self._modules[f"_{name}"] = parse_aggregation(type(self).__name__, value)
        else:
            self._modules[f"_{name}"] = parse_transformations(value)

    def _step(self, name: str) -> nn.Module | None:
        module = self._modules.get(name)
        return self._modules.get(f"_{name}") if module is None else module

    @property
    def pre(self) -> nn.Module | None:
        """What is applied before ``forward``, or None."""
        return self._step("pre")

    @property
    def post(self) -> nn.Module | None:
        """What is applied after ``forward``, or None."""
        return self._step("post")

    @property
    def aggregation(self) -> nn.Module | None:
        """What makes one tensor of the columns, or None."""
        return self._step("aggregation")

    def pre_forward(self, inputs: TabularData, transformations: Any = None) -> Any:
        """Return ``inputs`` after ``transformations``, by default the module's ``pre``."""
        return self._run(self.pre if transformations is None else transformations, inputs)

    # Subclasses do their work here.
    forward: Callable[..., Any] = _unchanged

    def post_forward(
        self,
        inputs: TabularData,
        transformations: Any = None,
        merge_with: Any = None,
        aggregation: TabularAggregationType | None = None,
    ) -> Any:
        """Return the outputs of ``forward`` merged, transformed and aggregated.

        Parameters
        ----------
        inputs : dict of columns
            What ``forward`` returned; what is to be merged is called with it.
        transformations, aggregation : optional
            Take the place of the module's ``post`` and ``aggregation``.
        merge_with : module, dict or list of them, optional

        Returns
        -------
        dict of columns, or a tensor with an aggregation
        """
        outputs: Any = inputs
        if merge_with is not None:
            outputs = merged([outputs, *outputs_of(merge_with, inputs)])
        outputs = self._run(self.post if transformations is None else transformations, outputs)
        step = self.aggregation
        if aggregation is not None:
            step = parse_aggregation(type(self).__name__, aggregation)
        return outputs if step is None else self._informed(step)(outputs)

    def __call__(
        self,
        inputs: Any,
        *args: Any,
        pre: Any = None,
        post: Any = None,
        merge_with: Any = None,
        aggregation: Any = None,
        **kwargs: Any,
    ) -> Any:
        """Run ``pre``, ``forward``, ``post`` and the aggregation; see the class."""
        if merge_with is not None:
            merge_with = outputs_of(merge_with, inputs)
        outputs = super().__call__(self.pre_forward(inputs, pre), *args, **kwargs)
        if isinstance(outputs, Mapping):
            return self.post_forward(outputs, post, merge_with, aggregation)
        after = {"post": post, "merge_with": merge_with, "aggregation": aggregation}
        given = [name for name, value in after.items() if value is not None]
        if given:
            raise value_error(
                type(self).__name__,
                " and ".join(given),
                "be left out where forward returns one tensor",
                type(outputs).__name__,
                "Give them to the constructor.",
            )
        return outputs

    def _run(self, given: Any, inputs: Any) -> Any:
        module = parse_transformations(given)
        if module is None:
            return inputs
        if module is not given:
            made = [part for part in module.children() if not _is_among(part, flat(given))]
            self._prepare_named(made)
        return self._informed(module)(inputs)

    def _prepare_named(self, steps: list[nn.Module]) -> None:
        """Give steps that were made of names, for one call, the mode that this module has."""
        for step in steps:
            if getattr(step, "needs_build", False):
                hint = "Give it to the constructor, or as a module with the columns' widths."
                expectation = "need no build where they are given for one call by name"
                got = type(step).__name__
                raise value_error(type(self).__name__, "steps", expectation, got, hint)
            step.train(self.training)

    def _informed(self, module: nn.Module) -> nn.Module:
        """Let a step that has no schema know this block's."""
        schema = getattr(self, "schema", None)
        if schema is not None:
            parts = module if isinstance(module, SequentialBlock) else [module]
            for part in parts:
                if isinstance(part, OutputSizeMixin) and part.schema is None:
                    part.schema = schema
        return module

    def merge(self, other: Any) -> Any:
        """Return ``MergeTabular(self, other)``."""
        # Merging builds on this class.
        from transformers4rec_ext.tabular.base import merge_tabular

        return merge_tabular(self, other)

    def __add__(self, other: Any) -> Any:
        return self.merge(other)

    def __rrshift__(self, other: Any) -> SequentialBlock:
        return right_shift_block(self, other)
