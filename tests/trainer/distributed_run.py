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
}


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


def resumed(folder: Path) -> dict[str, Any]:
    """Return the losses of a run and those of one that goes on from its third step."""

    def run() -> Any:
        options = {"save_strategy": "steps", "save_steps": 3, "num_train_epochs": 1}
        return trainer_of(
            folder, model_of(next_item(), dropout=0.3), per_device_train_batch_size=4, **options
        )

    whole, later = run(), run()
    whole.train()
    later.train(resume_from_checkpoint=folder / "out/checkpoint-3")
    return {"whole": torch.tensor(losses(whole)), "resumed": torch.tensor(losses(later))}


def started(folder: Path) -> dict[str, Any]:
    """Return the weights after a step, of each process, which had made their own to start with."""
    model = model_of(CASES["rows of a layer"]())
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += torch.distributed.get_rank()
    trainer = trainer_of(folder, model, per_device_train_batch_size=4, max_steps=1)
    trainer.train()
    everyone: list[Any] = [None, None]
    torch.distributed.all_gather_object(everyone, dict(trainer.model.state_dict()))
    return dict(zip(("first", "other"), everyone, strict=True))


def main() -> None:
    """Run every case."""
    folder = Path(sys.argv[1])
    torch.set_num_threads(1)
    found = {case: outcome(folder, case, batch_size=4) for case in CASES}
    found["resume"] = resumed(folder)
    found["start"] = started(folder)
    if torch.distributed.get_rank() == 0:
        torch.save(found, folder / "found.pt")
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()
