"""The model of the command line: every option of its sizes arrives."""

from __future__ import annotations

import pytest
import torch

from transformers4rec_ext.training import RunConfig, build_model

SIZES = {"max_length": 7, "d_model": 12, "layers": 3, "heads": 4, "inner": 20, "dropout": 0.125}


@pytest.mark.parametrize("body", ["gpt2", "xlnet"])
def test_sizes(body: str) -> None:
    torch.manual_seed(0)
    model = build_model(RunConfig("items", body=body, **SIZES), 41)
    transformer = model.heads[0].body[-1].transformer
    config = transformer.config
    if body == "gpt2":
        found = (config.n_positions, config.n_embd, config.n_layer, config.n_head, config.n_inner)
        dropouts = (config.resid_pdrop, config.embd_pdrop)
        assert config.attn_pdrop == 0  # for a kernel that takes none
    else:
        found = (8, config.d_model, config.n_layer, config.n_head, config.d_inner)
        dropouts = (config.dropout,)
    assert found == (8, 12, 3, 4, 20)
    assert set(dropouts) == {0.125}
    norms = {m.eps for m in model.modules() if isinstance(m, torch.nn.LayerNorm)}
    assert norms == {1e-8}
    inner = [weight for weight in model.parameters() if set(weight.shape) == {12, 20}]
    assert len(inner) == 2 * 3
    assert max(float(weight.detach().std()) for weight in inner) == pytest.approx(0.02, rel=0.25)
    assert model.heads[0].body.inputs.item_embedding_table.weight.shape == (41, 12)
    wide = build_model(RunConfig("items", body=body, **{**SIZES, "inner": 0}), 41)
    config = wide.heads[0].body[-1].transformer.config
    assert (config.n_inner if body == "gpt2" else config.d_inner) == 48
