"""Aggregations: values, sizes and what they refuse."""

from __future__ import annotations

import pytest
import torch

import transformers4rec_ext as tr

SCHEMA = tr.Schema.from_item_column("item", num_items=9)
INPUTS = {
    "item": torch.randn(2, 3, 4),
    "age": torch.randn(2, 4),
    "category": torch.randn(2, 3, 4),
}
ROWS = {"item": torch.randn(2, 4), "age": torch.randn(2, 4)}
AGE = INPUTS["age"].unsqueeze(1).expand(-1, 3, -1)


def _sizes(inputs):
    return {name: torch.Size([-1, *column.shape[1:]]) for name, column in inputs.items()}


@pytest.mark.parametrize(
    ("aggregation", "inputs", "expected"),
    [
        ("concat", INPUTS, torch.cat([AGE, INPUTS["category"], INPUTS["item"]], dim=-1)),
        ("concat", ROWS, torch.cat([ROWS["age"], ROWS["item"]], dim=-1)),
        ("stack", INPUTS, torch.stack([AGE, INPUTS["category"], INPUTS["item"]], dim=-1)),
        ("stack", ROWS, torch.stack([ROWS["age"], ROWS["item"]], dim=-1)),
        (tr.StackFeatures(axis=0), ROWS, torch.stack([ROWS["age"], ROWS["item"]])),
        (tr.StackFeatures(axis=1), ROWS, torch.stack([ROWS["age"], ROWS["item"]], dim=1)),
        ("element-wise-sum", INPUTS, AGE + INPUTS["category"] + INPUTS["item"]),
        ("element-wise-sum", ROWS, ROWS["age"] + ROWS["item"]),
        ("element-wise-sum-item-multi", INPUTS, INPUTS["item"] * (AGE + INPUTS["category"])),
        ("element-wise-sum-item-multi", ROWS, ROWS["item"] * ROWS["age"]),
    ],
)
def test_values_and_sizes(aggregation, inputs, expected):
    aggregation = tr.TabularAggregation.parse(aggregation)
    aggregation.set_schema(SCHEMA)
    before = dict(inputs)
    assert torch.equal(aggregation(inputs), expected)
    assert inputs == before  # upstream put the repeated columns into the caller's dict
    size = aggregation.output_size(_sizes(inputs))
    assert [n for n in size if n != -1] == [n for n in expected.shape if n != 2] or (
        isinstance(aggregation, tr.StackFeatures)
    )
    assert len(size) == expected.ndim
    assert size[-1] == expected.shape[-1]


def test_stacked_sizes():
    assert tr.StackFeatures().output_size(_sizes(INPUTS)) == torch.Size([-1, 3, 4, 3])
    assert tr.StackFeatures(axis=0).output_size(_sizes(ROWS)) == torch.Size([2, -1, 4])
    unknown = {"item": torch.Size([-1, -1, 4]), "age": torch.Size([-1, 4])}
    assert tr.ConcatFeatures().output_size(unknown) == torch.Size([-1, -1, 8])


def test_one_column_is_left_alone():
    column = torch.randn(2, 3)
    assert tr.ConcatFeatures()({"a": column}) is column
    assert tr.ElementwiseSum()({"a": column}) is column


def test_shift_operator():
    block = tr.TabularModule() >> tr.ConcatFeatures()
    assert block(ROWS).shape == (2, 8)


@pytest.mark.filterwarnings("ignore:.torch.jit.trace:DeprecationWarning")
def test_traces_and_compiles():
    for name in ("concat", "stack", "element-wise-sum"):
        aggregation = tr.TabularAggregation.parse(name)
        compiled = torch.compile(aggregation, fullgraph=True, backend="eager", dynamic=True)
        assert torch.equal(compiled(INPUTS), aggregation(INPUTS))
        traced = torch.jit.trace(aggregation, (INPUTS,), strict=False)
        longer = {
            name: column.repeat(2, *[1] * (column.ndim - 1)) for name, column in INPUTS.items()
        }
        assert torch.equal(traced(longer), aggregation(longer))


def _without(name):
    return {key: column for key, column in INPUTS.items() if key != name}


@pytest.mark.parametrize(
    ("aggregation", "inputs", "text"),
    [
        (
            tr.ConcatFeatures(),
            {**INPUTS, "category": torch.ones(2, 5, 4)},
            r"All sequential features must share the same shape .*'category': \(2, 5\)",
        ),
        (
            tr.ConcatFeatures(),
            {"a": torch.ones(2, 3), "b": torch.ones(4, 3)},
            r"All features dimensions except the last one must match: \{'a': \(2, 3\), 'b'",
        ),
        (
            tr.ElementwiseSum(),
            {"a": torch.ones(2, 3), "b": torch.ones(2, 4)},
            "The shapes of all input features are not equal",
        ),
        (tr.ElementwiseSumItemMulti(), None, "^ElementwiseSumItemMulti requires a schema"),
        (
            tr.ElementwiseSumItemMulti(tr.Schema([tr.ColumnSchema("age")])),
            None,
            "There is no column tagged as item id",
        ),
        (
            tr.ElementwiseSumItemMulti(SCHEMA),
            _without("item"),
            r"have the item id column 'item'; got columns \['age', 'category'\]",
        ),
        (tr.ElementwiseSumItemMulti(SCHEMA), {"item": torch.ones(2, 3)}, "a column besides 'item'"),
    ],
)
def test_bad_inputs(aggregation, inputs, text):
    with pytest.raises(ValueError, match=text):
        aggregation(inputs)


@pytest.mark.parametrize("name", ["concat", "stack", "element-wise-sum"])
def test_nothing_to_aggregate(name):
    aggregation = tr.TabularAggregation.parse(name)
    with pytest.raises(ValueError, match="inputs must have at least one column; got none"):
        aggregation({})
    assert aggregation.output_size({}) is None
    assert aggregation.output_size() is None
    body = tr.SequentialBlock(["a"], aggregation)
    assert body.output_size() is None
    with pytest.raises(ValueError, match="MLPBlock must follow a block whose output size is known"):
        body >> tr.MLPBlock([2])


def test_bad_sizes():
    sizes = {"a": torch.Size([-1, 3, 4]), "b": torch.Size([-1, 5, 4])}
    with pytest.raises(ValueError, match="All sequential features must share the same shape"):
        tr.ConcatFeatures().output_size(sizes)
    sizes["b"] = torch.Size([-1, 3, 5])
    with pytest.raises(ValueError, match="The last dim of all input features is not equal"):
        tr.ElementwiseSum().output_size(sizes)
    with pytest.raises(ValueError, match="requires a schema"):
        tr.TabularBlock(aggregation="element-wise-sum-item-multi").build(_sizes(ROWS))


@pytest.mark.parametrize("kind", [tr.TabularFeatures, tr.TabularSequenceFeatures])
@pytest.mark.parametrize("name", ["element-wise-sum", "element-wise-sum-item-multi", "stack"])
def test_numbers_are_projected_before_columns_are_summed(kind, name):
    data = tr.data.tabular_sequence_testing_data
    inputs = kind.from_schema(
        data.schema,
        max_sequence_length=20,
        aggregation=name,
        continuous_projection=64,
        embedding_dim_default=64,
    )
    out = inputs(data.torch_synthetic_data(num_rows=3, max_session_length=20))
    assert inputs.output_size()[1:] == out.shape[1:]
    assert out.shape[:3] == (3, 20, 64)


def test_an_aggregation_is_built_for_the_projected_columns():
    class Sized(tr.ConcatFeatures):
        def build(self, input_size, schema=None, **kwargs):
            self.columns = set(input_size)
            return super().build(input_size, schema=schema, **kwargs)

    data = tr.data.tabular_sequence_testing_data
    inputs = tr.TabularSequenceFeatures.from_schema(
        data.schema, max_sequence_length=20, aggregation=Sized(), continuous_projection=8
    )
    numbers = data.schema.select_by_tag(tr.Tags.CONTINUOUS).column_names
    assert "continuous_projection" in inputs.aggregation.columns
    assert numbers
    assert not inputs.aggregation.columns & set(numbers)
