"""Tabular modules: steps around forward, merging, sequences of blocks, keys."""

from __future__ import annotations

import copy
import pickle
from collections import OrderedDict

import pytest
import torch
from torch import nn

import transformers4rec_ext as tr
from transformers4rec_ext.block.sizes import OutputSizeMixin
from transformers4rec_ext.tabular.base import (
    tabular_aggregation_registry,
    tabular_transformation_registry,
)

COLUMNS = {f"con_{name}": torch.rand(10, 1) for name in "abcdef"}
SIZES = {name: torch.Size([-1, 1]) for name in COLUMNS}


class Identity(tr.TabularModule):
    """Columns to columns, as a user writes it."""

    def forward(self, inputs):
        return inputs


class Double(tr.TabularTransformation):
    """Twice every column."""

    def forward(self, inputs, **kwargs):
        return {name: 2 * column for name, column in inputs.items()}


def test_upstreams_idioms():
    block = Identity()
    assert block(COLUMNS) == COLUMNS
    assert block(COLUMNS, aggregation="concat").size()[1] == 6
    assert block(COLUMNS, aggregation=tr.ConcatFeatures()).size()[1] == 6
    assert Identity(aggregation="concat", pre="ssn")(COLUMNS).size()[1] == 6
    a = ["con_a"] >> Identity()
    b = tr.SequentialBlock(["con_b"], Identity())
    assert list(a(COLUMNS)) == ["con_a"]
    # Upstream merged what was left of the one column, so that nothing came of "con_b".
    assert a(COLUMNS, merge_with=b, aggregation="stack").shape == (10, 1, 2)
    assert (a + b)(COLUMNS, aggregation="concat").size()[1] == 2
    assert list(tr.FilterFeatures(["con_a", "con_b"])(COLUMNS)) == ["con_a", "con_b"]
    assert list(tr.AsTabular("tabular")(COLUMNS)) == ["tabular"]


def test_steps_run_in_order_and_can_be_given_for_a_call():
    x = {"a": torch.ones(2, 3)}

    class AddOne(tr.TabularModule):
        def forward(self, inputs, by=1):
            return {name: column + by for name, column in inputs.items()}

    block = AddOne(pre=Double(), post=[Double(), Double()])
    assert block(x)["a"][0, 0] == 12
    assert block(x, by=2)["a"][0, 0] == 16
    assert block(x, pre=[Double(), Double()])["a"][0, 0] == 20
    assert block(x, post=Double())["a"][0, 0] == 6
    assert block(x, merge_with={"b": x["a"]})["b"][0, 0] == 4
    assert set(block(x, merge_with=[{"b": x["a"]}, lambda inputs: {"c": inputs["a"]}])) == {*"abc"}
    assert block.pre_forward(x)["a"][0, 0] == 2
    assert block.post_forward(x, aggregation="concat")[0, 0] == 4
    renamed = block.post_forward(x, merge_with=lambda outputs: {"b": outputs["a"]})
    assert {name: int(column[0, 0]) for name, column in renamed.items()} == {"a": 4, "b": 4}


def test_what_is_merged_sees_the_inputs_of_the_call():
    embedding = tr.EmbeddingFeatures({"item": tr.FeatureConfig(tr.TableConfig(5, 3))})
    batch = {"item": torch.tensor([1, 4]), "price": torch.ones(2)}
    out = embedding(batch, merge_with=tr.ContinuousFeatures(["price"]))
    assert {name: column.shape[1] for name, column in out.items()} == {"item": 3, "price": 1}


def test_steps_after_a_tensor_are_refused():
    block = tr.TabularModule()
    with pytest.raises(ValueError, match=r"post and aggregation must be left out where forward"):
        block(torch.ones(2), post="dropout", aggregation="concat")


def test_steps_can_be_set_and_taken_away():
    block = tr.TabularModule(post="dropout")
    assert isinstance(block.post[0], tr.TabularDropout)
    layer_norm = tr.TabularLayerNorm({"a": 2})
    block.post = layer_norm
    assert block.post is layer_norm
    assert list(block.state_dict()) == [
        f"post.feature_layer_norm.a.{n}" for n in ("weight", "bias")
    ]
    block.post = [layer_norm, "dropout"]
    assert next(iter(block.state_dict())) == "_post.0.feature_layer_norm.a.weight"
    block.post = None
    assert block.post is None
    assert not list(block.children())
    block.aggregation = "stack"
    assert isinstance(block.aggregation, tr.StackFeatures)
    assert isinstance(pickle.loads(pickle.dumps(block)).aggregation, tr.StackFeatures)
    assert copy.deepcopy(block).aggregation is not block.aggregation
    assert tr.TabularModule(pre=[]).pre is None


def test_lists_of_names_before_any_block():
    assert list((["con_a"] >> Double())(COLUMNS)) == ["con_a"]
    assert (["con_a", "con_b"] >> tr.ConcatFeatures())(COLUMNS).shape == (10, 2)
    assert list((["con_a"] >> tr.TabularBlock())(COLUMNS)) == ["con_a"]
    with pytest.raises(ValueError, match="MLPBlock must follow a block whose output size is known"):
        ["con_a"] >> tr.MLPBlock([2])


def test_steps_before_merging():
    merged = tr.MergeTabular(
        tr.ContinuousFeatures(["con_a"]), Identity(), pre=tr.FilterFeatures(["con_a"])
    )
    with pytest.raises(ValueError, match="'con_a' twice"):
        merged(COLUMNS)
    merged = tr.MergeTabular(tr.ContinuousFeatures(["con_a"]), pre=tr.FilterFeatures(["con_a"]))
    assert merged.build(SIZES).output_size() == {"con_a": torch.Size([-1, 1, 1])}
    assert merged.to_module(SIZES, device="cpu") is merged


def test_registries():
    assert tabular_aggregation_registry.names() == [
        "concat",
        "element-wise-sum",
        "element-wise-sum-item-multi",
        "stack",
    ]
    assert tabular_transformation_registry.names() == [
        "dropout",
        "layer-norm",
        "ssn",
        "stochastic-swap-noise",
    ]
    assert isinstance(tr.TabularTransformation.parse("ssn"), tr.StochasticSwapNoise)
    dropout = tr.TabularDropout()
    assert tr.TabularTransformation.parse(dropout) is dropout
    assert isinstance(tr.TabularAggregation.parse("concat"), tr.ConcatFeatures)

    @tabular_transformation_registry.register("double")
    class Registered(Double): ...

    try:
        assert tr.TabularModule(pre="double")({"a": torch.ones(1)})["a"] == 2
    finally:
        del tabular_transformation_registry._classes["double"]


def test_sequences_of_transformations():
    steps = tr.SequentialTabularTransformations(["dropout", Double()])
    assert len(steps.append("layer-norm")) == 3
    steps.build({"a": torch.Size([-1, 4]), "b": torch.Size([-1, 1])})
    assert list(steps[2].feature_layer_norm) == ["a"]
    assert steps.output_size()["a"] == torch.Size([-1, 4])


def test_merging():
    block = tr.MergeTabular(tr.FilterFeatures(["con_a"]), tr.FilterFeatures(["con_b", "con_c"]))
    assert list(block(COLUMNS)) == ["con_a", "con_b", "con_c"]
    assert len(block.merge_values) == 2
    named = tr.MergeTabular({"x": Identity()}, {"y": tr.FilterFeatures(["con_a"])})
    assert list(named.to_merge) == ["x", "y"]
    assert len(named(COLUMNS)) == 6  # one tensor under one name twice is no conflict
    both = tr.TabularModule().merge(Double())
    with pytest.raises(
        ValueError, match="modules must return different columns; got 'con_a' twice"
    ):
        both(COLUMNS)
    with pytest.raises(TypeError, match="modules must return a dict of columns; got Tensor"):
        tr.MergeTabular(Identity(aggregation="concat"))(COLUMNS)
    for wrong in ((), (Identity(), {"a": Identity()}), (3,)):
        with pytest.raises(ValueError, match="Please provide one or multiple TabularBlock's"):
            tr.MergeTabular(*wrong)


def test_merged_schemas_and_sizes():
    schema = tr.Schema([tr.ColumnSchema("a", dtype="float32"), tr.ColumnSchema("b")])
    parts = [tr.ContinuousFeatures.from_schema(schema.select_by_name(name)) for name in "ab"]
    merged = parts[0] + parts[1]
    assert merged.schema.column_names == ["a", "b"]
    assert merged.output_size() is None
    merged.build({"a": torch.Size([-1]), "b": torch.Size([-1])})
    assert merged.output_size() == {name: torch.Size([-1, 1]) for name in "ab"}
    merged.aggregation = "concat"
    assert merged.output_size() == torch.Size([-1, 2])
    assert (merged >> tr.MLPBlock([3])).output_size() == torch.Size([-1, 3])


def test_flags_reach_merged_modules_that_name_them():
    seen = []

    class Flagged(tr.TabularBlock):
        def forward(self, inputs, testing=False):
            seen.append(testing)
            return inputs

    (Flagged() + tr.TabularModule())(COLUMNS, training=True, testing=True)
    assert seen == [True]


def test_from_features_and_from_schema():
    block = tr.TabularModule.from_features(["con_a"], post=Double(), pre="dropout")
    assert [type(step).__name__ for step in block.pre] == ["FilterFeatures", "TabularDropout"]
    assert list(block.eval()(COLUMNS)) == ["con_a"]
    schema = tr.Schema([tr.ColumnSchema("con_a", "x"), tr.ColumnSchema("con_b", "y")])
    assert list(tr.TabularBlock.from_schema(schema)(COLUMNS)) == ["con_a", "con_b"]
    chosen = tr.TabularBlock.from_schema(schema, tags="y", aggregation="concat")
    assert chosen.schema.column_names == ["con_b"]
    assert chosen(COLUMNS).shape == (10, 1)
    assert tr.TabularBlock.from_schema(schema, tags="z") is None


def test_blocks_know_their_sizes_and_pass_their_schema_on():
    schema = tr.Schema.from_item_column("item_id", num_items=9)
    block = tr.TabularBlock(
        pre=tr.FilterFeatures(["con_a", "con_b"]), post="ssn", aggregation="concat", schema=schema
    )
    assert block.to_module(tr.TabularBlock().build(SIZES)) is block
    assert block.output_size() == torch.Size([-1, 2])
    assert block.output_size(SIZES) == torch.Size([-1, 2])
    assert block.post[0].schema == schema
    assert isinstance(block, OutputSizeMixin)
    assert tr.AsTabular("x").output_size([-1, 2]) == {"x": [-1, 2]}
    assert tr.AsTabular("x").output_size() is None


def test_filter_features():
    batch = dict(COLUMNS)
    assert tr.FilterFeatures(["con_b"], pop=True)(batch)["con_b"] is COLUMNS["con_b"]
    assert "con_b" not in batch
    assert tr.FilterFeatures(["con_a"]).output_size(SIZES) == {"con_a": torch.Size([-1, 1])}
    assert tr.FilterFeatures(["con_a"]).output_size() is None
    with pytest.raises(ValueError, match=r"must have \['x', 'y'\]; got columns \['con_a', 'con_b'"):
        tr.FilterFeatures(["con_a", "x", "y"])(COLUMNS)


def test_sequential_blocks_of_columns():
    body = tr.SequentialBlock(
        OrderedDict(select=["con_a"], merge=Identity(aggregation="concat"), mlp=nn.Linear(1, 2))
    )
    assert body(COLUMNS).shape == (10, 2)
    assert list(body.state_dict()) == ["mlp.weight", "mlp.bias"]
    part = body[:2]
    assert type(part) is tr.SequentialBlock
    assert list(part._modules) == ["select", "merge"]
    assert part(COLUMNS).shape == (10, 1)
    assert isinstance(body[0], tr.FilterFeatures)
    assert list(tr.SequentialBlock(["con_a", "con_b"])(COLUMNS)) == ["con_a", "con_b"]
    nested = tr.SequentialBlock(tr.SequentialBlock(["con_a"], Identity()))
    assert nested(COLUMNS, aggregation="concat").shape == (10, 1)


def test_slices_of_dense_layers_keep_their_weights():
    mlp = tr.MLPBlock([4]).build([-1, 3])
    part = mlp[0][:1]
    assert part[0] is mlp[0][0]
    assert part(torch.ones(2, 3)).shape == (2, 4)


def test_append_builds():
    body = tr.SequentialBlock(tr.Block(nn.Identity(), [None, 8])).append(tr.MLPBlock([2]))
    assert body.output_size() == torch.Size([-1, 2])


def test_as_tabular():
    body = tr.Block(nn.Identity(), [None, 8]).as_tabular("x")
    assert body.output_size() == {"x": torch.Size([-1, 8])}
    named = tr.MLPBlock([2]).build([-1, 8])
    named.name = "mlp"
    assert list(named.as_tabular()(torch.ones(1, 8))) == ["mlp"]
    with pytest.raises(TypeError, match=r"as_tabular: name must be a str; got None"):
        tr.Block(nn.Identity(), [None, 8]).as_tabular()


def test_children_by_class_name():
    inputs = tr.TabularFeatures.from_schema(
        tr.data.tabular_testing_data.schema, aggregation="concat"
    )
    body = inputs >> tr.MLPBlock([64, 32])
    found = body.get_children_by_class_name(list(body), "EmbeddingFeatures")
    assert found == [inputs.categorical_module]
    assert body.inputs is inputs
    assert tr.SequentialBlock(body, nn.Dropout()).inputs is inputs
    assert body.output_size() == torch.Size([-1, 32])


@pytest.mark.parametrize(
    ("make", "error", "text"),
    [
        (lambda: tr.TabularModule(pre="x"), ValueError, "a registered tabular transformation"),
        (lambda: tr.TabularModule(post=[3]), TypeError, "be a TabularTransformation or the name"),
        (lambda: tr.TabularModule(aggregation=3), TypeError, "be a TabularAggregation or the name"),
        (lambda: tr.TabularModule(aggregation="x"), ValueError, "Known names: concat, element-"),
        (lambda: tr.AsTabular(3), TypeError, "output_name must be a str; got int"),
        (lambda: tr.FilterFeatures("a"), TypeError, "to_include must be a list of column names"),
        (lambda: tr.FilterFeatures(["a"])([1]), TypeError, "be a dict from column name to tensor"),
        (lambda: tr.TabularTransformation()({}), NotImplementedError, "must define forward"),
        (lambda: tr.TabularAggregation()({}), NotImplementedError, "must define forward"),
        (lambda: tr.TabularBlock(schema=3), TypeError, "schema must be a Schema"),
    ],
)
def test_bad_arguments(make, error, text):
    with pytest.raises(error, match=text):
        make()
