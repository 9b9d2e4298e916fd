"""Heads, tasks, schemas and data in the words of upstream's documentation and tests."""

from __future__ import annotations

import pytest
import torch

import transformers4rec_ext as tr
from transformers4rec_ext.utils import schema_utils

ROWS, LENGTH = 16, 12


def small(schema: tr.Schema) -> tr.Schema:
    """Return the schema with at most 200 ids a column, so that tables are small."""

    def fewer(column: tr.ColumnSchema) -> tr.ColumnSchema:
        if not column.is_categorical:
            return column
        return tr.ColumnSchema.create_categorical(
            column.name,
            num_items=min(200, column.int_domain.max),
            value_count=column.value_count,
            min_index=1,
            tags=column.tags,
        )

    return schema.map_column_schemas(fewer)


@pytest.fixture
def sequence_schema() -> tr.Schema:
    return small(tr.data.tabular_sequence_testing_data.schema)


@pytest.fixture
def tabular_schema() -> tr.Schema:
    return small(tr.data.tabular_testing_data.schema)


@pytest.fixture
def sequence_inputs(sequence_schema) -> tr.TabularSequenceFeatures:
    return tr.TabularSequenceFeatures.from_schema(
        sequence_schema,
        max_sequence_length=LENGTH,
        continuous_projection=16,
        d_output=24,
        masking="causal",
    )


@pytest.fixture
def tabular_inputs(tabular_schema) -> tr.TabularFeatures:
    return tr.TabularFeatures.from_schema(
        tabular_schema, max_sequence_length=LENGTH, continuous_projection=16, aggregation="concat"
    )


@pytest.fixture
def sequences(sequence_schema) -> dict[str, torch.Tensor]:
    return schema_utils.random_data_from_schema(sequence_schema, ROWS, max_session_length=LENGTH)


@pytest.fixture
def rows(tabular_schema) -> dict[str, torch.Tensor]:
    return schema_utils.random_data_from_schema(tabular_schema, ROWS, max_session_length=LENGTH)


def test_documentations_example(sequence_schema, sequences) -> None:
    inputs = tr.TabularSequenceFeatures.from_schema(
        sequence_schema,
        max_sequence_length=LENGTH,
        continuous_projection=16,
        aggregation="concat",
        masking="causal",
    )
    config = tr.XLNetConfig.build(d_model=16, n_head=2, n_layer=1, total_seq_length=LENGTH)
    body = tr.SequentialBlock(
        inputs, tr.MLPBlock([16]), tr.TransformerBlock(config, masking=inputs.masking)
    )
    head = tr.Head(body, tr.BinaryClassificationTask("click", summary_type="mean"), inputs=inputs)
    model = tr.Model(head)
    targets = {"click": torch.randint(2, (ROWS,)).float()}
    losses = model.fit([(sequences, targets)], num_epochs=2, verbose=False)
    assert losses.shape == (2,)
    assert set(model.evaluate([(sequences, targets)], verbose=False)) == {
        f"click/binary_classification_task/binary_{name}"
        for name in ("precision", "recall", "accuracy")
    }
    assert set(model.input_schema.column_names) == set(inputs.schema.column_names)
    assert model.output_schema.column_names == ["click/binary_classification_task"]


@pytest.mark.parametrize("task", [tr.BinaryClassificationTask, tr.RegressionTask])
def test_simple_heads(tabular_inputs, rows, task) -> None:
    targets = {"target": torch.randint(2, (ROWS,)).float()}
    body = tr.SequentialBlock(tabular_inputs, tr.MLPBlock([16]))
    head = task("target").to_head(body, tabular_inputs)
    loss = head(body(rows), targets=targets, training=True)["loss"]
    loss.backward()
    assert loss.shape == ()
    assert all(p.grad is not None for p in head.prediction_task_dict.parameters())


BLOCKS = {
    "none": lambda: None,
    "recipe": lambda: tr.MLPBlock([8]),
    "built": lambda: tr.MLPBlock([8]).build([-1, 16]),
}


@pytest.mark.parametrize("task", [tr.BinaryClassificationTask, tr.RegressionTask])
@pytest.mark.parametrize("block", BLOCKS)
@pytest.mark.parametrize("summary", [None, "last", "first", "mean", "cls_index", "attn"])
def test_simple_heads_on_sequence(sequence_inputs, sequences, task, block, summary) -> None:
    shape = (ROWS,) if summary else (ROWS, LENGTH)
    targets = {"target": torch.randint(2, shape).float()}
    body = tr.SequentialBlock(sequence_inputs, tr.MLPBlock([16]))
    made = task("target", task_block=BLOCKS[block](), summary_type=summary)
    head = made.to_head(body, sequence_inputs)
    output = head(body(sequences), targets=targets, training=True)
    output["loss"].backward()
    predictions = output["predictions"][made.task_name]
    assert predictions.shape == shape
    weight = made.pre[0].weight
    assert weight.shape == (1, 16 if block == "none" else 8)
    assert weight.grad is not None


@pytest.mark.parametrize("kind", [*BLOCKS, "by name"])
def test_head_with_multiple_tasks(tabular_inputs, rows, kind) -> None:
    by_name = {"classification": tr.MLPBlock([16]), "regression": tr.MLPBlock([20])}
    blocks = by_name if kind == "by name" else BLOCKS[kind]()
    targets = {
        "classification": torch.randint(2, (ROWS,)).float(),
        "regression": torch.randint(2, (ROWS,)).float(),
    }
    body = tr.SequentialBlock(tabular_inputs, tr.MLPBlock([16]))
    tasks = [
        tr.BinaryClassificationTask("classification", task_name="classification"),
        tr.RegressionTask("regression", task_name="regression"),
    ]
    head = tr.Head(body, tasks, task_blocks=blocks)
    optimizer = torch.optim.Adam(head.parameters())
    output = head(body(rows), targets=targets, training=True)
    metrics = head.calculate_metrics(output["predictions"], targets=output["labels"])
    optimizer.zero_grad()
    output["loss"].backward()
    optimizer.step()
    assert len(metrics) == 4
    if blocks:
        first, second = head.task_blocks["classification"], head.task_blocks["regression"]
        assert first[0] != second[0]
        if kind != "by name":
            assert first[0][0].weight.data_ptr() != second[0][0].weight.data_ptr()


@pytest.mark.parametrize("weight_tying", [True, False])
def test_item_prediction_head(sequence_inputs, sequences, weight_tying) -> None:
    body = tr.SequentialBlock(sequence_inputs, tr.MLPBlock([24]))
    task = tr.NextItemPredictionTask(weight_tying=weight_tying)
    head = tr.Head(body, task, inputs=sequence_inputs)
    items = sequence_inputs.categorical_module.item_embedding_table.num_embeddings
    assert head(body(sequences))["next-item"].size()[-1] == items

    hidden = body(sequences, testing=True)
    targets = sequence_inputs.masking.masked_targets.flatten()
    labels = torch.masked_select(targets, targets != sequence_inputs.masking.padding_idx)
    output = head.prediction_task_dict["next-item"](inputs=hidden, targets=labels, testing=True)
    assert list(output) == ["loss", "labels", "predictions"]
    assert torch.equal(output["labels"], labels)
    metrics = task.calculate_metrics(output["predictions"], targets=output["labels"])
    assert all(len(metric) == 2 for metric in metrics.values())


def test_recurrent_bodies(sequence_inputs, sequences) -> None:
    """A module of torch that returns a tuple stands in a body, sized by hand."""
    gru = torch.nn.GRU(input_size=16, hidden_size=16, num_layers=2)
    sized = tr.SequentialBlock(
        sequence_inputs, tr.MLPBlock([16]), gru, output_size=[None, LENGTH, 16]
    )
    wrapped = tr.SequentialBlock(
        sequence_inputs, tr.MLPBlock([16]), tr.Block(gru, [None, LENGTH, 16])
    )
    for body in (sized, wrapped):
        head = tr.Head(body, tr.NextItemPredictionTask(), inputs=sequence_inputs)
        output = head(body(sequences, training=True), training=True)
        assert list(output) == ["loss", "labels", "predictions"]
        output["loss"].backward()


def test_errors_in_upstreams_words(tabular_inputs) -> None:
    unsized = tr.SequentialBlock(tabular_inputs, torch.nn.Bilinear(2, 2, 2))
    with pytest.raises(ValueError, match=r"^Can't infer output-size of the body"):
        tr.Head(unsized, tr.BinaryClassificationTask())
    flat = tr.SequentialBlock(tabular_inputs, tr.MLPBlock([16]))
    with pytest.raises(ValueError, match=r"^NextItemPredictionTask needs a 3-dim vector as input"):
        tr.Head(flat, tr.NextItemPredictionTask())
    heads = [task("t").to_head(flat) for task in (tr.BinaryClassificationTask, tr.RegressionTask)]
    with pytest.raises(ValueError, match=r"^`head_weights` needs to have the same length"):
        tr.Model(*heads, head_weights=[0.4])


def test_model_with_multiple_heads_and_tasks(sequence_schema, sequence_inputs, sequences) -> None:
    context = sequence_schema.select_by_name(["user_age", "user_country"])
    features = tr.TabularFeatures.from_schema(
        context, max_sequence_length=LENGTH, continuous_projection=16, aggregation="concat"
    )
    of_user = tr.SequentialBlock(features, tr.MLPBlock([16]))
    head_1 = tr.Head(
        of_user, [tr.BinaryClassificationTask("binary"), tr.RegressionTask("regression")]
    )
    of_session = tr.SequentialBlock(sequence_inputs, tr.MLPBlock([16]))
    head_2 = tr.Head(
        of_session,
        [
            tr.BinaryClassificationTask("binary_session", summary_type="last"),
            tr.RegressionTask("regression_session", summary_type="mean"),
        ],
    )
    model = tr.Model(head_1, head_2)
    names = ("binary", "regression", "binary_session", "regression_session")
    targets = {name: torch.randint(2, (ROWS,)).float() for name in names}
    assert model.fit([(sequences, targets)], num_epochs=2, verbose=False).shape == (2,)
    assert list(model.evaluate([(sequences, targets)], verbose=False)) == [
        "eval_binary/binary_classification_task",
        "eval_regression/regression_task",
        "eval_binary_session/binary_classification_task",
        "eval_regression_session/regression_task",
    ]
    assert set(model.input_schema.column_names) == set(sequence_schema.column_names)
    assert set(model.output_schema.column_names) == set(model(sequences))


def test_a_head_from_the_schemas_targets(sequence_inputs) -> None:
    music = tr.data.music_streaming_testing_data
    inputs = tr.TabularSequenceFeatures.from_schema(
        music.schema.select_by_tag(tr.Tags.ITEM), d_output=16, masking="causal"
    )
    body = tr.SequentialBlock(inputs, tr.MLPBlock([16]))
    head = tr.Head.from_schema(music.schema, body, task_weight_dict={"like": 0.5})
    batch = music.torch_synthetic_data(num_rows=8, max_session_length=LENGTH)
    labels = head.pop_labels(batch)
    assert set(labels) == {"click", "like", "play_percentage"}
    assert not set(labels) & set(batch)
    head.to_model()(batch, targets=labels, training=True)["loss"].backward()


def test_random_data_of_a_schema_made_by_hand() -> None:
    counts = tr.schema.ValueCount(1, 50)
    tags = [tr.Tags.LIST]
    schema = tr.Schema(
        [
            tr.ColumnSchema.create_categorical(
                "item_id", num_items=1000, tags=[tr.Tags.ITEM_ID, *tags], value_count=counts
            ),
            tr.ColumnSchema.create_categorical(
                "session_cat", num_items=1000, tags=tags, value_count=counts
            ),
            tr.ColumnSchema.create_continuous("session_con", tags=tags, value_count=counts),
            tr.ColumnSchema.create_categorical("context_cat", num_items=1000),
        ]
    )
    batch = schema_utils.random_data_from_schema(schema, 100, max_session_length=50)
    assert batch["context_cat"].shape == (100,)
    assert batch["session_con"].dtype == torch.float32
    for value in schema.select_by_tag(tr.Tags.LIST).filter_columns_from_dict(batch).values():
        assert value.shape == (100, 50)
    for value in schema.select_by_tag(tr.Tags.CATEGORICAL).filter_columns_from_dict(batch).values():
        assert value.dtype == torch.int64
        assert value.max() < 1000
