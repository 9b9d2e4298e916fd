"""Training: what a step is, from what data, by what schedule, and who is told."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader
from trainer_helpers import (
    SCHEMA,
    T,
    batches,
    losses,
    model_of,
    next_item,
    trainer_of,
    write,
)
from transformers import EarlyStoppingCallback, TrainerCallback

import transformers4rec_ext as tr
from transformers4rec_ext.utils.data_utils import T4RecDataLoader, dataloader_registry


def click() -> tr.BinaryClassificationTask:
    return tr.BinaryClassificationTask("click", summary_type="mean")


# Training


@pytest.mark.parametrize("optim", ["sgd", "adamw_torch"])
def test_a_step_is_that_of_torchs_optimizer(tmp_path: Path, optim: str) -> None:
    options = {"lr_scheduler_type": "constant", "max_grad_norm": 0, "optim": optim}
    options |= {"adam_beta1": 0.8, "adam_beta2": 0.95, "adam_epsilon": 1e-3}
    trainer = trainer_of(tmp_path, max_steps=3, **options)
    model = model_of()
    kind = {"sgd": torch.optim.SGD, "adamw_torch": torch.optim.AdamW}[optim]
    of_adam = {} if optim == "sgd" else {"betas": (0.8, 0.95), "eps": 1e-3}
    optimizer = kind(model.parameters(), lr=1e-2, weight_decay=0.0, **of_adam)
    expected = []
    for x, _ in list(trainer.get_train_dataloader())[:3]:
        loss = model(x, training=True)["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        expected.append(loss.item())
    trainer.train()
    assert losses(trainer) == pytest.approx(expected, rel=1e-5)
    for name, value in model.state_dict().items():
        # the gradient of the keys' biases is rounding noise, which Adam divides by itself
        if optim == "sgd" or "c_attn.bias" not in name:
            torch.testing.assert_close(trainer.model.state_dict()[name], value, msg=name)


def test_training_learns(tmp_path: Path) -> None:
    trainer = trainer_of(tmp_path, num_train_epochs=15)
    before = trainer.evaluate()
    result = trainer.train()
    after = trainer.evaluate()
    assert result.global_step == 75
    assert after["eval_/loss"] < before["eval_/loss"] - 0.3
    assert after["eval_/next-item/recall_at_10"] > before["eval_/next-item/recall_at_10"] + 0.2


@pytest.mark.parametrize("kind", ["list", "DataLoader", "Dataset"])
def test_batches_come_from_anything(tmp_path: Path, kind: str) -> None:
    data = batches(write(tmp_path / "data"))
    rows = Rows([{"item_id": row} for x, _ in data for row in x["item_id"]])
    options: dict[str, Any] = {"schema": None, "train_dataset_or_path": None}
    options |= {
        "list": {"train_dataloader": data},
        "DataLoader": {"train_dataloader": DataLoader(data, batch_size=None)},
        "Dataset": {"train_dataset_or_path": rows},
    }[kind]
    trainer = trainer_of(tmp_path, **options)
    trainer.train()
    assert len(losses(trainer)) == 10
    first = model_of()(data[0][0], training=True)["loss"].item()
    # a dataset is shuffled
    assert (losses(trainer)[0] == pytest.approx(first, rel=1e-6)) is (kind != "Dataset")


def test_a_dataset_is_shuffled_in_training_only_and_cut_on_request(tmp_path: Path) -> None:
    rows = Rows([{"item_id": torch.tensor([at])} for at in range(20)])
    data = {f"{kind}_dataset_or_path": rows for kind in ("train", "eval", "test")}
    for drop_last, number in ((False, 20), (True, 16)):
        trainer = trainer_of(tmp_path, schema=None, dataloader_drop_last=drop_last, **data)
        for loader in (trainer.get_eval_dataloader(), trainer.get_test_dataloader()):
            ids = torch.cat([batch["item_id"] for batch in loader]).flatten()
            assert ids.tolist() == list(range(number))
        ids = torch.cat([batch["item_id"] for batch in trainer.get_train_dataloader()]).flatten()
        assert len(ids) == number
        assert ids.tolist() != list(range(number))


class Rows(torch.utils.data.Dataset[Any]):
    """A list as a map-style dataset."""

    def __init__(self, rows: list[Any]) -> None:
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, at: int) -> Any:
        return self.rows[at]


def test_a_loader_of_ones_own_is_the_one_that_is_used(tmp_path: Path) -> None:
    loaders = {
        f"{kind}_dataloader": DataLoader(batches(write(tmp_path / "data")), batch_size=None)
        for kind in ("train", "eval", "test")
    }
    trainer = trainer_of(tmp_path, **loaders)
    assert trainer.get_train_dataloader() is loaders["train_dataloader"]
    assert trainer.get_eval_dataloader() is loaders["eval_dataloader"]
    assert trainer.get_test_dataloader() is loaders["test_dataloader"]
    given = DataLoader(batches(tmp_path / "data"), batch_size=None)
    assert trainer.get_test_dataloader(given) is given
    assert trainer.get_eval_dataloader(given) is given


@pytest.mark.parametrize(
    ("engine", "buffer", "shuffled"),
    [("merlin", 0, True), ("pyarrow", 0, False), ("pyarrow", 100, True)],
)
def test_engines_shuffle_as_upstreams_do(
    tmp_path: Path, engine: str, buffer: int, shuffled: bool
) -> None:
    trainer = trainer_of(tmp_path, data_loader_engine=engine, shuffle_buffer_size=buffer)
    loader = trainer.get_train_dataloader()
    in_order = torch.cat([x["item_id"] for x, _ in batches(tmp_path / "data")])
    seen = torch.cat([x["item_id"] for x, _ in loader])
    assert torch.equal(seen, in_order) is not shuffled
    assert loader.batch_size == trainer.args.per_device_train_batch_size
    evaluated = torch.cat([x["item_id"] for x, _ in trainer.get_eval_dataloader()])
    assert torch.equal(evaluated, in_order)


def test_an_engine_of_ones_own_makes_the_loaders(tmp_path: Path, monkeypatch) -> None:
    asked = {}

    class Mine(T4RecDataLoader, DataLoader):
        @classmethod
        def from_schema(cls, schema, paths_or_dataset, batch_size, max_sequence_length, **kwargs):
            asked[paths_or_dataset] = (schema, batch_size, max_sequence_length, kwargs)
            return cls(batches(write(tmp_path / "data")), batch_size=None)

    monkeypatch.setitem(dataloader_registry._classes, "mine", Mine)
    trainer = trainer_of(
        tmp_path,
        data_loader_engine="mine",
        train_dataset_or_path="a table",
        eval_dataset_or_path=("some", "object"),
        max_steps=3,
        seed=5,
    )
    trainer.train()
    assert set(trainer.evaluate()) >= {"eval_/loss", "eval_/next-item/ndcg_at_10"}
    schema, batch_size, length, kwargs = asked["a table"]
    assert (schema, batch_size, length) == (SCHEMA, 8, T)
    assert kwargs == {
        **{"shuffle": True, "shuffle_buffer_size": 0, "drop_last": False, "seed": 5},
        **{"global_rank": 0, "global_size": 1, "num_workers": 0, "pin_memory": False},
    }
    assert asked["some", "object"][3]["shuffle"] is False


def test_accumulated_gradients_are_those_of_the_larger_batch(tmp_path: Path) -> None:
    options = {"max_steps": 2, "optim": "sgd", "learning_rate": 0.3}
    model = model_of(click())
    small = trainer_of(
        tmp_path, model, per_device_train_batch_size=4, gradient_accumulation_steps=2, **options
    )
    small.train()
    large = trainer_of(tmp_path, model_of(click()), per_device_train_batch_size=8, **options)
    large.train()
    assert losses(small) == pytest.approx(losses(large), rel=1e-5)


def test_mixed_precision_trains_and_evaluates_under_autocast(tmp_path: Path) -> None:
    dtypes = []
    model = model_of()
    last = model.heads[0].body[-1].transformer.h[0].mlp.c_proj
    last.register_forward_hook(lambda module, inputs, output: dtypes.append(output.dtype))
    trainer, full = trainer_of(tmp_path, model, bf16=True), trainer_of(tmp_path)
    expected = full.evaluate()["eval_/loss"]
    assert trainer.evaluate()["eval_/loss"] == pytest.approx(expected, rel=1e-2)
    for each in (trainer, full):
        each.train()
    assert losses(trainer) == pytest.approx(losses(full), rel=1e-2)
    assert set(dtypes) == {torch.bfloat16}
    assert {p.dtype for p in trainer.model.parameters()} == {torch.float32}


def test_a_trained_model_is_left_as_it_was_given(tmp_path: Path) -> None:
    model = model_of()
    before = set(vars(model))
    trainer_of(tmp_path, model, bf16=True, max_steps=1).train()
    assert set(vars(model)) == before
    dtypes = []
    last = model.heads[0].body[-1].transformer.h[0].mlp.c_proj
    last.register_forward_hook(lambda module, inputs, output: dtypes.append(output.dtype))
    model.evaluate(batches(tmp_path / "data"), verbose=False)
    trainer_of(tmp_path, model, max_steps=1).train()
    assert set(dtypes) == {torch.float32}


@pytest.mark.parametrize(
    "name",
    ["linear", "cosine", "cosine_with_restarts", "polynomial", "constant", "constant_with_warmup"],
)
def test_schedules(tmp_path: Path, name: str) -> None:
    trainer = trainer_of(
        tmp_path,
        lr_scheduler_type=name,
        warmup_steps=2,
        learning_rate_num_cosine_cycles_by_epoch=1.5,
    )
    trainer.create_optimizer()
    scheduler = trainer.create_scheduler(10)
    rates = []
    for _ in range(10):
        rates.append(scheduler.get_last_lr()[0] / 1e-2)
        trainer.optimizer.step()
        scheduler.step()
    done = np.clip((np.arange(10) - 2) / 8, 0, None)
    after = {
        "linear": 1 - done,
        "cosine": 0.5 * (1 + np.cos(np.pi * 2 * 3.0 * done)),
        "cosine_with_restarts": 0.5 * (1 + np.cos(np.pi * ((3.0 * done) % 1))),
        "polynomial": (1 - 1e-5) * (1 - done) + 1e-5,
        "constant": np.ones(10),
        "constant_with_warmup": np.ones(10),
    }[name]
    if name != "constant":
        after[:2] = 0, 0.5
    assert rates == pytest.approx(after, abs=1e-4)
    assert trainer.create_scheduler(99) is scheduler
    trainer.reset_lr_scheduler()
    assert trainer.create_scheduler(10) is not scheduler


def test_early_stopping_and_the_best_model(tmp_path: Path) -> None:
    trainer = trainer_of(
        tmp_path,
        callbacks=[EarlyStoppingCallback(early_stopping_patience=2)],
        num_train_epochs=20,
        learning_rate=1.0,  # it gets worse soon
        eval_strategy="epoch",
        save_strategy="epoch",
        load_best_model_at_end=True,
        metric_for_best_model="next-item/ndcg_at_10",
    )
    trainer.train()
    name = "eval_/next-item/ndcg_at_10"
    history = [line[name] for line in trainer.state.log_history if name in line]
    assert len(history) < 20
    assert len(history) == int(np.argmax(history)) + 3
    assert trainer.evaluate()[name] == pytest.approx(max(history))


def test_callbacks_are_called(tmp_path: Path) -> None:
    called: list[str] = []

    class Told(TrainerCallback):
        def on_prediction_step(self, *args: Any, **kwargs: Any) -> None:
            called.append("batch")

        def on_evaluate(self, *args: Any, **kwargs: Any) -> None:
            called.append("evaluate")

        def on_predict(self, *args: Any, **kwargs: Any) -> None:
            called.append("predict")

    trainer = trainer_of(tmp_path, callbacks=[Told()])
    trainer.evaluate()
    trainer.predict()
    assert called == ["batch"] * 5 + ["evaluate"] + ["batch"] * 5 + ["predict"]


def test_options_of_the_schedule_come_before_the_trainers_own(tmp_path: Path) -> None:
    rates = {}
    for cycles in (None, 0.5, 2.0):
        given = {} if cycles is None else {"lr_scheduler_kwargs": {"num_cycles": cycles}}
        trainer = trainer_of(tmp_path, lr_scheduler_type="cosine", **given)
        trainer.create_optimizer()
        scheduler = trainer.create_scheduler(10)
        trainer.optimizer.step()
        scheduler.step()
        rates[cycles] = scheduler.get_last_lr()[0] / 1e-2
    assert rates[0.5] == pytest.approx(0.5 * (1 + np.cos(np.pi * 0.1)))
    assert rates[2.0] == pytest.approx(0.5 * (1 + np.cos(np.pi * 0.4)))
    assert rates[None] not in (rates[0.5], rates[2.0])


@pytest.mark.parametrize("incremental", [False, True])
def test_incremental_logging_counts_all_runs(tmp_path: Path, incremental: bool) -> None:
    logged: list[int] = []

    class Steps(TrainerCallback):
        def on_log(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            logged.append(state.global_step)

    trainer = trainer_of(
        tmp_path, callbacks=[Steps()], incremental_logging=incremental, max_steps=2
    )
    trainer.train()
    trainer.evaluate()
    trainer.train()
    trainer.train()
    once = [1, 2, 2]
    twice = [3, 4, 4, 5, 6, 6] if incremental else [*once, *once]
    expected = [*once, 2, *twice]
    assert logged == expected


def test_row_gradients_train_with_the_lazy_optimizer(tmp_path: Path) -> None:
    def run(**options: Any) -> tr.Trainer:
        task = next_item(weight_tying=True, sampled_softmax=True, max_n_samples=7, **options)
        of_adam = {"adam_beta1": 0.8, "adam_beta2": 0.95, "adam_epsilon": 1e-3}
        trainer = trainer_of(tmp_path, model_of(task), max_steps=4, max_grad_norm=0.1, **of_adam)
        trainer.train()
        return trainer

    rows, dense = run(sparse_grad=True), run()
    assert isinstance(rows.optimizer.optimizer, tr.optim.LazyAdam)
    (group, *_) = rows.optimizer.param_groups
    assert (group["betas"], group["eps"]) == ((0.8, 0.95), 1e-3)
    assert losses(rows)[:1] == pytest.approx(losses(dense)[:1], rel=1e-6)
    norms = [
        [line["grad_norm"] for line in t.state.log_history if "loss" in line] for t in (rows, dense)
    ]
    assert norms[0][0] == pytest.approx(norms[1][0], rel=1e-5)
    with pytest.raises(ValueError, match="optim must be adamw_torch with row gradients"):
        trainer_of(
            tmp_path, model_of(next_item(sampled_softmax=True, sparse_grad=True)), optim="sgd"
        )
