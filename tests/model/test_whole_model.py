"""A whole model in a folder: written as it was made, built again, the same in all it does."""

from __future__ import annotations

import copy
import importlib
import json
import pickle
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from task_helpers import T, V, batch, next_item_model, sequence_inputs
from torch import nn

import transformers4rec_ext as tr
from transformers4rec_ext._modes import default_dtype, weights_to_come
from transformers4rec_ext.masking import CausalLanguageModeling
from transformers4rec_ext.model._rebuilt import without_large_tensors

D = 8
CONFIG, ARGUMENTS = "config.json", "arguments.safetensors"


def _gpt2(masking: str = "causal", body: Any = tr.GPT2Config, **task: Any) -> tr.Model:
    inputs = sequence_inputs(masking=masking)
    transformer = tr.TransformerBlock(body.build(D, 2, 1, T), masking=inputs.masking)
    head = tr.Head(tr.SequentialBlock(inputs, transformer), tr.NextItemPredictionTask(**task))
    return tr.Model(head, top_k=4)


def _every_kind_of_column() -> tr.Model:
    data = tr.data.tabular_sequence_testing_data
    inputs = tr.TabularSequenceFeatures.from_schema(
        data.schema,
        max_sequence_length=20,
        continuous_projection=16,
        continuous_soft_embeddings=True,
        d_output=D,
        masking="mlm",
        mlm_probability=0.3,
        embeddings_initializers={"category/list": partial(nn.init.normal_, std=0.1)},
    )
    body = inputs >> tr.MLPBlock([D], activation=nn.GELU, dropout=0.1)
    tasks = [
        tr.NextItemPredictionTask(loss=nn.CrossEntropyLoss(label_smoothing=0.1)),
        tr.RegressionTask("play", task_block=tr.MLPBlock([4]), summary_type="attn"),
    ]
    first = tr.Head(body, tasks, inputs=inputs, task_weights=[1.0, 0.5])
    second = tr.BinaryClassificationTask("click").to_head(body)
    return tr.Model(first, second, head_weights=[1.0, 2.0], head_reduction="sum")


def _from_tensors() -> tr.Model:
    vectors = torch.randn(V, D)
    inputs = sequence_inputs(
        embeddings_initializers={"item_id": tr.PretrainedEmbeddingsInitializer(vectors)}
    )
    counts = torch.arange(V)
    sampler = tr.PopularitySampler(5, counts, min_id=1, seed=3)
    task = tr.NextItemPredictionTask(sampled_softmax=True, sampler=sampler)
    return tr.Model(tr.Head(tr.SequentialBlock(inputs, nn.Dropout(0.2), nn.Linear(D, D)), task))


def _of_hugging_face() -> tr.Model:
    from transformers import LlamaConfig

    inputs = sequence_inputs()
    config = LlamaConfig(
        hidden_size=D, num_attention_heads=2, num_hidden_layers=1, intermediate_size=8, vocab_size=1
    )
    transformer = tr.TransformerBlock(config, masking=inputs.masking)
    return tr.Model(tr.Head(tr.SequentialBlock(inputs, transformer), tr.NextItemPredictionTask()))


MODELS = {
    "tied": lambda: _gpt2(weight_tying=True, softmax_temperature=0.5),
    "sampled": lambda: _gpt2(sampled_softmax=True, max_n_samples=7, sparse_grad=True),
    "projected": lambda: next_item_model(width=5, weight_tying=True),
    "own loss": lambda: next_item_model(loss=tr.GBCELoss(tr.UniformSampler(5, V, min_id=1))),
    "permutation": lambda: _gpt2("plm", tr.XLNetConfig),
    "replacement": lambda: _gpt2("rtd", tr.ElectraConfig),
    "columns": _every_kind_of_column,
    "tensors": _from_tensors,
    "llama": _of_hugging_face,
    "by config": lambda: tr.GPT2Config.build(D, 2, 1, T).to_torch_model(
        sequence_inputs(), tr.NextItemPredictionTask()
    ),
}


def _again(model: tr.Model, folder: Path, **arguments: Any) -> tr.Model:
    model.save_pretrained(folder)
    return tr.Model.from_pretrained(folder, **arguments)


def _batch(model: tr.Model) -> dict[str, torch.Tensor]:
    if len(model.prediction_tasks) == 1:
        return batch()
    return tr.data.tabular_sequence_testing_data.torch_synthetic_data(num_rows=5)


def _flat(output: Any) -> list[torch.Tensor]:
    if isinstance(output, torch.Tensor):
        return [output]
    values = output.values() if isinstance(output, dict) else output
    return [tensor for value in values for tensor in _flat(value)]


@pytest.mark.parametrize("name", MODELS)
def test_round_trip(name: str, tmp_path: Path) -> None:
    model = MODELS[name]().eval()
    again = _again(model, tmp_path)
    for (key, tensor), (other_key, other) in zip(
        model.state_dict().items(), again.state_dict().items(), strict=True
    ):
        assert key == other_key
        assert torch.equal(tensor, other)
    columns = _batch(model)
    expected, found = _flat(model(columns)), _flat(again(columns))
    assert len(expected) == len(found) > 0
    assert all(torch.equal(a, b) for a, b in zip(expected, found, strict=True))
    assert repr(again) == repr(model)
    assert again.top_k == model.top_k
    assert again.head_weights == model.head_weights
    assert (tmp_path / ARGUMENTS).exists() == (name == "tensors")
    # What was read can be written again, to the byte.
    text = (tmp_path / CONFIG).read_text()
    again.save_pretrained(tmp_path)
    assert (tmp_path / CONFIG).read_text() == text


def test_training_goes_on_as_it_would_have(tmp_path: Path) -> None:
    model = MODELS["sampled"]()
    again = _again(model, tmp_path).train()
    losses = []
    for each in (model, again):
        torch.manual_seed(5)
        optimizer = tr.optim.LazyAdam(each.parameters(), lr=0.01)
        for _ in range(3):
            loss = each(batch(), training=True)["loss"]
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(float(loss.detach()))
    assert losses[:3] == losses[3:]


def test_what_was_shared_is_shared(tmp_path: Path) -> None:
    again = _again(MODELS["tied"](), tmp_path)
    body, task = again.heads[0].body, again.prediction_tasks[0]
    assert body[1].masking is body[0].masking is task.masking
    assert task.item_weights is body[0].item_embedding_table.weight
    assert len({id(p) for p in again.parameters()}) == len(list(again.parameters()))


def test_changes_after_the_constructor_are_kept(tmp_path: Path) -> None:
    inputs = sequence_inputs(masking="mlm")
    inputs.set_masking(CausalLanguageModeling(D, train_on_last_item_seq_only=True))
    body = tr.SequentialBlock(inputs).append(tr.MLPBlock([D]))
    task = tr.NextItemPredictionTask()
    task.set_metrics([tr.ranking_metric.RecallAt(top_ks=[3], labels_onehot=True)])
    model = tr.Model(tr.Head(body, task))
    model.top_k = 2
    again = _again(model, tmp_path)
    masking = again.heads[0].body[0].masking
    assert type(masking) is CausalLanguageModeling
    assert masking.train_on_last_item_seq_only
    assert again(batch())[1].shape == (4, 2)
    assert list(again.evaluate([batch()], verbose=False)) == ["next-item/recall_at_3"]


def test_dtypes_and_what_is_frozen_are_kept(tmp_path: Path) -> None:
    model = MODELS["tied"]().bfloat16().eval()
    table = model.prediction_tasks[0].item_weights
    table.requires_grad_(False)
    again = _again(model, tmp_path)
    assert {p.dtype for p in again.parameters()} == {torch.bfloat16}
    weights = again.prediction_tasks[0].item_weights
    assert weights is again.heads[0].body[0].item_embedding_table.weight
    assert [p.requires_grad for p in again.parameters()] == [
        p is not weights for p in again.parameters()
    ]
    assert torch.equal(again(batch())[1], model(batch())[1])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_numbers_of_a_batch_take_the_dtype_that_the_model_had(
    dtype: torch.dtype, tmp_path: Path
) -> None:
    model = MODELS["columns"]().to(dtype).eval()
    again, columns = _again(model, tmp_path), _batch(model)
    for found, expected in zip(_flat(again(columns)), _flat(model(columns)), strict=True):
        assert torch.equal(found, expected)


def test_a_buffer_that_is_not_saved_is_passed_over(tmp_path: Path) -> None:
    model = MODELS["tied"]().eval()
    model.register_buffer("mine", torch.ones(2), persistent=False)
    assert torch.equal(_again(model, tmp_path)(batch())[1], model(batch())[1])


def test_a_schema_of_another_library(tmp_path: Path) -> None:
    schema = tr.Schema.from_item_column("item_id", num_items=V - 1, max_length=T).to_proto()
    inputs = tr.TabularSequenceFeatures.from_schema(schema, d_output=D, masking="causal")
    model = tr.SequentialBlock(inputs).to_model(tr.NextItemPredictionTask()).eval()
    assert torch.equal(_again(model, tmp_path)(batch()), model(batch()))


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_a_copy_can_be_written(copied: Any, tmp_path: Path) -> None:
    model = MODELS["tied"]()
    again = _again(copied(model), tmp_path).eval()
    assert torch.equal(again(batch())[1], model.eval()(batch())[1])


class Foreign(nn.Module):
    """A module of a user's own that says nothing of how it was made."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x


class Scaled(tr.block.base.BlockBase):
    """A block of a user's own."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.factor

    def forward_output_size(self, input_size: Any) -> Any:
        return input_size


def test_classes_of_ones_own(tmp_path: Path) -> None:
    inputs = sequence_inputs()
    body = tr.SequentialBlock(inputs, Scaled(2.0))
    model = tr.Model(tr.Head(body, tr.NextItemPredictionTask())).eval()
    again = _again(model, tmp_path, classes=[Scaled])
    assert torch.equal(again(batch()), model(batch()))
    with pytest.raises(ValueError, match=r"got '.*:Scaled'. If it is a class of yours, give it"):
        tr.Model.from_pretrained(tmp_path)


def test_what_cannot_be_written_is_refused(tmp_path: Path) -> None:
    model = next_item_model(task_block=tr.MLPBlock([D], activation=lambda: nn.ReLU()))
    with pytest.raises(ValueError, match="has no name to find it by"):
        model.save_pretrained(tmp_path)

    block = tr.block.base.Block(Foreign(), [-1, T, D])
    model = next_item_model(task_block=block)
    with pytest.raises(ValueError, match="a Foreign, whose class does not derive from"):
        model.save_pretrained(tmp_path)
    model = MODELS["tied"]()
    model.heads[0].body.add_module("1", nn.Identity())
    with pytest.raises(ValueError, match=r"model must be as it was made.*Identity"):
        model.save_pretrained(tmp_path)
    model = next_item_model()
    model.heads[0].body[1] = tr.MLPBlock([D]).build([-1, T, D])
    with pytest.raises(ValueError, match=r"would give 'heads.0.body.1.0.1: Tanh\(\)'; got .*ReLU"):
        model.save_pretrained(tmp_path)
    assert not list(tmp_path.iterdir())


def _write(folder: Path, change: Any) -> None:
    config = json.loads((folder / CONFIG).read_text())
    change(config)
    (folder / CONFIG).write_text(json.dumps(config))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.update(version=9), "config.json must be of version 2; got 9"),
        (lambda c: c["model"].update({"class": "os:system"}), "got 'os:system'"),
        (lambda c: c["model"].update({"class": "torch.hub:load"}), "got 'torch.hub:load'"),
        (lambda c: c["model"].update({"class": "torch.nn.init:torch.os.system"}), "torch.os.sys"),
        (lambda c: c["model"].update({"class": "torch.nn.init:torch.nn.Linear"}), "torch.nn.Lin"),
        (lambda c: c["model"].update({"class": "torch.nn.init:math"}), "got 'torch.nn.init:math'"),
        (lambda c: c["model"].update({"class": "torch:no_such_name"}), "got 'torch:no_such_name'"),
        (lambda c: c["model"].update(settings={"forward": 3}), r"got '.*Model\.forward'"),
        (lambda c: c["model"]["calls"][0].__setitem__(0, "to"), r"got '.*Model\.to'"),
        (lambda c: c.pop("version"), "is not a description of a model"),
        (lambda c: c.update(default_dtype="hub"), "have a default_dtype of .*; got hub"),
    ],
)
def test_a_file_calls_nothing_else(change: Any, message: str, tmp_path: Path) -> None:
    next_item_model().save_pretrained(tmp_path)
    _write(tmp_path, change)
    with pytest.raises(ValueError, match=message):
        tr.Model.from_pretrained(tmp_path)


def test_the_settings_of_the_model_are_its_own(tmp_path: Path) -> None:
    settings = {"top_k": 3, "max_sequence_length": 7, "name": "mine"}
    model = _gpt2()
    for name, value in settings.items():
        setattr(model, name, value)
    again = _again(model, tmp_path)
    assert {name: getattr(again, name) for name in settings} == settings


@pytest.mark.parametrize("written", [torch.float32, torch.float64])
@pytest.mark.parametrize("read", [torch.float32, torch.float64])
def test_the_dtype_is_the_writers(written: Any, read: Any, tmp_path: Path) -> None:
    with default_dtype(written):
        model = _gpt2(weight_tying=True).eval()
        model.save_pretrained(tmp_path)
    with default_dtype(read):
        again = tr.Model.from_pretrained(tmp_path)
        assert torch.get_default_dtype() == read
    assert {weight.dtype for weight in again.parameters()} == {written}
    assert all(map(torch.equal, again(batch()), model(batch())))


def test_threads_that_read_at_once_leave_the_default_dtype(tmp_path: Path) -> None:
    with default_dtype(torch.float64):
        next_item_model().save_pretrained(tmp_path)
    with ThreadPoolExecutor(4) as pool:
        models = list(pool.map(lambda _: tr.Model.from_pretrained(tmp_path), range(12)))
    assert torch.get_default_dtype() == torch.float32
    for model in models:
        assert {weight.dtype for weight in model.parameters()} == {torch.float64}


def test_a_model_in_shares_is_not_whole(tmp_path: Path) -> None:
    class FSDPModule:
        """What fully_shard mixes into the class of a module."""

    fsdp = importlib.import_module("torch.distributed.fsdp")
    assert fsdp.FSDPModule.__name__ == FSDPModule.__name__
    assert fsdp.FullyShardedDataParallel.__name__ == "FullyShardedDataParallel"
    model = next_item_model()
    kind = type(model.heads)
    model.heads.__class__ = type(f"FSDP{kind.__name__}", (FSDPModule, kind), {})
    with pytest.raises(ValueError, match="model must be whole; got shares of it"):
        model.save_pretrained(tmp_path / "folder")
    assert not (tmp_path / "folder").exists()


def test_a_folder_of_something_else(tmp_path: Path) -> None:
    next_item_model().save(tmp_path)
    for folder in (tmp_path / "none", tmp_path):
        with pytest.raises(FileNotFoundError, match=r"path must hold config\.json.*load_weights"):
            tr.Model.from_pretrained(folder)


def test_large_tables_take_no_memory() -> None:
    state = torch.get_rng_state()
    with without_large_tensors():
        large, small = nn.Embedding(2**23, 16), nn.Embedding(2**10, 16)
    assert (large.weight.device.type, small.weight.device.type) == ("meta", "cpu")
    assert torch.equal(torch.get_rng_state(), state)


def test_a_wide_body_is_no_table(tmp_path: Path) -> None:
    """A layer of 2^24 elements, whose gradient tells what a position sees."""
    inputs = tr.TabularSequenceFeatures.from_schema(
        tr.Schema.from_item_column("item_id", num_items=9, max_length=5),
        max_sequence_length=5,
        d_output=2048,
        masking="causal",
        aggregation="concat",
    )
    config = tr.GPT2Config.build(2048, 2, 1, 5)
    body = tr.SequentialBlock(inputs, tr.TransformerBlock(config, masking=inputs.masking))
    model = tr.Model(tr.Head(body, tr.NextItemPredictionTask(weight_tying=True), inputs=inputs))
    model.save_pretrained(tmp_path)
    assert (tmp_path / "config.json").exists()


class Projected(nn.Module):
    """A body with a large matrix of its own, drawn with a seed and not saved."""

    matrix: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        matrix = torch.empty(2048, 2048)
        matrix.normal_(generator=torch.Generator().manual_seed(7))
        self.register_buffer("matrix", matrix, persistent=False)


def test_what_is_drawn_with_a_seed_and_not_saved_is_drawn_again() -> None:
    with weights_to_come():
        assert torch.equal(Projected().matrix, Projected().matrix)
        assert Projected().matrix.std() > 0.9
