"""Configurations of architectures whose positions see earlier positions only."""

from __future__ import annotations

from typing import Any

import transformers

from transformers4rec_ext.config._base import (
    T4RecConfig,
    attention_fields,
    check_activation,
    check_sizes,
    transformer_registry,
)

#: The default of ``layer_norm_eps``; see :meth:`GPT2Config.build`.
DEFAULT_LAYER_NORM_EPS = 0.03


@transformer_registry.register_with_multiple_names("gpt2", "gtp2")
class GPT2Config(T4RecConfig, transformers.GPT2Config):
    """GPT-2: causal attention, learned positions."""

    @classmethod
    def build(
        cls,
        d_model: int,
        n_head: int,
        n_layer: int,
        total_seq_length: int,
        hidden_act: str = "gelu",
        initializer_range: float = 0.01,
        layer_norm_eps: float = DEFAULT_LAYER_NORM_EPS,
        dropout: float = 0.3,
        pad_token: int = 0,
        log_attention_weights: bool = False,
        **kwargs: Any,
    ) -> GPT2Config:
        """Return the configuration of a GPT-2 of the given size.

        Parameters
        ----------
        d_model, n_head, n_layer, hidden_act, initializer_range, pad_token, log_attention_weights
            As for :meth:`BertConfig.build`.
        total_seq_length : int
            The longest session.
        layer_norm_eps : float
            Used by the layer norms unless it is the default: upstream's 0.03 never reached GPT-2,
            whose layer norms kept 1e-5, and trained weights depend on that.
        dropout : float
            Of the residuals, the embeddings and the attention.
        **kwargs
            Further fields of ``transformers.GPT2Config``.

        Examples
        --------
        >>> GPT2Config.build(64, n_head=2, n_layer=2, total_seq_length=20).n_positions
        20
        """
        check_sizes(
            "GPT2Config.build", d_model, n_head, n_layer=n_layer, total_seq_length=total_seq_length
        )
        check_activation("GPT2Config.build", hidden_act)
        if layer_norm_eps != DEFAULT_LAYER_NORM_EPS:
            kwargs.setdefault("layer_norm_epsilon", layer_norm_eps)
        fields = {
            "n_embd": d_model,
            "n_inner": d_model * 4,
            "n_layer": n_layer,
            "n_head": n_head,
            "n_positions": total_seq_length,
            "activation_function": hidden_act,
            "initializer_range": initializer_range,
            "layer_norm_eps": layer_norm_eps,
            "resid_pdrop": dropout,
            "embd_pdrop": dropout,
            "attn_pdrop": dropout,
            "pad_token_id": pad_token,
            # Items have their own table; the transformer's is never looked at.
            "vocab_size": 1,
        }
        return cls._of_fields({**fields, **attention_fields(log_attention_weights)}, kwargs)
