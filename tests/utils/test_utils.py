"""The helpers that upstream's users import."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from transformers4rec_ext.registry import Registry
from transformers4rec_ext.schema import ColumnSchema, FloatDomain, IntDomain, Schema, Tags
from transformers4rec_ext.utils import torch_utils
from transformers4rec_ext.utils.padding import pad_batch, pad_inputs
from transformers4rec_ext.utils.schema_utils import random_data_from_schema

RAGGED = {
    "a__values": torch.tensor([1, 2, 3, 4]),
    "a__offsets": torch.tensor([0, 3, 3, 4]),
    "b": torch.ones(3),
    "c": torch.ones(3, 2),
}


def test_pad_inputs_pads_ragged_columns_to_the_longest_row():
    padded = pad_inputs(RAGGED)
    assert padded["a"].tolist() == [[1, 2, 3], [0, 0, 0], [4, 0, 0]]
    assert padded["c"] is RAGGED["c"]
    assert set(RAGGED) == {"a__values", "a__offsets", "b", "c"}
    assert pad_inputs(RAGGED, 2)["a"].tolist() == [[1, 2], [0, 0], [4, 0]]
    assert pad_inputs(RAGGED, 9)["a"].shape == (3, 3)
    vectors = {**RAGGED, "a__values": torch.ones(4, 5)}
    assert pad_inputs(vectors)["a"].shape == (3, 3, 5)
    nothing = {"a__values": torch.ones(0), "a__offsets": torch.zeros(3, dtype=torch.int32)}
    assert pad_inputs(nothing)["a"].tolist() == [[0], [0]]
    rowless = {"a__values": torch.ones(0), "a__offsets": torch.zeros(1, dtype=torch.int64)}
    assert pad_inputs(rowless)["a"].shape == (0, 1)


def test_pad_batch_pads_to_what_is_asked_for():
    padded = pad_batch(RAGGED, {"a": 4, "b": 4, "c": 3})
    assert padded["a"].tolist() == [[1, 2, 3, 0], [0, 0, 0, 0], [4, 0, 0, 0]]
    assert padded["b"] is RAGGED["b"]
    assert padded["c"].tolist() == [[1, 1, 0]] * 3
    assert pad_batch(RAGGED, {"a": 1, "c": 1})["c"].tolist() == [[1]] * 3
    assert pad_batch(RAGGED, {"a": 1})["c"] is RAGGED["c"]
    assert pad_batch({"c": torch.ones(2, 1)}, {"c": 2})["c"].tolist() == [[1, 0]] * 2
    with pytest.raises(ValueError, match=r"^Found ragged column 'a' with unspecified padding"):
        pad_batch(RAGGED, {})
    with pytest.raises(ValueError, match=r"pad_batch: inputs must hold .* got \['a'\]"):
        pad_batch({"a__values": torch.ones(2)}, {"a": 1})
    with pytest.raises(ValueError, match=r"inputs\['a__offsets'\] must be ints \[B\+1\]"):
        pad_batch({**RAGGED, "a__offsets": torch.ones(2)}, {"a": 1})


def _schema() -> Schema:
    return Schema(
        [
            ColumnSchema("item", is_list=True, int_domain=IntDomain(0, 4), max_length=6),
            ColumnSchema(
                "price",
                dtype="float32",
                is_list=True,
                float_domain=FloatDomain(-3, -2),
                max_length=6,
            ),
            ColumnSchema("days", int_domain=IntDomain(-4, -1, is_categorical=False)),
            ColumnSchema("vector", dtype="float32", shape=(5,)),
            ColumnSchema("time"),
            ColumnSchema("click", tags=Tags.BINARY_CLASSIFICATION, dtype=None),
        ]
    )


def test_random_data_keeps_to_the_domains():
    batch = random_data_from_schema(_schema(), 200, max_session_length=8, min_session_length=2)
    item, price = batch["item"], batch["price"]
    lengths = (item > 0).sum(dim=1)
    assert item.shape == price.shape == (200, 8)
    assert set(lengths.tolist()) == set(range(2, 9))
    assert set(item[item > 0].tolist()) == {1, 2, 3}
    within = torch.arange(8) < lengths[:, None]
    assert torch.equal(within, item > 0)
    assert torch.equal(within, price != 0)
    assert ((price[within] >= -3) & (price[within] <= -2)).all()
    assert set(batch["days"].tolist()) == {-4, -3, -2}
    assert batch["vector"].shape == (200, 5)
    only = random_data_from_schema(Schema([ColumnSchema("a", int_domain=IntDomain(0, 1))]), 9)
    assert set(only["a"].tolist()) == {1}
    assert (batch["time"].dtype, batch["time"].shape) == (torch.int64, (200,))
    assert set(batch["click"].tolist()) == {0.0, 1.0}
    assert batch["click"].dtype == torch.float32


def test_random_data_is_a_function_of_its_arguments():
    torch.manual_seed(1)
    before = torch.random.get_rng_state()
    first = random_data_from_schema(_schema(), 5, max_session_length=8, seed=3)
    assert torch.equal(torch.random.get_rng_state(), before)
    again = random_data_from_schema(_schema(), 5, max_session_length=8, seed=3)
    other = random_data_from_schema(_schema(), 5, max_session_length=8, seed=4)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["vector"], other["vector"])


def test_ragged_random_data_is_the_same_data():
    dense = random_data_from_schema(_schema(), 9, max_session_length=7)
    ragged = random_data_from_schema(_schema(), 9, max_session_length=7, ragged=True)
    assert "item" not in ragged
    padded = pad_batch(ragged, {"item": 7, "price": 7})
    assert all(torch.equal(dense[name], padded[name]) for name in dense)
    full = random_data_from_schema(_schema(), 9)
    assert full["item"].shape == (9, 6)
    assert (full["item"] > 0).all()


def test_random_data_refuses():
    items = Schema.from_item_column("item", num_items=4)
    for arguments, text in (
        ({"num_rows": 0}, "num_rows must be at least 1; got 0"),
        ({"num_rows": 1}, "max_session_length must be given; got None. 'item' has no max_length"),
        ({"num_rows": 1, "max_session_length": 3}, "max_session_length must be at least 5; got 3"),
    ):
        with pytest.raises(ValueError, match=text):
            random_data_from_schema(items, **arguments)
    empty = Schema([ColumnSchema("a", int_domain=IntDomain(0, 0))])
    with pytest.raises(ValueError, match="int_domain of column 'a' must hold an id above 0"):
        random_data_from_schema(empty, 1)


def test_sizes_of_a_schema():
    sizes = torch_utils.get_output_sizes_from_schema(_schema(), max_sequence_length=8)
    assert sizes["item"] == torch.Size([-1, 8])
    assert sizes["vector"] == torch.Size([-1, 5])
    assert sizes["days"] == torch.Size([-1])
    assert torch_utils.get_output_sizes_from_schema(_schema(), 4)["price"] == torch.Size([4, 6])
    assert torch_utils.calculate_batch_size_from_input_size(torch.Size([4, 6])) == 4
    assert torch_utils.calculate_batch_size_from_input_size(sizes) == -1


def test_helpers_of_custom_metrics():
    scores = torch.tensor([[0.5, 0.9, 0.5], [0.1, 0.2, 0.3]], dtype=torch.float64)
    labels = torch_utils.tranform_label_to_onehot(torch.tensor([[0], [2]]), 3)
    assert labels.tolist() == [[1, 0, 0], [0, 0, 1]]
    ks, scores32, relevances = torch_utils.check_inputs(torch.tensor([1, 2]), scores, labels)
    assert (ks.dtype, scores32.dtype, relevances.dtype) == (torch.int32, *[torch.float32] * 2)
    best, ids, relevant = torch_utils.extract_topk(ks, scores32, relevances)
    assert ids.tolist() == [[1, 2], [2, 1]]  # the tie goes against the relevant item
    assert best.tolist() == scores32.gather(1, ids).tolist()
    assert relevant.tolist() == [[0, 0], [1, 0]]
    assert torch_utils.create_output_placeholder(scores, ks).tolist() == [[0, 0], [0, 0]]
    with pytest.raises(ValueError, match="ks must be at most V=3; got 4"):
        torch_utils.extract_topk([4], scores, labels)
    with pytest.raises(ValueError, match=r"^scores and labels must be the same shape"):
        torch_utils.check_inputs([1], scores, labels[:1])
    with pytest.raises(ValueError, match=r"one_hot_1d: labels must be \[N\]; got \[2, 3\]"):
        torch_utils.one_hot_1d(labels, 3)


def test_nested_tensors():
    old = {"a": [torch.zeros(1, 2)], "b": (np.zeros(1), torch.tensor(1.0, requires_grad=True))}
    new = {"a": [torch.ones(1, 3)], "b": (np.ones(2), torch.tensor(2.0))}
    both = torch_utils.nested_concat(old, new)
    assert both["a"][0].tolist() == [[0, 0, -100], [1, 1, 1]]
    assert both["b"][0].tolist() == [0, 1, 1]
    assert both["b"][1].tolist() == [1, 2]
    arrays = torch_utils.nested_numpify(torch_utils.nested_detach(both["b"][1:]))
    assert isinstance(arrays[0], np.ndarray)
    assert torch_utils.nested_truncate(both, 1)["a"][0].tolist() == [[0, 0, -100]]
    assert torch_utils.numpy_pad_and_concatenate(np.zeros((1, 1)), np.ones((1, 2)), 7).tolist() == [
        [0, 7],
        [1, 1],
    ]
    with pytest.raises(TypeError, match="new_tensors must be of the type of tensors, list"):
        torch_utils.nested_concat([1], (1,))
    with pytest.raises(TypeError, match="tensors must hold tensors or arrays; got int"):
        torch_utils.nested_concat([1], [1])


def test_modules():
    assert not torch_utils.check_gpu(torch.nn.Linear(1, 1))
    assert not torch_utils.check_gpu(torch.nn.Identity())
    assert torch_utils.LambdaModule(torch.relu)(torch.tensor(-1.0)) == 0
    with pytest.raises(TypeError, match="lambda_fn must be callable; got int"):
        torch_utils.LambdaModule(1)


def test_names_are_registered_in_any_case():
    shapes = Registry("shape")
    shapes.register("Circle")(int)
    assert shapes["circle"] is shapes.parse("CIRCLE") is int
    assert "Circle" in shapes
    with pytest.raises(ValueError, match="names must be free in the shape registry; got 'circle'"):
        shapes.register_with_multiple_names("square", "CIRCLE")(float)
    assert shapes.names() == ["circle"]  # of two names, one of them taken, neither is filed


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64, torch.int64])
def test_arrays_keep_what_numpy_has(dtype):
    tensor = torch.tensor([1, 3], dtype=dtype)
    wide = {torch.float64: np.float64, torch.int64: np.int64}.get(dtype, np.float32)
    (array,) = torch_utils.nested_numpify((tensor,))
    assert array.dtype == wide
    assert array.tolist() == [1, 3]
