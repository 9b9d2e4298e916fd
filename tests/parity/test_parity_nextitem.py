"""Upstream's recorded output layer of next-item prediction, full and sampled."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from transformers4rec_ext.losses import smoothed_cross_entropy
from transformers4rec_ext.model.prediction_task import _NextItemPredictionTask

LOSSES = {
    "ce": torch.nn.CrossEntropyLoss(),
    "ce_smooth0.1": torch.nn.CrossEntropyLoss(label_smoothing=0.1),
    "ce_sum": torch.nn.CrossEntropyLoss(reduction="sum"),
}
Tensors = dict[str, torch.Tensor]


def output_layer(meta: dict, tensors: Tensors, name: str, dtype: torch.dtype) -> Any:
    """Return the layer of a case with its weights, and with upstream's candidates patched in."""
    case = meta["cases"][name]
    config = case["config"]
    arguments = dict(meta["configs"][config]["ctor"])
    weight = tensors[f"{config}/weight"]
    if arguments["weight_tying"]:
        arguments["item_embedding_table"] = torch.nn.Embedding(*weight.shape)
    layer = _NextItemPredictionTask(
        **arguments,
        softmax_temperature=case["softmax_temperature"],
        sampled_softmax=case["mode"] != "full",
    )
    layer.load_state_dict({case["weight_param"]: weight}, strict=True)
    layer = layer.to(dtype)
    if layer.sampled_softmax:
        names = ("neg_ids", "q_targets", "q_neg")
        drawn = tuple(tensors[f"{config}/{key}"] for key in names)
        layer.sampler.sample = lambda labels: drawn
    return layer


def run(meta: dict, tensors: Tensors, name: str, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    case = meta["cases"][name]
    config = case["config"]
    layer = output_layer(meta, tensors, name, dtype)
    x = tensors[f"{config}/x"].to(dtype).requires_grad_()
    testing = case["mode"] == "sampled_module_testing"
    logits, labels = layer(
        x, targets=tensors[f"{config}/targets"], training=not testing, testing=testing
    )
    loss = LOSSES[name.rsplit("/", 1)[1]](logits, labels)
    grads = torch.autograd.grad(loss, (x, layer.output_weights))
    values = {"logits": logits, "loss": loss, "grad_x": grads[0], "grad_weight": grads[1]}
    return {"new_targets": labels, **{key: value.detach() for key, value in values.items()}}


def close(got: torch.Tensor, want: torch.Tensor, meta: dict) -> None:
    tolerance = meta["tolerance"] if want.dtype == torch.float32 else meta["tolerance"]["out64"]
    torch.testing.assert_close(got, want, rtol=tolerance["rtol"], atol=tolerance["atol"])


def cases(meta: dict, mode: str) -> list[str]:
    return [name for name, case in meta["cases"].items() if case["mode"] == mode]


@pytest.mark.parametrize("mode", ["full", "sampled_module_testing"])
def test_full_logits_loss_and_gradients(parity, mode: str) -> None:
    meta, tensors = parity("nextitem")
    names = cases(meta, mode)
    assert len(names) == {"full": 19, "sampled_module_testing": 5}[mode]
    for name in names:
        for dtype, recorded in ((torch.float32, "out32"), (torch.float64, "out64")):
            got = run(meta, tensors, name, dtype)
            if f"{name}/new_targets" in tensors:
                assert torch.equal(got["new_targets"], tensors[f"{name}/new_targets"])
            for key in ("logits", "loss", "grad_x", "grad_weight"):
                if f"{name}/{recorded}/{key}" in tensors:
                    close(got[key], tensors[f"{name}/{recorded}/{key}"], meta)


def hits(tensors: Tensors, config: str) -> torch.Tensor:
    targets, ids = tensors[f"{config}/targets"], tensors[f"{config}/neg_ids"]
    found = targets.unsqueeze(1) == ids
    return torch.nn.functional.pad(found, (1, 0))


# log q is float32 in both libraries where upstream's was float64 in "out64": rounding of log q
# alone is 1e-6.
SAMPLED = {"rtol": 1e-5, "atol": 5e-6}


@pytest.mark.parametrize("temperature", [1.0, 0.0])
def test_sampled_logits_loss_and_gradients(parity, temperature: float) -> None:
    meta, tensors = parity("nextitem")
    names = [
        name
        for name in cases(meta, "sampled")
        if meta["cases"][name]["softmax_temperature"] == temperature
    ]
    assert len(names) == {1.0: 15, 0.0: 1}[temperature]
    for name in names:
        got = run(meta, tensors, name, torch.float32)
        config = meta["cases"][name]["config"]
        hit = hits(tensors, config)
        assert int(hit.sum()) == meta["configs"][config]["n_accidental_hits"]
        # D6: excluded, where upstream has -655.04.
        assert bool(torch.isneginf(got["logits"][hit]).all())
        assert bool(got["logits"][~hit].isfinite().all())
        if f"{name}/new_targets" in tensors:
            assert torch.equal(got["new_targets"], tensors[f"{name}/new_targets"])
        if f"{name}/out32/logits" in tensors:
            recorded = tensors[f"{name}/out32/logits"]
            torch.testing.assert_close(got["logits"][~hit], recorded[~hit], **SAMPLED)
            assert bool((recorded[hit] == meta["configs"][config]["hit_value"]).all())
        if name.endswith("ce_smooth0.1") and bool(hit.any()):
            # Smoothing over an excluded class is infinite; the task leaves such classes out.
            assert torch.isinf(got["loss"])
            continue
        for key in ("loss", "grad_x", "grad_weight"):
            torch.testing.assert_close(got[key], tensors[f"{name}/out32/{key}"], **SAMPLED)
            torch.testing.assert_close(got[key].double(), tensors[f"{name}/out64/{key}"], **SAMPLED)


def test_fused_loss_and_gradients(parity) -> None:
    meta, tensors = parity("nextitem")
    checked = 0
    for name in cases(meta, "sampled"):
        case = meta["cases"][name]
        if case["softmax_temperature"] == 0.7 or "smooth" in name:
            continue
        layer = output_layer(meta, tensors, name, torch.float32)
        x = tensors[f"{case['config']}/x"].requires_grad_()
        reduction = "sum" if name.endswith("ce_sum") else "mean"
        loss, logits = layer.sampled_loss(x, tensors[f"{case['config']}/targets"], reduction)
        assert logits is None
        grad_x, grad_weight = torch.autograd.grad(loss, (x, layer.output_weights))
        for key, value in (("loss", loss), ("grad_x", grad_x), ("grad_weight", grad_weight)):
            torch.testing.assert_close(value.detach(), tensors[f"{name}/out32/{key}"], **SAMPLED)
        checked += 1
    assert checked == 11


def test_temperature_divides_the_score_only(parity) -> None:
    # D5: upstream divides log q (and the value of a hit) too.
    meta, tensors = parity("nextitem")
    checked = 0
    for name in cases(meta, "sampled"):
        case = meta["cases"][name]
        temperature, config = case["softmax_temperature"], case["config"]
        if temperature != 0.7:
            continue
        got = run(meta, tensors, name, torch.float64)
        hit = hits(tensors, config)
        q_targets, q_neg = (tensors[f"{config}/{key}"].double() for key in ("q_targets", "q_neg"))
        rows = q_targets.shape[0]
        q = torch.cat([q_targets.unsqueeze(1), q_neg.expand(rows, -1)], dim=1)
        shift = (1 / temperature - 1) * (q + 1e-16).log()
        recorded = tensors[f"{name}/out64/logits"]
        torch.testing.assert_close(
            got["logits"][~hit].double(), (recorded + shift)[~hit], rtol=1e-5, atol=1e-5
        )
        assert bool((shift.abs() > 0.01).any())
        hit_value = meta["configs"][config]["hit_value"] / temperature
        torch.testing.assert_close(
            recorded[hit], torch.full_like(recorded[hit], hit_value), rtol=1e-6, atol=0
        )
        checked += 1
    assert checked == 3


def test_smoothed_loss_leaves_hits_out(parity) -> None:
    meta, tensors = parity("nextitem")
    checked = 0
    for name in cases(meta, "sampled"):
        if not name.endswith("ce_smooth0.1"):
            continue
        config = meta["cases"][name]["config"]
        hit = hits(tensors, config)
        got = run(meta, tensors, name, torch.float32)
        ours = smoothed_cross_entropy(got["logits"], got["new_targets"], 0.1)
        upstream = tensors[f"{name}/out32/loss"]
        if bool(hit.any()):
            # D6: upstream's smoothing pays 655 for each hit.
            assert ours < upstream - 0.1
        else:
            torch.testing.assert_close(ours, upstream, **SAMPLED)
        checked += 1
    assert checked == 5
