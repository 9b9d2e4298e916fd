"""Hugging Face transformers as blocks, fed with ``inputs_embeds`` and never leaking a target."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from transformers4rec_ext._errors import type_error, value_error
from transformers4rec_ext._recipe import recorded
from transformers4rec_ext.block.base import BlockBase
from transformers4rec_ext.block.exchange import exchange_parts
from transformers4rec_ext.block.prepare import (
    PREPARE_MODULES,
    GPT2Prepare,
    TransformerPrepare,
    causal_mask,
    default_arguments,
    longest_input,
    with_further,
)
from transformers4rec_ext.block.sight import (
    CausalArguments,
    check_masking,
    check_takes_embeddings,
    no_arguments,
)
from transformers4rec_ext.masking import MaskedItems, MaskSequence

__all__ = ["GPT2Prepare", "TransformerBlock", "TransformerPrepare", "causal_mask", "new_model"]


def _first(outputs: Any) -> Tensor:
    hidden: Tensor = outputs[0]
    return hidden


def _in_dtype(dtype: torch.dtype, arguments: dict[str, Any]) -> dict[str, Any]:
    """Return ``arguments`` with masks of 0 and 1, made in float32, as precise as the model is."""
    return {
        name: value.to(dtype) if isinstance(value, Tensor) and value.is_floating_point() else value
        for name, value in arguments.items()
    }


def _check_attention_mask(mask: Tensor | None, inputs_embeds: Tensor, remembered: bool) -> None:
    if mask is None or mask.shape == inputs_embeds.shape[:2]:
        return
    size = f"[B={mask.shape[0]}, T={mask.shape[1]}, D]"
    like = "the batch that was masked last" if remembered else "masked"
    hint = "Give the block masked=, what the masking made of this batch." if remembered else ""
    got = list(inputs_embeds.shape)
    raise value_error("TransformerBlock", "inputs_embeds", f"be {size} like {like}", got, hint)


def _extended(value: Tensor, rows: int, columns: int) -> Tensor:
    """Return a mask [B, T, T], or one [B, T] of what is attended to, by a row or a position."""
    if value.ndim == 2:
        return nn.functional.pad(value, (0, columns, 0, rows), value=1.0)
    return nn.functional.pad(value, (0, columns, 0, columns, 0, rows))


class TransformerBlock(BlockBase):
    """A Hugging Face transformer over embeddings: [B, T, D] to [B, T, D].

    Parameters
    ----------
    transformer : T4RecConfig, PretrainedConfig or PreTrainedModel
        Any that takes ``inputs_embeds``. A configuration is made into a model without a language
        model head; of an encoder and a decoder, such as T5, into the encoder.
    masking : MaskSequence, optional
        The input block's. A causal masking makes the attention causal, or is refused. Which
        positions the model sees is measured on four made-up ones when the block is made.
    prepare_module : type, optional
        A :class:`TransformerPrepare` that makes the arguments of the model's forward.
    output_fn : callable
        Takes the hidden states [B, T, D] out of what the model returns.

    Raises
    ------
    ValueError
        If the architecture does not support the masking, or does not take ``inputs_embeds``.

    Notes
    -----
    Padding is not masked: causal attention never looks at what is padded on the right; what is
    padded on the left is seen, as models that see both sides see all of it. Give the masking of
    these ``attend_to_padding=False``, which is measured likewise (but for a Reformer), or batches
    of one width (``max_sequence_length`` of the loaders).

    Examples
    --------
    >>> from transformers4rec_ext.config.transformer import GPT2Config
    >>> from transformers4rec_ext.masking import CausalLanguageModeling
    >>> config = GPT2Config.build(d_model=8, n_head=2, n_layer=1, total_seq_length=5)
    >>> block = TransformerBlock(config, masking=CausalLanguageModeling(8))
    >>> block(torch.zeros(3, 5, 8)).shape
    torch.Size([3, 5, 8])
    """

    transformer: Any  # a Hugging Face model; its attributes are not nn.Module's

    def __init__(
        self,
        transformer: Any,
        masking: MaskSequence | None = None,
        prepare_module: type[TransformerPrepare] | None = None,
        output_fn: Callable[[Any], Tensor] = _first,
    ) -> None:
        super().__init__()
        self.transformer = _as_model(transformer)
        self.output_fn = output_fn
        self._longest = longest_input(self.transformer)
        self._accepted = frozenset(inspect.signature(self.transformer.forward).parameters)
        self.prepare_module: TransformerPrepare | None = None
        prepare_module = prepare_module or PREPARE_MODULES.get(self.transformer.config.model_type)
        if prepare_module is not None:
            self.prepare_module = prepare_module(self.transformer, masking)
        self._causal_arguments: CausalArguments = no_arguments
        self.masking: MaskSequence | None = None
        if masking is not None:
            self.set_masking(masking)

    @classmethod
    def from_registry(
        cls,
        transformer: str,
        d_model: int,
        n_head: int,
        n_layer: int,
        total_seq_length: int,
        masking: MaskSequence | None = None,
    ) -> TransformerBlock:
        """Return a block of the architecture registered as ``transformer``.

        Parameters
        ----------
        transformer : str
            A name of ``transformer_registry``, such as "gpt2" or "xlnet".
        d_model, n_head, n_layer, total_seq_length : int
            Width, attention heads, layers and the longest session.
        masking : MaskSequence, optional
        """
        from transformers4rec_ext.config.transformer import transformer_registry

        config = transformer_registry.parse(transformer).build(
            d_model=d_model, n_head=n_head, n_layer=n_layer, total_seq_length=total_seq_length
        )
        return cls(config, masking)

    @recorded
    def set_masking(self, masking: MaskSequence) -> None:
        """Use ``masking``; refuse one the architecture cannot serve."""
        self._causal_arguments = check_masking(
            self.transformer, masking, self._hidden, self.input_width
        )
        self.masking = masking
        if self.prepare_module is not None:
            self.prepare_module.masking = masking

    def forward(self, inputs_embeds: Tensor, masked: MaskedItems | None = None) -> Tensor:
        """Return the last hidden state [B, T, D] of ``inputs_embeds [B, T, D]``.

        Of an empty batch (B or T is 0) an empty one, with zero gradients for all parameters.

        Parameters
        ----------
        inputs_embeds : Tensor, floating, [B, T, D]
        masked : MaskedItems, optional
            What the masking made of this batch; without it what the masking remembers is used.
        """
        self._check_inputs(inputs_embeds)
        of_masking = _in_dtype(inputs_embeds.dtype, self._masking_arguments(masked))
        _check_attention_mask(of_masking.get("attention_mask"), inputs_embeds, masked is None)
        batch, length = inputs_embeds.shape[:2]
        if batch == 0 or length == 0:
            # The models reshape with -1, which nothing determines here: run one position, keep none
            rows, columns = int(batch == 0), int(length == 0)
            inputs_embeds = nn.functional.pad(inputs_embeds, (0, 0, 0, columns, 0, rows))
            of_masking = {
                name: _extended(value, rows, columns) for name, value in of_masking.items()
            }
        of_causality = {}
        if self.masking is not None and self.masking.causal:
            of_causality = self._causal_arguments(self.transformer, inputs_embeds)
        return self._hidden(inputs_embeds, {**of_causality, **of_masking})[:batch, :length]

    def _masking_arguments(self, masked: MaskedItems | None) -> dict[str, Any]:
        if self.masking is None:
            return {}
        if masked is not None:
            return masked.transformer_arguments or {}
        arguments = self.masking.transformer_arguments
        missing = [n for n in self.masking.transformer_required_arguments() if arguments[n] is None]
        if missing:
            raise ValueError(
                f"`mask_schema must be set.` {type(self.masking).__name__} has no "
                f"{', '.join(missing)} yet: call the input module before the transformer."
            )
        return arguments

    def _hidden(self, inputs_embeds: Tensor, further: dict[str, Any]) -> Tensor:
        if self.prepare_module is not None:
            arguments = self.prepare_module(inputs_embeds)
        else:
            arguments = default_arguments(self.transformer, inputs_embeds)
        arguments = with_further(arguments, further)
        accepted = {name: value for name, value in arguments.items() if name in self._accepted}
        # Reformer returns the positions that were added to its inputs as well.
        return self.output_fn(self.transformer(**accepted))[:, : inputs_embeds.shape[1]]

    @property
    def input_width(self) -> int:
        """The width D of the embeddings that the transformer takes."""
        make = getattr(self.transformer, "get_input_embeddings", None)
        table = make() if make is not None else None
        width: int = getattr(table, "embedding_dim", None) or self.transformer.config.hidden_size
        return width

    @property
    def _output_width(self) -> int:
        width: int = self.transformer.config.hidden_size
        return 2 * width if self.transformer.config.model_type == "reformer" else width

    def _check_inputs(self, inputs_embeds: Tensor) -> None:
        width = self.input_width
        if inputs_embeds.ndim != 3 or inputs_embeds.shape[-1] != width:
            raise value_error(
                "TransformerBlock",
                "inputs_embeds",
                f"be [B, T, D={width}]",
                list(inputs_embeds.shape),
                "Put an MLPBlock([d_model]) before the transformer, or change d_model.",
            )
        longest = self._longest
        if longest is not None and inputs_embeds.shape[1] > longest:
            raise value_error(
                "TransformerBlock",
                "inputs_embeds",
                f"have at most T={longest} positions",
                inputs_embeds.shape[1],
                "Truncate the sessions, or build the configuration with a larger total_seq_length.",
            )

    def build(self, input_size: Any, schema: Any = None, **kwargs: Any) -> TransformerBlock:
        """Check that ``input_size`` is [B, T, D] with the transformer's D."""
        self.forward_output_size(input_size)
        super().build(input_size, schema=schema, **kwargs)
        return self

    def forward_output_size(self, input_size: Any) -> Any:
        """Return ``input_size`` with the width of what the transformer returns."""
        if input_size is None:
            return None
        width = self.input_width
        if isinstance(input_size, dict) or len(input_size) != 3 or input_size[-1] != width:
            raise value_error(
                "TransformerBlock",
                "input_size",
                f"be [B, T, D={width}]",
                input_size if isinstance(input_size, dict) else list(input_size),
                "Put an MLPBlock([d_model]) before the transformer, or change d_model.",
            )
        return torch.Size([*input_size[:-1], self._output_width])

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, *args: Any, **kwargs: Any
    ) -> None:
        # Saved by transformers before 5: numbers 0, 1, 2, ... that are no longer part of a model.
        key = f"{prefix}transformer.embeddings.position_ids"
        if key in state_dict and key.removeprefix(prefix) not in self.state_dict():
            del state_dict[key]
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)


def new_model(config: Any) -> nn.Module:
    """Return a freshly initialised model of a Hugging Face configuration, without a head.

    Raises
    ------
    ValueError
        If the architecture has no such model, or only one of an encoder and a decoder.
    """
    import transformers

    is_pair = getattr(config, "is_encoder_decoder", False)
    name = "MODEL_FOR_TEXT_ENCODING_MAPPING" if is_pair else "MODEL_MAPPING"
    classes: Any = getattr(transformers, name)
    known = next((cls for cls in type(config).__mro__ if cls in classes), None)
    if known is None:
        raise value_error(
            "TransformerBlock",
            "transformer",
            "be the configuration of a model that is one stack",
            type(config).__name__,
            "Make the model yourself and give it to the block: of a pair model.get_encoder().",
        )
    cls = classes[known]  # of Funnel and its like several, the first of which is the whole model
    # Of a copy: models change theirs, and a block that makes one causal does.
    model: nn.Module = (cls[0] if isinstance(cls, tuple) else cls)(copy.deepcopy(config))
    return model


def _as_model(transformer: Any) -> Any:
    from transformers import PretrainedConfig

    if isinstance(transformer, PretrainedConfig):
        transformer = new_model(transformer)
    if not (isinstance(transformer, nn.Module) and hasattr(transformer, "config")):
        raise type_error(
            "TransformerBlock",
            "transformer",
            "be a Hugging Face configuration or model",
            type(transformer).__name__,
            'For example GPT2Config.build(...), or TransformerBlock.from_registry("gpt2", ...).',
        )
    check_takes_embeddings(transformer)
    exchange_parts(transformer)
    return transformer
