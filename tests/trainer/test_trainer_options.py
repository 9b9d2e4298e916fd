"""What users of transformers do with their Trainer: schedules, epochs, named data, refusals."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch.utils.data import DataLoader, Dataset, IterableDataset
from trainer_helpers import ITEM, arguments, losses, model_of, next_item, trainer_of, write

import transformers4rec_ext as tr


class Sessions(Dataset[Any]):
    """24 sessions, each begun by another item."""

    def __len__(self) -> int:
        return 24

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return {ITEM: torch.tensor([index + 1, 2, 3, 4, 5, 6])}


def rates(trainer: tr.Trainer) -> list[float]:
    history = trainer.state.log_history
    return [line["learning_rate"] for line in history if "learning_rate" in line]


class OutOfMemory(tr.Trainer):
    """Has memory for four rows."""

    def training_step(self, model: Any, inputs: Any, *args: Any) -> Any:
        if inputs[0][ITEM].shape[0] > 4:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return super().training_step(model, inputs, *args)


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
def test_smaller_batches_have_a_schedule_of_their_length(tmp_path: Path, schedule: str) -> None:
    options = {"num_train_epochs": 1, "lr_scheduler_type": schedule}
    data = {"schema": trainer_of(tmp_path).schema, "train_dataset_or_path": tmp_path / "data"}
    found = OutOfMemory(
        model_of(), arguments(tmp_path, auto_find_batch_size=True, **options), **data
    )
    found.train()
    small = arguments(tmp_path, per_device_train_batch_size=4, **options)
    expected = tr.Trainer(model_of(), small, **data)
    expected.train()
    assert rates(found) == rates(expected)
    assert len(rates(found)) == 10


def test_more_epochs_than_before_have_a_schedule_of_their_length(tmp_path: Path) -> None:
    options = {"save_strategy": "epoch", "logging_steps": 1}
    trainer = trainer_of(tmp_path, num_train_epochs=1, **options)
    trainer.train()
    fresh = trainer_of(tmp_path, num_train_epochs=3, **options)
    trainer.args.num_train_epochs = 3
    folder = str(tmp_path / "out" / "checkpoint-5")
    for each in (trainer, fresh):
        each.train(resume_from_checkpoint=folder)
    assert rates(trainer)[-10:] == rates(fresh)[-10:]
    assert min(rates(trainer)[-9:]) > 0  # the first is the one that the checkpoint ended with
    assert losses(trainer)[-10:] == losses(fresh)[-10:]


def test_a_schedule_of_ones_own_is_kept(tmp_path: Path) -> None:
    model = model_of()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.5)
    own = {"optimizers": (optimizer, schedule), "save_strategy": "epoch"}
    trainer = trainer_of(tmp_path, model, num_train_epochs=2, **own)
    trainer.train()
    trainer.train(resume_from_checkpoint=str(tmp_path / "out" / "checkpoint-5"))
    assert trainer.lr_scheduler.lr_lambdas == schedule.lr_lambdas
    assert set(rates(trainer)) == {0.05}


class Cut(transformers.TrainerCallback):
    """Ends an epoch after two steps."""

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        control.should_epoch_stop = state.global_step % 2 == 0


class Seen(tr.Trainer):
    """Remembers with which items its batches begin."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.seen: list[list[int]] = []

    def training_step(self, model: Any, inputs: Any, *args: Any) -> Any:
        self.seen.append(inputs[ITEM][:, 0].tolist())
        return super().training_step(model, inputs, *args)


def test_an_epoch_that_is_cut_short_is_not_repeated(tmp_path: Path) -> None:
    args = arguments(tmp_path, num_train_epochs=3)
    trainer = Seen(model_of(), args, train_dataset_or_path=Sessions(), callbacks=[Cut()])
    trainer.train()
    first, second, third = (trainer.seen[at : at + 2] for at in (0, 2, 4))
    assert first != second != third != first


class Stream(IterableDataset[Any]):
    """16 sessions, without a length."""

    def __init__(self) -> None:
        self.epochs: list[int] = []

    def set_epoch(self, epoch: int) -> None:
        self.epochs.append(epoch)

    def __iter__(self) -> Iterator[Any]:
        yield from (Sessions()[i] for i in range(16))


def test_epochs_of_data_without_a_length_are_counted(tmp_path: Path) -> None:
    data = Stream()
    args = arguments(tmp_path, max_steps=8)
    tr.Trainer(model_of(), args, train_dataset_or_path=data).train()
    assert data.epochs == sorted(data.epochs)
    assert set(data.epochs) == {0, 1, 2, 3}


def test_data_by_name_stands_behind_the_test_data_and_is_no_loader(tmp_path: Path) -> None:
    named = {"a": write(tmp_path / "data")}
    only = {"eval_dataset_or_path": named, "test_dataset_or_path": None}
    assert "eval_a_/loss" in trainer_of(tmp_path, **only, eval_on_test_set=True).evaluate()
    assert (
        "eval_/loss"
        in trainer_of(
            tmp_path, **only | {"test_dataset_or_path": named["a"]}, eval_on_test_set=True
        ).evaluate()
    )
    with pytest.raises(TypeError, match="eval data must be data, not data by name"):
        trainer_of(tmp_path, **only).get_eval_dataloader()


def test_a_resume_that_fails_changes_nothing(tmp_path: Path) -> None:
    trainer = trainer_of(tmp_path, num_train_epochs=1)
    trainer.train()
    schedule = trainer.lr_scheduler
    with pytest.raises(FileNotFoundError):
        trainer.train(resume_from_checkpoint=str(tmp_path / "nowhere"))
    assert trainer.lr_scheduler is schedule


def test_a_mixture_of_seeded_samplers_is_resumed(tmp_path: Path) -> None:
    def trainer() -> tr.Trainer:
        sources = [tr.UniformSampler(3, 31, 1, seed=1), tr.LogUniformSampler(3, 31, 1, seed=2)]
        task = next_item(sampled_softmax=True, sampler=tr.MixedSampler(sources))
        options = {"max_steps": 6, "save_steps": 4, "save_strategy": "steps"}
        return trainer_of(tmp_path, model_of(task), **options)

    whole, resumed = trainer(), trainer()
    whole.train()
    resumed.train(resume_from_checkpoint=str(tmp_path / "out" / "checkpoint-4"))
    assert losses(resumed)[-2:] == losses(whole)[-2:]


def test_metrics_of_a_task_without_any(tmp_path: Path) -> None:
    task = tr.NextItemPredictionTask(metrics=[])
    found = trainer_of(tmp_path, model_of(task)).evaluate()
    assert {name for name in found if "_/" in name} == {"eval_/loss"}


def test_data_by_name_is_evaluated_in_training_too(tmp_path: Path) -> None:
    other = write(tmp_path / "other", 20, seed=9)
    named = {"a": write(tmp_path / "data"), "b": other}
    trainer = trainer_of(
        tmp_path, eval_dataset_or_path=named, eval_strategy="epoch", num_train_epochs=1
    )
    trainer.train()
    logged = {key for line in trainer.state.log_history for key in line}
    assert {"eval_a_/loss", "eval_b_/loss", "eval_b_/next-item/ndcg_at_10"} <= logged
    found = trainer.evaluate()
    assert found["eval_b_/loss"] == trainer.evaluate(other)["eval_/loss"]
    assert found["eval_a_/loss"] != found["eval_b_/loss"]


class WithoutCount:
    """Takes the arguments of transformers 4, and doubles the loss."""

    def compute_loss(self, model: Any, inputs: Any, return_outputs: bool = False) -> Any:
        loss, outputs = super().compute_loss(model, inputs, True)
        return (2 * loss, outputs) if return_outputs else 2 * loss


class WithOptions(tr.Trainer):
    """Hands on what it does not know."""

    def compute_loss(self, model: Any, inputs: Any, **options: Any) -> Any:
        assert "num_items_in_batch" in options
        return 2 * super().compute_loss(model, inputs, **options)


class OfTransformers4(WithoutCount, tr.Trainer):
    """As in a script of upstream's users."""


@pytest.mark.parametrize("kind", [OfTransformers4, WithOptions])
def test_a_loss_of_ones_own_by_the_arguments_of_transformers_4(
    tmp_path: Path, kind: type[tr.Trainer]
) -> None:
    options = {"max_steps": 3, "gradient_accumulation_steps": 2, "optim": "sgd"}
    data = {"schema": trainer_of(tmp_path).schema, "train_dataset_or_path": tmp_path / "data"}
    trainer = kind(model_of(), arguments(tmp_path, max_grad_norm=0, **options), **data)
    trainer.train()
    faster = arguments(tmp_path, max_grad_norm=0, **options | {"learning_rate": 2e-2})
    expected = tr.Trainer(model_of(), faster, **data)
    expected.train()
    assert losses(trainer) == pytest.approx([2 * loss for loss in losses(expected)], rel=1e-6)
    assert copy.copy(trainer).compute_loss.__self__ is not trainer


@pytest.mark.parametrize("name", ["eval_strategy", "evaluation_strategy"])
def test_data_may_be_given_after_the_trainer_is_made(tmp_path: Path, name: str) -> None:
    sources = ("train_dataset_or_path", "eval_dataset_or_path", "test_dataset_or_path")
    trainer = trainer_of(tmp_path, **dict.fromkeys(sources), **{name: "epoch"})
    for day in (1, 2):  # as upstream's loops over time windows
        trainer.train_dataset_or_path = tmp_path / "data"
        trainer.eval_dataset_or_path = write(tmp_path / f"day{day}", 20, seed=day)
        trainer.train()
    logged = [line["eval_/loss"] for line in trainer.state.log_history if "eval_/loss" in line]
    assert len(logged) == 2
    assert logged[-1] == trainer.evaluate(tmp_path / "day2")["eval_/loss"]


@pytest.mark.parametrize(
    "given", [{"optimizers": (None, None)}, {"optimizer_cls_and_kwargs": None}, {}]
)
def test_row_gradients_have_their_optimizer_unless_there_is_one(
    tmp_path: Path, given: dict[str, Any]
) -> None:
    task = next_item(weight_tying=True, sampled_softmax=True, max_n_samples=5, sparse_grad=True)
    data = write(tmp_path / "data")
    args = arguments(tmp_path, max_steps=1)
    schema = trainer_of(tmp_path).schema
    trainer = tr.Trainer(model_of(task), args, schema, train_dataset_or_path=data, **given)
    trainer.train()
    assert isinstance(trainer.optimizer.optimizer, tr.optim.LazyAdam)


@pytest.mark.parametrize(
    ("name", "value", "hint"),
    [
        ("model_init", model_of, "Give the model"),
        ("train_dataset", Sessions(), "It is called train_dataset_or_path"),
        ("eval_dataset", Sessions(), "It is called eval_dataset_or_path"),
        ("data_collator", print, "collate_fn"),
        ("compute_loss_func", print, "override compute_loss"),
        ("preprocess_logits_for_metrics", print, "need no logits"),
    ],
)
def test_arguments_that_would_change_nothing_are_refused(
    tmp_path: Path, name: str, value: Any, hint: str
) -> None:
    with pytest.raises(TypeError, match=f"Trainer: {name} must be left out; got .*{hint}"):
        tr.Trainer(model_of(), arguments(tmp_path), **{name: value})


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"gradient_checkpointing": True}, r"Call gradient_checkpointing_enable\(\)"),
        ({"neftune_noise_alpha": 5.0}, "stochastic-swap-noise"),
        ({"train_sampling_strategy": "sequential"}, "in the order you want"),
        ({"batch_eval_metrics": True}, "a batch at a time"),
        ({"eval_do_concat_batches": False}, "whole arrays"),
        ({"include_for_metrics": ["inputs"]}, "metrics are those of"),
        ({"predict_top_k": True}, "be an int >= 0; got True"),
    ],
)
def test_options_that_would_change_nothing_are_refused(
    tmp_path: Path, options: dict[str, Any], text: str
) -> None:
    (name,) = options
    if name not in transformers.TrainingArguments.__dataclass_fields__ and name != "predict_top_k":
        pytest.skip(f"transformers {transformers.__version__} has no {name}")
    with pytest.raises(ValueError, match=f"T4RecTrainingArguments: {name} must .*{text}"):
        arguments(tmp_path, **options)


def test_what_the_refusal_of_checkpointing_says_works(tmp_path: Path) -> None:
    model = model_of(dropout=0.0)
    (block,) = (m for m in model.modules() if isinstance(m, tr.TransformerBlock))
    name = "activation_checkpointing_enable"  # which took the place of gradient_...
    older = name.replace("activation", "gradient")
    getattr(block.transformer, name if hasattr(block.transformer, name) else older)()
    trainer, plain = trainer_of(tmp_path, model, max_steps=2), trainer_of(tmp_path, max_steps=2)
    for each in (trainer, plain):
        each.train()
    assert losses(trainer) == pytest.approx(losses(plain), abs=1e-6)


def test_workers_start_as_the_arguments_say(tmp_path: Path) -> None:
    context = {"dataloader_num_workers": 1, "dataloader_multiprocessing_context": "spawn"}
    fields = transformers.TrainingArguments.__dataclass_fields__
    given = {name: value for name, value in context.items() if name in fields}
    loader = trainer_of(tmp_path, **given).get_train_dataloader()
    assert loader.num_workers == 1
    if len(given) == 2:
        assert loader.multiprocessing_context.get_start_method() == "spawn"


def test_rows_come_in_the_order_of_a_generator_of_ones_own(tmp_path: Path) -> None:
    def loader() -> Any:
        own = torch.Generator().manual_seed(9)
        return DataLoader(Sessions(), batch_size=8, shuffle=True, generator=own)

    expected = [batch[ITEM][:, 0].tolist() for batch in loader()]
    trainer = Seen(model_of(), arguments(tmp_path, num_train_epochs=1), train_dataloader=loader())
    trainer.train()
    assert trainer.seen == expected


def test_a_batch_sampler_of_random_rows_is_resumed_too(tmp_path: Path) -> None:
    def trainer(steps: int) -> Seen:
        rows = torch.utils.data.RandomSampler(Sessions())
        batches = torch.utils.data.BatchSampler(rows, 8, drop_last=False)
        loader = DataLoader(Sessions(), batch_sampler=batches)
        args = arguments(tmp_path, max_steps=steps, save_steps=4, save_strategy="steps")
        return Seen(model_of(), args, train_dataloader=loader)

    whole = trainer(6)
    whole.train()
    resumed = trainer(6)
    resumed.train(resume_from_checkpoint=str(tmp_path / "out" / "checkpoint-4"))
    assert resumed.seen == whole.seen[4:]
