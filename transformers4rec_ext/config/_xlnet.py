"""The configuration of XLNet, the one architecture for every masking."""

from __future__ import annotations

from typing import Any

import transformers

from transformers4rec_ext._errors import value_error
from transformers4rec_ext.config._base import (
    T4RecConfig,
    check_activation,
    check_sizes,
    transformer_registry,
)


@transformer_registry.register_with_multiple_names("xlnet")
class XLNetConfig(T4RecConfig, transformers.XLNetConfig):
    """XLNet: relative positions, so no longest session."""

    @classmethod
    def build(
        cls,
        d_model: int,
        n_head: int,
        n_layer: int,
        total_seq_length: int | None = None,
        attn_type: str = "bi",
        hidden_act: str = "gelu",
        initializer_range: float = 0.01,
        layer_norm_eps: float = 0.03,
        dropout: float = 0.3,
        pad_token: int = 0,
        log_attention_weights: bool = False,
        mem_len: int = 1,
        **kwargs: Any,
    ) -> XLNetConfig:
        """Return the configuration of an XLNet of the given size.

        Parameters
        ----------
        d_model, n_head, n_layer, hidden_act, initializer_range, layer_norm_eps, pad_token
            As for :meth:`BertConfig.build`.
        total_seq_length : int, optional
            Accepted because every architecture takes it; XLNet has no longest session.
        attn_type : {"bi", "uni"}
            Attention to both sides or to the past. A causal masking makes the attention causal
            with either.
        dropout : float
            Of all layers, the attention's too.
        log_attention_weights : bool
            Make the model return its attention weights.
        mem_len : int
            Positions of earlier segments to keep when the model is used outside of
            ``TransformerBlock``, which keeps none.
        **kwargs
            Further fields of ``transformers.XLNetConfig``.

        Examples
        --------
        >>> XLNetConfig.build(64, n_head=2, n_layer=2).attn_type
        'bi'
        """
        check_sizes("XLNetConfig.build", d_model, n_head, n_layer=n_layer)
        check_activation("XLNetConfig.build", hidden_act)
        if attn_type not in ("bi", "uni"):
            raise value_error("XLNetConfig.build", "attn_type", 'be "bi" or "uni"', repr(attn_type))
        fields = {
            "d_model": d_model,
            "d_inner": d_model * 4,
            "n_layer": n_layer,
            "n_head": n_head,
            "attn_type": attn_type,
            "ff_activation": hidden_act,
            "initializer_range": initializer_range,
            "layer_norm_eps": layer_norm_eps,
            "dropout": dropout,
            "pad_token_id": pad_token,
            "output_attentions": log_attention_weights,
            "mem_len": mem_len,
            "vocab_size": 1,
        }
        return cls._of_fields(fields, kwargs)
