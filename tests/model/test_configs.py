"""Configurations: what of their arguments reaches the model, and what is refused."""

from __future__ import annotations

import pytest
import torch
from body_helpers import D, T, item_features

from transformers4rec_ext.block.transformer import TransformerBlock
from transformers4rec_ext.config import transformer as configs
from transformers4rec_ext.config.transformer import transformer_registry

NAMES = {
    "albert": "AlbertConfig",
    "bert": "BertConfig",
    "electra": "ElectraConfig",
    "gpt2": "GPT2Config",
    "gtp2": "GPT2Config",
    "longformer": "LongformerConfig",
    "reformer": "ReformerConfig",
    "roberta": "RobertaConfig",
    "transfo-xl": "TransfoXLConfig",
    "xlnet": "XLNetConfig",
}
BUILT = sorted(set(NAMES.values()) - {"TransfoXLConfig"})


def _build(name: str, *args, **kwargs):
    return getattr(configs, name).build(*(args or (D, 2, 1, T)), **kwargs)


def test_registry():
    assert {
        n: transformer_registry.parse(n).__name__ for n in transformer_registry.names()
    } == NAMES


@pytest.mark.parametrize("name", sorted(set(NAMES) - {"transfo-xl"}))
def test_blocks_from_the_registry(name):
    masking = item_features("clm" if name in ("gpt2", "gtp2") else "mlm").masking
    block = TransformerBlock.from_registry(name, D, 2, 1, T, masking=masking)
    assert block(torch.zeros(2, T, D)).shape[:2] == (2, T)
    assert type(block.transformer.config).__name__ == NAMES[name]


@pytest.mark.parametrize("name", BUILT)
def test_common_arguments_arrive(name):
    config = _build(
        name,
        *(D, 2, 4, T),
        hidden_act="relu",
        initializer_range=0.5,
        layer_norm_eps=1e-3,
        dropout=0.25,
        log_attention_weights=True,
    )
    fields = config.to_dict()
    assert "relu" in {fields.get(k) for k in ("hidden_act", "activation_function", "ff_activation")}
    assert config.initializer_range == 0.5
    assert 1e-3 in (config.layer_norm_eps, fields.get("layer_norm_epsilon"))
    assert 0.25 in {fields.get(k) for k in ("dropout", "hidden_dropout_prob", "resid_pdrop")}
    assert config.output_attentions
    assert config.num_hidden_layers == 4
    assert config.num_attention_heads == 2
    assert config.hidden_size == D


def test_fields_of_hugging_face_go_before_those_of_build():
    assert _build("GPT2Config", n_inner=3).n_inner == 3
    assert _build("GPT2Config").layer_norm_epsilon == 1e-5
    assert _build("XLNetConfig", mem_len=7).mem_len == 7
    assert _build("BertConfig").intermediate_size == 3072
    assert _build("BertConfig", intermediate_size=16).intermediate_size == 16


@pytest.mark.parametrize("name", BUILT)
def test_dropout_arrives_in_the_layers(name):
    rates = {
        module.p
        for module in _build(name, dropout=0.45).to_huggingface_torch_model().modules()
        if isinstance(module, torch.nn.Dropout)
    }
    if name != "ReformerConfig":  # it calls the function
        assert 0.45 in rates
    still = _build(name, dropout=0.0).to_huggingface_torch_model()
    assert all(m.p in (0.0, 0.1) for m in still.modules() if isinstance(m, torch.nn.Dropout))


@pytest.mark.parametrize("name", BUILT)
def test_attention_weights_on_request(name):
    block = TransformerBlock(_build(name, log_attention_weights=True))
    outputs = []
    block.transformer.register_forward_hook(lambda module, args, output: outputs.append(output))
    block.eval()(torch.randn(2, T, D))
    assert outputs[0].attentions[0].shape[:2] == (2, 2) or name == "LongformerConfig"
    assert len(outputs[0].attentions) >= 1


@pytest.mark.parametrize("name", ["BertConfig", "RobertaConfig", "ElectraConfig", "AlbertConfig"])
@pytest.mark.parametrize("pad_token", [0, 3])
def test_inference_of_the_longest_session_has_a_position(name, pad_token):
    block = TransformerBlock(_build(name, pad_token=pad_token)).eval()
    assert block.transformer.config.pad_token_id == pad_token
    assert block(torch.randn(1, T + 1, D)).shape == (1, T + 1, D)


@pytest.mark.parametrize(("total", "pad_token"), [(5, 0), (6, 0), (511, 0), (700, 4)])
def test_longformers_of_any_length(total, pad_token):
    config = _build("LongformerConfig", D, 2, 1, total, pad_token=pad_token, intermediate_size=16)
    assert config.attention_window == total + 2 + total % 2
    block = TransformerBlock(config).eval()
    assert block(torch.randn(1, total + 1, D)).shape == (1, total + 1, D)


def test_odd_numbers_of_reformer_layers():
    config = _build("ReformerConfig", D, 2, 3, T)
    assert config.attn_layers == ["local", "lsh", "local"]
    assert TransformerBlock(config).eval()(torch.randn(1, T, D)).shape == (1, T, 2 * D)


def test_transfo_xl_says_what_to_use():
    for use in (configs.TransfoXLConfig, configs.TransfoXLConfig.build):
        with pytest.raises(ImportError, match=r"transformers 5 no longer has .* Use XLNetConfig"):
            use(D, 2, 1, T)
    with pytest.raises(ImportError, match="Use XLNetConfig"):
        TransformerBlock.from_registry("transfo-xl", D, 2, 1, T)


@pytest.mark.parametrize("name", BUILT)
def test_bad_sizes(name):
    with pytest.raises(ValueError, match=rf"{name}.build: d_model must be a multiple of n_head"):
        _build(name, 9, 2, 1, T)
    with pytest.raises(
        ValueError, match=rf"{name}.build: n_layer must be a positive int; got 1\.0"
    ):
        _build(name, 8, 2, 1.0, T)
    if name != "XLNetConfig":
        with pytest.raises(ValueError, match="total_seq_length must be a positive int; got 0"):
            _build(name, 8, 2, 1, 0)


@pytest.mark.parametrize("name", BUILT)
def test_an_activation_that_nobody_knows(name):
    with pytest.raises(
        ValueError, match=rf"{name}.build: hidden_act must be one of .*gelu.*'gleu'"
    ):
        _build(name, D, 2, 1, T, hidden_act="gleu")


def test_bad_values():
    with pytest.raises(ValueError, match="attn_type must be"):
        _build("XLNetConfig", attn_type="both")
    with pytest.raises(ValueError, match=r"BertConfig.build: pad_token must be a non-negative int"):
        _build("BertConfig", pad_token=-1)
    with pytest.raises(ValueError, match=r"ReformerConfig.build: d_model must be even; got 7"):
        _build("ReformerConfig", 7, 1, 1, T)
    with pytest.raises(ValueError, match="axial_pos_shape_first_dim must be a positive int; got 0"):
        _build("ReformerConfig", axial_pos_shape_first_dim=0)


def test_the_base_has_no_configuration():
    with pytest.raises(NotImplementedError, match=r"T4RecConfig must define build"):
        configs.T4RecConfig.build()
