"""What a transformer's forward is given besides the embeddings, by architecture."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from transformers4rec_ext.masking import MaskSequence


def causal_mask(length: int, device: torch.device) -> Tensor:
    """Return bool [1, 1, T, T], True where the query (row) may look at the key (column)."""
    return torch.ones(length, length, dtype=torch.bool, device=device).tril()[None, None]


class TransformerPrepare(nn.Module):
    """Makes the arguments of a transformer's forward from the embeddings.

    Parameters
    ----------
    transformer : nn.Module
        The Hugging Face model.
    masking : MaskSequence, optional
    """

    def __init__(self, transformer: nn.Module, masking: MaskSequence | None = None) -> None:
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
    No padding mask is needed where sessions are padded on the right: every padded position comes
    after all items of its row, and causal attention never looks there; what comes out *at* a
    padded position has no target and is not read. What is padded on the left is seen, in training
    as later.

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


#: Prepare modules by ``model_type``. GPT-2's is part of the keys of saved weights.
PREPARE_MODULES: dict[str, type[TransformerPrepare]] = {"gpt2": GPT2Prepare}


def default_arguments(transformer: Any, inputs_embeds: Tensor) -> dict[str, Any]:
    """Return the arguments where there is no prepare module: no cache, no memory."""
    arguments: dict[str, Any] = {"use_cache": False, "use_mems": False}
    if transformer.config.model_type == "reformer":
        inputs_embeds, arguments["attention_mask"] = _at_full_length(transformer, inputs_embeds)
    return {"inputs_embeds": inputs_embeds, **arguments}


def _at_full_length(transformer: Any, inputs_embeds: Tensor) -> tuple[Tensor, Tensor]:
    """Return the inputs at the one length a Reformer trains with, and what of them is real."""
    length = inputs_embeds.shape[1]
    missing = (longest_input(transformer) or length) - length
    is_real = torch.ones(inputs_embeds.shape[:2], dtype=torch.bool, device=inputs_embeds.device)
    padded = nn.functional.pad(inputs_embeds, (0, 0, 0, missing))
    return padded, nn.functional.pad(is_real, (0, missing))


def with_further(arguments: dict[str, Any], further: dict[str, Any]) -> dict[str, Any]:
    """Return ``arguments`` and ``further`` ones, an attention mask [B, T] as long as the inputs."""
    mask = further.get("attention_mask")
    if mask is not None and mask.ndim == 2:  # a Reformer's inputs are at their full length
        missing = arguments["inputs_embeds"].shape[1] - mask.shape[1]
        further = {**further, "attention_mask": nn.functional.pad(mask, (0, missing))}
    return {**arguments, **further}


def longest_input(transformer: Any) -> int | None:
    """Return the number of positions that a model has vectors for, or None if it has no table."""
    if transformer.config.model_type == "reformer" and transformer.config.axial_pos_embds:
        return math.prod(transformer.config.axial_pos_shape)
    for name, module in transformer.named_modules():
        if isinstance(module, nn.Embedding) and name.endswith(("wpe", ".position_embeddings")):
            # RoBERTa and Longformer number positions from the padding's row on.
            before = 0 if module.padding_idx is None else module.padding_idx + 1
            return module.num_embeddings - before
    return None
