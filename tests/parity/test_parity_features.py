"""The input block over recorded weights: outputs and gradients of the categorical columns."""

from __future__ import annotations

import torch

from transformers4rec_ext.features.sequence import TabularSequenceFeatures
from transformers4rec_ext.schema import ColumnSchema, IntDomain, Schema


def _schema(meta) -> Schema:
    columns = []
    for feature in meta["schema"]["feature"]:
        domain = feature.get("intDomain")
        columns.append(
            ColumnSchema(
                feature["name"],
                feature["annotation"]["tag"],
                dtype="int64" if feature["type"] == "INT" else "float32",
                is_list="valueCount" in feature,
                int_domain=domain and IntDomain(int(domain["min"]), int(domain["max"])),
            )
        )
    return Schema(columns)


def test_sum_of_categorical_columns(parity):
    meta, tensors = parity("features")
    case = meta["cases"]["sum_categorical"]
    inputs = TabularSequenceFeatures.from_schema(_schema(meta), **case["from_schema"])
    weights = {key: tensors[f"sum_categorical/weights/{key}"] for key in case["state_dict_keys"]}
    inputs.load_state_dict(weights, strict=True)

    batch = {k[len("batch/") :]: v for k, v in tensors.items() if k.startswith("batch/")}
    out = inputs(batch)
    (out * (torch.arange(out.numel()).reshape(out.shape) % 5)).sum().backward()

    assert list(inputs.output_size()) == case["output_size"]
    tolerance = meta["tolerance"]
    torch.testing.assert_close(out, tensors["sum_categorical/out"], **tolerance)
    for key, parameter in inputs.named_parameters():
        recorded = tensors[f"sum_categorical/grad/{key}"]
        torch.testing.assert_close(parameter.grad, recorded, **tolerance)


def test_inferred_sizes(parity):
    meta, tensors = parity("features")
    inputs = TabularSequenceFeatures.from_schema(
        _schema(meta), continuous_tags=None, infer_embedding_sizes=True
    )
    for name, table in inputs.categorical_module.embedding_tables.items():
        key = f"infer_sizes/weights/to_merge.categorical_module.embedding_tables.{name}.weight"
        assert table.weight.shape == tensors[key].shape
