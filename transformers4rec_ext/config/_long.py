"""Configurations of architectures made for long sequences."""

from __future__ import annotations

import math
from typing import Any

import transformers

from transformers4rec_ext._errors import value_error
from transformers4rec_ext.config._base import (
    T4RecConfig,
    check_activation,
    check_sizes,
    transformer_registry,
)
from transformers4rec_ext.config._bert import BertLikeConfig

#: Positions of a Reformer that attend to each other, and to the chunk before.
_CHUNK = 64


@transformer_registry.register_with_multiple_names("longformer")
class LongformerConfig(BertLikeConfig, transformers.LongformerConfig):
    """Longformer: attention to both sides within a window, here as long as a session.

    Examples
    --------
    >>> LongformerConfig.build(64, n_head=2, n_layer=2, total_seq_length=20).attention_window
    22
    """

    @classmethod
    def _adapt(cls, fields: dict[str, Any]) -> None:
        positions = fields["max_position_embeddings"]
        fields["attention_window"] = positions + positions % 2  # an even number
        # The window pads sessions to a multiple of it; positions are numbered from pad_token + 1.
        positions = fields["attention_window"] + fields["pad_token_id"] + 1
        fields["max_position_embeddings"] = max(positions, 512)
        # Its attention is an implementation of its own, which always has the weights.
        fields.pop("attn_implementation", None)


@transformer_registry.register_with_multiple_names("reformer")
class ReformerConfig(T4RecConfig, transformers.ReformerConfig):
    """Reformer: local and hashed attention; its output is twice as wide as its input."""

    @classmethod
    def build(
        cls,
        d_model: int,
        n_head: int,
        n_layer: int,
        total_seq_length: int,
        hidden_act: str = "gelu",
        initializer_range: float = 0.01,
        layer_norm_eps: float = 0.03,
        dropout: float = 0.3,
        pad_token: int = 0,
        log_attention_weights: bool = False,
        axial_pos_shape_first_dim: int = 4,
        **kwargs: Any,
    ) -> ReformerConfig:
        """Return the configuration of a Reformer of the given size.

        Parameters
        ----------
        d_model, n_head, n_layer, hidden_act, initializer_range, layer_norm_eps, pad_token
            As for :meth:`BertConfig.build`.
        total_seq_length : int
            The longest session.
        dropout : float
            Of the layers and of hashed attention; that of local attention stays 0.05.
        log_attention_weights : bool
            Make the model return its attention weights.
        axial_pos_shape_first_dim : int
            Positions are factorised as this many times as many as are needed.
        **kwargs
            Further fields of ``transformers.ReformerConfig``.

        Examples
        --------
        >>> ReformerConfig.build(64, n_head=2, n_layer=2, total_seq_length=20).axial_pos_shape
        (4, 6)
        """
        check_sizes(
            "ReformerConfig.build",
            d_model,
            n_head,
            n_layer=n_layer,
            total_seq_length=total_seq_length,
            axial_pos_shape_first_dim=axial_pos_shape_first_dim,
        )
        check_activation("ReformerConfig.build", hidden_act)
        if d_model % 2:
            raise value_error("ReformerConfig.build", "d_model", "be even", d_model)
        axes = _axes(total_seq_length + 2, axial_pos_shape_first_dim)
        fields = {
            "hidden_size": d_model,
            "attention_head_size": d_model,
            "attn_layers": (["local", "lsh"] * n_layer)[:n_layer] if n_layer > 2 else ["local"],
            "num_hidden_layers": n_layer,
            "feed_forward_size": d_model * 4,
            "num_attention_heads": n_head,
            "hidden_act": hidden_act,
            "initializer_range": initializer_range,
            "layer_norm_eps": layer_norm_eps,
            "hidden_dropout_prob": dropout,
            "lsh_attention_probs_dropout_prob": dropout,
            "pad_token_id": pad_token,
            "output_attentions": log_attention_weights,
            "max_position_embeddings": math.prod(axes),
            "axial_pos_embds_dim": [d_model // 2, d_model // 2],
            "axial_pos_shape": axes,
            "vocab_size": 1,
        }
        return cls._of_fields(fields, kwargs)


def _axes(length: int, first: int) -> list[int]:
    """Return ``[first, n]`` whose product is at least ``length``, and whole chunks if over one."""
    second = -(-length // first)
    if first * second > _CHUNK:
        step = _CHUNK // math.gcd(first, _CHUNK)
        second = -(-second // step) * step
    return [first, second]
