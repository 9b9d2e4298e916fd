"""Blocks that may still change."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from transformers4rec_ext._errors import type_error, value_error
from transformers4rec_ext.block.base import BlockBase, named_arguments

FUSIONS = ("elementwise-mul", "elementwise-sum", "concat")


class PostContextFusion(BlockBase):
    """Put context beside what a sequence model made of a session, right before the prediction.

    With ``h`` [B, T, D] of the sequence and ``c`` of the context, "elementwise-mul" gives
    ``h * (1 + W c + b)`` (latent cross), "elementwise-sum" ``h + W c + b`` and "concat" ``[h, c]``.
    It is for what cannot be an input of the sequence model, such as what is known of the item to
    be predicted.

    Parameters
    ----------
    sequential_module : SequentialBlock
        A body that begins with its input block and returns [B, T, D].
    post_context_module : block
        Takes the same batch; returns [B, T, C], or [B, C] for the whole session.
    fusion_aggregation : {"elementwise-mul", "elementwise-sum", "concat"}

    Raises
    ------
    TypeError    if a module is none.
    ValueError   if the fusion is unknown, or a module cannot tell its output size.

    References
    ----------
    Beutel et al., "Latent Cross: Making Use of Context in Recurrent Recommender Systems", WSDM
    2018; Moreira et al., "Transformers with multi-modal features and post-fusion context for
    e-commerce session-based recommendation", arXiv:2107.05124.
    """

    def __init__(
        self,
        sequential_module: Any,
        post_context_module: Any,
        fusion_aggregation: str = "elementwise-mul",
    ) -> None:
        super().__init__()
        if fusion_aggregation not in FUSIONS:
            raise value_error(
                "PostContextFusion",
                "fusion_aggregation",
                f"be one of {FUSIONS}",
                repr(fusion_aggregation),
            )
        size = _known_size("sequential_module", sequential_module)
        if len(size) != 3:
            raise value_error(
                "PostContextFusion", "sequential_module", "return [B, T, D]", list(size)
            )
        context_width = _known_size("post_context_module", post_context_module)[-1]
        self.sequential_module = sequential_module
        self.post_context_module = post_context_module
        self.fusion_aggregation = fusion_aggregation
        self.inputs = getattr(sequential_module, "inputs", None)
        width = size[-1]
        if fusion_aggregation == "concat":
            width += context_width
        else:
            self.context_projection = nn.Linear(context_width, width)
        self._output_size = torch.Size([-1, size[1], width])

    def masked_items(self, inputs: Any, training: bool = False, testing: bool = False) -> Any:
        """Return what the sequence model hides and asks of a batch, as values; see there."""
        make = getattr(self.sequential_module, "masked_items", None)
        return None if make is None else make(inputs, training=training, testing=testing)

    def forward(
        self,
        inputs: Any,
        training: bool = False,
        testing: bool = False,
        masked: Any = None,
        **kwargs: Any,
    ) -> Tensor:
        """Return [B, T, D] of a batch, with "concat" [B, T, D + C]."""
        flags = {"training": training, "testing": testing, **kwargs}
        hidden = _called(self.sequential_module, inputs, {**flags, "masked": masked})
        context = _called(self.post_context_module, inputs, flags)
        if context.dim() == 2:
            context = context.unsqueeze(1)
        if context.shape[1] not in (1, hidden.shape[1]):
            raise value_error(
                "PostContextFusion",
                "post_context_module",
                f"return [B, T={hidden.shape[1]}, C] like the sequence, or [B, C]",
                list(context.shape),
                "At inference a masking that is not causal appends a position, which has no "
                "context: give one of the whole session, [B, C]."
                if context.shape[1] + 1 == hidden.shape[1]
                else "",
            )
        if self.fusion_aggregation == "concat":
            return torch.cat([hidden, context.expand(-1, hidden.shape[1], -1)], dim=-1)
        projected = self.context_projection(context)
        if self.fusion_aggregation == "elementwise-sum":
            return hidden + projected
        return hidden * (1 + projected)

    def forward_output_size(self, input_size: Any) -> torch.Size:
        """Return [-1, T, D], with "concat" [-1, T, D + C]."""
        return self._output_size


def _called(module: Any, inputs: Any, arguments: dict[str, Any]) -> Tensor:
    """Return ``module(inputs)`` with those of the arguments that it names."""
    names = named_arguments(module)
    everything = "kwargs" in names  # a SequentialBlock hands on what its modules name
    named = {k: v for k, v in arguments.items() if everything or k in names}
    output: Tensor = module(inputs, **named)
    return output


def _known_size(name: str, module: Any) -> torch.Size:
    if not isinstance(module, nn.Module):
        raise type_error("PostContextFusion", name, "be a block", type(module).__name__)
    output_size = getattr(module, "output_size", None)
    size = output_size() if callable(output_size) else None
    if not isinstance(size, list | tuple):  # a torch.Size is a tuple
        raise value_error(
            "PostContextFusion",
            name,
            "know the size of the one tensor that it returns",
            size,
            "Give features an aggregation, or wrap a module in Block.",
        )
    return torch.Size(size)
