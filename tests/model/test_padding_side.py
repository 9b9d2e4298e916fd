"""Sessions may be padded on either side, or have an unknown item (0) inside."""

from __future__ import annotations

import pytest
import torch

import transformers4rec_ext as tr
from transformers4rec_ext.masking.permutation import permutation_targets
from transformers4rec_ext.masking.targets import causal_targets, end_of, masked_targets

SCHEMA = tr.Schema.from_item_column("item_id", num_items=20, max_length=6)
RIGHT = torch.tensor([[3, 4, 5, 0, 0, 0], [7, 8, 9, 10, 11, 0]])
LEFT = torch.tensor([[0, 0, 0, 3, 4, 5], [0, 7, 8, 9, 10, 11]])
HOLE = torch.tensor([[3, 0, 4, 0, 5, 0], [7, 8, 0, 9, 10, 11]])


def model_of(masking: str, *blocks: object) -> tr.Model:
    torch.manual_seed(0)
    inputs = tr.TabularSequenceFeatures.from_schema(SCHEMA, d_output=8, masking=masking)
    body = tr.SequentialBlock(inputs, *blocks)
    return tr.Model(tr.Head(body, tr.NextItemPredictionTask(), inputs=inputs)).eval()


@pytest.mark.parametrize("ids", [RIGHT, LEFT, HOLE])
def test_what_a_causal_model_recommends(ids):
    model = model_of("clm", tr.MLPBlock([8]))  # which knows of no position
    expected = model({"item_id": torch.tensor([[5], [11]])})
    # of one row or six a BLAS may round a product differently (MKL on an Ice Lake Xeon does)
    torch.testing.assert_close(model({"item_id": ids}), expected)


@pytest.mark.parametrize("ids", [RIGHT, LEFT, HOLE])
def test_what_is_asked_of_a_session(ids):
    rows, last = torch.arange(2), end_of(ids != 0) - 1
    assert ids[rows, last].tolist() == [5, 11]
    for targets in (masked_targets, permutation_targets):
        testing = targets(ids, mode="testing")
        assert testing.schema.nonzero().tolist() == [[0, int(last[0])], [1, int(last[1])]]
        serving = targets(ids, mode="inference")
        assert serving.schema.nonzero().tolist() == [[0, int(last[0]) + 1], [1, int(last[1]) + 1]]
        assert serving.targets[serving.schema].tolist() == [5, 11]
    testing = causal_targets(ids, mode="testing", last_only=True)
    assert testing.targets[testing.targets != 0].tolist() == ([5, 11] if ids is not HOLE else [11])


@pytest.mark.parametrize(("masking", "config"), [("clm", tr.GPT2Config), ("clm", tr.XLNetConfig)])
@pytest.mark.parametrize("ids", [RIGHT, LEFT, HOLE])
def test_testing_is_inference_on_all_but_the_last_item(masking, config, ids):
    if ids is HOLE:
        ids = torch.tensor([[0, 3, 0, 4, 5, 0], [7, 0, 9, 10, 11, 0]])
    model = model_of(masking, tr.TransformerBlock(config.build(8, 2, 1, 7)))
    tested = model({"item_id": ids}, testing=True)
    assert tested["labels"].tolist() == [5, 11]
    before = ids.clone()
    before[torch.arange(2), end_of(ids != 0) - 1] = 0
    torch.testing.assert_close(tested["predictions"], model({"item_id": before}))


@pytest.mark.parametrize("masking", ["mlm", "plm", "rtd"])
@pytest.mark.parametrize("ids", [RIGHT, LEFT, HOLE])
def test_every_item_is_seen_by_what_is_recommended(masking, ids):
    model = model_of(masking, tr.TransformerBlock(tr.XLNetConfig.build(8, 2, 1, 7)))
    scores = model({"item_id": ids})
    for row, column in (ids != 0).nonzero().tolist():
        changed = ids.clone()
        changed[row, column] = 20
        differs = (model({"item_id": changed}) != scores).any(dim=1)
        assert differs.tolist() == [row == 0, row == 1]


def test_a_session_without_items_ends_at_its_start():
    assert end_of(torch.zeros(2, 3, dtype=torch.bool)).tolist() == [0, 0]
    assert end_of(torch.zeros(2, 0, dtype=torch.bool)).tolist() == [0, 0]
