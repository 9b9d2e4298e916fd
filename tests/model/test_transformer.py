"""Transformer blocks: how a causal one is made, what it is given, what it refuses.

That nothing sees its target is tests/model/test_no_leak.py.
"""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
import transformers
from body_helpers import ARCHITECTURES, LENGTHS, MODES, D, T, body_of, sessions, spread
from torch._subclasses import FakeTensorMode

from transformers4rec_ext.block.base import SequentialBlock
from transformers4rec_ext.block.transformer import GPT2Prepare, TransformerBlock, causal_mask
from transformers4rec_ext.config.transformer import BertConfig, GPT2Config, XLNetConfig
from transformers4rec_ext.features.sequence import TabularSequenceFeatures
from transformers4rec_ext.masking import (
    CausalLanguageModeling,
    MaskedLanguageModeling,
    MaskSequence,
    PermutationLanguageModeling,
)
from transformers4rec_ext.schema import Schema


def _sees_later(block: TransformerBlock) -> bool:
    """Return whether any output of a block in eval mode depends on a later input."""
    inputs = torch.randn(2, T, D)
    with torch.no_grad():
        before = block.eval()(inputs)
        for position in range(1, T):
            changed = inputs.clone()
            changed[:, position] += torch.randn(D)
            if not torch.equal(block(changed)[:, :position], before[:, :position]):
                return True
    return False


def test_attn_type_uni_alone_is_causal():
    for attn_type, sees in (("uni", False), ("bi", True)):
        block = TransformerBlock(XLNetConfig.build(D, 2, 2, T, attn_type=attn_type))
        spread(block)
        assert _sees_later(block) == sees


@pytest.mark.parametrize("length", [1, 2, 3])
def test_models_of_few_positions(length):
    causal = TransformerBlock(GPT2Config.build(D, 2, 1, length), masking=CausalLanguageModeling(D))
    assert causal(torch.zeros(2, length, D)).shape == (2, length, D)
    bert = BertConfig.build(D, 2, 1, length)
    with pytest.raises(ValueError, match="would see the items to be predicted"):
        TransformerBlock(bert, masking=CausalLanguageModeling(D))
    masked = TransformerBlock(bert, masking=MaskedLanguageModeling(D))
    assert masked(torch.zeros(2, length, D)).shape == (2, length, D)


def test_a_forgotten_masking_is_taken_from_the_inputs():
    schema = Schema.from_item_column(num_items=20, max_length=T)
    inputs = TabularSequenceFeatures.from_schema(schema, embedding_dim_default=D, masking="clm")
    body = SequentialBlock(inputs, TransformerBlock(XLNetConfig.build(D, 2, 2, T)))
    assert body[1].masking is inputs.masking
    spread(body)
    assert not _sees_later(body[1])


@pytest.mark.parametrize("config", ["gpt2", "xlnet-bi"])
def test_no_gradient_reaches_a_later_position(config):
    block = TransformerBlock(ARCHITECTURES[config](), masking=CausalLanguageModeling(D))
    spread(block)
    for position in range(T):
        inputs = torch.randn(2, T, D, requires_grad=True)
        block(inputs)[:, position].square().sum().backward()
        assert torch.count_nonzero(inputs.grad[:, position + 1 :]) == 0
        assert inputs.grad[:, : position + 1].abs().amax(-1).min() > 0


@pytest.mark.parametrize("config", ["gpt2", "xlnet-bi", "llama"])
def test_a_padded_session_equals_the_session_alone(config):
    """Why right padding needs no attention mask: what comes later is never looked at."""
    body = body_of(config, "clm")
    ids = sessions()
    padded = body({"item_id": ids})
    for row, length in enumerate(LENGTHS[:-1]):
        alone = body({"item_id": ids[row : row + 1, :length]})
        torch.testing.assert_close(padded[row, :length], alone[0], rtol=1e-5, atol=1e-5)


def test_gpt2_with_a_padding_mask_gives_the_same_at_every_item():
    block = TransformerBlock(ARCHITECTURES["gpt2"](), masking=CausalLanguageModeling(D)).eval()
    spread(block)
    inputs, is_item = torch.randn(len(LENGTHS), T, D), sessions() != 0
    masked = block.transformer(inputs_embeds=inputs, attention_mask=is_item.long())[0]
    torch.testing.assert_close(block(inputs)[is_item], masked[is_item], rtol=1e-5, atol=1e-5)


def test_gpt2_keeps_no_cache_and_looks_for_no_packed_sequences(monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("this waits for the device")

    monkeypatch.setattr(transformers.masking_utils, "find_packed_sequence_indices", refuse)
    block = TransformerBlock(ARCHITECTURES["gpt2"](), masking=CausalLanguageModeling(D))
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
    block = TransformerBlock(ARCHITECTURES["xlnet-bi"](), masking=CausalLanguageModeling(D)).eval()
    outputs = []
    block.transformer.register_forward_hook(lambda module, args, output: outputs.append(output))
    block(torch.randn(2, T, D))
    assert outputs[0].mems is None


def test_attention_weights_on_request():
    block = TransformerBlock(ARCHITECTURES["gpt2-attentions"](), masking=CausalLanguageModeling(D))
    outputs = []
    block.transformer.register_forward_hook(lambda module, args, output: outputs.append(output))
    block(torch.randn(2, T, D))
    assert [tuple(a.shape) for a in outputs[0].attentions] == [(2, 2, T, T)] * 2


def test_a_finished_model_is_used_as_it_is():
    model = transformers.GPT2Model(ARCHITECTURES["plain-gpt2"]())
    assert TransformerBlock(model).transformer is model


def test_own_prepare_module():
    class Shifted(GPT2Prepare):
        def forward(self, inputs_embeds):
            return super().forward(inputs_embeds + 1.0)

    config = ARCHITECTURES["gpt2"]()
    block = TransformerBlock(config, CausalLanguageModeling(D), prepare_module=Shifted).eval()
    plain = TransformerBlock(block.transformer, block.masking).eval()
    inputs = torch.randn(1, T, D)
    assert torch.equal(block(inputs), plain(inputs + 1.0))
    assert block.prepare_module.masking is block.masking


def test_copies_and_pickles():
    block = TransformerBlock(ARCHITECTURES["gpt2"](), masking=CausalLanguageModeling(D)).eval()
    inputs = torch.randn(1, T, D)
    for other in (copy.deepcopy(block), pickle.loads(pickle.dumps(block))):
        assert torch.equal(other(inputs), block(inputs))
        assert other.prepare_module.transformer is other.transformer


class Smooth(torch.nn.Module):
    """No attention to mask: every output is the mean of all inputs."""

    config = transformers.PretrainedConfig(hidden_size=D)

    def forward(self, inputs_embeds, attention_mask=None):
        return (inputs_embeds.mean(1, keepdim=True).expand_as(inputs_embeds),)


class Shifted(Smooth):
    """Every output is the input before it."""

    def forward(self, inputs_embeds):
        return (torch.nn.functional.pad(inputs_embeds, (0, 0, 1, 0))[:, :-1],)


def test_models_that_no_one_knows_are_looked_at():
    with pytest.raises(ValueError, match="CausalLanguageModeling is not supported by: the PreTrai"):
        TransformerBlock(Smooth(), masking=CausalLanguageModeling(D))
    with pytest.raises(ValueError, match="Bidirectional is not supported by: the PreTrained"):
        TransformerBlock(Shifted(), masking=Bidirectional(D))
    TransformerBlock(Smooth(), masking=Bidirectional(D))
    block = TransformerBlock(Shifted(), masking=CausalLanguageModeling(D))
    assert block(torch.randn(2, T, D)).shape == (2, T, D)


def test_a_model_without_weights_cannot_be_looked_at():
    with torch.device("meta"):
        model = transformers.GPT2Model(ARCHITECTURES["plain-gpt2"]())
    block = TransformerBlock(model)
    with pytest.raises(ValueError, match=r"transformer must have weights, .* meta device"):
        block.set_masking(CausalLanguageModeling(D))
    assert block.masking is None
    with FakeTensorMode():
        block = TransformerBlock(transformers.GPT2Model(ARCHITECTURES["plain-gpt2"]()))
        with pytest.raises(ValueError, match=r"transformer must have weights, .* fake ones"):
            block.set_masking(CausalLanguageModeling(D))


def test_inference_mode_leaves_nothing_to_look_at():
    block = TransformerBlock(ARCHITECTURES["plain-gpt2"]())
    with torch.inference_mode():
        made_inside = TransformerBlock(ARCHITECTURES["plain-gpt2"]())
        with pytest.raises(ValueError, match="masking must be set outside of torch"):
            block.set_masking(CausalLanguageModeling(D))
    with pytest.raises(ValueError, match="masking must be set outside of torch"):
        made_inside.set_masking(CausalLanguageModeling(D))
    block.set_masking(CausalLanguageModeling(D))
    with torch.inference_mode():
        assert block(torch.randn(2, T, D)).shape == (2, T, D)


class Bidirectional(MaskSequence):
    """A masking of one's own, which is not causal."""


def test_a_permutation_needs_a_batch_first():
    block = TransformerBlock(ARCHITECTURES["xlnet-bi"](), masking=PermutationLanguageModeling(D))
    with pytest.raises(
        ValueError, match=r"`mask_schema must be set\.` Permutation.*target_mapping"
    ):
        block(torch.zeros(2, T, D))
    block.masking.compute_masked_targets(sessions(), training=True)
    assert block(torch.zeros(len(LENGTHS), T, D)).shape == (len(LENGTHS), T, D)


def test_masking_that_does_not_fit_is_refused():
    class Needy(MaskSequence):
        def transformer_required_arguments(self):
            return {"perm_mask": None, "nonsense": None}

    with pytest.raises(ValueError, match="Bidirectional is not supported by: the GPT2Config arch"):
        TransformerBlock(ARCHITECTURES["gpt2"](), masking=Bidirectional(D))
    with pytest.raises(ValueError, match="Needy requires the parameters: perm_mask, nonsense in"):
        TransformerBlock(ARCHITECTURES["xlnet-bi"](), masking=Needy(D))
    with pytest.raises(TypeError, match="masking must be a MaskSequence; got str"):
        TransformerBlock(ARCHITECTURES["gpt2"](), masking="clm")
    TransformerBlock(ARCHITECTURES["xlnet-bi"](), masking=Bidirectional(D))


def test_bad_input():
    block = TransformerBlock(ARCHITECTURES["gpt2"]())
    with pytest.raises(ValueError, match=r"inputs_embeds must be \[B, T, D=8\]; got \[2, 6, 9\]"):
        block(torch.zeros(2, T, 9))
    with pytest.raises(ValueError, match=r"have at most T=6 positions; got 7\. Truncate"):
        block(torch.zeros(2, 7, D))
    with pytest.raises(ValueError, match=r"input_size must be \[B, T, D=8\]; got \[-1, 8\]"):
        block.build([-1, 8])
    with pytest.raises(TypeError, match="transformer must be a Hugging Face configuration"):
        TransformerBlock("gpt2")


def test_position_ids_of_old_checkpoints_are_ignored():
    block = TransformerBlock(ARCHITECTURES["bert"]())
    saved = block.state_dict()
    old = {**saved, "transformer.embeddings.position_ids": torch.arange(T + 2)[None]}
    holder = torch.nn.ModuleDict({"body": block})
    holder.load_state_dict({f"body.{key}": value for key, value in old.items()}, strict=True)
    assert len(old) == len(saved) + 1, "the caller's dictionary stays as it is"
    with pytest.raises(RuntimeError, match=r"Unexpected key\(s\).*embeddings\.other_ids"):
        block.load_state_dict({**saved, "transformer.embeddings.other_ids": torch.zeros(1)})


@pytest.mark.parametrize(
    ("architecture", "masking"),
    [("gpt2", "clm"), ("xlnet-bi", "plm"), ("albert", "clm"), ("electra-attentions", "clm")],
)
def test_autocast(architecture, masking):
    body, batch = body_of(architecture, masking), {"item_id": sessions()}
    masked = body.masked_items(batch, training=True)
    exact = body(batch, training=True, masked=masked)
    with torch.autocast("cpu", torch.bfloat16):
        rough = body(batch, training=True, masked=masked)
    rough.float().square().sum().backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in body.parameters())
    error = (rough.float() - exact).abs().mean() / exact.abs().mean()
    assert 0 < error < 0.1


@pytest.mark.parametrize(
    ("architecture", "masking", "mode"),
    [
        *(("gpt2", "clm", mode) for mode in MODES),
        ("xlnet-bi", "plm", "training"),
        ("bert", "mlm", "inference"),
    ],
)
def test_a_whole_body_compiles_without_a_break(architecture, masking, mode):
    body, batch = body_of(architecture, masking), {"item_id": sessions()}
    compiled = torch.compile(body, fullgraph=True, backend="eager")
    masked = body.masked_items(batch, **MODES[mode])
    found = compiled(batch, masked=masked, **MODES[mode])
    torch.testing.assert_close(found, body(batch, masked=masked, **MODES[mode]))
