"""Configurations of architectures whose positions see both sides: BERT and its kin."""

from __future__ import annotations

from typing import Any

import transformers

from transformers4rec_ext._errors import value_error
from transformers4rec_ext.config._base import (
    T4RecConfig,
    attention_fields,
    check_activation,
    check_sizes,
    transformer_registry,
)


def common_fields(
    function: str,
    d_model: int,
    n_head: int,
    n_layer: int,
    total_seq_length: int,
    hidden_act: str,
    initializer_range: float,
    layer_norm_eps: float,
    dropout: float,
    pad_token: int,
    log_attention_weights: bool,
) -> dict[str, Any]:
    """Return the fields that BERT and its kin have in common."""
    check_sizes(function, d_model, n_head, n_layer=n_layer, total_seq_length=total_seq_length)
    check_activation(function, hidden_act)
    if not isinstance(pad_token, int) or pad_token < 0:
        raise value_error(function, "pad_token", "be a non-negative int", repr(pad_token))
    return {
        "hidden_size": d_model,
        "num_hidden_layers": n_layer,
        "num_attention_heads": n_head,
        "hidden_act": hidden_act,
        "initializer_range": initializer_range,
        "layer_norm_eps": layer_norm_eps,
        "hidden_dropout_prob": dropout,
        "pad_token_id": pad_token,
        "max_position_embeddings": total_seq_length + 2,
        # Items have their own table; the transformer's, never looked at, must hold the padding.
        "vocab_size": pad_token + 1,
        **attention_fields(log_attention_weights),
    }


@transformer_registry.register_with_multiple_names("bert")
class BertConfig(T4RecConfig, transformers.BertConfig):
    """BERT: attention to both sides, learned positions."""

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
        **kwargs: Any,
    ) -> BertConfig:
        """Return the configuration of a BERT of the given size.

        Parameters
        ----------
        d_model, n_head, n_layer : int
            Width, attention heads and layers.
        total_seq_length : int
            The longest session. There is room for two positions more, since inference of masked
            language modeling appends one.
        hidden_act : str
        initializer_range : float
            Standard deviation of the initial weights.
        layer_norm_eps : float
        dropout : float
            Of the embeddings and the layers; that of the attention stays 0.1.
        pad_token : int
        log_attention_weights : bool
            Make the model return its attention weights, computed the slow way.
        **kwargs
            Further fields of ``transformers.BertConfig``,
            such as ``intermediate_size``, which stays 3072 unless it is given.

        Examples
        --------
        >>> BertConfig.build(64, n_head=2, n_layer=2, total_seq_length=20).max_position_embeddings
        22
        """
        fields = common_fields(
            "BertConfig.build",
            d_model,
            n_head,
            n_layer,
            total_seq_length,
            hidden_act,
            initializer_range,
            layer_norm_eps,
            dropout,
            pad_token,
            log_attention_weights,
        )
        return cls(**{**fields, **kwargs})


@transformer_registry.register_with_multiple_names("roberta")
class RobertaConfig(T4RecConfig, transformers.RobertaConfig):
    """RoBERTa: BERT with positions counted from the padding id."""

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
        **kwargs: Any,
    ) -> RobertaConfig:
        """Return the configuration of a RoBERTa of the given size.

        Parameters
        ----------
        d_model, n_head, n_layer : int
            Width, attention heads and layers.
        total_seq_length : int
            The longest session. There is room for two positions more, since inference of masked
            language modeling appends one.
        hidden_act : str
        initializer_range : float
            Standard deviation of the initial weights.
        layer_norm_eps : float
        dropout : float
            Of the embeddings and the layers; that of the attention stays 0.1.
        pad_token : int
        log_attention_weights : bool
            Make the model return its attention weights, computed the slow way.
        **kwargs
            Further fields of ``transformers.RobertaConfig``,
            such as ``intermediate_size``, which stays 3072 unless it is given.

        Examples
        --------
        >>> RobertaConfig.build(64, n_head=2, n_layer=2, total_seq_length=20).hidden_dropout_prob
        0.3
        """
        fields = common_fields(
            "RobertaConfig.build",
            d_model,
            n_head,
            n_layer,
            total_seq_length,
            hidden_act,
            initializer_range,
            layer_norm_eps,
            dropout,
            pad_token,
            log_attention_weights,
        )
        # Its first position has the number pad_token + 1.
        fields["max_position_embeddings"] += pad_token
        return cls(**{**fields, **kwargs})


@transformer_registry.register_with_multiple_names("electra")
class ElectraConfig(T4RecConfig, transformers.ElectraConfig):
    """ELECTRA: BERT as a discriminator; here its body."""

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
        **kwargs: Any,
    ) -> ElectraConfig:
        """Return the configuration of an ELECTRA of the given size.

        Parameters
        ----------
        d_model, n_head, n_layer : int
            Width, attention heads and layers.
        total_seq_length : int
            The longest session. There is room for two positions more, since inference of masked
            language modeling appends one.
        hidden_act : str
        initializer_range : float
            Standard deviation of the initial weights.
        layer_norm_eps : float
        dropout : float
            Of the embeddings and the layers; that of the attention stays 0.1.
        pad_token : int
        log_attention_weights : bool
            Make the model return its attention weights, computed the slow way.
        **kwargs
            Further fields of ``transformers.ElectraConfig``.

        Examples
        --------
        >>> ElectraConfig.build(64, n_head=2, n_layer=2, total_seq_length=20).intermediate_size
        256
        """
        fields = common_fields(
            "ElectraConfig.build",
            d_model,
            n_head,
            n_layer,
            total_seq_length,
            hidden_act,
            initializer_range,
            layer_norm_eps,
            dropout,
            pad_token,
            log_attention_weights,
        )
        fields |= {"embedding_size": d_model, "intermediate_size": d_model * 4}
        return cls(**{**fields, **kwargs})


@transformer_registry.register_with_multiple_names("albert")
class AlbertConfig(T4RecConfig, transformers.AlbertConfig):
    """ALBERT: BERT whose layers share their weights."""

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
        **kwargs: Any,
    ) -> AlbertConfig:
        """Return the configuration of an ALBERT of the given size.

        Parameters
        ----------
        d_model, n_head, n_layer : int
            Width, attention heads and layers.
        total_seq_length : int
            The longest session. There is room for two positions more, since inference of masked
            language modeling appends one.
        hidden_act : str
        initializer_range : float
            Standard deviation of the initial weights.
        layer_norm_eps : float
        dropout : float
            Of the embeddings, the layers and the attention.
        pad_token : int
        log_attention_weights : bool
            Make the model return its attention weights, computed the slow way.
        **kwargs
            Further fields of ``transformers.AlbertConfig``.

        Examples
        --------
        >>> AlbertConfig.build(64, n_head=2, n_layer=2, total_seq_length=20).num_hidden_groups
        1
        """
        fields = common_fields(
            "AlbertConfig.build",
            d_model,
            n_head,
            n_layer,
            total_seq_length,
            hidden_act,
            initializer_range,
            layer_norm_eps,
            dropout,
            pad_token,
            log_attention_weights,
        )
        fields |= {
            "embedding_size": d_model,
            "intermediate_size": d_model * 4,
            "attention_probs_dropout_prob": dropout,
        }
        return cls(**{**fields, **kwargs})
