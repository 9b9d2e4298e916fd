"""The input block over recorded weights: outputs, gradients, sizes and refusals of all options."""

from __future__ import annotations

import json
import math

import pytest
import torch

from transformers4rec_ext.features.sequence import TabularSequenceFeatures
from transformers4rec_ext.schema import Schema

REFUSED = ("sum", "sum_item_multi")
CASES = (
    "concat",
    "no_projection",
    "proj2",
    "sum_categorical",
    "sum_item_multi_categorical",
    "stack_categorical",
    "continuous_only",
    "d_output",
    "d_output_clm",
    "infer_sizes",
    "dims",
    "soft",
    "dict_out",
)
# Upstream's size of stacked columns leaves out their width: the tensor is [5, 8, 12, 3].
SIZES = {"stack_categorical": [-1, 8, 12, 3]}


def _below(tensors, prefix):
    prefix = f"{prefix}/"
    return {k[len(prefix) :]: v for k, v in tensors.items() if k.startswith(prefix)}


def _inputs(meta, name) -> TabularSequenceFeatures:
    schema = Schema.from_json(json.dumps(meta["schema"]))
    return TabularSequenceFeatures.from_schema(schema, **meta["cases"][name]["from_schema"])


def _plain(size):
    if isinstance(size, dict):
        return {name: list(column) for name, column in size.items()}
    return list(size)


@pytest.mark.parametrize("name", CASES)
def test_outputs_and_gradients(parity, name):
    meta, tensors = parity("features")
    case = meta["cases"][name]
    inputs = _inputs(meta, name)
    assert sorted(inputs.state_dict()) == sorted(case["state_dict_keys"])
    inputs.load_state_dict(_below(tensors, f"{name}/weights"), strict=True)
    assert _plain(inputs.output_size()) == SIZES.get(name, case["output_size"])

    batch = _below(tensors, "batch")
    # Recorded in testing, which is when the masking shows what it hides of a full session.
    out = inputs(batch, testing=True)
    recorded = _below(tensors, f"{name}/out") or tensors[f"{name}/out"]
    if isinstance(out, dict):
        assert set(out) == set(recorded)
        for column in out:
            torch.testing.assert_close(out[column], recorded[column], **meta["tolerance"])
        out = torch.cat([out[column].flatten() for column in sorted(out)])
    else:
        torch.testing.assert_close(out, recorded, **meta["tolerance"])
        assert math.prod(inputs.output_size()[1:]) == math.prod(out.shape[1:])

    if not case["state_dict_keys"]:
        return
    (out * (torch.arange(out.numel()).reshape(out.shape) % 5)).sum().backward()
    gradients = _below(tensors, f"{name}/grad")
    assert set(gradients) == {k for k, p in inputs.named_parameters() if p.grad is not None}
    for key, parameter in inputs.named_parameters():
        if parameter.grad is not None:
            torch.testing.assert_close(parameter.grad, gradients[key], **meta["tolerance"])


@pytest.mark.parametrize("name", REFUSED)
def test_sums_that_upstream_cannot_build(parity, name):
    """It asks for the columns' sizes before the numbers are projected."""
    meta, tensors = parity("features")
    assert meta["cases"][name]["raises"] == "ValueError"
    inputs = _inputs(meta, name)
    assert inputs.output_size() == torch.Size([-1, 8, 12])
    batch = _below(tensors, "batch")
    out = inputs(batch)
    inputs.aggregation = None
    columns = {n: c if c.dim() == 3 else c[:, None] for n, c in inputs(batch).items()}
    item = columns.pop("item_id/list") if name == "sum_item_multi" else 1
    torch.testing.assert_close(out, item * sum(columns.values()))


def test_all_recorded_cases_are_tested(parity):
    assert set(parity("features")[0]["cases"]) == {*CASES, *REFUSED}
