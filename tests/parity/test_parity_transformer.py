"""Transformer blocks over recorded weights: configurations, keys, hidden states.

Four recorded cases let a position see the item that it is asked for (D13): they are compared with
the block that has no masking, and the deliberate difference is asserted. The leak itself is what
tests/model/test_no_leak.py forbids.
"""

from __future__ import annotations

import re

import pytest
import torch

from transformers4rec_ext.block.base import SequentialBlock
from transformers4rec_ext.block.mlp import MLPBlock
from transformers4rec_ext.block.transformer import TransformerBlock
from transformers4rec_ext.config import transformer as configs
from transformers4rec_ext.config.transformer import transformer_registry
from transformers4rec_ext.features.sequence import TabularSequenceFeatures
from transformers4rec_ext.masking import MaskedItems, masking_registry
from transformers4rec_ext.schema import Schema

CASES = {
    "e2e_gpt2": ("clm",),
    "e2e_xlnet": ("clm", "mlm", "plm", "rtd"),
    "e2e_bert": ("mlm",),
    "e2e_roberta": ("mlm",),
    "e2e_electra": ("mlm", "clm"),
    "e2e_albert": ("mlm", "clm"),
    "e2e_longformer": ("mlm", "clm"),
}
LEAKS = [(group, "clm") for group in ("e2e_xlnet", "e2e_electra", "e2e_albert", "e2e_longformer")]
PAIRS = [(group, masking) for group, maskings in CASES.items() for masking in maskings]
MODES = ("training", "testing", "inference")
BODY = "heads.0.body."
#: Fields that differ from upstream's on purpose (docs/differences.md).
DIFFERENT = {
    "GPT2Config": {"pad_token_id"},
    "BertConfig": {"hidden_dropout_prob"},
    "RobertaConfig": {"hidden_dropout_prob"},
    "LongformerConfig": {"hidden_dropout_prob"},
    "ReformerConfig": {"max_position_embeddings"},
}
NAMES = [
    *("GPT2Config", "XLNetConfig", "BertConfig", "RobertaConfig", "ElectraConfig"),
    *("AlbertConfig", "LongformerConfig", "ReformerConfig"),
]


def _block(meta, tensors, masking: str | None) -> TransformerBlock:
    """Return the recorded transformer, with all its recorded weights, in a block."""
    build = meta["model"]["build"]
    module = None if masking is None else masking_registry.parse(masking)(build["d_model"])
    config = getattr(configs, meta["model"]["config_cls"]).build(**build)
    block = TransformerBlock(config, masking=module)
    part = f"weights/{BODY}2."
    recorded = {k.removeprefix(part): v for k, v in tensors.items() if k.startswith(part)}
    # Of a tensor under several keys the record has one; the masking is another module's there.
    own = {key: value for key, value in block.state_dict().items() if "masking." in key}
    for key in block.state_dict():
        if key.startswith("prepare_module.transformer."):
            own[key] = recorded[key.removeprefix("prepare_module.")]
    weights = {key: value for key, value in recorded.items() if key.startswith("transformer.")}
    block.load_state_dict({**weights, **own}, strict=True)
    return block.eval()


def _masked(tensors, case: str) -> MaskedItems:
    """Return the recorded masking of a case, the order drawn included."""
    names = [n for n in ("target_mapping", "perm_mask") if f"{case}/{n}" in tensors]
    schema, targets = tensors[f"{case}/mask_schema"], tensors[f"{case}/masked_targets"]
    return MaskedItems(targets, schema, targets, {n: tensors[f"{case}/{n}"] for n in names})


def _assert_close(meta, found, recorded) -> None:
    tolerance = {key: meta["tolerance"][key] for key in ("rtol", "atol")}
    torch.testing.assert_close(found, recorded, **tolerance)


@pytest.mark.parametrize("name", NAMES)
def test_configuration_defaults(parity_json, name):
    meta = parity_json("public_api")
    config = getattr(configs, name).build(**meta["build_args"])
    recorded = meta["config_build_defaults"][name]
    # Most of the fields that transformers 5 has no more were of text generation.
    known = {field: value for field, value in recorded.items() if hasattr(config, field)}
    assert len(known) >= 25
    found = {field for field, value in known.items() if getattr(config, field) != value}
    assert found == DIFFERENT.get(name, set())
    assert config.vocab_size == 1


def test_registered_names(parity_json):
    recorded = set(parity_json("public_api")["registries"]["transformers"])
    assert set(transformer_registry.names()) == recorded | {"gpt2"}


@pytest.mark.parametrize(
    ("case", "name", "masking"),
    [
        ("Gpt2 with mlm", "GPT2Config", "mlm"),
        ("Bert with clm", "BertConfig", "clm"),
        ("Electra with plm", "ElectraConfig", "plm"),
    ],
)
def test_errors_begin_with_upstreams_words(parity_json, case, name, masking):
    recorded = parity_json("public_api")["errors"][case]
    config = getattr(configs, name).build(8, 2, 1, 5)
    with pytest.raises(ValueError, match=f"^{re.escape(recorded['message'])}") as raised:
        TransformerBlock(config, masking=masking_registry.parse(masking)(8))
    assert type(raised.value).__name__ == recorded["type"]


@pytest.mark.parametrize("group", CASES)
def test_configuration_of_the_recorded_model(parity, group):
    model = parity(group)[0]["model"]
    config = getattr(configs, model["config_cls"]).build(**model["build"])
    recorded = {k: v for k, v in model["hf_config_upstream"].items() if hasattr(config, k)}
    different = DIFFERENT.get(model["config_cls"], set()) | {"attention_window"}
    assert {k: v for k, v in recorded.items() if k not in different} == {
        k: getattr(config, k) for k in recorded if k not in different
    }


@pytest.mark.parametrize(("group", "masking"), PAIRS)
def test_keys_of_an_item_only_body(parity, group, masking):
    meta, _ = parity(group)
    item = "item_id/list"
    inputs = TabularSequenceFeatures.from_schema(
        Schema.from_item_column(item, num_items=150),
        max_sequence_length=20,
        aggregation="concat",
        masking=masking,
    )
    config = getattr(configs, meta["model"]["config_cls"]).build(**meta["model"]["build"])
    block = TransformerBlock(config, inputs.masking)
    body = SequentialBlock(inputs, MLPBlock(meta["model"]["mlp"]), block)
    others = ("continuous_module", "category/list", "user_country", "position_ids")
    recorded = {
        key[len(BODY) :]
        for key in meta["state_dict_keys"]
        if key.startswith(BODY) and not any(other in key for other in others)
    }
    assert set(body.state_dict()) == recorded


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("group", "masking"), PAIRS)
def test_hidden_states(parity, group, masking, mode):
    meta, tensors = parity(group)
    case = f"{masking}/{mode}"
    leaks = masking == "clm" and group != "e2e_gpt2"
    block = _block(meta, tensors, None if leaks else masking)
    out = block(tensors[f"{case}/mlp_out"], masked=_masked(tensors, case))
    _assert_close(meta, out, tensors[f"{case}/body_out"])


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("group", "masking"), LEAKS)
def test_recorded_fault_causal_hidden_states_depend_on_later_items(parity, group, masking, mode):
    meta, tensors = parity(group)
    inputs = tensors[f"{masking}/{mode}/mlp_out"]
    recorded = tensors[f"{masking}/{mode}/body_out"]
    out = _block(meta, tensors, masking)(inputs)
    assert (out - recorded).abs().amax(-1)[:, 0].median() > 0.01, "first positions saw the others"
    # The last position sees everything either way; one layer of XLNet's or BERT's is the same.
    bare = _block(meta, tensors, None)
    changed = inputs.clone()
    changed[:, 5] += torch.linspace(-1, 1, inputs.shape[-1])
    assert (bare(changed) - bare(inputs))[:, :5].abs().max() > 1e-3
    causal = _block(meta, tensors, masking)
    assert torch.equal(causal(changed)[:, :5], causal(inputs)[:, :5])


def test_recorded_fault_permutation_inference_is_blind_to_the_last_item(parity):
    meta, tensors = parity("e2e_xlnet")
    block, case = _block(meta, tensors, "plm"), "plm/inference"
    last = (tensors["batch/item_id/list"] != 0).sum(1) - 1
    longer = last > 0
    rows = torch.arange(len(last))
    inputs = tensors[f"{case}/mlp_out"]
    changed = inputs.clone()
    changed[rows, last] += torch.linspace(-9.0, 9.0, inputs.shape[-1])
    with torch.no_grad():
        before, after = (
            block(x, masked=_masked(tensors, case))[rows, last] for x in (inputs, changed)
        )
        assert torch.equal(before[longer], after[longer])
        ids = tensors["batch/item_id/list"]
        masked = block.masking.mask(ids)
        ours = []
        for x in (inputs, changed):
            longer_x = torch.cat([x, x[:, -1:]], 1)
            ours.append(block(longer_x, masked=masked)[rows, last + 1])
    assert (ours[0] - ours[1]).abs().amax(-1).min() > 1e-3


@pytest.mark.parametrize("group", ["e2e_electra", "e2e_albert", "e2e_bert", "e2e_roberta"])
def test_position_ids_of_old_checkpoints_are_ignored(parity, group):
    meta, tensors = parity(group)
    key = f"weights/{BODY}2.transformer.embeddings.position_ids"
    assert key in tensors
    block = _block(meta, tensors, None)  # loads with strict=True
    assert not any("position_ids" in key for key in block.state_dict())
    with pytest.raises(RuntimeError, match=r"Unexpected key\(s\).*other_ids"):
        block.load_state_dict(
            {**block.state_dict(), "transformer.embeddings.other_ids": tensors[key]}
        )
