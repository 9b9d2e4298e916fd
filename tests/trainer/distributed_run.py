"""Train, evaluate and predict as one of several processes; the first writes what came out.

usage: torchrun --nproc-per-node 2 distributed_run.py FOLDER
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader
from trainer_helpers import V, batches, losses, model_of, next_item, trainer_of

from transformers4rec_ext import BinaryClassificationTask

# Parquet files with a different number of labels in each process, a DataLoader of rows, and sampled
# softmax with rows that have no label, and with row gradients, of tied weights and of an output
# layer: the whole catalogue for candidates, which are then the same in each process.
CASES: dict[str, Any] = {
    "next": lambda: next_item(),
    "sum": lambda: next_item(loss=torch.nn.CrossEntropyLoss(reduction="sum")),
    "dataloader": lambda: BinaryClassificationTask("click", summary_type="mean"),
    "static": lambda: next_item(sampled_softmax=True, max_n_samples=V, static_shapes=True),
    "rows": lambda: next_item(
        weight_tying=True, sampled_softmax=True, max_n_samples=V, sparse_grad=True
    ),
    "rows of a layer": lambda: next_item(sampled_softmax=True, max_n_samples=V, sparse_grad=True),
    "rows, accumulated": lambda: next_item(
        weight_tying=True, sampled_softmax=True, max_n_samples=V, sparse_grad=True
    ),
    "rows, not clipped": lambda: next_item(
        weight_tying=True, sampled_softmax=True, max_n_samples=V, sparse_grad=True
    ),
    "rows, clipped": lambda: next_item(
        weight_tying=True, sampled_softmax=True, max_n_samples=V, sparse_grad=True
    ),
}
#: Of a case, the norm of the gradient that is let through.
CLIP = {"rows, not clipped": 0.0, "rows, clipped": 0.01}


def collated(rows: list[Any]) -> Any:
    """Return single-row batches as one."""
    inputs, targets = zip(*rows, strict=True)
    return tuple(
        {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
        for parts in (inputs, targets)
    )


def outcome(folder: Path, case: str, batch_size: int) -> dict[str, Any]:
    """Return all numbers of a short run, as tensors."""
    options: dict[str, Any] = {
        "per_device_train_batch_size": batch_size,
        "per_device_eval_batch_size": batch_size,
        # Adam divides what is 0 but for rounding (the biases of the keys) by itself
        "optim": "sgd",
        "learning_rate": 0.3,
        "num_train_epochs": 1,
    }
    if case == "sum":
        options["learning_rate"] = 0.01
    if case.startswith("rows"):
        options |= {"optim": "adamw_torch", "adam_epsilon": 1e-3, "learning_rate": 1e-2}
    options["max_grad_norm"] = CLIP.get(case, 1.0)
    if case == "rows, accumulated":
        options["gradient_accumulation_steps"] = 2
    if case == "dataloader":
        rows = batches(folder / "data", 1)
        for name in ("train_dataloader", "eval_dataloader"):
            shuffle = name.startswith("train")
            options[name] = DataLoader(
                rows, batch_size=batch_size, shuffle=shuffle, collate_fn=collated
            )
    trainer = trainer_of(folder, model_of(CASES[case]()), **options)
    trainer.train()
    _check_processes_agree(trainer.model)
    metrics = trainer.evaluate()
    if case == "sum":
        del metrics["eval_/loss"]  # the mean of sums, of larger batches larger
    found = {
        "losses": torch.tensor(losses(trainer)),
        "metrics": torch.tensor([v for k, v in sorted(metrics.items()) if "_/" in k]),
        **{f"weights.{name}": value for name, value in trainer.model.state_dict().items()},
    }
    if case == "next":
        ids, scores = trainer.predict().predictions
        found |= {"ids": torch.tensor(ids), "scores": torch.tensor(scores)}
    return found


def _check_processes_agree(model: Any) -> None:
    """Assert that all processes have the same bits."""
    if not torch.distributed.is_initialized():
        return
    everyone: list[Any] = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(everyone, dict(model.state_dict()))
    for other in everyone[1:]:
        for name, value in everyone[0].items():
            assert torch.equal(value, other[name]), name


def resumed(folder: Path, task: Any = next_item) -> dict[str, Any]:
    """Return the losses of a run and those of one that goes on from its third step."""

    def run() -> Any:
        options = {"save_strategy": "steps", "save_steps": 3, "num_train_epochs": 1}
        return trainer_of(
            folder, model_of(task(), dropout=0.3), per_device_train_batch_size=4, **options
        )

    whole, later = run(), run()
    whole.train()
    later.train(resume_from_checkpoint=folder / "out/checkpoint-3")
    return {"whole": torch.tensor(losses(whole)), "resumed": torch.tensor(losses(later))}


def started(folder: Path) -> dict[str, Any]:
    """Train processes that made their own weights; return what DDP passed over, and should."""
    model = model_of(CASES["rows"]())
    model._ddp_params_and_buffers_to_ignore = ["of the user"]
    # not in the constructor: what changes between it and the training is shared too
    trainer = trainer_of(folder, model, per_device_train_batch_size=4, max_steps=1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += torch.distributed.get_rank()
    trainer.train()
    _check_processes_agree(trainer.model)
    passed_over = trainer.model_wrapped.parameters_to_ignore
    assert model._ddp_params_and_buffers_to_ignore == ["of the user"]
    trainer.train()  # once more, by the same wrapper
    _check_processes_agree(trainer.model)
    return {"passed over": sorted(passed_over), "table": table_names(model)}


def table_names(model: Any) -> list[str]:
    """Return all names of the item table."""
    table = model.prediction_tasks[0].item_embedding_table.weight
    named = model.named_parameters(remove_duplicate=False)
    return sorted(name for name, parameter in named if parameter is table)


def of_one_row(folder: Path) -> dict[str, torch.Tensor]:
    """Return what evaluation finds in data that one process has to itself."""
    trainer = trainer_of(folder, eval_dataset_or_path=folder / "one row")
    found = trainer.evaluate()
    return {name: torch.tensor(value) for name, value in found.items() if "_/" in name}


def refused(folder: Path) -> str:
    """Return what is said where nothing but the item table is trained."""
    model = model_of(CASES["rows"]())
    model.requires_grad_(False)
    model.prediction_tasks[0].item_embedding_table.weight.requires_grad_(True)
    try:
        trainer_of(folder, model, per_device_train_batch_size=4, max_steps=1).train()
    except ValueError as error:
        return str(error)
    return "nothing"


def main() -> None:
    """Run every case."""
    folder = Path(sys.argv[1])
    torch.set_num_threads(1)
    found = {case: outcome(folder, case, batch_size=4) for case in CASES}
    found["resume"] = resumed(folder)
    found["resume rows"] = resumed(folder, CASES["rows"])
    found["start"] = started(folder)
    found["one row"] = of_one_row(folder)
    found["refused"] = refused(folder)
    if torch.distributed.get_rank() == 0:
        torch.save(found, folder / "found.pt")
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()
