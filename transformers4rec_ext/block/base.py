"""Blocks know their output size; buildable blocks are made once the size of their input is known.

Sizes are ``torch.Size`` with -1 for what only a batch tells: ``[-1, T, D]``.
"""

from __future__ import annotations

import abc
import inspect
import logging
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from transformers4rec_ext._errors import type_error, value_error
from transformers4rec_ext._recipe import Recorded, recorded
from transformers4rec_ext.block.sizes import OutputSizeMixin, as_size, module_output_size

logger = logging.getLogger("transformers4rec_ext")


class BlockBase(OutputSizeMixin, nn.Module):
    """Base of all blocks: ``build(input_size)``, ``output_size()`` and ``to_model(task)``."""

    #: Whether the block takes a batch (a dict of columns) and so may stand first in a body.
    is_input = False

    def to_model(self, prediction_task_or_head: Any, inputs: Any = None, **kwargs: Any) -> Any:
        """Return a ``Model`` of this body and a task, or of a finished head.

        Parameters
        ----------
        prediction_task_or_head : PredictionTask or Head
        inputs : input block, optional
            Needed by a task when this body does not begin with its input block.
        **kwargs
            Arguments of ``Model``.

        Raises
        ------
        ValueError
            If it is neither a task nor a head.
        """
        # Blocks lie below tasks and heads, so they are known here by what they can do.
        if hasattr(prediction_task_or_head, "to_head"):
            head = prediction_task_or_head.to_head(self, inputs)
        elif hasattr(prediction_task_or_head, "prediction_task_dict"):
            head = prediction_task_or_head
        else:
            raise ValueError(
                "`prediction_task_or_head` needs to be a `Head` or `PredictionTask` "
                f"found: {type(prediction_task_or_head)}"
            )
        return head.to_model(**kwargs)

    def as_tabular(self, name: str | None = None) -> SequentialBlock:
        """Return this block followed by one that makes its output ``{name: output}``.

        Parameters
        ----------
        name : str, optional
            The block's own ``name``, if it has one, when not given.
        """
        name = name or getattr(self, "name", None)
        if not isinstance(name, str):
            raise type_error(f"{type(self).__name__}.as_tabular", "name", "be a str", repr(name))
        return SequentialBlock(self, _tabular().AsTabular(name))

    def __rshift__(self, other: Any) -> SequentialBlock:
        return right_shift_block(other, self)

    def __rrshift__(self, other: Any) -> SequentialBlock:
        return right_shift_block(self, other)


class Block(BlockBase):
    """A plain module and the size of what it returns.

    Parameters
    ----------
    module : nn.Module
    output_size : sequence of int
        A leading -1 or None stands for the batch.

    Examples
    --------
    >>> Block(nn.Linear(8, 4), [None, 4]).output_size([-1, 8])
    torch.Size([-1, 4])
    """

    def __init__(self, module: nn.Module, output_size: Sequence[int | None]) -> None:
        super().__init__()
        if not isinstance(module, nn.Module):
            raise type_error("Block", "module", "be an nn.Module", type(module).__name__)
        self.module = module
        self._output_size = list(output_size)

    def forward(self, inputs: Any, **kwargs: Any) -> Any:
        """Return ``module(inputs, **kwargs)``."""
        return self.module(inputs, **kwargs)

    def forward_output_size(self, input_size: Any) -> torch.Size:
        """Return the size given at construction, with -1 for the batch."""
        return as_size(self._output_size)


class BuildableBlock(Recorded, abc.ABC):
    """A recipe for a block, cooked when the size of its input is known."""

    @abc.abstractmethod
    def build(self, input_size: Any) -> BlockBase:
        """Return the block for inputs of ``input_size``."""

    def to_module(self, shape_or_module: Any) -> BlockBase:
        """Return the block for a size, or for the output of a block."""
        if isinstance(shape_or_module, BlockBase):
            shape_or_module = shape_or_module.output_size()
        return self.build(shape_or_module)

    def __rshift__(self, other: Any) -> SequentialBlock:
        return right_shift_block(other, self)

    def __rrshift__(self, other: Any) -> SequentialBlock:
        return right_shift_block(self, other)


class SequentialBlock(BlockBase, nn.Sequential):
    """Blocks one after the other; buildable ones are built with the size of their predecessor.

    Parameters
    ----------
    *args : BlockBase, BuildableBlock, nn.Module or list of str
        Or one list of them, or one mapping from name to them. A list of column names stands for
        :class:`~transformers4rec_ext.FilterFeatures`.
    output_size : sequence of int, optional
        What :meth:`output_size` returns; inferred when not given.

    Notes
    -----
    ``a >> b`` is short for ``SequentialBlock(a, b)``, ``a + b`` for ``MergeTabular(a, b)``; a slice
    is a ``SequentialBlock`` of the same modules under their names.

    Examples
    --------
    >>> from transformers4rec_ext.block.mlp import MLPBlock
    >>> body = SequentialBlock(Block(nn.Identity(), [None, 8]), MLPBlock([4]))
    >>> body.output_size()
    torch.Size([-1, 4])
    """

    def __init__(self, *args: Any, output_size: Sequence[int | None] | None = None) -> None:
        super().__init__()
        self._static_output_size = output_size
        for name, module in _named_modules(args):
            self.add_module_and_maybe_build(name, module)
        _share_masking(list(self))

    def add_module(self, name: str, module: Any) -> None:
        """Add a module under ``name``; a list of column names selects them."""
        super().add_module(name, _selecting(module))

    @recorded
    def append(self, module: Any) -> SequentialBlock:
        """Add a module at the end, built for the output of the one before; return the block."""
        self.add_module_and_maybe_build(str(len(self)), module)
        return self

    @recorded
    def add_module_and_maybe_build(
        self, name: str, module: Any, parent: Any = None, idx: int | None = None
    ) -> nn.Module:
        """Add a module at the end, built for the output of the one before; return what was added.

        ``parent`` and ``idx`` are what upstream asks for, the module before and its position; both
        are known here.
        """
        previous = list(self)[-1] if len(self) else None
        size = None if previous is None else self.forward_output_size(self.input_size)
        module = _selecting(module)
        if isinstance(module, BuildableBlock):
            if size is None:
                raise value_error(
                    "SequentialBlock",
                    type(module).__name__,
                    "follow a block whose output size is known",
                    type(previous).__name__,
                    "Build it yourself with .build(input_size), or wrap its predecessor in Block.",
                )
            module = module.build(size)
        elif isinstance(module, OutputSizeMixin):
            if size is not None:
                module = module.build(size)
        elif not isinstance(module, nn.Module):
            raise type_error(
                "SequentialBlock", "args", "be blocks or modules", type(module).__name__
            )
        if previous is None:
            self.input_size = getattr(module, "input_size", None)
        self.add_module(name, module)
        return module

    @property
    def inputs(self) -> Any:
        """The input block this body begins with, or None."""
        first = next(iter(self), None)
        if getattr(first, "is_input", False):
            return first
        return getattr(first, "inputs", None)

    @property
    def call_arguments(self) -> frozenset[str]:
        """What the last module takes when it is called, besides what its forward names."""
        last = list(self)[-1] if len(self) else None
        return getattr(last, "call_arguments", frozenset())

    def build(self, input_size: Any, schema: Any = None, **kwargs: Any) -> SequentialBlock:
        """Build every block for the output of the one before; the first for ``input_size``."""
        size = input_size
        for module in self:
            if isinstance(module, OutputSizeMixin):
                module.build(size, schema=schema)
            size = module_output_size(module, size)
        self.input_size = input_size
        return self

    def masked_items(self, inputs: Any, training: bool = False, testing: bool = False) -> Any:
        """Return what the first block makes of a batch, for ``masked=``; None if it makes nothing.

        See :meth:`~transformers4rec_ext.TabularSequenceFeatures.masked_items`.
        """
        first = next(iter(self), None)
        make = getattr(first, "masked_items", None)
        if first is None or make is None or "masked" not in named_arguments(first):
            return None
        return make(inputs, training=training, testing=testing)

    def forward(
        self,
        input: Any,
        training: bool = False,
        testing: bool = False,
        masked: Any = None,
        **kwargs: Any,
    ) -> Any:
        """Apply the modules in order; all other arguments go to those that name them.

        ``pre``, ``post``, ``merge_with`` and ``aggregation`` go to the last one, if it is a
        :class:`~transformers4rec_ext.TabularModule`; what is merged sees this block's ``input``.
        """
        arguments = {"training": training, "testing": testing, "masked": masked, **kwargs}
        if kwargs.get("merge_with") is not None:
            arguments["merge_with"] = _outputs_of(kwargs["merge_with"], input)
        for_last = self.call_arguments
        modules = list(self)
        for module in modules:
            accepted = named_arguments(module)
            if isinstance(module, SequentialBlock):
                accepted = frozenset(arguments)
            accepted = accepted | for_last if module is modules[-1] else accepted - for_last
            named = {name: value for name, value in arguments.items() if name in accepted}
            input = module(input, **named)
        return input

    def output_size(self, input_size: Any = None) -> Any:
        """Return the size of the last module's output; None where it cannot be known."""
        if self._static_output_size is not None:
            return self._static_output_size
        return super().output_size(input_size)

    def forward_output_size(self, input_size: Any) -> Any:
        """Return the size of the last module's output for ``input_size``."""
        size = input_size
        for module in self:
            size = module_output_size(module, size)
        return size

    @staticmethod
    def get_children_by_class_name(parent: Sequence[Any], *class_name: str) -> list[nn.Module]:
        """Return those of ``parent``, and of what its members merge, of a class so named."""
        children = [
            module for child in parent for module in (*getattr(child, "merge_values", ()), child)
        ]
        return [child for child in children if type(child).__name__ in class_name]

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return SequentialBlock(dict(list(self._modules.items())[index]))
        return super().__getitem__(index)

    def __add__(self, other: Any) -> Any:
        return _tabular().merge_tabular(self, other)


def _tabular() -> Any:
    # What is tabular builds on blocks; blocks need it only for these shorthands.
    from transformers4rec_ext.tabular import base

    return base


def _outputs_of(merge_with: Any, inputs: Any) -> Any:
    from transformers4rec_ext.tabular.columns import outputs_of

    return outputs_of(merge_with, inputs)


def _selecting(module: Any) -> Any:
    return _tabular().FilterFeatures(module) if isinstance(module, list) else module


def _named_modules(args: Sequence[Any]) -> Iterator[tuple[str, Any]]:
    if len(args) == 1 and isinstance(args[0], Mapping):
        yield from args[0].items()
        return
    if len(args) == 1 and isinstance(args[0], (list, tuple)):
        of_names = args[0] and all(isinstance(name, str) for name in args[0])
        args = args if of_names else args[0]
    for index, module in enumerate(args):
        yield str(index), module


_ARGUMENTS: dict[type, frozenset[str]] = {}


def named_arguments(module: nn.Module) -> frozenset[str]:
    """Return the names of the arguments of a module's forward, which is read once per class."""
    # Compiled, nothing may depend on the classes met so far: a new one would compile it again.
    if torch.compiler.is_compiling() or "forward" in module.__dict__:
        return frozenset(inspect.signature(module.forward).parameters)
    if type(module) not in _ARGUMENTS:
        _ARGUMENTS[type(module)] = frozenset(inspect.signature(module.forward).parameters)
    return _ARGUMENTS[type(module)]


def _share_masking(modules: Sequence[nn.Module]) -> None:
    """Give the input block's masking to transformer blocks that were made without one.

    A transformer that does not know of the masking cannot be made causal, and would see the
    items it is asked to predict; so would one that knows of a masking of another kind.
    """
    masking = getattr(modules[0], "masking", None) if modules else None
    if masking is None:
        return
    parts = (part for module in modules[1:] for part in module.modules())
    for module in parts:
        if not hasattr(module, "set_masking") or getattr(module, "is_input", False):
            continue
        if module.masking is None:
            module.set_masking(masking)
        elif type(module.masking) is not type(masking):
            raise value_error(
                "SequentialBlock",
                "args",
                f"have one masking, the input block's {type(masking).__name__}",
                f"{type(module).__name__} with {type(module.masking).__name__}",
                "Give it masking=inputs.masking.",
            )
        elif module.masking is not masking:
            logger.warning(
                "The masking of %s is not the one of the input block; "
                "give it masking=inputs.masking",
                type(module).__name__,
            )


def build_blocks(*modules: Any) -> list[nn.Module]:
    """Return ``modules`` with the buildable ones built, each for the output of the one before.

    Examples
    --------
    >>> from transformers4rec_ext.block.mlp import MLPBlock
    >>> len(build_blocks(Block(nn.Identity(), [None, 8]), MLPBlock([4])))
    2
    """
    return list(SequentialBlock(*modules))


def right_shift_block(self: Any, other: Any) -> SequentialBlock:
    """Return ``other >> self``: both, flattened, as one :class:`SequentialBlock`.

    A list of column names on the left selects them. If a part lies on an accelerator, so does the
    result.
    """
    parts = [_selecting(other), _selecting(self)]
    modules: list[Any] = []
    for part in parts:
        flat = type(part) is SequentialBlock and part._static_output_size is None
        modules.extend(part if flat else [part])
    out = SequentialBlock(*modules)
    devices = {p.device for part in parts if isinstance(part, nn.Module) for p in part.parameters()}
    elsewhere = [device for device in devices if device.type not in ("cpu", "meta")]
    return out.to(elsewhere[0]) if len(elsewhere) == 1 else out


BlockType = BlockBase | BuildableBlock
BlockOrModule = BlockBase | BuildableBlock | nn.Module
