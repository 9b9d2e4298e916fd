"""A run that was interrupted equals one that was not, to the bit."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader, Dataset
from trainer_helpers import ITEM, batches, losses, model_of, next_item, trainer_of, write
from transformers import TrainerCallback

import transformers4rec_ext as tr


class StopAt(TrainerCallback):
    """Interrupts training after a step, as a kill would."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == self.step:
            raise KeyboardInterrupt


class Rows(Dataset[Any]):
    """Single rows of the data, for a DataLoader to shuffle."""

    def __init__(self, folder: Path) -> None:
        (self.whole, _), *_ = batches(folder, 40)

    def __len__(self) -> int:
        return 40

    def __getitem__(self, row: int) -> dict[str, torch.Tensor]:
        return {name: column[row] for name, column in self.whole.items()}


def _state(trainer: tr.Trainer) -> dict[str, Any]:
    return {
        "weights": dict(trainer.model.state_dict()),
        "optimizer": trainer.optimizer.state_dict()["state"],
        "rate": trainer.lr_scheduler.get_last_lr(),
        "random": torch.random.get_rng_state(),
    }


def _equal(a: Any, b: Any) -> bool:
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(_equal(a[key], b[key]) for key in a)
    return bool(a == b)


def _check_resumed(run: Callable[..., tr.Trainer], stop: int) -> None:
    """Interrupt a run after the checkpoint at ``stop``, resume it, compare with a whole one."""
    whole = run("whole")
    whole.train()
    with pytest.raises(KeyboardInterrupt):
        run("stopped", StopAt(stop + 1)).train()
    resumed = run("stopped")
    if stop % 2:
        resumed.train(resume_from_checkpoint=Path(resumed.args.output_dir, f"checkpoint-{stop}"))
    else:
        resumed.train(resume_from_checkpoint=True)
    assert whole.state.global_step == 10 > stop
    assert len(losses(whole)) == 10
    assert losses(resumed) == losses(whole)
    assert _equal(_state(resumed), _state(whole))


TASKS = {
    "full": lambda: next_item(),
    "sampled": lambda: next_item(sampled_softmax=True, max_n_samples=7),
    "rows": lambda: next_item(
        weight_tying=True,
        sampled_softmax=True,
        sparse_grad=True,
        sampler=tr.UniformSampler(7, max_id=31, min_id=1, seed=3),
    ),
}


# 5 steps an epoch: stopped in the first epoch, at its end, and in the second
@pytest.mark.parametrize(("task", "stop"), [("full", 3), ("sampled", 5), ("rows", 8)])
def test_resumed_run_equals_an_uninterrupted_one(tmp_path: Path, task: str, stop: int) -> None:
    options: dict[str, Any] = {"save_strategy": "steps", "save_steps": stop}
    options["eval_strategy"] = "epoch"

    def run(folder: str, *callbacks: Any) -> tr.Trainer:
        options["output_dir"] = str(tmp_path / folder)
        model = model_of(TASKS[task](), dropout=0.2)
        return trainer_of(tmp_path, model, callbacks=list(callbacks), **options)

    _check_resumed(run, stop)


def _session_loader(folder: Path) -> tr.data.SessionLoader:
    sessions = tr.data.ParquetSessions(folder / "part.parquet", "item_id")
    return tr.data.SessionLoader(
        sessions, tr.data.Catalogue.fit(sessions), max_length=5, batch_size=8, part="all"
    )


@pytest.mark.parametrize(("kind", "stop"), [("rows", 5), ("rows", 8), ("sessions", 8)])
def test_the_order_of_other_loaders_is_resumed(tmp_path: Path, kind: str, stop: int) -> None:
    data = write(tmp_path / "data")
    rows = Rows(data)
    options: dict[str, Any] = {"save_strategy": "steps", "save_steps": stop}

    def run(folder: str, *callbacks: Any) -> tr.Trainer:
        options["output_dir"] = str(tmp_path / folder)
        loader = DataLoader(rows, batch_size=8, shuffle=True)
        source = loader if kind == "rows" else _session_loader(data)
        return trainer_of(tmp_path, train_dataloader=source, callbacks=list(callbacks), **options)

    _check_resumed(run, stop)


def test_epochs_see_all_rows_in_different_orders(tmp_path: Path) -> None:
    trainer = trainer_of(tmp_path)
    seen: list[Any] = []
    compute = trainer.compute_loss
    trainer.compute_loss = lambda model, inputs, **options: (
        seen.append(inputs[0]["item_id"].tolist()) or compute(model, inputs, **options)
    )
    trainer.train()
    first, second = (
        [tuple(row) for batch in part for row in batch] for part in (seen[:5], seen[5:])
    )
    assert first != second
    assert sorted(first) == sorted(second)
    assert sorted(first) == sorted(
        tuple(row) for x, _ in batches(tmp_path / "data") for row in x["item_id"].tolist()
    )


def test_checkpoint_holds_a_tied_table_once_and_loads_alone(tmp_path: Path) -> None:
    from safetensors.torch import load_file

    trainer = trainer_of(tmp_path, model_of(next_item(weight_tying=True)), save_strategy="epoch")
    trainer.train()
    file = tmp_path / "out/checkpoint-10/model.safetensors"
    tables = [value for value in load_file(file).values() if value.shape == (31, 8)]
    assert len(tables) == 1
    expected = trainer.predict().predictions
    other = trainer_of(tmp_path, model_of(next_item(weight_tying=True)))
    assert (other.predict().predictions[1] != expected[1]).any()
    other.load_model_trainer_states_from_checkpoint(file.parent)
    ids, scores = other.predict().predictions
    assert (ids == expected[0]).all()
    assert (scores == expected[1]).all()


def test_saving_now_writes_a_checkpoint_and_the_models_own_file(tmp_path: Path) -> None:
    trainer = trainer_of(tmp_path, max_steps=2)
    trainer.train()
    trainer._save_model_and_checkpoint(save_model_class=True)
    folder = tmp_path / "out/checkpoint-2"
    names = {path.name for path in folder.iterdir()}
    assert {"model.safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth"} <= names
    assert {"trainer_state.json", "training_args.bin", "t4rec_model_class.pt"} <= names
    state_dict = torch.load(folder / "t4rec_model_class.pt", weights_only=True)
    assert _equal(dict(state_dict), dict(trainer.model.state_dict()))


def test_weights_of_upstreams_checkpoint_are_taken(tmp_path: Path) -> None:
    trainer = trainer_of(tmp_path, max_steps=2)
    trainer.train()
    folder = tmp_path / "upstream"
    folder.mkdir()
    torch.save(trainer.model.state_dict(), folder / "pytorch_model.bin")
    model = model_of()
    trainer.load_model_trainer_states_from_checkpoint(folder, model)
    assert trainer.model is model
    other = trainer_of(tmp_path)
    other.load_model_trainer_states_from_checkpoint(folder)
    assert _equal(dict(other.model.state_dict()), dict(model.state_dict()))


def _saved(folder: Path, model: tr.Model) -> tuple[tr.Trainer, Path]:
    """Return a Trainer that has trained ``model`` for two steps, and its checkpoint."""
    trainer = trainer_of(folder, model, max_steps=2)
    trainer.train()
    trainer._save_model_and_checkpoint()
    return trainer, folder / "out/checkpoint-2"


@pytest.mark.parametrize("rows", [False, True])
def test_a_model_in_the_place_of_a_trained_one_is_trained(tmp_path: Path, rows: bool) -> None:
    def task(**options: Any) -> tr.NextItemPredictionTask:
        return next_item(weight_tying=True, sampled_softmax=True, max_n_samples=7, **options)

    trainer, folder = _saved(tmp_path, model_of(task()))
    model = model_of(task(sparse_grad=rows))
    trainer.load_model_trainer_states_from_checkpoint(folder, model=model)
    weights = [each.detach().clone() for each in model.parameters()]
    trainer.train()
    changed = [not torch.equal(*pair) for pair in zip(weights, model.parameters(), strict=True)]
    assert sum(changed) > len(changed) / 2
    assert isinstance(trainer.optimizer.optimizer, tr.optim.LazyAdam) is rows
    fresh = trainer_of(tmp_path, model_of(task(sparse_grad=rows)), max_steps=2)
    fresh.load_model_trainer_states_from_checkpoint(folder)
    fresh.train()
    assert losses(trainer) == losses(fresh)
    assert _equal(_state(trainer), _state(fresh))


def test_a_model_in_the_place_of_another_is_resumed(tmp_path: Path) -> None:
    trainer, folder = _saved(tmp_path, model_of())
    other, model = trainer_of(tmp_path, max_steps=4), model_of()
    trainer.args.max_steps = 4
    trainer.load_model_trainer_states_from_checkpoint(folder, model=model)
    for each in (trainer, other):
        each.train(resume_from_checkpoint=folder)
    assert trainer.model is model
    assert losses(trainer) == losses(other)
    assert _equal(_state(trainer), _state(other))


def test_what_remembers_the_model_is_told_of_another(tmp_path: Path) -> None:
    told: list[Any] = []

    class Told(TrainerCallback):
        def on_evaluate(self, *args: Any, model: Any, optimizer: Any, **kwargs: Any) -> None:
            told.append((model, optimizer))

    trainer, folder = _saved(tmp_path, model_of())
    trainer.add_callback(Told())
    model = model_of()
    trainer.load_model_trainer_states_from_checkpoint(folder, model=model)
    trainer.evaluate()
    assert told == [(model, None)]
    trainer.args.output_dir = str(tmp_path / "other")
    trainer._save_model_and_checkpoint()  # without an optimizer, which training will make
    names = {path.name for path in (tmp_path / "other/checkpoint-2").iterdir()}
    assert "model.safetensors" in names
    assert not {"optimizer.pt", "scheduler.pt"} & names


def test_a_model_is_not_replaced_where_it_cannot_be(tmp_path: Path) -> None:
    _, folder = _saved(tmp_path, model_of())
    model = model_of()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    trainer = trainer_of(tmp_path, model, optimizers=(optimizer, None), max_steps=1)
    text = r"model must be left out where Trainer was given optimizers=.*; got another Model\. Make"
    with pytest.raises(ValueError, match=text):
        trainer.load_model_trainer_states_from_checkpoint(folder, model=model_of())
    trainer.load_model_trainer_states_from_checkpoint(folder, model=model)  # which is no other
    trainer.train()
    assert trainer.optimizer.optimizer is optimizer
    trainer = trainer_of(tmp_path, model)
    with pytest.raises(ValueError, match="click"):
        trainer.load_model_trainer_states_from_checkpoint(
            folder, model=model_of(tr.BinaryClassificationTask("click"))
        )
    assert trainer.model is model


def test_bad_checkpoints(tmp_path: Path) -> None:
    trainer = trainer_of(tmp_path)
    text = "Trainer.train: resume_from_checkpoint must be the folder of a checkpoint; .*none does"
    with pytest.raises(FileNotFoundError, match=text):
        trainer.train(resume_from_checkpoint=tmp_path / "none")
    with pytest.raises(ValueError, match=r"must hold model\.safetensors; got .*data, which"):
        trainer.train(resume_from_checkpoint=str(tmp_path / "data"))
    with pytest.raises(ValueError, match="No valid checkpoint found in output directory"):
        trainer.train(resume_from_checkpoint=True)
    with pytest.raises(FileNotFoundError, match="checkpoint_path must be the folder"):
        trainer.load_model_trainer_states_from_checkpoint(tmp_path / "none")


def test_random_numbers_come_with_the_states(tmp_path: Path) -> None:
    trainer = trainer_of(tmp_path, max_steps=2, save_steps=2, save_strategy="steps")
    trainer.train()
    drawn = []
    for _ in range(2):
        torch.rand(3)
        trainer.load_model_trainer_states_from_checkpoint(tmp_path / "out" / "checkpoint-2")
        drawn.append(torch.rand(3))
    assert torch.equal(*drawn)


def test_the_seed_of_the_data_is_that_of_the_order(tmp_path: Path) -> None:
    def order(**seeds: int) -> list[Any]:
        loader = trainer_of(tmp_path, **seeds).get_train_dataloader()
        return [row for x, _ in loader for row in x[ITEM].tolist()]

    assert order(seed=1, data_seed=3) == order(seed=3)
    assert order(seed=1) != order(seed=3)
