"""Causal masking gives upstream's recorded schemas, targets, inputs and gradients, bit for bit."""

from __future__ import annotations

import pytest
import torch

from transformers4rec_ext.masking import masking_registry


def _cases() -> list[tuple[str, str, str]]:
    variants = [
        f"clm_eval{eval_last}_train{train_last}"
        for eval_last in (True, False)
        for train_last in (True, False)
    ]
    modes = ("train", "test", "infer")
    return [(b, v, m) for b in ("b0", "b1", "b2") for v in variants for m in modes]


@pytest.mark.parametrize(("batch", "variant", "mode"), _cases())
def test_causal_masking(parity, batch, variant, mode):
    meta, tensors = parity("masking")
    name = f"{batch}/{variant}/{mode}"
    case = meta["cases"][name]
    masking = masking_registry.parse(case["masking"])(**case["ctor"])
    with torch.no_grad():
        masking.masked_item_embedding.copy_(tensors[f"{batch}/masked_item_embedding"])
    inputs = tensors[f"{batch}/inputs"].clone().requires_grad_()

    out = masking(inputs, item_ids=tensors[f"{batch}/item_ids"], **case["flags"])
    (out * (torch.arange(out.numel()).reshape(out.shape) % 7)).sum().backward()

    assert torch.equal(masking.mask_schema, tensors[f"{name}/mask_schema"])
    assert torch.equal(masking.masked_targets, tensors[f"{name}/masked_targets"])
    assert torch.equal(out, tensors[f"{name}/out"])
    assert torch.equal(inputs.grad, tensors[f"{name}/grad_inputs"])
    # Sums of integers: exact in float32 whatever the order.
    recorded = tensors[f"{name}/grad_masked_item_embedding"]
    assert torch.equal(masking.masked_item_embedding.grad, recorded)


def test_all_recorded_causal_cases_are_tested(parity):
    recorded = {name for name in parity("masking")[0]["cases"] if "/clm_" in name}
    assert recorded == {"/".join(case) for case in _cases()}
