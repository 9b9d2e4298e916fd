"""Whole models moved to another dtype: every architecture and masking, trained, tested, served."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from body_helpers import ACCEPTED, ARCHITECTURES, MODES, D, item_features, sessions

import transformers4rec_ext as tr

PAIRS = [
    (architecture, masking)
    for architecture in (
        *("gpt2", "xlnet-bi", "bert", "roberta"),
        *("electra", "albert", "longformer", "reformer"),
    )
    for masking in sorted(ACCEPTED[architecture])
    if masking != "rtd" or architecture in ("xlnet-bi", "electra")  # elsewhere it is mlm
]


def _model(architecture: str, masking: str, **sizes: int) -> tr.Model:
    torch.manual_seed(0)
    features = item_features(masking, **sizes)
    block = tr.TransformerBlock(ARCHITECTURES[architecture](), masking=features.masking)
    body = tr.SequentialBlock(features, block)
    return tr.Model(tr.Head(body, tr.NextItemPredictionTask(weight_tying=True)))


def _hidden(model: tr.Model, ids: torch.Tensor, mode: str) -> torch.Tensor:
    torch.manual_seed(1)  # the same items masked
    hidden = model.eval().heads[0].body({"item_id": ids}, **MODES[mode])
    return hidden.detach()


@pytest.mark.parametrize(("architecture", "masking"), PAIRS)
def test_every_pair_computes_in_the_models_dtype(architecture: str, masking: str) -> None:
    """As the same weights do in float32, to a few units in the last place of the coarser."""
    given, ids = _model(architecture, masking), sessions()
    for dtype in (torch.float64, torch.bfloat16, torch.float16):
        model = copy.deepcopy(given).to(dtype)
        single = copy.deepcopy(model).float()
        bound = 4 * max(torch.finfo(dtype).eps, torch.finfo(torch.float32).eps)
        for mode in MODES:
            found, expected = _hidden(model, ids, mode), _hidden(single, ids, mode)
            assert found.dtype is dtype
            difference = (found.double() - expected.double()).abs().max()
            assert difference <= bound * expected.abs().max()
        output = model.train()({"item_id": ids}, training=True)
        output["loss"].backward()
        gradient = model.prediction_tasks[0].item_weights.grad
        assert gradient.dtype is dtype
        assert gradient.isfinite().all()
        assert gradient.any()
        scores, best = model.eval()({"item_id": ids}, top_k=3)
        assert scores.dtype is torch.float32
        assert scores.isfinite().all()
        assert (best > 0).all()


def test_a_transformer_in_half_precision_may_be_given() -> None:
    """Two streams of attention, of a model that had its dtype before the block was made."""
    xlnet = ARCHITECTURES["xlnet-bi"]().to_huggingface_torch_model().to(torch.bfloat16)
    features = item_features("plm").to(torch.bfloat16)
    body = tr.SequentialBlock(features, tr.TransformerBlock(xlnet, masking=features.masking))
    for each in (body, copy.deepcopy(body), pickle.loads(pickle.dumps(body))):
        assert each({"item_id": sessions()}, training=True).dtype is torch.bfloat16


def test_autocast_keeps_the_weights_in_float32() -> None:
    model = _model("xlnet-bi", "plm", embedding_dim_default=D)
    with torch.autocast("cpu", torch.bfloat16):
        loss = model({"item_id": sessions()}, training=True)["loss"]
    loss.backward()
    assert loss.dtype is torch.float32
    for name, parameter in model.named_parameters():
        assert parameter.grad is None or parameter.grad.dtype is torch.float32, name


def test_float16_rows_that_torch_cannot_add_are_told() -> None:
    inputs = item_features("clm")
    block = tr.TransformerBlock(ARCHITECTURES["gpt2"](), masking=inputs.masking)
    task = tr.NextItemPredictionTask(weight_tying=True, sampled_softmax=True, sparse_grad=True)
    model = tr.Model(tr.Head(tr.SequentialBlock(inputs, block), task))
    model.to(torch.bfloat16)({"item_id": sessions()}, training=True)["loss"].backward()
    assert task_table(model).grad.is_sparse
    model.half()
    with pytest.raises(ValueError, match=r"sparse_grad must be False with a tied table of float16"):
        model({"item_id": sessions()}, training=True)
    model({"item_id": sessions()}, testing=True)
    with torch.no_grad():
        model({"item_id": sessions()}, training=True)
    task_table(model).requires_grad_(False)
    model({"item_id": sessions()}, training=True)["loss"].backward()


def task_table(model: tr.Model) -> torch.nn.Parameter:
    table: torch.nn.Parameter = model.prediction_tasks[0].item_embedding_table.weight
    return table
