"""No prediction sees its target, for any architecture and masking that go together."""

from __future__ import annotations

import pytest
import torch
from body_helpers import (
    ACCEPTED,
    ARCHITECTURES,
    ITEMS,
    LENGTHS,
    MASKINGS,
    MODES,
    D,
    T,
    body_of,
    item_features,
    sessions,
)

from transformers4rec_ext.block.base import SequentialBlock
from transformers4rec_ext.block.mlp import MLPBlock
from transformers4rec_ext.block.transformer import TransformerBlock
from transformers4rec_ext.masking import MaskedItems

#: Every pair, and the variants of each masking with one architecture of a kind.
PAIRS = [
    (architecture, masking)
    for architecture, accepted in ACCEPTED.items()
    for masking in MASKINGS
    if masking.split("-")[0] in accepted
    and (masking in ("clm", "mlm", "plm") or architecture in ("gpt2", "xlnet-bi", "electra"))
]
CAUSAL = [pair for pair in PAIRS if pair[1].startswith("clm")]


def _hidden(body, ids, mode, masked, changed_at=None):
    """Return the hidden states; where ``changed_at`` bool [B, T], of other vectors of items."""

    def change(module, arguments, vectors):
        vector = vectors["item_id"]
        noise = torch.linspace(-1.0, 1.0, vector.shape[-1]) ** 3
        return {"item_id": torch.where(changed_at.unsqueeze(-1), vector + noise, vector)}

    hook = None
    if changed_at is not None:
        hook = body.inputs.categorical_module.register_forward_hook(change)
    with torch.no_grad():
        hidden = body({"item_id": ids}, masked=masked, **MODES[mode])
    if hook is not None:
        hook.remove()
    return hidden


def _asked(masked: MaskedItems, causal: bool):
    """Yield the places of labels, and those of the items that they ask for."""
    for row, t in (masked.targets != 0).nonzero().tolist():
        yield row, t, t + causal


def _masked(body, ids, mode) -> MaskedItems:
    return body.masked_items({"item_id": ids}, **MODES[mode])


@pytest.mark.parametrize("mode", ["training", "testing"])
@pytest.mark.parametrize(("architecture", "masking"), PAIRS)
def test_no_prediction_depends_on_its_target(architecture, masking, mode):
    body, ids = body_of(architecture, masking), sessions()
    causal = body.inputs.masking.causal
    masked = _masked(body, ids, mode)
    before = _hidden(body, ids, mode, masked)
    assert before.isfinite().all()
    labels = list(_asked(masked, causal))
    assert labels
    for row, t, place in labels:
        assert ids[row, place] == masked.targets[row, t]
        changed_at = torch.zeros_like(ids, dtype=torch.bool)
        changed_at[row, place] = True
        other_ids = torch.where(changed_at, ITEMS, ids)
        for changed in (
            _hidden(body, ids, mode, masked, changed_at=changed_at),
            _hidden(body, other_ids, mode, masked),
        ):
            assert torch.equal(changed[row, t], before[row, t])


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("architecture", "masking"), CAUSAL)
def test_causal_bodies_see_no_later_item(architecture, masking, mode):
    body, ids = body_of(architecture, masking), sessions()
    masked = _masked(body, ids, mode)
    before = _hidden(body, ids, mode, masked)
    for position in range(1, T):
        changed_at = torch.zeros_like(ids, dtype=torch.bool)
        changed_at[:, position] = ids[:, position] != 0
        after = _hidden(body, ids, mode, masked, changed_at=changed_at)
        assert torch.equal(before[:, :position], after[:, :position])
        # The change must be seen by someone, or this test proves nothing.
        seen = torch.tensor(LENGTHS) > position + 1
        assert not seen.any() or not torch.equal(before[seen, position], after[seen, position])


@pytest.mark.parametrize(
    ("architecture", "masking"), [pair for pair in PAIRS if pair[1].startswith(("mlm", "rtd"))]
)
def test_masked_bodies_see_both_sides(architecture, masking):
    body, ids = body_of(architecture, masking), sessions((6,))
    hidden_at = torch.tensor([[False, False, True, False, False, False]])
    masked = MaskedItems(ids, hidden_at, torch.where(hidden_at, ids, 0))
    before = _hidden(body, ids, "training", masked)
    for position in (0, 5):
        changed_at = (torch.arange(T) == position).unsqueeze(0)
        after = _hidden(body, ids, "training", masked, changed_at=changed_at)
        assert not torch.equal(before[0, 2], after[0, 2])


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    ("architecture", "masking"), [pair for pair in PAIRS if pair[1].startswith("plm")]
)
def test_permutation_bodies_obey_the_perm_mask(architecture, masking, mode):
    """What a query may not look at has no influence on it, by whatever way round."""
    body, ids = body_of(architecture, masking), sessions()
    masked = _masked(body, ids, mode)
    blocked = masked.transformer_arguments["perm_mask"] != 0
    block, length = body[2], masked.schema.shape[1]
    inputs = torch.randn(len(ids), length, body[2].transformer.config.hidden_size)
    with torch.no_grad():
        before = block(inputs, masked=masked)
        for key in range(length):
            changed = inputs.clone()
            changed[:, key] += torch.randn_like(changed[:, key])
            same = (block(changed, masked=masked) == before).all(-1)
            # A query that may look at nothing attends to everything alike; it has no label
            # that another position gives away, since all that is asked is hidden.
            kept = blocked[:, :, key] & ~blocked.all(-1)
            assert same[kept].all()
            assert not same[~blocked[:, :, key]].any()


@pytest.mark.parametrize("masking", ["plm", "plm-permute"])
def test_testing_a_session_is_inference_on_what_came_before(masking):
    """The model that is measured is the model that is served."""
    body, ids = body_of("xlnet-bi", masking), sessions((6, 4, 2))
    last = (ids != 0).sum(1) - 1
    before_last = torch.where(torch.arange(T) < last.unsqueeze(1), ids, 0)
    rows = torch.arange(len(ids))
    with torch.no_grad():
        tested = body({"item_id": ids}, testing=True)[rows, last]
        served = body({"item_id": before_last})[rows, last]
    torch.testing.assert_close(tested, served, rtol=1e-5, atol=1e-5)


def test_testing_every_item_is_testing_the_last_of_every_prefix():
    body, ids = body_of("xlnet-bi", "plm-all"), sessions((6,))
    with torch.no_grad():
        every = body({"item_id": ids}, testing=True)
        body.inputs.masking.eval_on_last_item_seq_only = True
        for length in range(2, T + 1):
            prefix = torch.where(torch.arange(T) < length, ids, 0)
            last = body({"item_id": prefix}, testing=True)
            torch.testing.assert_close(every[0, length - 1], last[0, length - 1])


@pytest.mark.parametrize("masking", ["clm", "mlm"])
def test_the_leak_test_finds_a_leak(masking):
    """Planted faults: attention left alone under a causal masking, and inputs left unmasked."""
    body, ids = body_of("xlnet-bi", masking), sessions()
    masked = _masked(body, ids, "training")
    if masking == "clm":
        body[2].masking = None
    else:
        body.inputs.masking.apply_mask_to_inputs = lambda inputs, schema, **flags: inputs
    before = _hidden(body, ids, "training", masked)
    row, t, place = next(_asked(masked, masking == "clm"))
    other_ids = ids.clone()
    other_ids[row, place] = ITEMS
    assert not torch.equal(_hidden(body, other_ids, "training", masked)[row, t], before[row, t])


def test_a_block_within_a_block_gets_the_masking():
    features = item_features("clm")
    block = TransformerBlock(ARCHITECTURES["xlnet-bi"]())
    SequentialBlock(features, SequentialBlock(MLPBlock([D]).build([-1, T, D]), block))
    assert block.masking is features.masking


@pytest.mark.parametrize(("of_inputs", "of_block"), [("clm", "mlm"), ("mlm", "clm")])
def test_a_masking_of_another_kind_is_refused(of_inputs, of_block):
    """Attention would be that of one, the items asked for those of the other."""
    other = item_features(of_block).masking
    block = TransformerBlock(ARCHITECTURES["xlnet-bi"](), masking=other)
    text = r"SequentialBlock: args must have one masking, .*; got TransformerBlock with .*ling\."
    with pytest.raises(ValueError, match=text):
        SequentialBlock(item_features(of_inputs), block)


@pytest.mark.parametrize("masking", ["clm", "mlm", "plm", "rtd"])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_other_pairs_are_refused_in_words(architecture, masking):
    features = item_features(masking)
    if masking in ACCEPTED[architecture]:
        block = TransformerBlock(ARCHITECTURES[architecture](), masking=features.masking)
        assert block.masking is features.masking
        return
    name = type(features.masking).__name__
    words = {
        "clm": rf"{name} is not supported by: the \w+Config arch.* see the items.*GPT2Config",
        "plm": rf"{name} requires the parameters: target_mapping, perm_mask in .*XLNetConfig",
    }
    earlier_only = rf"{name} is not supported by: the \w+Config arch.* earlier positions.*\"clm\""
    text = earlier_only if architecture == "xlnet-uni" else words.get(masking, earlier_only)
    with pytest.raises(ValueError, match=text):
        TransformerBlock(ARCHITECTURES[architecture](), masking=features.masking)
