"""Transformer blocks: no position sees a later item, whatever the mode and the padding."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
import transformers
from torch import nn

from transformers4rec_ext.block.base import SequentialBlock
from transformers4rec_ext.block.mlp import MLPBlock
from transformers4rec_ext.block.transformer import GPT2Prepare, TransformerBlock, causal_mask
from transformers4rec_ext.config.transformer import GPT2Config, XLNetConfig, transformer_registry
from transformers4rec_ext.features.sequence import TabularSequenceFeatures
from transformers4rec_ext.masking import CausalLanguageModeling, MaskSequence
from transformers4rec_ext.schema import Schema

T, D, LENGTHS = 6, 8, (6, 4, 2, 1)

CONFIGS = {
    "gpt2": lambda: GPT2Config.build(D, 2, 2, T),
    "gpt2-eager": lambda: GPT2Config.build(D, 2, 2, T, attn_implementation="eager"),
    "gpt2-attentions": lambda: GPT2Config.build(D, 2, 2, T, log_attention_weights=True),
    "xlnet-bi": lambda: XLNetConfig.build(D, 2, 2, T),
    "xlnet-uni": lambda: XLNetConfig.build(D, 2, 2, T, attn_type="uni"),
}
LLAMA = {
    "vocab_size": 1,
    "hidden_size": D,
    "intermediate_size": 2 * D,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "bos_token_id": None,
    "eos_token_id": None,
}
FOREIGN = {
    "llama": lambda: transformers.LlamaConfig(**LLAMA),
    "mistral": lambda: transformers.MistralConfig(**LLAMA),
    "qwen2": lambda: transformers.Qwen2Config(**LLAMA),
    "plain-gpt2": lambda: transformers.GPT2Config(
        vocab_size=1, n_embd=D, n_head=2, n_layer=2, n_positions=T
    ),
}
MODES = {
    "training": {"training": True},
    "testing": {"testing": True},
    "inference": {},
}


def _sessions() -> torch.Tensor:
    ids = torch.zeros(len(LENGTHS), T, dtype=torch.int64)
    for row, length in enumerate(LENGTHS):
        ids[row, :length] = torch.randint(1, 20, (length,))
    return ids


def _body(config, *, causal: bool = True) -> SequentialBlock:
    schema = Schema.from_item_column(num_items=20, max_length=T)
    inputs = TabularSequenceFeatures.from_schema(
        schema, d_output=D, masking="causal", aggregation="concat"
    )
    block = TransformerBlock(config, masking=inputs.masking if causal else None)
    body = SequentialBlock(inputs, MLPBlock([D]), block)
    if not causal:
        block.masking = None  # undo what SequentialBlock does for a forgetful caller
    _spread(body)
    return body.eval()


def _spread(module: nn.Module) -> None:
    """Make the weights large, so that a leak could not hide in rounding."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.normal_(0.0, 0.5)


def _perturb_at(position: int):
    def hook(module, arguments, vectors):
        changed = {name: vector.clone() for name, vector in vectors.items()}
        changed["item_id"][:, position] += 1.0
        return changed

    return hook


def _leaks(body: SequentialBlock, flags: dict[str, bool], what: str) -> bool:
    """Change each item in turn; return whether a hidden state before it moved, however little."""
    ids = _sessions()
    with torch.no_grad():
        before = body({"item_id": ids}, **flags)
        for position in range(1, T):
            rows = torch.tensor(LENGTHS) > position
            changed = ids.clone()
            if what == "id":
                changed[rows, position] = 20  # the sessions hold ids below 20
                after = body({"item_id": changed}, **flags)
            else:
                hook = body.inputs.categorical_module.register_forward_hook(_perturb_at(position))
                after = body({"item_id": ids}, **flags)
                hook.remove()
            if not torch.equal(before[rows, :position], after[rows, :position]):
                return True
            # The change must be seen by someone, or this test proves nothing.
            visible = rows & (torch.tensor(LENGTHS) > position + 1)
            if visible.any():
                assert not torch.equal(before[visible, position], after[visible, position])
    return False


@pytest.mark.parametrize("what", ["id", "embedding"])
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("config", [*CONFIGS, *FOREIGN])
def test_no_hidden_state_depends_on_a_later_item(config, mode, what):
    body = _body({**CONFIGS, **FOREIGN}[config]())
    assert not _leaks(body, MODES[mode], what)


@pytest.mark.parametrize("what", ["id", "embedding"])
@pytest.mark.parametrize("mode", MODES)
def test_the_leak_test_finds_a_leak(mode, what):
    """Planted fault: XLNet with attn_type "bi", left alone, looks at the items to predict."""
    assert _leaks(_body(XLNetConfig.build(D, 2, 2, T), causal=False), MODES[mode], what)


def test_attn_type_uni_alone_is_causal():
    config = XLNetConfig.build(D, 2, 2, T, attn_type="uni")
    assert not _leaks(_body(config, causal=False), {"training": True}, "id")


def test_a_forgotten_masking_is_taken_from_the_inputs():
    schema = Schema.from_item_column(num_items=20, max_length=T)
    inputs = TabularSequenceFeatures.from_schema(schema, embedding_dim_default=D, masking="clm")
    body = SequentialBlock(inputs, TransformerBlock(XLNetConfig.build(D, 2, 2, T)))
    assert body[1].masking is inputs.masking
    _spread(body)
    assert not _leaks(body.eval(), {"training": True}, "id")


@pytest.mark.parametrize("config", ["gpt2", "xlnet-bi"])
def test_no_gradient_reaches_a_later_position(config):
    block = TransformerBlock(CONFIGS[config](), masking=CausalLanguageModeling(D))
    _spread(block)
    for position in range(T):
        inputs = torch.randn(2, T, D, requires_grad=True)
        block(inputs)[:, position].square().sum().backward()
        assert torch.count_nonzero(inputs.grad[:, position + 1 :]) == 0
        assert inputs.grad[:, : position + 1].abs().amax(-1).min() > 0


@pytest.mark.parametrize("config", ["gpt2", "xlnet-bi", "llama"])
def test_a_padded_session_equals_the_session_alone(config):
    """Why right padding needs no attention mask: what comes later is never looked at."""
    body = _body({**CONFIGS, **FOREIGN}[config]())
    ids = _sessions()
    padded = body({"item_id": ids})
    for row, length in enumerate(LENGTHS):
        alone = body({"item_id": ids[row : row + 1, :length]})
        torch.testing.assert_close(padded[row, :length], alone[0], rtol=1e-5, atol=1e-5)


def test_gpt2_with_a_padding_mask_gives_the_same_at_every_item():
    block = TransformerBlock(CONFIGS["gpt2"](), masking=CausalLanguageModeling(D)).eval()
    _spread(block)
    inputs, is_item = torch.randn(len(LENGTHS), T, D), _sessions() != 0
    masked = block.transformer(inputs_embeds=inputs, attention_mask=is_item.long())[0]
    torch.testing.assert_close(block(inputs)[is_item], masked[is_item], rtol=1e-5, atol=1e-5)


def test_gpt2_keeps_no_cache_and_looks_for_no_packed_sequences(monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("this waits for the device")

    monkeypatch.setattr(transformers.masking_utils, "find_packed_sequence_indices", refuse)
    block = TransformerBlock(CONFIGS["gpt2"](), masking=CausalLanguageModeling(D))
    outputs = []
    block.transformer.register_forward_hook(lambda module, args, output: outputs.append(output))
    block(torch.randn(2, T, D))
    assert outputs[0].past_key_values is None
    assert block.transformer.config._attn_implementation == "sdpa"
    assert block.transformer.wte.weight.shape == (1, D)
    assert causal_mask(3, torch.device("cpu"))[0, 0].int().tolist() == [
        [1, 0, 0],
        [1, 1, 0],
        [1, 1, 1],
    ]


def test_xlnet_keeps_no_memory():
    block = TransformerBlock(CONFIGS["xlnet-bi"](), masking=CausalLanguageModeling(D)).eval()
    outputs = []
    block.transformer.register_forward_hook(lambda module, args, output: outputs.append(output))
    block(torch.randn(2, T, D))
    assert outputs[0].mems is None


def test_attention_weights_on_request():
    block = TransformerBlock(CONFIGS["gpt2-attentions"](), masking=CausalLanguageModeling(D))
    outputs = []
    block.transformer.register_forward_hook(lambda module, args, output: outputs.append(output))
    block(torch.randn(2, T, D))
    assert [tuple(a.shape) for a in outputs[0].attentions] == [(2, 2, T, T)] * 2


def test_builder_arguments_arrive():
    config = GPT2Config.build(
        D, 2, 1, T, "relu", 0.5, 1e-3, 0.1, log_attention_weights=True, n_inner=3
    )
    assert (config.activation_function, config.initializer_range) == ("relu", 0.5)
    assert (config.layer_norm_epsilon, config.attn_pdrop, config.n_inner) == (1e-3, 0.1, 3)
    assert config.output_attentions
    assert XLNetConfig.build(D, 2, 1, layer_norm_eps=0.5, mem_len=7).layer_norm_eps == 0.5


def test_registry():
    assert transformer_registry.parse("gtp2") is transformer_registry.parse("gpt2") is GPT2Config
    assert transformer_registry.parse("xlnet") is XLNetConfig
    for name in ("gtp2", "xlnet"):
        block = TransformerBlock.from_registry(name, D, 2, 1, T, masking=CausalLanguageModeling(D))
        assert block(torch.zeros(2, T, D)).shape == (2, T, D)


def test_a_finished_model_is_used_as_it_is():
    model = transformers.GPT2Model(FOREIGN["plain-gpt2"]())
    assert TransformerBlock(model).transformer is model


def test_own_prepare_module():
    class Shifted(GPT2Prepare):
        def forward(self, inputs_embeds):
            return super().forward(inputs_embeds + 1.0)

    config = CONFIGS["gpt2"]()
    block = TransformerBlock(config, CausalLanguageModeling(D), prepare_module=Shifted).eval()
    plain = TransformerBlock(block.transformer, block.masking).eval()
    inputs = torch.randn(1, T, D)
    assert torch.equal(block(inputs), plain(inputs + 1.0))
    assert block.prepare_module.masking is block.masking


def test_copies_and_pickles():
    block = TransformerBlock(CONFIGS["gpt2"](), masking=CausalLanguageModeling(D)).eval()
    inputs = torch.randn(1, T, D)
    for other in (copy.deepcopy(block), pickle.loads(pickle.dumps(block))):
        assert torch.equal(other(inputs), block(inputs))
        assert other.prepare_module.transformer is other.transformer


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (
            lambda: transformers.BertConfig(
                vocab_size=1, hidden_size=D, num_hidden_layers=1, num_attention_heads=2
            ),
            "CausalLanguageModeling is not supported by: the BertConfig architecture",
        ),
        (
            lambda: GPT2Config.build(D, 2, 1, T, is_causal=False),
            "CausalLanguageModeling is not supported by: the GPT2Config architecture",
        ),
    ],
)
def test_an_architecture_that_would_leak_is_refused(make, text):
    with pytest.raises(ValueError, match=text):
        TransformerBlock(make(), masking=CausalLanguageModeling(D))


def test_masking_that_does_not_fit_is_refused():
    class Bidirectional(MaskSequence):
        pass

    class Needy(MaskSequence):
        def transformer_required_arguments(self):
            return {"perm_mask": None, "nonsense": None}

    with pytest.raises(ValueError, match="Bidirectional is not supported by: the GPT2Config arch"):
        TransformerBlock(CONFIGS["gpt2"](), masking=Bidirectional(D))
    with pytest.raises(ValueError, match="Needy requires the parameters: perm_mask, nonsense in"):
        TransformerBlock(CONFIGS["xlnet-bi"](), masking=Needy(D))
    with pytest.raises(TypeError, match="masking must be a MaskSequence; got str"):
        TransformerBlock(CONFIGS["gpt2"](), masking="clm")
    TransformerBlock(CONFIGS["xlnet-bi"](), masking=Bidirectional(D))


def test_bad_input():
    block = TransformerBlock(CONFIGS["gpt2"]())
    with pytest.raises(ValueError, match=r"inputs_embeds must be \[B, T, D=8\]; got \[2, 6, 9\]"):
        block(torch.zeros(2, T, 9))
    with pytest.raises(ValueError, match=r"have at most T=6 positions; got 7\. Truncate"):
        block(torch.zeros(2, 7, D))
    with pytest.raises(ValueError, match=r"input_size must be \[B, T, D=8\]; got \[-1, 8\]"):
        block.build([-1, 8])
    with pytest.raises(TypeError, match="transformer must be a Hugging Face configuration"):
        TransformerBlock("gpt2")
    with pytest.raises(ValueError, match="d_model must be a multiple of n_head; got d_model=9"):
        GPT2Config.build(9, 2, 1, T)
    with pytest.raises(ValueError, match="total_seq_length must be a positive int; got 0"):
        GPT2Config.build(8, 2, 1, 0)
    with pytest.raises(ValueError, match=r"n_layer must be a positive int; got 1\.0"):
        XLNetConfig.build(8, 2, 1.0)
    with pytest.raises(ValueError, match="attn_type must be"):
        XLNetConfig.build(8, 2, 1, attn_type="both")


@pytest.mark.parametrize("mode", MODES)
def test_a_whole_body_compiles_without_a_break(mode):
    body = _body(CONFIGS["gpt2"]())
    compiled = torch.compile(body, fullgraph=True, backend="eager")
    batch = {"item_id": _sessions()}
    torch.testing.assert_close(compiled(batch, **MODES[mode]), body(batch, **MODES[mode]))
