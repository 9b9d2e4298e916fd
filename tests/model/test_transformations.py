"""Swap noise, layer norm and dropout of columns."""

from __future__ import annotations

import logging

import pytest
import torch

import transformers4rec_ext as tr

PADDED = torch.tril(
    torch.randint(1, 1000, (100, 80), generator=torch.Generator().manual_seed(3)), 1
)
REAL = PADDED != 0
COLUMNS = {
    "ids": PADDED,
    "numbers": torch.where(REAL, PADDED / 1000, 0.0),
    "of_rows": torch.arange(1, 101),
}


@pytest.mark.parametrize("probability", [0.0, 0.1, 0.5, 1.0])
def test_noise_replaces_the_share_that_was_asked_for(probability):
    noise = tr.StochasticSwapNoise(replacement_prob=probability)
    out = noise(COLUMNS, input_mask=REAL)
    for name, before in COLUMNS.items():
        real = REAL if before.ndim == 2 else torch.ones(100, dtype=torch.bool)
        share = (out[name] != before)[real].double().mean()
        count = int(real.sum())
        # Five standard deviations, and the chance of getting an equal value.
        bound = 5 * (probability * (1 - probability) / count) ** 0.5 + 0.02
        assert abs(share - probability) <= bound, name


def test_padding_is_neither_replaced_nor_swapped_in():
    for mask in (REAL, None):
        out = tr.StochasticSwapNoise(replacement_prob=0.7)(COLUMNS, input_mask=mask)
        for name in ("ids", "numbers"):
            assert torch.equal(out[name] != 0, REAL), name
            assert out[name].dtype == COLUMNS[name].dtype


def test_all_replaced_is_a_permutation_of_what_is_real():
    out = tr.StochasticSwapNoise(replacement_prob=1.0)(COLUMNS, input_mask=REAL)
    for name, before in COLUMNS.items():
        assert torch.equal(out[name].flatten().sort()[0], before.flatten().sort()[0])
    order = torch.stack([out["ids"][REAL], (out["numbers"][REAL] * 1000).round().long()])
    assert (order[0] != order[1]).any()  # every column is swapped on its own


def test_zeros_among_real_numbers_are_values_under_a_mask():
    numbers = torch.tensor([[0.0, 5.0, 0.0]])
    mask = torch.tensor([[True, True, False]])
    noise = tr.StochasticSwapNoise(replacement_prob=1.0)
    outs = {tuple(noise.augment(numbers, mask)[0].tolist()) for _ in range(50)}
    assert outs == {(0.0, 5.0, 0.0), (5.0, 0.0, 0.0)}
    # A category that is not known is padding of its column, wherever the item is real.
    ids = torch.tensor([[0, 5, 0]])
    assert noise.augment(ids, mask).tolist() == [[0, 5, 0]]


def test_vectors_are_swapped_whole():
    vectors = torch.arange(1.0, 13.0).reshape(2, 2, 3)
    vectors[1, 1] = 0
    noise = tr.StochasticSwapNoise(replacement_prob=1.0)
    for mask in (None, torch.tensor([[True, True], [True, False]])):
        out = noise(vectors, input_mask=mask)
        assert sorted(out.flatten(end_dim=1).tolist()) == sorted(
            vectors.flatten(end_dim=1).tolist()
        )
        assert out[1, 1].tolist() == [0, 0, 0]


def test_noise_only_in_training_and_from_torchs_generator():
    noise = tr.StochasticSwapNoise(replacement_prob=0.5)
    torch.manual_seed(5)
    first = noise(COLUMNS)
    torch.manual_seed(5)
    again = noise(COLUMNS)
    other = noise(COLUMNS)
    assert all(torch.equal(first[name], again[name]) for name in COLUMNS)
    assert not torch.equal(first["ids"], other["ids"])
    noise.eval()
    assert noise(COLUMNS) is COLUMNS
    assert noise.augment(PADDED) is PADDED
    assert noise.output_size([-1, 3]) == [-1, 3]


def test_noise_compiles():
    noise = tr.StochasticSwapNoise(replacement_prob=1.0)
    compiled = torch.compile(noise, fullgraph=True, backend="eager")
    assert torch.equal(compiled(PADDED).flatten().sort()[0], PADDED.flatten().sort()[0])


def test_noise_takes_the_mask_from_the_item_ids():
    schema = tr.Schema.from_item_column("item", num_items=1000)
    batch = {"item": PADDED, "other": torch.ones(100, 80, dtype=torch.int64)}
    out = tr.StochasticSwapNoise(schema, replacement_prob=1.0)(batch)
    assert torch.equal(out["item"] != 0, REAL)
    with pytest.raises(ValueError, match="it is expected to have 2 dims, but it has 3 dims"):
        tr.StochasticSwapNoise(schema)({"item": torch.ones(2, 3, 4)})
    with pytest.raises(
        ValueError, match=r"have the shape of the mask, \[100, 80\]; got \[100, 5\]"
    ):
        tr.StochasticSwapNoise()(torch.ones(100, 5), input_mask=REAL)


def test_noise_of_an_input_block_knows_the_item_ids_in_every_column():
    """Also in the continuous ones, whose own schema has none."""
    schema = tr.data.tabular_sequence_testing_data.schema
    batch = tr.data.tabular_sequence_testing_data.torch_synthetic_data(num_rows=50)
    hours = "timestamp/hour/list"
    batch[hours][batch["item_id/list"] == 0] = 7.0  # padding that does not look like it
    noise = tr.StochasticSwapNoise(replacement_prob=1.0)
    out = tr.TabularSequenceFeatures.from_schema(schema, pre=noise)(batch)
    assert noise.schema == schema
    assert (out[hours][batch["item_id/list"] == 0] == 7.0).all()
    assert (out[hours] == 7.0).sum() == (batch[hours] == 7.0).sum()
    assert not torch.equal(out[hours].squeeze(-1), batch[hours])


def test_vectors_of_rows_are_swapped_whole():
    """Though they are as many numbers as there are positions."""
    schema = tr.Schema.from_item_column("item", num_items=9) + tr.Schema(
        [tr.ColumnSchema("user", dtype="float32", shape=(3,))]
    )
    batch = {"item": torch.tensor([[1, 2, 3], [4, 0, 0], [0, 0, 0]]), "user": torch.eye(3)}
    outs = [tr.StochasticSwapNoise(schema, replacement_prob=1.0)(batch)["user"] for _ in range(50)]
    assert {tuple(out.argmax(1).tolist()) for out in outs} == {(0, 1, 2), (1, 0, 2)}
    assert all((out.sum(1) == 1).all() for out in outs)


def test_noise_without_an_item_id_goes_by_the_values():
    schema = tr.Schema([tr.ColumnSchema("ids")])
    out = tr.StochasticSwapNoise(schema, replacement_prob=1.0)({"ids": PADDED})["ids"]
    assert torch.equal(out != 0, REAL)


def test_noise_in_the_inputs_is_none_in_the_targets():
    schema = tr.Schema.from_item_column("item", num_items=1000, max_length=80)
    noise = tr.StochasticSwapNoise(schema, replacement_prob=1.0)
    by_kind = tr.TabularSequenceFeatures.from_schema(schema, masking="clm", pre=noise)
    whole = tr.TabularSequenceFeatures.from_schema(schema, masking="clm")
    whole.pre = noise
    for inputs in (by_kind, whole):
        seen = []
        inputs.item_embedding_table.register_forward_hook(lambda m, args, o, s=seen: s.append(args))
        inputs({"item": PADDED}, training=True)
        targets = inputs.masking.masked_targets
        assert torch.equal(targets[:, :-1], torch.where(REAL[:, 1:], PADDED[:, 1:], 0))
        assert not torch.equal(seen[0][0], PADDED)
    assert torch.equal(by_kind.categorical_module.item_seq, PADDED)


def test_layer_norm(caplog):
    norm = tr.TabularLayerNorm({"a": 100, "b": 200})
    inputs = {"a": torch.rand(50, 100) * 3 + 1, "b": torch.rand(50, 200), "c": torch.ones(50, 1)}
    out = norm(inputs)
    for name in "ab":
        mean, std = out[name].mean(-1), out[name].std(-1, correction=0)
        torch.testing.assert_close(mean, torch.zeros(50), atol=1e-5, rtol=0)
        torch.testing.assert_close(std, torch.ones(50), atol=1e-3, rtol=0)
    assert out["c"] is inputs["c"]
    built = tr.TabularLayerNorm().build({"a": torch.Size([-1, 4]), "c": torch.Size([-1, 1])})
    before = built.feature_layer_norm["a"]
    assert list(built.build({"a": torch.Size([-1, 4])}).feature_layer_norm) == ["a"]
    assert built.feature_layer_norm["a"] is before  # building again keeps what was trained
    with caplog.at_level(logging.WARNING, logger="transformers4rec_ext"):
        assert not tr.TabularLayerNorm({"c": 1}).feature_layer_norm
    assert "Layer norm can only be applied on features with more than 1 dim; c has 1" in caplog.text


@pytest.mark.parametrize("given", ["layer-norm", tr.TabularLayerNorm()])
def test_layer_norm_of_an_input_block(given):
    schema = tr.data.tabular_sequence_testing_data.schema
    batch = tr.data.tabular_sequence_testing_data.torch_synthetic_data(num_rows=10)
    inputs = tr.TabularSequenceFeatures.from_schema(schema, post=given)
    out = inputs(batch)
    weekday = "timestamp/weekday/sin/list"
    assert torch.equal(out[weekday], batch[weekday].unsqueeze(-1))
    std = out["item_id/list"].std(-1, correction=0)
    torch.testing.assert_close(std[0, 0], torch.tensor(1.0), atol=0.01, rtol=0)


def test_dropout():
    torch.manual_seed(0)
    dropout = tr.TabularDropout(dropout_rate=0.3)
    inputs = {"a": torch.ones(100, 80), "b": torch.ones(100, 80, 10)}
    out = dropout(inputs)
    for name in inputs:
        kept = out[name][out[name] != 0]
        assert torch.equal(kept, torch.full_like(kept, 1 / 0.7))
        assert abs(1 - kept.numel() / out[name].numel() - 0.3) < 0.03
    assert dropout(torch.ones(5)).shape == (5,)
    assert dropout.eval()(inputs)["a"] is inputs["a"]


@pytest.mark.parametrize(
    ("make", "error", "text"),
    [
        (
            lambda: tr.StochasticSwapNoise(replacement_prob=1.5),
            ValueError,
            r"StochasticSwapNoise: replacement_prob must lie in \[0, 1\]; got 1.5",
        ),
        (lambda: tr.StochasticSwapNoise(replacement_prob="x"), TypeError, "be a number; got str"),
        (lambda: tr.StochasticSwapNoise("x"), TypeError, "schema must be a Schema"),
        (lambda: tr.TabularDropout(2), ValueError, "TabularDropout: dropout_rate must lie in"),
        (
            lambda: tr.TabularDropout(0.5)(COLUMNS),
            TypeError,
            r"inputs\['ids'\] must be a tensor of real numbers; got torch.int64. Of ids it can be",
        ),
        (
            lambda: tr.TabularLayerNorm({"ids": 80})(COLUMNS),
            TypeError,
            r"inputs\['ids'\] must be a tensor of real numbers; got torch.int64. Of ids it can be",
        ),
        (
            lambda: tr.TabularFeatures.from_schema(
                tr.Schema.from_item_column("item_id", num_items=9), pre="layer-norm"
            ),
            ValueError,
            r"TabularLayerNorm: inputs must be of known width; got columns \['item_id'\]. Of ids",
        ),
    ],
)
def test_bad_arguments(make, error, text):
    with pytest.raises(error, match=text):
        make()


def test_noise_after_a_lookup_lets_the_table_learn():
    """Swapped or not, a vector has a graph: its gradient is one for each place it stands in."""
    table = torch.nn.Embedding(5, 3, padding_idx=0)
    ids = torch.tensor([[1, 2], [3, 4]])
    noise = tr.StochasticSwapNoise(replacement_prob=0.5)
    noise({"a": table(ids)}, input_mask=ids != 0)["a"].sum().backward()
    assert table.weight.grad.sum() == ids.numel() * 3


def test_steps_that_are_named_for_one_call():
    """They take the block's mode, and one that would have to be built first is refused."""
    block = tr.TabularModule()
    columns = {"a": torch.arange(1.0, 1001.0)[:, None]}
    assert not torch.equal(block(columns, pre="ssn")["a"], columns["a"])
    block.eval()
    assert torch.equal(block(columns, pre="ssn")["a"], columns["a"])
    for steps in ("layer-norm", ["dropout", "layer-norm"]):
        with pytest.raises(
            ValueError, match=r"steps must need no build .*got TabularLayerNorm\. Give"
        ):
            block(columns, post=steps)
    own = tr.StochasticSwapNoise()
    assert not torch.equal(block(columns, pre=["dropout", own])["a"], columns["a"])
    assert own.training  # what is not made here stays as it is
    wide = {"a": torch.randn(4, 3)}
    norm = tr.TabularLayerNorm({"a": 3})
    assert torch.equal(block(wide, post=norm)["a"], norm(wide)["a"])
