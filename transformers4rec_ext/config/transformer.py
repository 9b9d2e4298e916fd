"""Hugging Face configurations, made from the few numbers that matter for sessions.

This module imports transformers, so it is itself imported on first use only.
"""

from __future__ import annotations

from typing import Any

import transformers
from torch import nn

from transformers4rec_ext._errors import value_error
from transformers4rec_ext.registry import Registry

transformer_registry = Registry("transformer")

#: The default of ``layer_norm_eps``; see :meth:`GPT2Config.build`.
_DEFAULT_LAYER_NORM_EPS = 0.03


def _check_sizes(function: str, d_model: int, n_head: int, **positive: int) -> None:
    for name, value in {"d_model": d_model, "n_head": n_head, **positive}.items():
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise value_error(function, name, "be a positive int", repr(value))
    if d_model % n_head:
        raise value_error(
            function, "d_model", "be a multiple of n_head", f"d_model={d_model}, n_head={n_head}"
        )


class T4RecConfig:
    """Mixed into a Hugging Face configuration: adds ``build`` and a way to the model."""

    @classmethod
    def build(cls, *args: Any, **kwargs: Any) -> Any:
        """Return a configuration; every architecture defines its own arguments."""
        raise NotImplementedError(f"{cls.__name__} must define build(...)")

    @property
    def transformers_config_cls(self) -> type:
        """The Hugging Face configuration class underneath."""
        return next(cls for cls in type(self).__mro__ if cls.__module__.startswith("transformers."))

    def to_huggingface_torch_model(self) -> nn.Module:
        """Return a freshly initialised model of this configuration, without a head.

        Examples
        --------
        >>> type(GPT2Config.build(8, 2, 1, 5).to_huggingface_torch_model()).__name__
        'GPT2Model'
        """
        model_classes: Any = transformers.MODEL_MAPPING
        model: nn.Module = model_classes[self.transformers_config_cls](self)
        return model


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
        layer_norm_eps: float = _DEFAULT_LAYER_NORM_EPS,
        dropout: float = 0.3,
        pad_token: int = 0,
        log_attention_weights: bool = False,
        **kwargs: Any,
    ) -> GPT2Config:
        """Return the configuration of a GPT-2 of the given size.

        Parameters
        ----------
        d_model, n_head, n_layer : int
            Width, attention heads and layers.
        total_seq_length : int
            The longest session.
        hidden_act : str
        initializer_range : float
            Standard deviation of the initial weights.
        layer_norm_eps : float
            Used by the layer norms unless it is the default: upstream's 0.03 never reached GPT-2,
            whose layer norms kept 1e-5, and trained weights depend on that.
        dropout : float
            Of the residuals, the embeddings and the attention.
        pad_token : int
        log_attention_weights : bool
            Make the model return its attention weights, computed the slow way.
        **kwargs
            Further fields of ``transformers.GPT2Config``.

        Examples
        --------
        >>> GPT2Config.build(64, n_head=2, n_layer=2, total_seq_length=20).n_positions
        20
        """
        _check_sizes(
            "GPT2Config.build", d_model, n_head, n_layer=n_layer, total_seq_length=total_seq_length
        )
        if layer_norm_eps != _DEFAULT_LAYER_NORM_EPS:
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
        return cls(**{**fields, **_attention_fields(log_attention_weights), **kwargs})


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
        layer_norm_eps: float = _DEFAULT_LAYER_NORM_EPS,
        dropout: float = 0.3,
        pad_token: int = 0,
        log_attention_weights: bool = False,
        mem_len: int = 1,
        **kwargs: Any,
    ) -> XLNetConfig:
        """Return the configuration of an XLNet of the given size.

        Parameters
        ----------
        d_model, n_head, n_layer : int
            Width, attention heads and layers.
        total_seq_length : int, optional
            Accepted because every architecture takes it; XLNet has no longest session.
        attn_type : {"bi", "uni"}
            Attention to both sides or to the past. A causal masking makes the attention causal
            with either.
        hidden_act : str
        initializer_range : float
            Standard deviation of the initial weights.
        layer_norm_eps : float
        dropout : float
        pad_token : int
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
        _check_sizes("XLNetConfig.build", d_model, n_head, n_layer=n_layer)
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
        return cls(**{**fields, **kwargs})


def _attention_fields(log_attention_weights: bool) -> dict[str, Any]:
    # Only the plain implementation has weights to return; otherwise transformers chooses SDPA.
    if not log_attention_weights:
        return {}
    return {"output_attentions": True, "attn_implementation": "eager"}
