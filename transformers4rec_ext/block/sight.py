"""Which positions of a transformer see which, and which maskings that can serve.

A causal masking asks position t for item t + 1: no position may see a later one. The others hide
an item and ask for it in its own place: there it is of use to see both sides. Whether a model sees
later positions is not looked up by its name but measured, so that any model can be used.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch._subclasses import FakeTensor

from transformers4rec_ext._errors import type_error, value_error
from transformers4rec_ext._modes import in_mode
from transformers4rec_ext.block.exchange import exchange
from transformers4rec_ext.block.prepare import causal_mask, longest_input
from transformers4rec_ext.masking import MaskSequence

#: hidden = run(inputs_embeds, arguments that make it causal)
Run = Callable[[Tensor, dict[str, Any]], Tensor]
#: arguments of a model's forward = function(model, inputs_embeds)
CausalArguments = Callable[[Any, Tensor], dict[str, Tensor]]

#: Positions of a measurement, where a model has as many.
_PROBED = 4
#: Upstream lets these be masked only. A causal one of their kind is ELECTRA.
_MASKED_ONLY = frozenset({"bert", "roberta"})


def no_arguments(transformer: Any, inputs_embeds: Tensor) -> dict[str, Tensor]:
    """Return nothing: what is causal by itself needs no argument."""
    return {}


def causal_perm_mask(transformer: Any, inputs_embeds: Tensor) -> dict[str, Tensor]:
    """Return what makes XLNet causal, whatever its attn_type says, for ``inputs_embeds [B, T, D]``.

    ``perm_mask[b, i, j] = 1`` forbids query i to look at key j; one mask serves all rows.
    """
    blocked = ~causal_mask(inputs_embeds.shape[1], inputs_embeds.device)[0]
    return {"perm_mask": blocked.to(inputs_embeds.dtype)}


def causal_attention_mask(transformer: Any, inputs_embeds: Tensor) -> dict[str, Tensor]:
    """Return the mask [1, 1, T, T] that transformers 5 takes as it is, for SDPA or added."""
    seen = causal_mask(inputs_embeds.shape[1], inputs_embeds.device)
    if transformer.config._attn_implementation == "sdpa":
        return {"attention_mask": seen}
    added = torch.zeros(seen.shape, dtype=inputs_embeds.dtype, device=inputs_embeds.device)
    return {"attention_mask": added.masked_fill(~seen, torch.finfo(added.dtype).min)}


def sees_later(
    run: Callable[[Tensor], Tensor],
    width: int,
    like: Tensor,
    length: int = _PROBED,
    first: int = 1,
) -> bool:
    """Return whether an output of ``run`` depends on an input at a later position, of ``length``.

    Of positions from ``first`` on alone.

    By the gradient: unlike a difference of outputs it is not lost in the rounding of a low
    precision or of small weights, and where attention is masked it is exactly 0.
    """
    generator = torch.Generator("cpu").manual_seed(0)
    with torch.enable_grad():
        inputs = torch.randn(1, length, width, generator=generator, device="cpu").to(
            like.device, like.dtype
        )
        hidden = run(inputs.requires_grad_())
        # Sums would not do: those of a layer norm's outputs are constant.
        weights = torch.randn(hidden.shape, generator=generator, device="cpu").to(
            hidden.device, hidden.dtype
        )
        for position in range(first, length):
            earlier = (hidden * weights)[:, :position].sum()
            (gradient,) = torch.autograd.grad(earlier, inputs, retain_graph=True)
            if (gradient[:, position:] != 0).any():  # NaN counts as seen
                return True
    return False


def causal_arguments_of(transformer: Any, run: Run, width: int) -> CausalArguments | None:
    """Return the arguments that make ``transformer`` causal, or None if nothing does."""
    config = transformer.config
    if config.model_type == "reformer":
        return no_arguments if _made_causal(transformer) else None
    if not _sees_later_with(transformer, run, width, no_arguments):
        return no_arguments
    if config.model_type == "longformer":
        return _causal_longformer(transformer, run, width)
    accepted = inspect.signature(transformer.forward).parameters
    way: CausalArguments
    if "perm_mask" in accepted:
        way = causal_perm_mask
    elif "attention_mask" in accepted and config.model_type not in _MASKED_ONLY:
        way = causal_attention_mask
    else:
        return None
    try:
        return None if _sees_later_with(transformer, run, width, way) else way
    except (RuntimeError, ValueError, IndexError, TypeError):
        return None  # a model that cannot take such a mask cannot be made causal by it


def _causal_longformer(transformer: Any, run: Run, width: int) -> CausalArguments | None:
    # Its mask cannot say which query may look at which key, so its attention is exchanged.
    from transformers4rec_ext.block.longformer import CAUSAL

    exchange(transformer, CAUSAL)
    if not _sees_later_with(transformer, run, width, no_arguments):
        return no_arguments
    exchange(transformer, {causal: local for local, causal in CAUSAL.items()})
    return None


def _sees_later_with(
    transformer: Any, run: Run, width: int, way: CausalArguments, *, last_only: bool = False
) -> bool:
    def hidden(inputs: Tensor) -> Tensor:
        return run(inputs, way(transformer, inputs))

    like = next(transformer.parameters(), torch.empty(0))
    if like.is_meta or isinstance(like, FakeTensor):
        raise value_error(
            "TransformerBlock",
            "transformer",
            "have weights, by which to measure what its positions see",
            "fake ones" if isinstance(like, FakeTensor) else "a model on the meta device",
            "Make the model outside of that mode, and move it then.",
        )
    if torch.is_inference_mode_enabled() or like.is_inference():
        raise value_error(
            "TransformerBlock",
            "masking",
            "be set outside of torch.inference_mode",
            "a model that is made inside of it",
            "What positions see is measured by gradients. Make the model before, call it inside.",
        )
    with in_mode(transformer, training=False):
        length = min(_PROBED, longest_input(transformer) or _PROBED)
        return sees_later(hidden, width, like, length, length - 1 if last_only else 1)


def _made_causal(transformer: Any) -> bool:
    """Turn a Reformer into a decoder; return whether that keeps it from all later positions.

    Hashed attention over several chunks does not: a later item can move an earlier one to
    another chunk.
    """
    config = transformer.config
    length = longest_input(transformer) or config.max_position_embeddings
    if "lsh" in config.attn_layers and length > config.lsh_attn_chunk_length:
        return False
    config.is_decoder = True
    for module in transformer.modules():
        if hasattr(module, "is_decoder"):
            module.is_decoder = True
    return True


def check_masking(transformer: Any, masking: MaskSequence, run: Run, width: int) -> CausalArguments:
    """Return the arguments that ``masking`` needs of ``transformer`` to show it no target.

    Raises
    ------
    ValueError
        If the architecture cannot serve the masking.
    """
    if not isinstance(masking, MaskSequence):
        raise type_error(
            "TransformerBlock",
            "masking",
            "be a MaskSequence",
            type(masking).__name__,
            "Give it masking=inputs.masking.",
        )
    name, architecture = type(masking).__name__, type(transformer.config).__name__
    unsupported = f"{name} is not supported by: the {architecture} architecture"
    if masking.causal:
        way = causal_arguments_of(transformer, run, width)
        if way is None:
            raise ValueError(
                f"{unsupported}, whose positions would see the items to be predicted. "
                'Use masking="mlm" or "rtd" with it, or GPT2Config, XLNetConfig, ElectraConfig, '
                'AlbertConfig or LongformerConfig with "clm".'
            )
        return way
    required = list(masking.transformer_required_arguments())
    accepted = inspect.signature(transformer.forward).parameters
    if any(argument not in accepted for argument in required):
        raise ValueError(
            f"{name} requires the parameters: {', '.join(required)} "
            f"in the {type(transformer)} signature, as XLNetConfig's has."
        )
    if _only_sees_earlier(transformer, run, width):
        raise ValueError(
            f"{unsupported}, whose positions see earlier positions only. "
            'Use masking="clm" with it, or XLNetConfig with its attn_type="bi", or for "mlm" and '
            '"rtd" BertConfig, RobertaConfig, ElectraConfig, AlbertConfig or LongformerConfig.'
        )
    if "attention_mask" in required and _sees_masked(transformer, run, width):
        raise value_error(
            "TransformerBlock",
            "attend_to_padding",
            f"be True with the {architecture} architecture",
            False,
            "Its positions see what an attention mask hides.",
        )
    return no_arguments


def _without_last(transformer: Any, inputs_embeds: Tensor) -> dict[str, Tensor]:
    """Return an attention mask [B, T] that hides the last position."""
    mask = inputs_embeds.new_ones(inputs_embeds.shape[:2])
    mask[:, -1] = 0
    return {"attention_mask": mask}


def _sees_masked(transformer: Any, run: Run, width: int) -> bool:
    if transformer.config.model_type == "reformer" or longest_input(transformer) == 1:
        return False  # the one cannot be differentiated, of one position there is nothing to hide
    return _sees_later_with(transformer, run, width, _without_last, last_only=True)


def _only_sees_earlier(transformer: Any, run: Run, width: int) -> bool:
    if transformer.config.model_type == "reformer":  # cannot be differentiated in eval mode
        return bool(transformer.config.is_decoder)
    return not _sees_later_with(transformer, run, width, no_arguments)


def check_takes_embeddings(transformer: Any) -> None:
    """Raise ValueError unless ``transformer`` is one stack that takes ``inputs_embeds``."""
    accepted = inspect.signature(transformer.forward).parameters
    if "inputs_embeds" not in accepted:
        raise value_error(
            "TransformerBlock",
            "transformer",
            "take inputs_embeds in its forward",
            type(transformer).__name__,
        )
    if "decoder_input_ids" in accepted or "decoder_inputs_embeds" in accepted:
        raise value_error(
            "TransformerBlock",
            "transformer",
            "be one stack, not an encoder and a decoder",
            type(transformer).__name__,
            "Give it the encoder: model.get_encoder().",
        )
