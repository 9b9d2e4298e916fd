"""Configurations of architectures whose positions see both sides: BERT and its kin."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import transformers

from transformers4rec_ext._errors import value_error
from transformers4rec_ext._numbers import is_integer
from transformers4rec_ext.config._base import (
    T4RecConfig,
    attention_fields,
    check_activation,
    check_sizes,
    transformer_registry,
)

if TYPE_CHECKING:
    from typing_extensions import Self


class BertLikeConfig(T4RecConfig):
    """What BERT and its kin have in common: ``build``."""

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
    ) -> Self:
        """Return a configuration of the given size.

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
            Of the embeddings and the layers; that of the attention stays 0.1, but for ALBERT.
        pad_token : int
        log_attention_weights : bool
            Make the model return its attention weights, computed the slow way.
        **kwargs
            Further fields of the configuration of that name in ``transformers``, such as
            ``intermediate_size``: ``4 d_model`` for ELECTRA and ALBERT, 3072 for the others.

        Raises
        ------
        ValueError
            If a size is not positive, ``n_head`` does not divide ``d_model``, ``pad_token`` is
            negative or transformers does not know ``hidden_act``.
        TypeError
            If another argument is no field of the configuration.

        Examples
        --------
        >>> BertConfig.build(64, n_head=2, n_layer=2, total_seq_length=20).max_position_embeddings
        22
        """
        function = f"{cls.__name__}.build"
        check_sizes(function, d_model, n_head, n_layer=n_layer, total_seq_length=total_seq_length)
        check_activation(function, hidden_act)
        if not is_integer(pad_token) or pad_token < 0:
            raise value_error(function, "pad_token", "be a non-negative int", repr(pad_token))
        fields = {
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
        cls._adapt(fields)
        return cls._of_fields(fields, kwargs)

    @classmethod
    def _adapt(cls, fields: dict[str, Any]) -> None:
        """Change what the architecture wants otherwise than BERT, in place."""


@transformer_registry.register_with_multiple_names("bert")
class BertConfig(BertLikeConfig, transformers.BertConfig):
    """BERT: attention to both sides, learned positions."""


@transformer_registry.register_with_multiple_names("roberta")
class RobertaConfig(BertLikeConfig, transformers.RobertaConfig):
    """RoBERTa: BERT with positions counted from the padding id.

    Examples
    --------
    >>> RobertaConfig.build(64, n_head=2, n_layer=2, total_seq_length=20).hidden_dropout_prob
    0.3
    """

    @classmethod
    def _adapt(cls, fields: dict[str, Any]) -> None:
        # Its first position has the number pad_token + 1.
        fields["max_position_embeddings"] += fields["pad_token_id"]


@transformer_registry.register_with_multiple_names("electra")
class ElectraConfig(BertLikeConfig, transformers.ElectraConfig):
    """ELECTRA: BERT as a discriminator; here its body.

    Examples
    --------
    >>> ElectraConfig.build(64, n_head=2, n_layer=2, total_seq_length=20).intermediate_size
    256
    """

    @classmethod
    def _adapt(cls, fields: dict[str, Any]) -> None:
        width = fields["hidden_size"]
        fields |= {"embedding_size": width, "intermediate_size": width * 4}


@transformer_registry.register_with_multiple_names("albert")
class AlbertConfig(BertLikeConfig, transformers.AlbertConfig):
    """ALBERT: BERT whose layers share their weights.

    Examples
    --------
    >>> AlbertConfig.build(64, n_head=2, n_layer=2, total_seq_length=20).num_hidden_groups
    1
    """

    @classmethod
    def _adapt(cls, fields: dict[str, Any]) -> None:
        width = fields["hidden_size"]
        fields |= {"embedding_size": width, "intermediate_size": width * 4}
        fields["attention_probs_dropout_prob"] = fields["hidden_dropout_prob"]
