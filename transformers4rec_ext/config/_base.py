"""What all configurations share: the registry, ``build`` and the way to a model."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from transformers4rec_ext._errors import type_error, value_error
from transformers4rec_ext._numbers import is_integer
from transformers4rec_ext.block.base import SequentialBlock
from transformers4rec_ext.block.mlp import MLPBlock
from transformers4rec_ext.block.transformer import TransformerBlock, new_model
from transformers4rec_ext.features.sequence import TabularSequenceFeatures
from transformers4rec_ext.registry import Registry

if TYPE_CHECKING:
    from typing_extensions import Self

transformer_registry = Registry("transformer")

#: Arguments of every configuration that are attributes of it only where they are given.
_OF_ALL = {"attn_implementation", "is_causal", "torch_dtype"}


class T4RecConfig:
    """Mixed into a Hugging Face configuration: adds ``build`` and a way to the model."""

    @classmethod
    def build(cls, *args: Any, **kwargs: Any) -> Any:
        """Return a configuration; every architecture defines its own arguments."""
        raise NotImplementedError(f"{cls.__name__} must define build(...)")

    @classmethod
    def _of_fields(cls, fields: Mapping[str, Any], further: Mapping[str, Any]) -> Self:
        """Return the configuration of ``fields``, some of them replaced by ``further``.

        Raises
        ------
        TypeError
            For a name that is no field: Hugging Face's classes keep it, and their models do not
            read it. What a model of one's own reads can be set on the configuration returned.
        """
        known = _hugging_face_class(cls)()
        unknown = [n for n in further if not hasattr(known, n) and n not in _OF_ALL]
        if unknown:
            names = [*inspect.signature(cls.build).parameters, *vars(known)]
            close = difflib.get_close_matches(unknown[0], names, n=1)
            raise type_error(
                f"{cls.__name__}.build",
                "arguments",
                f"be its own or fields of transformers.{type(known).__name__}",
                unknown,
                f"Did you mean {close[0]!r}?" if close else "",
            )
        given = {**fields, **further}
        # numpy's integers as Python's, which JSON knows
        return cls(**{n: int(value) if is_integer(value) else value for n, value in given.items()})

    @property
    def transformers_config_cls(self) -> type:
        """The Hugging Face configuration class underneath."""
        return _hugging_face_class(type(self))

    def to_huggingface_torch_model(self) -> nn.Module:
        """Return a freshly initialised model of this configuration, without a head.

        Examples
        --------
        >>> from transformers4rec_ext.config.transformer import GPT2Config
        >>> type(GPT2Config.build(8, 2, 1, 5).to_huggingface_torch_model()).__name__
        'GPT2Model'
        """
        return new_model(self)

    def to_torch_model(
        self,
        input_features: TabularSequenceFeatures,
        *prediction_task: Any,
        task_blocks: Any = None,
        task_weights: Sequence[float] | None = None,
        loss_reduction: str = "mean",
        **kwargs: Any,
    ) -> Any:
        """Return a ``Model``: the features, this transformer, and a head of all the tasks.

        Parameters
        ----------
        input_features : TabularSequenceFeatures
            Where their width is not the transformer's, an ``MLPBlock`` stands between.
        *prediction_task : PredictionTask
            At least one.
        task_blocks, task_weights, loss_reduction
            As for :class:`~transformers4rec_ext.Head`.
        **kwargs
            Arguments of :class:`~transformers4rec_ext.Model`.

        Raises
        ------
        ValueError
            If the features or a task are of another type.
        """
        if not isinstance(input_features, TabularSequenceFeatures):
            raise ValueError(
                "`input_features` must an instance of SequentialTabularFeatures, such as "
                f"TabularSequenceFeatures; got {type(input_features).__name__}."
            )
        # Tasks lie above configurations, so they are known here by what they can do.
        if not prediction_task or not all(hasattr(task, "to_head") for task in prediction_task):
            raise ValueError(
                "`task` is of the wrong type, please provide one or multiple instance(s) of "
                f"PredictionTask; got {[type(task).__name__ for task in prediction_task]}."
            )
        first, *others = prediction_task
        block = TransformerBlock(self, masking=input_features.masking)
        size = input_features.output_size()
        differs = isinstance(size, torch.Size) and size[-1] != block.input_width
        projection = [MLPBlock([block.input_width])] if differs else []
        head = first.to_head(
            SequentialBlock(input_features, *projection, block),
            others=others,
            task_blocks=task_blocks,
            task_weights=task_weights,
            loss_reduction=loss_reduction,
        )
        return head.to_model(**kwargs)


def _hugging_face_class(cls: type) -> type:
    return next(base for base in cls.__mro__ if base.__module__.startswith("transformers."))


def check_sizes(function: str, d_model: int, n_head: int, **positive: int) -> None:
    """Raise unless all sizes are positive ints and ``d_model`` is a multiple of ``n_head``."""
    for name, value in {"d_model": d_model, "n_head": n_head, **positive}.items():
        if not is_integer(value) or value < 1:
            raise value_error(function, name, "be a positive int", repr(value))
    if d_model % n_head:
        raise value_error(
            function, "d_model", "be a multiple of n_head", f"d_model={d_model}, n_head={n_head}"
        )


def check_activation(function: str, hidden_act: Any) -> None:
    """Raise unless ``hidden_act`` is a function or the name of one that transformers knows."""
    from transformers.activations import ACT2FN

    if not callable(hidden_act) and hidden_act not in ACT2FN:
        expectation = f"be one of {', '.join(sorted(ACT2FN))}"
        raise value_error(function, "hidden_act", expectation, repr(hidden_act))


def attention_fields(log_attention_weights: bool) -> dict[str, Any]:
    """Return the fields that make a model return its attention weights, or none."""
    # Only the plain implementation has weights to return; otherwise transformers chooses SDPA.
    if not log_attention_weights:
        return {}
    return {"output_attentions": True, "attn_implementation": "eager"}
