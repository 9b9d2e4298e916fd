"""Hugging Face transformers as blocks, fed with ``inputs_embeds`` and never leaking a target."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import Tensor, nn

from transformers4rec_ext._errors import type_error, value_error
from transformers4rec_ext.block.base import BlockBase
from transformers4rec_ext.masking import MaskSequence

#: Architectures in which position t sees positions 0 to t only, whatever they are given.
ALWAYS_CAUSAL = frozenset({"gpt2", "llama", "mistral", "qwen2"})

#: Architectures that can be made causal by an argument of their forward.
CAUSAL_BY_ARGUMENT = frozenset({"xlnet"})


def causal_mask(length: int, device: torch.device) -> Tensor:
    """Return bool [1, 1, T, T], True where the query (row) may look at the key (column)."""
    return torch.ones(length, length, dtype=torch.bool, device=device).tril()[None, None]


def causal_arguments(inputs_embeds: Tensor) -> dict[str, Tensor]:
    """Return the arguments that make XLNet causal, for ``inputs_embeds [B, T, D]``.

    XLNet looks both ways with its default attn_type "bi". ``perm_mask[b, i, j] = 1`` forbids
    query i to look at key j, in every release and whatever attn_type says; one mask serves all
    rows.
    """
    blocked = ~causal_mask(inputs_embeds.shape[1], inputs_embeds.device)[0]
    return {"perm_mask": blocked.to(inputs_embeds.dtype)}


class TransformerPrepare(nn.Module):
    """Makes the arguments of a transformer's forward from the embeddings.

    Parameters
    ----------
    transformer : nn.Module
        The Hugging Face model.
    masking : MaskSequence, optional
    """

    def __init__(self, transformer: nn.Module, masking: MaskSequence | None) -> None:
        super().__init__()
        self.transformer = transformer
        self.masking = masking

    def forward(self, inputs_embeds: Tensor) -> dict[str, Any]:
        """Return keyword arguments for the transformer, from ``inputs_embeds [B, T, D]``."""
        raise NotImplementedError(f"{type(self).__name__} must define forward(inputs_embeds)")


class GPT2Prepare(TransformerPrepare):
    """GPT-2: no cache of keys and values, and the causal mask as a ready-made argument.

    Notes
    -----
    No padding mask is needed. Sessions are padded on the right, so every padded position comes
    after all items of its row, and causal attention never looks there; what comes out *at* a
    padded position has no target and is not read.

    The mask is given, though GPT-2 would make the same one, because transformers 5 otherwise
    looks for packed sequences first, and to do so waits for the device at every step.
    """

    def forward(self, inputs_embeds: Tensor) -> dict[str, Any]:
        """Return ``inputs_embeds``, ``use_cache=False`` and, for SDPA, ``attention_mask``."""
        arguments = {"inputs_embeds": inputs_embeds, "use_cache": False}
        # Releases before 5 have no attention implementations for GPT-2 and build the mask inside.
        if getattr(self.transformer, "_attn_implementation", None) == "sdpa":
            arguments["attention_mask"] = causal_mask(inputs_embeds.shape[1], inputs_embeds.device)
        return arguments


PREPARE_MODULES: dict[str, type[TransformerPrepare]] = {"gpt2": GPT2Prepare}


class TransformerBlock(BlockBase):
    """A Hugging Face transformer over embeddings: [B, T, D] to [B, T, D].

    Parameters
    ----------
    transformer : T4RecConfig, PretrainedConfig or PreTrainedModel
        A configuration is made into a model without a language model head.
    masking : MaskSequence, optional
        The input block's. A causal masking makes the attention causal, or is refused.
    prepare_module : type, optional
        A :class:`TransformerPrepare` that makes the arguments of the model's forward.

    Raises
    ------
    ValueError
        If the architecture does not support the masking.

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
    ) -> None:
        super().__init__()
        self.transformer = _as_model(transformer)
        self._accepted = frozenset(inspect.signature(self.transformer.forward).parameters)
        if masking is not None:
            check_masking(self.transformer, masking)
        self.masking = masking
        self.prepare_module: TransformerPrepare | None = None
        prepare_module = prepare_module or PREPARE_MODULES.get(self.transformer.config.model_type)
        if prepare_module is not None:
            self.prepare_module = prepare_module(self.transformer, masking)

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

    def set_masking(self, masking: MaskSequence) -> None:
        """Use ``masking``; refuse one the architecture cannot serve."""
        check_masking(self.transformer, masking)
        self.masking = masking
        if self.prepare_module is not None:
            self.prepare_module.masking = masking

    def forward(self, inputs_embeds: Tensor) -> Tensor:
        """Return the last hidden state [B, T, D] of ``inputs_embeds [B, T, D]``.

        Of an empty batch (B or T is 0) an empty one, with zero gradients for all parameters.
        """
        self._check_inputs(inputs_embeds)
        batch, length = inputs_embeds.shape[:2]
        if batch == 0 or length == 0:
            # The models reshape with -1, which nothing determines here: run one position, keep none
            missing = (0, 0, 0, int(length == 0), 0, int(batch == 0))
            hidden = self._run(torch.nn.functional.pad(inputs_embeds, missing))
            return hidden[:batch, :length]
        return self._run(inputs_embeds)

    def _run(self, inputs_embeds: Tensor) -> Tensor:
        if self.prepare_module is not None:
            arguments = self.prepare_module(inputs_embeds)
        else:
            arguments = {"inputs_embeds": inputs_embeds, "use_cache": False, "use_mems": False}
        if self.masking is not None:
            if self.masking.causal and self.transformer.config.model_type in CAUSAL_BY_ARGUMENT:
                arguments.update(causal_arguments(inputs_embeds))
            arguments.update(self.masking.transformer_arguments)
        arguments = {name: value for name, value in arguments.items() if name in self._accepted}
        hidden: Tensor = self.transformer(**arguments)[0]
        return hidden

    def _check_inputs(self, inputs_embeds: Tensor) -> None:
        width = self.transformer.config.hidden_size
        if inputs_embeds.ndim != 3 or inputs_embeds.shape[-1] != width:
            raise value_error(
                "TransformerBlock",
                "inputs_embeds",
                f"be [B, T, D={width}]",
                list(inputs_embeds.shape),
                "Put an MLPBlock([d_model]) before the transformer, or change d_model.",
            )
        longest = getattr(self.transformer.config, "n_positions", None)
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
        """Return ``input_size``: a transformer does not change the shape."""
        if input_size is None:
            return None
        width = self.transformer.config.hidden_size
        if isinstance(input_size, dict) or len(input_size) != 3 or input_size[-1] != width:
            raise value_error(
                "TransformerBlock",
                "input_size",
                f"be [B, T, D={width}]",
                input_size if isinstance(input_size, dict) else list(input_size),
                "Put an MLPBlock([d_model]) before the transformer, or change d_model.",
            )
        return torch.Size(input_size)


def _as_model(transformer: Any) -> Any:
    from transformers import MODEL_MAPPING, PretrainedConfig

    if hasattr(transformer, "to_huggingface_torch_model"):
        return transformer.to_huggingface_torch_model()
    if isinstance(transformer, PretrainedConfig):
        model_classes: Any = MODEL_MAPPING
        return model_classes[type(transformer)](transformer)
    if isinstance(transformer, nn.Module) and hasattr(transformer, "config"):
        return transformer
    raise type_error(
        "TransformerBlock",
        "transformer",
        "be a Hugging Face configuration or model",
        type(transformer).__name__,
        'For example GPT2Config.build(...), or TransformerBlock.from_registry("gpt2", ...).',
    )


def check_masking(transformer: Any, masking: MaskSequence) -> None:
    """Raise ValueError unless ``transformer`` serves ``masking`` without showing it a target."""
    if not isinstance(masking, MaskSequence):
        raise type_error(
            "TransformerBlock",
            "masking",
            "be a MaskSequence",
            type(masking).__name__,
            "Give it masking=inputs.masking.",
        )
    config = transformer.config
    name, architecture = type(masking).__name__, type(config).__name__
    # Since transformers 5, is_causal=False turns a decoder into a bidirectional model.
    always_causal = config.model_type in ALWAYS_CAUSAL and getattr(config, "is_causal", True)
    unsupported = f"{name} is not supported by: the {architecture} architecture"
    if masking.causal and not (always_causal or config.model_type in CAUSAL_BY_ARGUMENT):
        raise ValueError(f"{unsupported}, whose positions would see the items to be predicted.")
    if always_causal and not masking.causal:
        raise ValueError(f"{unsupported}, whose positions see earlier positions only.")
    required = list(masking.transformer_required_arguments())
    accepted = inspect.signature(transformer.forward).parameters
    if any(argument not in accepted for argument in required):
        raise ValueError(
            f"{name} requires the parameters: {', '.join(required)} "
            f"in the {type(transformer)} signature"
        )
