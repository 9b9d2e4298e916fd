"""Transformer blocks over recorded weights: configurations, keys, hidden states, gradients."""

from __future__ import annotations

import pytest
import torch

from transformers4rec_ext.block.base import SequentialBlock
from transformers4rec_ext.block.mlp import MLPBlock
from transformers4rec_ext.block.transformer import TransformerBlock
from transformers4rec_ext.config.transformer import GPT2Config, XLNetConfig
from transformers4rec_ext.features.sequence import TabularSequenceFeatures
from transformers4rec_ext.masking import CausalLanguageModeling
from transformers4rec_ext.schema import Schema

CONFIGS = {"e2e_gpt2": GPT2Config, "e2e_xlnet": XLNetConfig}
FIELDS = {
    "e2e_gpt2": "n_embd n_inner n_layer n_head n_positions activation_function vocab_size "
    "initializer_range layer_norm_eps layer_norm_epsilon resid_pdrop embd_pdrop attn_pdrop",
    "e2e_xlnet": "d_model d_inner d_head n_layer n_head ff_activation attn_type vocab_size "
    "initializer_range layer_norm_eps dropout mem_len pad_token_id",
}
BODY = "heads.0.body."


def _block(meta, tensors, group, masking) -> TransformerBlock:
    block = TransformerBlock(CONFIGS[group].build(**meta["model"]["build"]), masking=masking)
    prefix = f"weights/{BODY}2.transformer."
    weights = {k[len(prefix) :]: v for k, v in tensors.items() if k.startswith(prefix)}
    block.transformer.load_state_dict(weights, strict=True)
    return block.eval()


@pytest.mark.parametrize("group", CONFIGS)
def test_configuration(parity, group):
    model = parity(group)[0]["model"]
    config = CONFIGS[group].build(**model["build"])
    got = {field: getattr(config, field) for field in FIELDS[group].split()}
    assert got == {field: model["hf_config_upstream"][field] for field in got}


@pytest.mark.parametrize("group", CONFIGS)
def test_keys_of_an_item_only_body(parity, group):
    meta, _ = parity(group)
    item = "item_id/list"
    inputs = TabularSequenceFeatures.from_schema(
        Schema.from_item_column(item, num_items=150),
        max_sequence_length=20,
        aggregation="concat",
        masking="clm",
    )
    block = TransformerBlock(CONFIGS[group].build(**meta["model"]["build"]), inputs.masking)
    body = SequentialBlock(inputs, MLPBlock(meta["model"]["mlp"]), block)
    others = ("continuous_module", "category/list", "user_country")
    recorded = {
        key[len(BODY) :]
        for key in meta["state_dict_keys"]
        if key.startswith(BODY) and not any(other in key for other in others)
    }
    assert set(body.state_dict()) == recorded


# XLNet's recorded run let every position see the whole session (D13), so it is compared with the
# block that has no causal masking; the leak itself is what tests/model/test_transformer.py forbids.
@pytest.mark.parametrize(
    ("group", "masking"), [("e2e_gpt2", CausalLanguageModeling(64)), ("e2e_xlnet", None)]
)
@pytest.mark.parametrize("mode", ["testing", "inference", "training"])
def test_hidden_states(parity, group, masking, mode):
    meta, tensors = parity(group)
    block = _block(meta, tensors, group, masking)
    out = block(tensors[f"clm/{mode}/mlp_out"])
    tolerance = {key: meta["tolerance"][key] for key in ("rtol", "atol")}
    torch.testing.assert_close(out, tensors[f"clm/{mode}/body_out"], **tolerance)


def test_recorded_xlnet_hidden_states_leak(parity):
    meta, tensors = parity("e2e_xlnet")
    block = _block(meta, tensors, "e2e_xlnet", CausalLanguageModeling(64))
    out = block(tensors["clm/training/mlp_out"])
    assert (out - tensors["clm/training/body_out"]).abs().max() > 0.01
