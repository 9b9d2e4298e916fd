"""Blocks: building, sizes, flags, keys and errors."""

from __future__ import annotations

import copy
import logging
from collections import OrderedDict

import pytest
import torch
from torch import nn

from transformers4rec_ext.block.base import (
    Block,
    BlockBase,
    BuildableBlock,
    SequentialBlock,
    build_blocks,
)
from transformers4rec_ext.block.mlp import MLPBlock
from transformers4rec_ext.masking import CausalLanguageModeling


def test_mlp_takes_some_columns_of_a_dictionary():
    sizes = {"b": torch.Size([-1, 5, 2]), "a": torch.Size([-1, 5, 3]), "c": torch.Size([-1, 1])}
    mlp = MLPBlock([4, 6], filter_features=["b", "a"]).build(sizes)
    assert mlp.output_size() == torch.Size([-1, 5, 6])
    columns = {"a": torch.randn(2, 5, 3), "b": torch.randn(2, 5, 2), "c": torch.randn(2, 1)}
    dense = MLPBlock([4, 6]).build([-1, 5, 5])
    dense.load_state_dict(dict(zip(dense.state_dict(), mlp.state_dict().values(), strict=True)))
    both = torch.cat([columns["a"], columns["b"]], dim=-1)
    torch.testing.assert_close(mlp(columns), dense(both))


def test_mlp_repeats_a_column_of_whole_rows_and_names_one_that_a_batch_lacks():
    sizes = {"a": torch.Size([-1, 5, 3]), "user": torch.Size([-1, 2])}
    mlp = MLPBlock([4], filter_features=iter(["user", "a"])).build(sizes)
    assert mlp.output_size() == torch.Size([-1, 5, 4])
    assert list(mlp.state_dict()) == ["1.0.weight", "1.0.bias"]
    columns = {"a": torch.randn(2, 5, 3), "user": torch.randn(2, 2)}
    repeated = columns["user"].unsqueeze(1).expand(-1, 5, -1)
    both = torch.cat([columns["a"], repeated], dim=-1)
    torch.testing.assert_close(mlp(columns), mlp[1](both))
    with pytest.raises(ValueError, match="inputs must have the column 'user'"):
        mlp({"a": columns["a"]})


def _source(width: int = 8) -> Block:
    return Block(nn.Identity(), [None, 5, width])


class Recorder(BlockBase):
    """Returns its input and remembers the flags it was given."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: dict[str, object] = {}

    def forward(self, inputs, testing=False, extra=None):
        self.seen = {"testing": testing, "extra": extra}
        return inputs


def test_mlp_layers_and_keys():
    mlp = MLPBlock([6, 4], dropout=0.5, normalization="layer_norm").build([-1, 5, 8])
    kinds = [type(module).__name__ for module in mlp[0]]
    assert kinds == ["Linear", "ReLU", "LayerNorm", "Dropout"]
    assert [k for k in mlp.state_dict() if "weight" in k] == [
        "0.0.weight",
        "0.2.weight",
        "1.0.weight",
        "1.2.weight",
    ]
    assert mlp.output_size() == torch.Size([-1, 5, 4])
    assert mlp(torch.zeros(2, 5, 8)).shape == (2, 5, 4)


def test_mlp_options():
    linear = MLPBlock(4, activation=None, use_bias=False).build([-1, 8])
    x = torch.randn(3, 8)
    assert torch.equal(linear(x), x @ linear[0][0].weight.T)
    assert list(linear.state_dict()) == ["0.0.weight"]
    assert MLPBlock([4]).build([-1, 8])(x).min() >= 0
    with pytest.raises(TypeError, match=r"activation must be a class .*; got 'relu'. .* torch.nn"):
        MLPBlock([4], activation="relu")


def test_batch_norm_takes_the_last_dimension():
    mlp = MLPBlock([4], activation=None, normalization="batch_norm").build([-1, 5, 8])
    out = mlp(torch.randn(16, 5, 8)).reshape(-1, 4)
    torch.testing.assert_close(out.mean(0), torch.zeros(4), atol=1e-5, rtol=0)
    torch.testing.assert_close(out.std(0, correction=0), torch.ones(4), atol=1e-3, rtol=0)


def test_sequential_builds_each_for_its_predecessor():
    body = SequentialBlock(_source(), MLPBlock([6]), nn.Dropout(0.1), MLPBlock([3]))
    assert body.output_size() == torch.Size([-1, 5, 3])
    assert body(torch.zeros(2, 5, 8)).shape == (2, 5, 3)
    assert len(build_blocks(_source(), MLPBlock([6]))) == 2
    assert body.inputs is None
    told = SequentialBlock(_source(), output_size=[None, 7])
    assert told.output_size() == [None, 7]
    assert SequentialBlock(told, MLPBlock([3])).output_size() == torch.Size([-1, 3])
    assert MLPBlock([3]).build([None, 5, 7]).output_size() == torch.Size([-1, 5, 3])


def test_sequential_from_list_and_mapping():
    modules = [_source(), MLPBlock([6])]
    assert list(SequentialBlock(modules).state_dict()) == ["1.0.0.weight", "1.0.0.bias"]
    named = SequentialBlock(OrderedDict(zip(("first", "mlp"), modules, strict=True)))
    assert list(named.state_dict()) == ["mlp.0.0.weight", "mlp.0.0.bias"]
    assert named(torch.zeros(2, 5, 8)).shape == (2, 5, 6)
    assert len(named[1:]) == 1


def test_sequential_inside_sequential():
    inner = SequentialBlock(_source(), MLPBlock([6]))
    outer = SequentialBlock(inner, MLPBlock([4]))
    assert outer.output_size() == torch.Size([-1, 5, 4])
    assert outer.build([-1, 5, 8]).output_size() == torch.Size([-1, 5, 4])


def test_shift_operators():
    body = _source() >> MLPBlock([6]) >> MLPBlock([4])
    assert [type(module).__name__ for module in body] == [
        "Block",
        "SequentialBlock",
        "SequentialBlock",
    ]
    assert body.output_size() == torch.Size([-1, 5, 4])
    with pytest.raises(ValueError, match="MLPBlock must follow a block whose output size is known"):
        MLPBlock([6]) >> MLPBlock([4])


def test_flags_go_to_those_that_name_them():
    recorder = Recorder()
    body = SequentialBlock(nn.Identity(), recorder)
    body(torch.zeros(1), training=True, testing=True, extra=7, unknown=1)
    assert recorder.seen == {"testing": True, "extra": 7}
    body(torch.zeros(1))
    assert recorder.seen == {"testing": False, "extra": None}
    copy.deepcopy(body)(torch.zeros(1))


def test_output_size_of_unknown_modules_is_unknown():
    body = SequentialBlock(_source(), nn.Flatten())
    assert body.output_size() is None
    with pytest.raises(ValueError, match=r"got Flatten. Build it yourself with .build"):
        SequentialBlock(_source(), nn.Flatten(), MLPBlock([4]))
    assert BlockBase().output_size([1]) is None
    assert SequentialBlock(nn.Linear(3, 4)).output_size([-1, 3]) == torch.Size([-1, 4])


def test_buildable_to_module():
    assert MLPBlock([4]).to_module(_source()).output_size() == torch.Size([-1, 5, 4])
    assert MLPBlock([4]).to_module([-1, 3])[0][0].in_features == 3
    with pytest.raises(TypeError):
        BuildableBlock()


def test_different_maskings_are_reported(caplog):
    class Source(Block):
        masking = CausalLanguageModeling(8)

    class Transformer(Recorder):
        masking = CausalLanguageModeling(8)

        def set_masking(self, masking):
            raise AssertionError("only a missing masking is filled in")

    with caplog.at_level(logging.WARNING, logger="transformers4rec_ext"):
        SequentialBlock(Source(nn.Identity(), [None, 8]), Transformer())
    assert "The masking of Transformer is not the one of the input block" in caplog.text


def test_to_model_works_by_what_the_argument_can_do():
    class Head:
        prediction_task_dict = None

        def to_model(self, **kwargs):
            return self, kwargs

    class Task:
        def to_head(self, body, inputs):
            self.got = body, inputs
            return head

    head, task, body = Head(), Task(), _source()
    assert body.to_model(head, name="a") == (head, {"name": "a"})
    assert body.to_model(task, inputs="inputs") == (head, {})
    assert task.got == (body, "inputs")
    text = "`prediction_task_or_head` needs to be a `Head` or `PredictionTask` found: <class 'int'>"
    with pytest.raises(ValueError, match=text):
        body.to_model(3)


@pytest.mark.parametrize(
    ("make", "error", "text"),
    [
        (lambda: MLPBlock([]), ValueError, "dimensions must be one or more positive ints"),
        (lambda: MLPBlock([4, 0]), ValueError, "dimensions must be one or more positive ints"),
        (
            lambda: MLPBlock(True),
            ValueError,
            "dimensions must be one or more positive ints; got True",
        ),
        (
            lambda: MLPBlock(5.0),
            ValueError,
            "dimensions must be one or more positive ints; got 5.0",
        ),
        (lambda: MLPBlock(None), ValueError, "dimensions must be one or more positive ints"),
        (lambda: MLPBlock([4], nn.ReLU()), TypeError, r"its own: pass torch\.nn\.ReLU\."),
        (
            lambda: MLPBlock([4], filter_features=["a", "b"]).build({"a": [1]}),
            ValueError,
            r"input_shape must hold the columns \['a', 'b'\]",
        ),
        (
            lambda: MLPBlock([4], filter_features=[]).build({"a": [1]}),
            ValueError,
            "filter_features must name at least one column",
        ),
        (
            lambda: MLPBlock([4], filter_features="ab").build({"a": [1], "b": [1]}),
            TypeError,
            "MLPBlock: filter_features must be a list of column names; got 'ab'",
        ),
        (lambda: MLPBlock([4], dropout=1.0), ValueError, r"dropout must lie in \[0, 1\)"),
        (lambda: MLPBlock([4], normalization="x"), ValueError, "normalization must be one of"),
        (lambda: MLPBlock([4]).build(None), ValueError, "input_shape must be the size of one te"),
        (lambda: MLPBlock([4]).build({"a": [1]}), ValueError, "Give the input block an aggregat"),
        (lambda: SequentialBlock(MLPBlock([4])), ValueError, "must follow a block whose"),
        (lambda: SequentialBlock(3), TypeError, "args must be blocks or modules; got int"),
        (
            lambda: SequentialBlock(nn.Linear(3, 4)).output_size([-1, 7]),
            ValueError,
            "in_features must be D=7, the width it is given; got in_features=3",
        ),
        (lambda: Block(3, [1]), TypeError, "module must be an nn.Module; got int"),
    ],
)
def test_bad_input(make, error, text):
    with pytest.raises(error, match=text):
        make()
