"""Small bodies of every architecture, and sessions to put through them."""

from __future__ import annotations

from typing import Any

import torch
import transformers
from torch import nn

from transformers4rec_ext.block.base import SequentialBlock
from transformers4rec_ext.block.mlp import MLPBlock
from transformers4rec_ext.block.transformer import TransformerBlock
from transformers4rec_ext.config import transformer as configs
from transformers4rec_ext.features.sequence import TabularSequenceFeatures
from transformers4rec_ext.schema import Schema

T, D, ITEMS, LENGTHS = 6, 8, 20, (6, 4, 2, 1, 0)
MODES: dict[str, dict[str, bool]] = {
    "training": {"training": True},
    "testing": {"testing": True},
    "inference": {},
}

_SIZES = {
    "vocab_size": 1,
    "hidden_size": D,
    "intermediate_size": 2 * D,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
}
_NO_TOKENS = {"bos_token_id": None, "eos_token_id": None, "pad_token_id": None}
_DECODER = {**_SIZES, **_NO_TOKENS, "num_key_value_heads": 2}
_MODERN_BERT = {**_SIZES, **_NO_TOKENS, "cls_token_id": None, "sep_token_id": None}
_T5 = {
    "vocab_size": 1,
    "d_model": D,
    "d_kv": 4,
    "d_ff": 2 * D,
    "num_layers": 2,
    "num_heads": 2,
    "eos_token_id": None,
}


def _build(name: str, n_layer: int = 2, **kwargs: Any):
    return lambda: getattr(configs, f"{name}Config").build(D, 2, n_layer, T, **kwargs)


ARCHITECTURES = {
    "gpt2": _build("GPT2"),
    "gpt2-eager": _build("GPT2", attn_implementation="eager"),
    "gpt2-attentions": _build("GPT2", log_attention_weights=True),
    "gpt2-both-ways": _build("GPT2", is_causal=False),
    "xlnet-bi": _build("XLNet"),
    "xlnet-uni": _build("XLNet", attn_type="uni"),
    "bert": _build("Bert", intermediate_size=16),
    "bert-decoder": _build("Bert", intermediate_size=16, is_decoder=True),
    "roberta": _build("Roberta", intermediate_size=16),
    "electra": _build("Electra"),
    "electra-attentions": _build("Electra", log_attention_weights=True),
    "albert": _build("Albert"),
    "longformer": _build("Longformer", intermediate_size=16),
    "reformer": _build("Reformer"),
    "reformer-lsh": _build("Reformer", n_layer=4),
    "llama": lambda: transformers.LlamaConfig(**_DECODER),
    "mistral": lambda: transformers.MistralConfig(**_DECODER),
    "qwen2": lambda: transformers.Qwen2Config(**_DECODER),
    "qwen3": lambda: transformers.Qwen3Config(**_DECODER, head_dim=4),
    "modernbert": lambda: transformers.ModernBertConfig(**_MODERN_BERT),
    "t5-encoder": lambda: transformers.T5Config(**_T5),
    "plain-gpt2": lambda: transformers.GPT2Config(
        vocab_size=1, n_embd=D, n_head=2, n_layer=2, n_positions=T, **_NO_TOKENS
    ),
}

#: What can serve which masking: docs/architecture.md has this table.
CAUSAL_ONLY = (
    *("gpt2", "gpt2-eager", "gpt2-attentions", "gpt2-both-ways", "plain-gpt2", "xlnet-uni"),
    *("bert-decoder", "llama", "mistral", "qwen2", "qwen3"),
)
MASKED_ONLY = ("bert", "roberta")
ACCEPTED = {
    **{name: {"clm", "mlm", "rtd"} for name in ARCHITECTURES},
    **{name: {"clm"} for name in CAUSAL_ONLY},
    **{name: {"mlm", "rtd"} for name in MASKED_ONLY},
    "xlnet-bi": {"clm", "mlm", "rtd", "plm"},
}
MASKINGS: dict[str, dict[str, Any]] = {
    "clm": {},
    "clm-last": {"train_on_last_item_seq_only": True},
    "clm-all": {"eval_on_last_item_seq_only": False},
    "mlm": {"mlm_probability": 0.4},
    "mlm-all": {"eval_on_last_item_seq_only": False},
    "rtd": {},
    "plm": {"plm_probability": 0.5, "max_span_length": 2},
    "plm-all": {"eval_on_last_item_seq_only": False},
    "plm-permute": {"permute_all": True},
}


def sessions(lengths: tuple[int, ...] = LENGTHS) -> torch.Tensor:
    """Return sessions int64 [B, T] of these lengths."""
    ids = torch.zeros(len(lengths), T, dtype=torch.int64)
    for row, length in enumerate(lengths):
        ids[row, :length] = torch.randint(1, ITEMS, (length,))
    return ids


def item_features(masking: str | None, **kwargs: Any) -> TabularSequenceFeatures:
    """Return the features of item ids alone, D wide."""
    schema = Schema.from_item_column(num_items=ITEMS, max_length=T)
    return TabularSequenceFeatures.from_schema(
        schema, d_output=D, masking=masking, aggregation="concat", **kwargs
    )


def body_of(architecture: str, masking: str) -> SequentialBlock:
    """Return a body of an architecture and a masking, with large weights, in eval mode."""
    features = item_features(masking.split("-")[0], **MASKINGS[masking])
    block = TransformerBlock(ARCHITECTURES[architecture](), masking=features.masking)
    body = SequentialBlock(features, MLPBlock([D]), block)
    spread(body)
    return body.eval()


def spread(module: nn.Module) -> None:
    """Make the weights large, so that a leak could not hide in rounding."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.normal_(0.0, 0.5)
