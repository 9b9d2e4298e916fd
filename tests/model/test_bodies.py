"""Whole models over every architecture: they train, test and serve, with nothing to predict too."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from body_helpers import (
    ACCEPTED,
    ARCHITECTURES,
    ITEMS,
    D,
    T,
    item_features,
    sessions,
    spread,
)

import transformers4rec_ext as tr
from transformers4rec_ext.config import transformer as configs

PAIRS = [
    (architecture, masking)
    for architecture in ARCHITECTURES
    for masking in sorted(ACCEPTED[architecture] - {"rtd"})
]


def _model(architecture: str, masking: str, **task) -> tr.Model:
    features = item_features(masking)
    block = tr.TransformerBlock(ARCHITECTURES[architecture](), masking=features.masking)
    body = tr.SequentialBlock(features, block)
    return tr.Model(tr.Head(body, tr.NextItemPredictionTask(weight_tying=True, **task)))


@pytest.mark.parametrize(("architecture", "masking"), PAIRS)
def test_a_model_trains_tests_and_serves(architecture, masking):
    model, batch = _model(architecture, masking), {"item_id": sessions((6, 4, 2))}
    trained = model.train()(batch, training=True)
    assert trained["loss"].isfinite()
    trained["loss"].backward()
    gradient = model.heads[0].body.inputs.item_embedding_table.weight.grad
    assert gradient.isfinite().all()
    assert gradient.abs().sum() > 0
    model.eval()
    tested = model(batch, testing=True)
    assert tested["labels"].tolist() == [int(s[s != 0][-1]) for s in batch["item_id"]]
    assert tested["predictions"].shape == (3, ITEMS + 1)
    model.top_k = 3
    scores, ids = model(batch)
    assert scores.isfinite().all()
    assert ids.shape == (3, 3)
    assert (ids > 0).all()


@pytest.mark.parametrize("lengths", [(1, 1), (0, 0), (0, 1), ()])
@pytest.mark.parametrize(
    ("architecture", "masking"),
    [
        *(("xlnet-bi", masking) for masking in ("clm", "mlm", "plm", "rtd")),
        *(("electra", masking) for masking in ("clm", "mlm")),
        *(("gpt2", "clm"), ("longformer", "clm"), ("reformer", "mlm"), ("t5-encoder", "mlm")),
    ],
)
def test_nothing_to_predict_is_loss_0(architecture, masking, lengths):
    model, batch = _model(architecture, masking), {"item_id": sessions(lengths)}
    for mode in ("training", "testing"):
        model.zero_grad()
        output = model(batch, **{mode: True})
        assert output["loss"].isfinite()
        output["loss"].backward()
        for parameter in model.parameters():
            assert parameter.grad is None or parameter.grad.isfinite().all()
        if mode == "training":
            assert output["loss"] == 0.0
            assert output["labels"].numel() == 0
    assert model(batch).shape == (len(lengths), ITEMS + 1)


def test_a_reformers_output_is_twice_as_wide():
    features = item_features("clm")
    block = tr.TransformerBlock(ARCHITECTURES["reformer"](), masking=features.masking)
    body = tr.SequentialBlock(features, block, tr.MLPBlock([3]))
    assert body[1].output_size() == torch.Size([-1, T, 2 * D])
    assert body({"item_id": sessions()}).shape == (5, T, 3)


@pytest.mark.parametrize(("total", "first"), [(1, 1), (20, 4), (61, 4), (62, 5), (130, 4)])
def test_a_reformer_has_room_for_one_more_than_its_longest_session(total, first):
    config = tr.ReformerConfig.build(D, 2, 3, total, axial_pos_shape_first_dim=first)
    block = tr.TransformerBlock(config)
    for mode in (True, False):
        assert block.train(mode)(torch.randn(1, total + 1, D)).shape == (1, total + 1, 2 * D)


def test_a_reformers_positions_are_those_of_transformers():
    from transformers.models.reformer.modeling_reformer import AxialPositionEmbeddings

    block = tr.TransformerBlock(tr.ReformerConfig.build(D, 2, 1, 20)).eval()
    spread(block)
    positions = block.transformer.embeddings.position_embeddings
    for length in (24, 7):
        ids = torch.arange(length).expand(3, -1)
        assert torch.equal(positions(ids), AxialPositionEmbeddings.forward(positions, ids))


def test_a_reformer_of_several_chunks():
    """At 100 positions it attends in chunks, always at the length its positions are made for."""
    config = tr.ReformerConfig.build(D, 2, 4, total_seq_length=100)
    assert config.axial_pos_shape == (4, 32)
    assert config.attn_layers == ["local", "lsh", "local", "lsh"]
    block = tr.TransformerBlock(config, masking=item_features("mlm").masking)
    for mode in (True, False):
        assert block.train(mode)(torch.randn(2, 97, D)).shape == (2, 97, 2 * D)
    with pytest.raises(ValueError, match="CausalLanguageModeling is not supported by: the Reforme"):
        block.set_masking(item_features("clm").masking)
    local = tr.ReformerConfig.build(D, 2, 2, total_seq_length=100)
    block = tr.TransformerBlock(local, masking=item_features("clm").masking).eval()
    inputs = torch.randn(1, 97, D)
    changed = inputs.clone()
    changed[:, 70] += torch.randn(D)
    with torch.no_grad():
        before, after = block(inputs), block(changed)
    assert torch.equal(before[:, :70], after[:, :70])
    assert not torch.equal(before[:, 70:], after[:, 70:])


def test_to_torch_model_of_several_tasks():
    features = item_features("clm")
    model = tr.XLNetConfig.build(D, 2, 1, T).to_torch_model(
        features,
        tr.NextItemPredictionTask(),
        tr.BinaryClassificationTask("click"),
        task_weights=[1.0, 0.5],
        loss_reduction="sum",
        top_k=2,
    )
    head = model.heads[0]
    assert list(head.prediction_task_dict) == ["next-item", "click/binary_classification_task"]
    assert head.loss_reduction == "sum"
    assert model.top_k == 2
    assert head.body[1].masking is features.masking
    output = model({"item_id": sessions()}, targets={"click": torch.ones(5)}, training=True)
    assert output["loss"].isfinite()


def test_to_torch_model_refuses_in_words():
    config = tr.GPT2Config.build(D, 2, 1, T)
    with pytest.raises(ValueError, match="`input_features` must an instance of SequentialTabular"):
        config.to_torch_model(torch.nn.Linear(2, 2), tr.NextItemPredictionTask())
    for tasks in ((), (tr.NextItemPredictionTask(), "click")):
        with pytest.raises(ValueError, match="`task` is of the wrong type, please provide one or"):
            config.to_torch_model(item_features("clm"), *tasks)


def test_to_torch_model_puts_a_projection_where_widths_differ():
    """Upstream's quick start builds such a model, which then fails when it is called."""
    for width, blocks in ((D, 2), (2 * D, 3)):
        model = tr.GPT2Config.build(width, 2, 1, T).to_torch_model(
            item_features("clm"), tr.NextItemPredictionTask(weight_tying=True)
        )
        assert len(model.heads[0].body) == blocks
        assert model({"item_id": sessions()}, training=True)["loss"].isfinite()


@pytest.mark.parametrize("name", ["Bert", "Roberta", "Electra", "Albert", "Longformer", "GPT2"])
def test_sessions_longer_than_the_positions_are_refused(name):
    extra = {} if name in ("GPT2", "Electra", "Albert") else {"intermediate_size": 16}
    total = 600 if name == "Longformer" else T
    block = tr.TransformerBlock(getattr(configs, f"{name}Config").build(D, 2, 1, total, **extra))
    longest = total if name == "GPT2" else total + 1
    assert block.eval()(torch.randn(1, longest, D)).shape == (1, longest, D)
    with pytest.raises(ValueError, match=r"inputs_embeds must have at most T=\d+ positions; got"):
        block(torch.randn(1, longest + 5, D))


@pytest.mark.parametrize("architecture", ["t5-encoder", "reformer", "longformer"])
def test_a_configuration_serves_several_blocks(architecture):
    config = ARCHITECTURES[architecture]()
    before = config.to_dict()
    for masking in ("clm", "mlm", "clm"):
        tr.TransformerBlock(config, masking=item_features(masking).masking)
    assert config.to_dict() == before


def test_models_that_cannot_be_a_body_are_refused_in_words():
    import transformers

    pair = transformers.BartConfig(
        vocab_size=8,
        d_model=D,
        encoder_layers=1,
        decoder_layers=1,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=8,
        decoder_ffn_dim=8,
        max_position_embeddings=16,
    )
    with pytest.raises(ValueError, match=r"one stack; got BartConfig.*model\.get_encoder\(\)"):
        tr.TransformerBlock(pair)
    model = transformers.BartModel(pair)
    with pytest.raises(ValueError, match=r"not an encoder and a decoder; got BartModel"):
        tr.TransformerBlock(model)
    block = tr.TransformerBlock(model.get_encoder(), masking=item_features("mlm").masking)
    assert block(torch.randn(2, T, D)).shape == (2, T, D)

    class Blind(transformers.GPT2Model):
        def forward(self, input_ids=None):
            raise AssertionError

    with pytest.raises(ValueError, match="take inputs_embeds in its forward; got Blind"):
        tr.TransformerBlock(Blind(ARCHITECTURES["gpt2"]()))


def test_making_a_block_changes_no_mode_no_gradient_and_no_random_state():
    config = ARCHITECTURES["electra"]()
    model = config.to_huggingface_torch_model().train()
    model.encoder.eval()
    modes = [module.training for module in model.modules()]
    state = torch.get_rng_state()
    with torch.no_grad():
        block = tr.TransformerBlock(model, masking=item_features("clm").masking)
    assert [module.training for module in block.transformer.modules()] == modes
    assert all(parameter.grad is None for parameter in model.parameters())
    torch.set_rng_state(state)
    tr.TransformerBlock(model, masking=block.masking)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_a_leak_is_found_in_every_dtype(dtype):
    """Weights of standard deviation 0.01 leave no trace of one in bfloat16's rounding."""
    electra = ARCHITECTURES["electra"]().to_huggingface_torch_model().to(dtype)
    with pytest.raises(ValueError, match="MaskedLanguageModeling is not supported by: the GPT2"):
        tr.TransformerBlock(
            ARCHITECTURES["gpt2"]().to_huggingface_torch_model().to(dtype),
            masking=item_features("mlm").masking,
        )
    block = tr.TransformerBlock(electra, masking=item_features("mlm").masking)
    assert block(torch.randn(1, T, D, dtype=dtype)).dtype is dtype
    block.set_masking(item_features("clm").masking)
    inputs = torch.randn(1, T, D, dtype=dtype, requires_grad=True)
    (block.eval()(inputs)[:, 2] * torch.randn(D, dtype=dtype)).sum().backward()
    assert not inputs.grad[:, 3:].any()
    assert inputs.grad[:, :3].abs().amax(-1).all()


@pytest.mark.parametrize("architecture", ["albert", "longformer", "reformer", "xlnet-bi"])
def test_a_block_keeps_its_causality_when_copied(architecture):
    features = item_features("clm")
    block = tr.TransformerBlock(ARCHITECTURES[architecture](), masking=features.masking).eval()
    inputs = torch.randn(1, T, D)
    for other in (copy.deepcopy(block), pickle.loads(pickle.dumps(block))):
        assert torch.equal(other(inputs), block(inputs))
    if architecture in ("longformer", "reformer"):  # made causal for good
        with pytest.raises(ValueError, match="whose positions see earlier positions only"):
            block.set_masking(item_features("mlm").masking)


def test_a_causal_longformer_of_several_windows():
    config = tr.LongformerConfig.build(D, 2, 2, 20, attention_window=4, intermediate_size=16)
    block = tr.TransformerBlock(config, masking=item_features("clm").masking).eval()
    spread(block)
    inputs = torch.randn(2, 19, D)
    with torch.no_grad():
        before = block(inputs)
        for position in range(19):
            changed = inputs.clone()
            changed[:, position] += torch.randn(D)
            differs = (block(changed) != before).any(-1).any(0)
            # Two layers of two positions back each.
            assert differs.nonzero().flatten().tolist() == list(
                range(position, min(position + 5, 19))
            )
