"""Masked targets and the maskings that use them: invariants, laws, modes, fakes."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from transformers4rec_ext.features.sequence import TabularSequenceFeatures
from transformers4rec_ext.masking import (
    MaskedLanguageModeling,
    ReplacementLanguageModeling,
    masked_targets,
    masking_registry,
    read_targets,
)
from transformers4rec_ext.schema import Schema

MASKINGS = [MaskedLanguageModeling, ReplacementLanguageModeling]


def sessions(lengths: list[int], length: int, padding_idx: int = 0) -> torch.Tensor:
    ids = torch.full((len(lengths), length), padding_idx)
    for row, n in enumerate(lengths):
        ids[row, :n] = torch.randint(10, 99, (n,))
    return ids


@given(
    lengths=st.lists(st.integers(0, 6), min_size=1, max_size=8),
    padding_idx=st.sampled_from([0, 3]),
    probability=st.sampled_from([0.01, 0.4, 1.0]),
    seed=st.integers(0, 99),
)
def test_training_hides_some_but_never_all(lengths, padding_idx, probability, seed):
    ids = sessions(lengths, 6, padding_idx)
    generator = torch.Generator().manual_seed(seed)
    schema, targets = masked_targets(
        ids, padding_idx=padding_idx, probability=probability, generator=generator
    )
    assert torch.equal(targets, torch.where(schema, ids, padding_idx))
    for row, n in enumerate(lengths):
        hidden = int(schema[row].sum())
        assert int(schema[row, :n].sum()) == hidden, "padding is never hidden"
        assert (1 <= hidden <= n - 1) if n >= 2 else hidden == 0
        assert probability != 1.0 or hidden == max(n - 1, 0)


@pytest.mark.parametrize("probability", [0.15, 0.6])
def test_number_of_hidden_items_follows_its_law(probability):
    """One for certain, the others with the probability each; all hidden counts as one less."""
    draws, n = 40_000, 5
    schema, _ = masked_targets(sessions([n], 7).expand(draws, -1), probability=probability)
    law = torch.zeros(n + 1, dtype=torch.float64)
    for others in range(n):
        chance = math.comb(n - 1, others) * probability**others
        law[min(others + 1, n - 1)] += chance * (1 - probability) ** (n - 1 - others)
    counts = torch.bincount(schema.sum(1), minlength=n + 1) / draws
    five_sigma = 5 * (law * (1 - law) / draws).sqrt()
    assert ((counts - law).abs() <= five_sigma).all()
    plain = torch.distributions.Binomial(n, torch.tensor(probability)).log_prob(torch.arange(n + 1))
    assert ((counts - plain.exp()).abs() > five_sigma).any(), "the test must tell laws apart"
    by_position = schema[:, :n].double().mean(0)
    assert (by_position - by_position.mean()).abs().max() <= 5 * 0.5 / math.sqrt(draws)


def test_a_generator_fixes_the_draw_and_leaves_torchs_own_alone():
    ids = sessions([9, 5, 0, 1], 9)
    state = torch.get_rng_state()
    draws = [masked_targets(ids, generator=torch.Generator().manual_seed(s)) for s in (1, 1, 2)]
    assert torch.equal(draws[0].schema, draws[1].schema)
    assert not torch.equal(draws[0].schema, draws[2].schema)
    assert torch.equal(torch.get_rng_state(), state)


def test_testing_asks_for_the_last_item_and_inference_for_the_next():
    ids = sessions([4, 1, 0, 2], 4)
    schema, targets = masked_targets(ids, mode="testing")
    assert schema.int().tolist() == [[0, 0, 0, 1], [1, 0, 0, 0], [0] * 4, [0, 1, 0, 0]]
    assert targets.sum(1).tolist() == [int(ids[0, 3]), int(ids[1, 0]), 0, int(ids[3, 1])]
    schema, _ = masked_targets(ids, mode="inference")
    assert schema.int().argmax(1).tolist() == [4, 1, 0, 2]
    assert schema.sum(1).tolist() == [1, 1, 1, 1]


@pytest.mark.parametrize("cls", MASKINGS)
def test_testing_on_more_than_the_last_item_draws_as_training_does(cls):
    """Upstream hid the items at t and asked for those at t + 1, the last of which lay open."""
    ids = sessions([6, 3, 1], 6)
    masking = cls(2, eval_on_last_item_seq_only=False, mlm_probability=0.5)
    for _ in range(20):
        schema, targets = masking.compute_masked_targets(ids, testing=True)
        assert torch.equal(targets, torch.where(schema, ids, 0))
        inputs = torch.randn(3, 6, 2)
        masked = masking.mask(ids, testing=True)
        out = masking(inputs, ids, testing=True, masked=masked)
        hidden = (out == masking.masked_item_embedding).all(-1)
        assert torch.equal(hidden, masked.schema), "what is asked is hidden, and nothing else"


@pytest.mark.parametrize("cls", MASKINGS)
@pytest.mark.parametrize("flags", [{"training": True}, {"testing": True}, {}])
def test_padding_may_be_another_id(cls, flags):
    ids = sessions([6, 3, 1, 0], 6)
    drawn = []
    for padding_idx in (0, 3):
        torch.manual_seed(6)
        masking = cls(2, padding_idx, attend_to_padding=False)
        masked = masking.mask(torch.where(ids == 0, padding_idx, ids), **flags)
        targets = torch.where(masked.targets == padding_idx, 0, masked.targets)
        drawn.append((masked.schema, targets, masked.transformer_arguments["attention_mask"]))
    for of_zero, of_three in zip(*drawn, strict=True):
        assert torch.equal(of_zero, of_three)


def test_no_fake_stands_on_padding_of_another_id():
    masking = ReplacementLanguageModeling(2, padding_idx=3)
    ids = sessions([5, 2, 0], 5, 3)
    targets = masking.compute_masked_targets(ids, training=True).targets
    logits = torch.zeros(int((targets != 3).sum()), 100)
    logits[:, 3] = 60.0  # the padding item, which is never drawn
    corrupted, _, _ = masking.get_fake_tokens(ids, targets.flatten(), logits)
    assert torch.equal(corrupted == 3, ids == 3)


@pytest.mark.parametrize("cls", MASKINGS)
@pytest.mark.parametrize("length", [0, 1, 5])
def test_inference_appends_one_position(cls, length):
    masking = cls(3)
    lengths = [length, max(length - 1, 0)]
    inputs = torch.randn(2, length, 3, requires_grad=True)
    out = masking(inputs, item_ids=sessions(lengths, length))
    assert out.shape == (2, length + 1, 3)
    for row, n in enumerate(lengths):
        assert torch.equal(out[row, n], masking.masked_item_embedding)
        assert torch.equal(out[row, :n], inputs[row, :n])
    assert read_targets(masking).shape == (2, length + 1)


@pytest.mark.parametrize("cls", MASKINGS)
def test_the_probability_reaches_the_draw(cls):
    """Upstream's replacement masking swallowed it and used 0.15."""
    ids = sessions([10] * 500, 10)
    rates = []
    for probability in (0.05, 0.4):
        masking = cls(2, mlm_probability=probability)
        rates.append(masking.compute_masked_targets(ids, training=True).schema.double().mean())
    assert rates[0] == pytest.approx(0.1 + 0.9 * 0.05, abs=0.02)
    assert rates[1] == pytest.approx(0.1 + 0.9 * 0.4, abs=0.04)


def test_arguments_of_the_input_block_reach_the_masking():
    schema = Schema.from_item_column(num_items=20, max_length=6)
    for name, arguments in (
        ("rtd", {"mlm_probability": 0.4, "sample_from_batch": True}),
        ("mlm", {"mlm_probability": 0.4, "eval_on_last_item_seq_only": False}),
        ("plm", {"plm_probability": 0.4, "max_span_length": 2, "permute_all": True}),
    ):
        masking = TabularSequenceFeatures.from_schema(schema, masking=name, **arguments).masking
        assert {key: getattr(masking, key) for key in arguments} == arguments


def test_names():
    assert masking_registry.parse("mlm") is masking_registry.parse("masked")
    assert masking_registry.parse("mlm") is MaskedLanguageModeling
    assert masking_registry.parse("rtd") is masking_registry.parse("replacement")
    assert masking_registry.parse("rtd") is ReplacementLanguageModeling


def test_fakes_stand_at_the_masked_places_only():
    masking = ReplacementLanguageModeling(2)
    ids = sessions([6, 4, 2], 6)
    targets = masking.compute_masked_targets(ids, training=True).targets
    logits = torch.full((int((targets != 0).sum()), 100), -50.0)
    logits[:, 7] = 0.0
    logits[:, 0] = 60.0  # the padding item, which is never drawn
    logits.requires_grad_()
    corrupted, is_fake, places = masking.get_fake_tokens(ids, targets.flatten(), logits)
    assert torch.equal(corrupted, torch.where(targets != 0, 7, ids))
    assert torch.equal(is_fake, targets != 0)
    assert places == []
    logits = torch.full_like(logits, -50.0)
    logits[torch.arange(len(logits)), targets[targets != 0]] = 0.0
    corrupted, is_fake, _ = masking.get_fake_tokens(ids, targets.flatten(), logits)
    assert torch.equal(corrupted, ids)
    assert not is_fake.any(), "an item drawn again is no fake"


def test_fakes_from_the_batch():
    masking = ReplacementLanguageModeling(2, sample_from_batch=True)
    ids, targets = torch.tensor([[5, 6, 0], [7, 8, 9]]), torch.tensor([0, 6, 0, 7, 0, 9])
    logits = torch.full((3, 3), -50.0)
    logits[:, 2] = 0.0
    corrupted, is_fake, places = masking.get_fake_tokens(ids, targets, logits)
    assert places.tolist() == [2, 2, 2]
    assert corrupted.tolist() == [[5, 9, 0], [9, 8, 9]]
    assert is_fake.int().tolist() == [[0, 1, 0], [1, 0, 0]]


def test_fakes_follow_the_softmax():
    masking = ReplacementLanguageModeling(2)
    chances = torch.tensor([0.5, 0.3, 0.15, 0.05])
    draws = masking.sample_from_softmax(chances.log().to(torch.bfloat16).expand(40_000, -1))
    got = torch.bincount(draws, minlength=4) / 40_000
    assert (got - chances).abs().max() < 0.0125 + 0.002  # five sigma, and bfloat16's logits


def test_bad_input():
    ids = sessions([3], 3)
    with pytest.raises(ValueError, match=r"mlm_probability must be above 0 and at most 1; got 0\."):
        MaskedLanguageModeling(2, mlm_probability=0.0)
    with pytest.raises(TypeError, match="mlm_probability must be a number; got str"):
        ReplacementLanguageModeling(2, mlm_probability="0.2")
    with pytest.raises(TypeError, match="sample_from_batch must be a bool"):
        ReplacementLanguageModeling(2, sample_from_batch=1)
    with pytest.raises(ValueError, match="mode must be one of"):
        masked_targets(ids, mode="train")
    with pytest.raises(AssertionError, match=r"`item_ids` must have 2 dimensions\."):
        masked_targets(ids[0])
    masking = ReplacementLanguageModeling(2)
    with pytest.raises(ValueError, match=r"logits must be \[N=3, V\] for the N masked items"):
        masking.get_fake_tokens(ids, ids.flatten(), torch.zeros(2, 100))
    masking.sample_from_batch = True
    with pytest.raises(ValueError, match=r"logits must be \[N=3, N=3\] for the N masked items"):
        masking.get_fake_tokens(ids, ids.flatten(), torch.zeros(3, 100))
    with pytest.raises(ValueError, match=r"target_flat must have the B \* T = 3 places"):
        masking.get_fake_tokens(ids, ids.flatten()[:2], torch.zeros(2, 100))


@pytest.mark.parametrize("mode", ["training", "testing", "inference"])
def test_compiles_without_a_break(mode):
    """A break would be a loop over rows or a wait for the device."""
    compiled = torch.compile(masked_targets, fullgraph=True, backend="eager")
    ids = sessions([4, 2, 0], 4)
    torch.manual_seed(3)
    expected = masked_targets(ids, mode=mode)
    torch.manual_seed(3)
    assert torch.equal(compiled(ids, mode=mode).schema, expected.schema)


@pytest.mark.parametrize("padding_idx", [0, 3])
def test_a_session_without_items_has_no_target_in_inference(padding_idx):
    ids = torch.tensor([[7, 8, padding_idx], [padding_idx] * 3])
    targets = masked_targets(ids, mode="inference", padding_idx=padding_idx).targets
    assert targets.tolist() == [[padding_idx] * 2 + [8, padding_idx], [padding_idx] * 4]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_fakes_are_drawn_as_finely_whatever_the_type_of_the_logits(dtype):
    """Noise of few bits has many largest values, of which argmax takes the first."""
    masking = ReplacementLanguageModeling(2)
    drawn = masking.sample_from_softmax(torch.zeros(2000, 1000, dtype=dtype)).double()
    error = 1000 / math.sqrt(12 * 2000)
    assert drawn.mean().item() == pytest.approx(499.5, abs=5 * error)
