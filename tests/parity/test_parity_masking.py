"""Maskings give upstream's recorded schemas, targets, inputs and gradients, bit for bit.

Where upstream draws at random, the recorded schema is put in, and the draws themselves are compared
with the recorded frequencies. Three recorded behaviours are faults (docs/differences.md): there the
fault itself is shown in the record, and ours is in tests/model.
"""

from __future__ import annotations

import pytest
import torch

from transformers4rec_ext.masking import masking_registry

VARIANTS = (
    [f"clm_eval{e}_train{t}" for e in (True, False) for t in (True, False)]
    + [f"mlm_eval{e}_mlm_probability{p}" for e, p in ((True, 0.15), (False, 0.15), (True, 0.6))]
    + [f"rtd_eval{e}" for e in (True, False)]
    + [f"plm_eval{e}_permute_all{a}" for e, a in ((True, False), (False, False), (True, True))]
)
CASES = [
    (b, v, m) for b in ("b0", "b1", "b2") for v in VARIANTS for m in ("train", "test", "infer")
]
#: Variants whose testing asks for more than the last item without being causal.
ASKS_FOR_MORE = {v for v in VARIANTS if "evalFalse" in v and not v.startswith("clm")}


def _deliberate(variant: str, mode: str) -> bool:
    return (variant in ASKS_FOR_MORE and mode == "test") or (
        variant.startswith("plm") and mode == "infer"
    )


def _masking(case, tensors):
    masking = masking_registry.parse(case["masking"])(**case["ctor"])
    with torch.no_grad():
        masking.masked_item_embedding.copy_(tensors[f"{case['batch']}/masked_item_embedding"])
    return masking


@pytest.mark.parametrize(
    ("batch", "variant", "mode"), [case for case in CASES if not _deliberate(*case[1:])]
)
def test_masking(parity, batch, variant, mode):
    meta, tensors = parity("masking")
    name = f"{batch}/{variant}/{mode}"
    case, flags = meta["cases"][name], meta["cases"][name]["flags"]
    masking = _masking(case, tensors)
    inputs = tensors[f"{batch}/inputs"].clone().requires_grad_()
    item_ids, schema = tensors[f"{batch}/item_ids"], tensors[f"{name}/mask_schema"]

    if case["random"]:
        out = masking.apply_mask_to_inputs(inputs, schema, **flags)
    else:
        out = masking(inputs, item_ids=item_ids, **flags)
        assert torch.equal(masking.mask_schema, schema)
        assert torch.equal(masking.masked_targets, tensors[f"{name}/masked_targets"])
        for argument, value in masking.transformer_arguments.items():
            assert torch.equal(value, tensors[f"{name}/{argument}"].to(value.dtype))
    (out * (torch.arange(out.numel()).reshape(out.shape) % 7)).sum().backward()

    assert torch.equal(out, tensors[f"{name}/out"])
    assert torch.equal(inputs.grad, tensors[f"{name}/grad_inputs"])
    # Sums of integers: exact in float32 whatever the order.
    recorded = tensors[f"{name}/grad_masked_item_embedding"]
    assert torch.equal(masking.masked_item_embedding.grad, recorded)


def test_all_recorded_cases_are_tested(parity):
    recorded = {name for name in parity("masking")[0]["cases"] if name.startswith("b")}
    assert recorded == {"/".join(case) for case in CASES}


def _frequencies(masking, length: int, width: int, draws: int) -> dict[str, torch.Tensor]:
    ids = torch.zeros(draws, width, dtype=torch.int64)
    ids[:, :length] = torch.arange(1, length + 1)
    masked = masking.mask(ids, training=True)
    counts = torch.bincount(masked.schema.sum(1), minlength=width + 1)
    found = {
        "mask_frequency": masked.schema.float().mean(0),
        "count_histogram": counts / draws,
    }
    if masked.transformer_arguments:
        found["perm_mask_mean"] = masked.transformer_arguments["perm_mask"].mean(0)
    return found


@pytest.mark.parametrize("shape", ["L10_T10", "L4_T10", "L2_T6"])
@pytest.mark.parametrize("variant", [v for v in VARIANTS if v[:3] != "clm" and "evalTrue" in v])
def test_frequencies_of_own_draws(parity, variant, shape):
    meta, tensors = parity("masking")
    name = f"stats/{variant}/{shape}"
    case = meta["cases"][name]
    masking = masking_registry.parse(case["masking"])(hidden_size=1, **case["ctor"])
    found = _frequencies(masking, case["row_length"], case["T"], draws=20_000)
    recorded = {k.removeprefix(f"{name}/"): v for k, v in tensors.items() if k.startswith(name)}
    assert found.keys() == recorded.keys()
    for what, value in found.items():
        torch.testing.assert_close(value, recorded[what], rtol=0, atol=case["tolerance"]["atol"])


@pytest.mark.parametrize("batch", ["b0", "b1", "b2"])
@pytest.mark.parametrize("variant", [v for v in VARIANTS if not v.startswith("clm")])
def test_invariants_of_own_draws(parity, variant, batch):
    """The ``invariants`` of the record, but for the ones that upstream's own draws break."""
    meta, tensors = parity("masking")
    case = meta["cases"][f"{batch}/{variant}/train"]
    item_ids = tensors[f"{batch}/item_ids"]
    lengths = (item_ids != 0).sum(1)
    for _ in range(20):
        masked = _masking(case, tensors).mask(item_ids, training=True)
        assert torch.equal(masked.targets, torch.where(masked.schema, item_ids, 0))
        hidden = masked.schema.sum(1)
        assert torch.equal(hidden == 0, lengths == 1)
        assert (hidden <= lengths - 1).all()
        if masked.transformer_arguments:
            perm_mask = masked.transformer_arguments["perm_mask"]
            assert not perm_mask[~masked.schema.unsqueeze(1).expand_as(perm_mask)].any()
            assert torch.equal(perm_mask.diagonal(dim1=1, dim2=2) == 1, masked.schema)


@pytest.mark.parametrize("variant", sorted(ASKS_FOR_MORE))
def test_recorded_fault_testing_hides_what_it_should_show(parity, variant):
    """All items but the last are hidden, and the one before it is asked for the last."""
    meta, tensors = parity("masking")
    name = f"b0/{variant}/test"
    schema, targets = (tensors[f"{name}/{what}"] for what in ("mask_schema", "masked_targets"))
    item_ids, out = tensors["b0/item_ids"], tensors[f"{name}/out"]
    row, last = 0, int((item_ids[0] != 0).sum()) - 1
    assert schema[row, :last].all()
    assert targets[row, last - 1] == item_ids[row, last]
    assert torch.equal(out[row, last], tensors["b0/inputs"][row, last])
    masked = _masking(meta["cases"][name], tensors).mask(item_ids, testing=True)
    assert torch.equal(masked.targets, torch.where(masked.schema, item_ids, 0))


@pytest.mark.parametrize("variant", [v for v in VARIANTS if "plm_evalTrue" in v])
def test_recorded_fault_permutation_inference_is_blind_to_the_last_item(parity, variant):
    meta, tensors = parity("masking")
    name, item_ids = f"b0/{variant}/infer", tensors["b0/item_ids"]
    last = (item_ids != 0).sum(1) - 1
    rows = torch.arange(len(item_ids))
    assert (tensors[f"{name}/perm_mask"][rows, :, last] == 1).all()
    masked = _masking(meta["cases"][name], tensors).mask(item_ids)
    asked = masked.transformer_arguments["perm_mask"][rows, last + 1]
    assert torch.equal(asked == 0, torch.arange(item_ids.shape[1] + 1) <= last.unsqueeze(1))


def test_recorded_fault_permute_all_maps_no_position_to_an_output(parity):
    meta, tensors = parity("masking")
    name = "b0/plm_evalTrue_permute_allTrue/train"
    assert not tensors[f"{name}/target_mapping"].any()
    masked = _masking(meta["cases"][name], tensors).mask(tensors["b0/item_ids"], training=True)
    mapping = masked.transformer_arguments["target_mapping"]
    assert torch.equal(mapping, torch.eye(10).expand_as(mapping))


@pytest.mark.parametrize("from_batch", [False, True])
def test_fake_items(parity, from_batch):
    meta, tensors = parity("masking")
    name = f"fake_tokens/batch{from_batch}"
    case = meta["cases"][name]
    recorded = {k.removeprefix(f"{name}/"): v for k, v in tensors.items() if k.startswith(name)}
    masking = masking_registry.parse("rtd")(hidden_size=1, **case["ctor"])
    torch.manual_seed(case["seed"])
    corrupted, is_fake, places = masking.get_fake_tokens(
        recorded["item_ids"], recorded["target_flat"], recorded["logits"]
    )
    assert torch.equal(corrupted, recorded["corrupted_inputs"])
    assert torch.equal(is_fake, recorded["discriminator_labels"])
    if from_batch:
        assert torch.equal(places, recorded["batch_updates"])
