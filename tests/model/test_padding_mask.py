"""Models that see both sides, and do not look at padding: the width of a batch changes nothing."""

from __future__ import annotations

import sys
import threading

import pytest
import torch
import transformers
from body_helpers import (
    ACCEPTED,
    ARCHITECTURES,
    ITEMS,
    MODES,
    D,
    T,
    item_features,
    sessions,
    spread,
)

import transformers4rec_ext as tr
from transformers4rec_ext.masking import MaskedLanguageModeling, ReplacementLanguageModeling

SEEING_BOTH = sorted(name for name, maskings in ACCEPTED.items() if "mlm" in maskings)
# hashed attention draws its hashes by the clock
STEADY = [name for name in SEEING_BOTH if name != "reformer-lsh"]
LENGTHS = (4, 2, 1, 0)


def _model(architecture: str, masking: str = "mlm", **kwargs) -> tr.Model:
    features = item_features(masking, attend_to_padding=False, embedding_dim_default=D, **kwargs)
    block = tr.TransformerBlock(ARCHITECTURES[architecture](), masking=features.masking)
    body = tr.SequentialBlock(features, block, tr.MLPBlock([D]))
    model = tr.Model(tr.Head(body, tr.NextItemPredictionTask(weight_tying=True), inputs=features))
    spread(model)
    return model.eval()


def _widths(lengths=LENGTHS):
    wide = sessions(lengths)
    return {"item_id": wide}, {"item_id": wide[:, : max(lengths)].contiguous()}


@pytest.mark.parametrize("masking", ["mlm", "rtd"])
@pytest.mark.parametrize("architecture", STEADY)
def test_scores_do_not_depend_on_the_width(architecture, masking):
    model = _model(architecture, masking)
    wide, narrow = _widths()
    for flags in ({}, {"testing": True}):
        one, other = model(wide, **flags), model(narrow, **flags)
        if flags:
            one, other = one["predictions"], other["predictions"]
        assert one.isfinite().all()
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("architecture", STEADY)
def test_they_do_where_padding_is_attended_to(architecture):
    wide, narrow = _widths()
    apart = []
    for _ in range(3):  # large weights may attend to one position alone, by chance
        model = _model(architecture)
        model.heads[0].body.inputs.masking.attend_to_padding = True
        apart.append((model(wide)[:3] - model(narrow)[:3]).abs().max())
    assert max(apart) > 1e-3


@pytest.mark.parametrize("architecture", SEEING_BOTH)
@pytest.mark.parametrize("lengths", [(4, 2), (1, 0), (0,), ()])
def test_it_trains_whatever_the_sessions(architecture, lengths):
    model = _model(architecture).train()
    output = model({"item_id": sessions(lengths)}, training=True)
    output["loss"].backward()
    assert output["loss"].isfinite()
    for parameter in model.parameters():
        assert parameter.grad is None or parameter.grad.isfinite().all()
    assert model({"item_id": torch.zeros(2, 0, dtype=torch.int64)}).isfinite().all()


def test_padding_on_the_left_is_not_looked_at_either():
    """XLNet's positions are relative, so that a session may stand anywhere in its row."""
    model, ids = _model("xlnet-bi"), sessions((3,))[:, :3]
    left = torch.nn.functional.pad(ids, (2, 0))
    torch.testing.assert_close(model({"item_id": left}), model({"item_id": ids}))
    assert model.heads[0].body.inputs.masking.mask(left).transformer_arguments[
        "attention_mask"
    ].tolist() == [[0, 0, 1, 1, 1, 1]]


def test_what_is_looked_at():
    ids = torch.tensor([[5, 7, 0, 0], [0, 0, 0, 0], [3, 4, 5, 6]])
    for cls in (MaskedLanguageModeling, ReplacementLanguageModeling):
        masking = cls(D, attend_to_padding=False)
        assert masking.transformer_required_arguments() == {"attention_mask": None}
        for mode in ("training", "testing"):
            masked = masking.mask(ids, **MODES[mode])
            seen = masked.transformer_arguments["attention_mask"]
            assert seen.tolist() == [[1, 1, 0, 0], [1, 0, 0, 0], [1, 1, 1, 1]]
            assert torch.equal(masking.transformer_arguments["attention_mask"], seen)
        seen = masking.mask(ids).transformer_arguments["attention_mask"]
        assert seen.tolist() == [[1, 1, 1, 0, 0], [1, 0, 0, 0, 0], [1, 1, 1, 1, 1]]
        assert cls(D).mask(ids).transformer_arguments is None
        with pytest.raises(TypeError, match="attend_to_padding must be a bool; got int"):
            cls(D, attend_to_padding=0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
@pytest.mark.parametrize("architecture", ["bert", "xlnet-bi", "longformer", "t5-encoder"])
def test_of_any_dtype(architecture, dtype):
    model = _model(architecture).to(dtype)
    scores = model(_widths()[0])
    assert scores.dtype == dtype
    assert scores.isfinite().all()


def test_it_is_saved_with_the_model(tmp_path):
    model = _model("bert")
    model.save_pretrained(tmp_path)
    again = tr.Model.from_pretrained(tmp_path)
    assert again.heads[0].body.inputs.masking.attend_to_padding is False
    wide, narrow = _widths()
    torch.testing.assert_close(again(narrow), model(wide), rtol=1e-4, atol=1e-5)
    model.heads[0].body.inputs.masking.attend_to_padding = True
    with pytest.raises(ValueError, match="attend_to_padding"):
        model.save_pretrained(tmp_path / "changed")


@pytest.mark.filterwarnings("ignore:The tensor attributes:UserWarning")
@pytest.mark.parametrize("architecture", ["bert", "xlnet-bi", "electra", "albert"])
def test_it_is_exported(architecture):
    model = _model(architecture)
    batch, other = {"item_id": sessions((4, 2, 1))}, {"item_id": sessions((6, 1, 3, 0))}
    dims = {"item_id": {0: torch.export.Dim("B", min=2), 1: torch.export.Dim.STATIC}}
    program = torch.export.export(model, (batch,), dynamic_shapes=({**dims},)).module()
    torch.testing.assert_close(program(other), model(other), rtol=1e-4, atol=1e-5)


def test_it_is_refused_where_nothing_could_hide_it():
    class Deaf(torch.nn.Module):
        config = ARCHITECTURES["bert"]()

        def __init__(self):
            super().__init__()
            self.mix = torch.nn.Linear(D, D)

        def get_input_embeddings(self):
            return torch.nn.Embedding(1, D)

        def forward(self, inputs_embeds):
            return (inputs_embeds.mean(1, keepdim=True) + self.mix(inputs_embeds),)

    tr.TransformerBlock(Deaf(), masking=MaskedLanguageModeling(D))
    with pytest.raises(ValueError, match="requires the parameters: attention_mask in"):
        tr.TransformerBlock(Deaf(), masking=MaskedLanguageModeling(D, attend_to_padding=False))


class Mixing(torch.nn.Module):
    """An encoder that takes an attention mask and looks past it."""

    config = ARCHITECTURES["bert"]()

    def __init__(self):
        super().__init__()
        self.bert = transformers.BertModel(self.config)

    def get_input_embeddings(self):
        return self.bert.get_input_embeddings()

    def forward(self, inputs_embeds, attention_mask=None):
        hidden = self.bert(inputs_embeds=inputs_embeds, attention_mask=attention_mask)[0]
        return (hidden + inputs_embeds.roll(-1, 1),)


def test_a_convolution_past_the_mask_is_refused():
    sizes = {"vocab_size": 1, "hidden_size": D, "embedding_size": D, "intermediate_size": 16}
    layers = {"num_hidden_layers": 1, "num_attention_heads": 2, "head_ratio": 1}
    config = transformers.ConvBertConfig(**sizes, **layers, conv_kernel_size=3, pad_token_id=None)
    tr.TransformerBlock(config, masking=MaskedLanguageModeling(D))
    with pytest.raises(ValueError, match="attend_to_padding must be True with the ConvBertConfig"):
        tr.TransformerBlock(config, masking=MaskedLanguageModeling(D, attend_to_padding=False))


def test_what_looks_past_the_mask_is_refused():
    tr.TransformerBlock(Mixing(), masking=MaskedLanguageModeling(D))
    with pytest.raises(ValueError, match="attend_to_padding must be True with the BertConfig"):
        tr.TransformerBlock(Mixing(), masking=MaskedLanguageModeling(D, attend_to_padding=False))


def test_the_mask_is_that_of_the_inputs():
    masking = MaskedLanguageModeling(D, attend_to_padding=False)
    block = tr.TransformerBlock(ARCHITECTURES["bert"](), masking=masking)
    with pytest.raises(ValueError, match=r"`mask_schema must be set\.` Masked.*attention_mask"):
        block(torch.zeros(2, T, D))
    masked = masking.mask(sessions((4, 2)), training=True)
    assert block(torch.zeros(2, T, D)).shape == (2, T, D)
    for shape in ((2, T - 1, D), (1, T, D), (3, T, D)):
        like = r"inputs_embeds must be \[B=2, T=6, D\] like "
        with pytest.raises(ValueError, match=like + "masked"):
            block(torch.zeros(shape), masked)
        with pytest.raises(ValueError, match=like + "the batch that was masked last.*Give the bl"):
            block(torch.zeros(shape))


def test_threads_do_not_see_each_others_masks():
    """As architecture.md says of several threads that call one model."""
    masking, wrong = MaskedLanguageModeling(D, attend_to_padding=False), []

    def many(lengths):
        ids = sessions(lengths)
        expected = (ids != 0).float()
        for _ in range(1500):
            found = masking.mask(ids, testing=True).transformer_arguments["attention_mask"]
            if found.shape != expected.shape or not torch.equal(found, expected):
                wrong.append(lengths)

    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        threads = [threading.Thread(target=many, args=(of,)) for of in ((4, 2), (6, 1, 3))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(before)
    assert not wrong


def test_of_upstream_s_width_it_says_the_same():
    """Sessions that fill their row have no padding to look at."""
    model, full = _model("bert"), {"item_id": sessions((T, T))}
    with_mask = model(full, testing=True)["predictions"]
    model.heads[0].body.inputs.masking.attend_to_padding = True
    torch.testing.assert_close(model(full, testing=True)["predictions"], with_mask)
    assert with_mask.shape == (2, ITEMS + 1)
