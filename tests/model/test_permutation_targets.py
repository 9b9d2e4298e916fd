"""Permutation targets: which positions are asked, what they may look at, and the spans."""

from __future__ import annotations

import copy
import threading

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from transformers4rec_ext.masking import (
    PermutationLanguageModeling,
    masking_registry,
    permutation_targets,
)


def sessions(lengths: list[int], length: int) -> torch.Tensor:
    ids = torch.zeros(len(lengths), length, dtype=torch.int64)
    for row, n in enumerate(lengths):
        ids[row, :n] = torch.randint(10, 99, (n,))
    return ids


def _check_order(schema: torch.Tensor, blocked: torch.Tensor) -> None:
    """Check that ``blocked`` [T, T] is a strict order of the labelled positions."""
    labelled = schema.nonzero().flatten().tolist()
    others = (~schema).nonzero().flatten()
    assert not blocked[:, others].any(), "what has no label is seen by all"
    assert blocked[others][:, labelled].all(), "and sees nothing that has one"
    seen_by = {i: {j for j in labelled if not blocked[i, j]} for i in labelled}
    ranks = sorted(len(seen) for seen in seen_by.values())
    assert ranks == list(range(len(labelled))), "the k-th of the order sees those before it"
    for i, seen in seen_by.items():
        assert i not in seen
        assert all(seen_by[j] < seen for j in seen)


@given(
    lengths=st.lists(st.integers(0, 9), min_size=1, max_size=6),
    permute_all=st.booleans(),
    seed=st.integers(0, 99),
)
def test_training(lengths, permute_all, seed):
    ids = sessions(lengths, 9)
    info = permutation_targets(
        ids, permute_all=permute_all, generator=torch.Generator().manual_seed(seed)
    )
    assert torch.equal(info.targets, torch.where(info.schema, ids, 0))
    assert torch.equal(info.target_mapping, torch.eye(9).expand(len(ids), -1, -1))
    for row, n in enumerate(lengths):
        hidden = int(info.schema[row].sum())
        assert int(info.schema[row, :n].sum()) == hidden
        assert (1 <= hidden <= n - 1) if n >= 2 else hidden == 0
        assert not permute_all or hidden == max(n - 1, 0)
        _check_order(info.schema[row], info.perm_mask[row] != 0)


def test_orders_are_uniform():
    ids = torch.tensor([[5, 6, 7, 8]]).expand(24_000, -1)
    info = permutation_targets(ids, permute_all=True)
    rank = torch.where(info.schema, info.perm_mask.sum(2), 0)  # 3 for the first, 1 for the last
    code = (rank * torch.tensor([1.0, 4.0, 16.0, 64.0])).sum(1)
    _, counts = code.unique(return_counts=True)
    assert len(counts) == 24, "4 positions left out, 3! orders of the others"
    assert (counts - 1000).abs().max() < 5 * 1000**0.5


def test_spans_take_the_part_of_a_session_that_was_asked_for():
    ids = torch.ones(200, 240, dtype=torch.int64)
    for probability, longest in ((1 / 6, 5), (0.5, 2), (0.25, 1)):
        schema = permutation_targets(ids, probability=probability, max_span_length=longest).schema
        assert schema.double().mean() == pytest.approx(probability, abs=0.01)
        # In each stretch stands one span, so a run longer than two of them cannot be.
        run = 2 * longest + 1
        windows = schema.unfold(1, run, 1).all(2)
        assert not windows.any()
        if longest == 1 and probability == 0.25:
            assert (schema.view(200, 60, 4).sum(2) == 1).all()


@pytest.mark.parametrize("mode", ["training", "testing", "inference"])
@pytest.mark.parametrize("as_module", [False, True])
def test_padding_may_be_another_id(mode, as_module):
    ids = sessions([9, 4, 1, 0], 9)
    drawn = []
    for padding_idx in (0, 3):
        padded = torch.where(ids == 0, padding_idx, ids)
        if as_module:
            torch.manual_seed(6)
            masking = PermutationLanguageModeling(2, padding_idx)
            masked = masking.mask(padded, training=mode == "training", testing=mode == "testing")
            info = (masked.schema, masked.targets, *masked.transformer_arguments.values())
        else:
            generator = torch.Generator().manual_seed(6)
            info = permutation_targets(
                padded, padding_idx=padding_idx, mode=mode, generator=generator
            )
        schema, targets, *others = info
        assert mode == "inference" or torch.equal(targets != padding_idx, schema)
        drawn.append((schema, torch.where(targets == padding_idx, 0, targets), *others))
    for of_zero, of_three in zip(*drawn, strict=True):
        assert torch.equal(of_zero, of_three)


def test_a_generator_fixes_the_draw_and_leaves_torchs_own_alone():
    ids, before = sessions([40, 30], 40), torch.get_rng_state()
    for permute_all in (False, True):
        one, same, other = (
            permutation_targets(
                ids, permute_all=permute_all, generator=torch.Generator().manual_seed(seed)
            )
            for seed in (1, 1, 2)
        )
        assert all(torch.equal(a, b) for a, b in zip(one, same, strict=True))
        assert not torch.equal(one.perm_mask, other.perm_mask)
    assert torch.equal(torch.get_rng_state(), before)


def test_the_modules_options_reach_the_draw():
    ids = sessions([60] * 50, 60)
    for options in ({"probability": 0.5}, {"max_span_length": 1}, {"permute_all": True}):
        masking = PermutationLanguageModeling(
            2, **{{"probability": "plm_probability"}.get(k, k): v for k, v in options.items()}
        )
        torch.manual_seed(4)
        masked = masking.mask(ids, training=True)
        torch.manual_seed(4)
        assert torch.equal(masked.schema, permutation_targets(ids, **options).schema)
        torch.manual_seed(4)
        assert not torch.equal(masked.schema, permutation_targets(ids).schema)


def test_testing_asks_for_the_last_item():
    info = permutation_targets(sessions([3, 0, 1], 4), mode="testing")
    assert info.schema.int().tolist() == [[0, 0, 1, 0], [0] * 4, [1, 0, 0, 0]]
    assert info.perm_mask[0].int().tolist() == [
        [0, 1, 1, 1],
        [0, 0, 1, 1],
        [0, 0, 1, 1],
        [0, 0, 1, 0],
    ]


def test_testing_asks_for_every_item_from_those_before_it():
    ids = sessions([3, 1, 0], 3)
    info = permutation_targets(ids, mode="testing", last_only=False)
    assert info.schema.int().tolist() == [[0, 1, 1], [0, 0, 0], [0, 0, 0]]
    assert torch.equal(info.targets, torch.where(info.schema, ids, 0))
    assert info.perm_mask[0].int().tolist() == [[1, 1, 1], [0, 1, 1], [0, 0, 1]]
    masking = PermutationLanguageModeling(2, eval_on_last_item_seq_only=False)
    inputs = torch.randn(3, 3, 2)
    assert torch.equal(masking(inputs, ids, testing=True), inputs)
    assert not torch.equal(masking(inputs, ids, training=True), inputs)


def test_inference_asks_for_the_position_after_the_last_item():
    masking = PermutationLanguageModeling(2)
    inputs, ids = torch.randn(2, 3, 2), sessions([3, 1], 3)
    out = masking(inputs, ids)
    assert out.shape == (2, 4, 2)
    assert torch.equal(out[0, :3], inputs[0])
    assert torch.equal(out[0, 3], masking.masked_item_embedding)
    assert torch.equal(out[1, 1], masking.masked_item_embedding)
    arguments = masking.transformer_arguments
    assert arguments["target_mapping"].shape == arguments["perm_mask"].shape == (2, 4, 4)
    assert arguments["perm_mask"][1, 1].tolist() == [0, 1, 1, 1]


def test_what_upstream_bodies_read_is_the_last_batch():
    masking = PermutationLanguageModeling(2)
    assert masking.transformer_required_arguments() == {"target_mapping": None, "perm_mask": None}
    masked = masking.mask(sessions([4, 2], 4), training=True)
    assert torch.equal(masking.mask_schema, masked.schema)
    assert torch.equal(masking.masked_targets, masked.targets)
    for name, value in masking.transformer_arguments.items():
        assert getattr(masking, name) is value
        assert masked.transformer_arguments[name] is value
    assert torch.equal(copy.deepcopy(masking).perm_mask, masking.perm_mask)


def test_threads_get_the_order_of_their_own_batch():
    masking = PermutationLanguageModeling(2)
    batches = [sessions([n] * 3, 12) for n in range(2, 12)]
    wrong: list[int] = []

    def work(ids: torch.Tensor) -> None:
        for _ in range(30):
            masked = masking.mask(ids, training=True)
            blocked = masked.transformer_arguments["perm_mask"].any(1)
            if not torch.equal(blocked, masked.schema):
                wrong.append(int(ids[0].count_nonzero()))

    threads = [threading.Thread(target=work, args=(ids,)) for ids in batches]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_names_and_bad_input():
    assert masking_registry.parse("plm") is masking_registry.parse("permutation")
    assert masking_registry.parse("plm") is PermutationLanguageModeling
    with pytest.raises(ValueError, match="plm_probability must be above 0 and at most 1; got 2"):
        PermutationLanguageModeling(2, plm_probability=2)
    with pytest.raises(ValueError, match="max_span_length must be a positive int; got 0"):
        PermutationLanguageModeling(2, max_span_length=0)
    with pytest.raises(TypeError, match="permute_all must be a bool; got str"):
        PermutationLanguageModeling(2, permute_all="yes")
    with pytest.raises(ValueError, match="probability must be above 0"):
        permutation_targets(sessions([2], 2), probability=-1.0)


@pytest.mark.parametrize("mode", ["training", "testing", "inference"])
def test_compiles_without_a_break(mode):
    compiled = torch.compile(permutation_targets, fullgraph=True, backend="eager")
    ids = sessions([4, 2, 0], 4)
    torch.manual_seed(3)
    expected = permutation_targets(ids, mode=mode)
    torch.manual_seed(3)
    for got, value in zip(compiled(ids, mode=mode), expected, strict=True):
        assert torch.equal(got, value)


def test_a_span_may_stand_in_the_last_stretch_that_the_row_cuts_off() -> None:
    ids = torch.randint(10, 99, (200, 5))
    drawn = permutation_targets(ids, probability=0.5, max_span_length=1)
    share = drawn.schema[:, 4].double().mean().item()
    assert share == pytest.approx(0.5, abs=0.18)  # of three stretches of two, the third
