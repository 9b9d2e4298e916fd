"""Causal targets by brute force, the masking modules and their errors."""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from transformers4rec_ext.masking import (
    CausalLanguageModeling,
    MaskSequence,
    causal_targets,
    masking_registry,
    read_targets,
)


def _sessions(lengths: list[int], length: int, padding_idx: int = 0) -> torch.Tensor:
    ids = torch.full((len(lengths), length), padding_idx)
    for row, n in enumerate(lengths):
        ids[row, :n] = torch.randint(10, 99, (n,))
    return ids


@given(
    lengths=st.lists(st.integers(0, 6), min_size=1, max_size=5),
    last_only=st.booleans(),
    padding_idx=st.sampled_from([0, 3]),
)
@settings(deadline=None)
def test_targets_by_brute_force(lengths, last_only, padding_idx):
    ids = _sessions(lengths, 6, padding_idx)
    schema, targets = causal_targets(ids, padding_idx=padding_idx, last_only=last_only)
    for row, n in enumerate(lengths):
        expected = [padding_idx] * 6
        for t in range(n - 1):
            if not last_only or t == n - 2:
                expected[t] = int(ids[row, t + 1])
        assert targets[row].tolist() == expected
        visible = n if last_only else max(n - 1, 0)
        assert schema[row].tolist() == [t < visible for t in range(6)]


def test_inference_has_nothing_to_predict():
    ids = _sessions([3, 0, 6], 6)
    schema, targets = causal_targets(ids, mode="inference", last_only=True)
    assert torch.equal(targets, ids)
    assert torch.equal(schema, ids != 0)


@pytest.mark.parametrize("length", [1, 2])
@pytest.mark.parametrize("last_only", [True, False])
def test_short_sessions_have_no_target(length, last_only):
    ids = _sessions([1, 0], length)
    assert causal_targets(ids, last_only=last_only).targets.tolist() == [[0] * length] * 2


def test_ids_beyond_float_precision_survive():
    ids = torch.tensor([[2**53 + 1, 2**53 + 3, 0]])
    assert causal_targets(ids).targets.tolist() == [[2**53 + 3, 0, 0]]


def test_flags_choose_the_targets_not_the_mode_of_the_module():
    ids = _sessions([4], 4)
    masking = CausalLanguageModeling(2)
    for module in (masking.train(), masking.eval()):
        assert (module.compute_masked_targets(ids, training=True).targets != 0).sum() == 3
        assert (module.compute_masked_targets(ids, testing=True).targets != 0).sum() == 1
        both = module.compute_masked_targets(ids, training=True, testing=True)
        assert (both.targets != 0).sum() == 3


def test_read_targets_is_what_forward_remembered():
    masking = CausalLanguageModeling(2)
    with pytest.raises(ValueError, match=r"`mask_schema must be set\.`"):
        read_targets(masking)
    ids = _sessions([4, 2], 4)
    masking(torch.zeros(2, 4, 2), item_ids=ids, training=True)
    assert torch.equal(read_targets(masking), causal_targets(ids).targets)
    assert torch.equal(read_targets(copy.deepcopy(masking)), read_targets(masking))


def test_mask_vector_is_learned_small_and_keeps_the_dtype():
    masking = CausalLanguageModeling(4096)
    assert list(masking.state_dict()) == ["masked_item_embedding"]
    assert 0.0009 < masking.masked_item_embedding.std().item() < 0.0011
    inputs = torch.zeros(1, 2, 4096, dtype=torch.bfloat16)
    assert masking(inputs, item_ids=torch.tensor([[5, 0]])).dtype is torch.bfloat16


def test_base_class_masks_where_the_schema_says():
    masking = MaskSequence(2)
    schema = torch.tensor([[True, False]])
    out = masking.apply_mask_to_inputs(torch.ones(1, 2, 2), schema)
    assert torch.equal(out[0, 0], masking.masked_item_embedding)
    assert torch.equal(out[0, 1], torch.ones(2))
    with pytest.raises(NotImplementedError, match="MaskSequence must define"):
        masking.compute_masked_targets(torch.ones(1, 2, dtype=torch.int64))
    assert masking.transformer_arguments == {}
    assert masking.forward_output_size([-1, 3, 2]) == [-1, 3, 2]


def test_registry():
    assert masking_registry.parse("clm") is masking_registry.parse("causal")
    assert masking_registry.parse("CLM") is CausalLanguageModeling
    assert masking_registry.parse(CausalLanguageModeling) is CausalLanguageModeling
    with pytest.raises(
        ValueError, match=r"be a registered masking; got 'nlm'\. Known names: causal"
    ):
        masking_registry.parse("nlm")
    with pytest.raises(ValueError, match="be free in the masking registry; got 'clm'"):
        masking_registry.register_with_multiple_names("clm")(MaskSequence)
    # The rest is what upstream's callers do with a registry.
    names = ["causal", "clm", "masked", "mlm", "permutation", "plm", "replacement", "rtd"]
    assert list(masking_registry) == list(masking_registry.keys()) == names
    assert len(masking_registry) == 8
    assert masking_registry["clm"] is masking_registry.get("Causal") is CausalLanguageModeling
    assert masking_registry.get("nlm", MaskSequence) is MaskSequence
    assert "clm" in masking_registry
    assert "nlm" not in masking_registry
    with pytest.raises(KeyError):
        masking_registry["nlm"]


def test_bad_input():
    masking = CausalLanguageModeling(2)
    with pytest.raises(AssertionError, match=r"`item_ids` must have 2 dimensions\."):
        masking.compute_masked_targets(torch.ones(3, dtype=torch.int64))
    with pytest.raises(TypeError, match="item_ids must be int64"):
        causal_targets(torch.ones(2, 3))
    with pytest.raises(ValueError, match="mode must be one of"):
        causal_targets(torch.ones(2, 3, dtype=torch.int64), mode="test")
    with pytest.raises(ValueError, match=r"inputs must be \[B=1, T=3, D=2\]; got \[1, 3, 4\]"):
        masking(torch.ones(1, 3, 4), item_ids=torch.ones(1, 3, dtype=torch.int64))
    with pytest.raises(ValueError, match="hidden_size must be a positive int; got 0"):
        CausalLanguageModeling(0)
    with pytest.raises(ValueError, match="padding_idx must be a non-negative int; got -1"):
        CausalLanguageModeling(2, padding_idx=-1)


def test_compiles_without_a_break():
    ids = _sessions([4, 2, 0], 4)
    compiled = torch.compile(causal_targets, fullgraph=True, backend="eager")
    for last_only in (True, False):
        expected = causal_targets(ids, last_only=last_only)
        assert torch.equal(compiled(ids, last_only=last_only).targets, expected.targets)
