"""Train, evaluate and predict as one of several processes; the first writes what came out.

usage: torchrun --nproc-per-node 2 distributed_run.py FOLDER
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader
from trainer_helpers import batches, losses, model_of, next_item, trainer_of

from transformers4rec_ext import BinaryClassificationTask

# parquet files with a different number of labels in each process, and a DataLoader of rows
CASES: dict[str, Any] = {
    "next": lambda: next_item(),
    "dataloader": lambda: BinaryClassificationTask("click", summary_type="mean"),
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
    found = {
        "losses": torch.tensor(losses(trainer)),
        "metrics": torch.tensor([v for k, v in sorted(metrics.items()) if "_/" in k]),
        **{f"weights.{name}": value for name, value in trainer.model.state_dict().items()},
    }
    if case == "next":
        ids, scores = trainer.predict().predictions
        found |= {"ids": torch.tensor(ids), "scores": torch.tensor(scores)}
    return found


def main() -> None:
    """Run every case."""
    folder = Path(sys.argv[1])
    torch.set_num_threads(1)
    found = {case: outcome(folder, case, batch_size=4) for case in CASES}
    if torch.distributed.get_rank() == 0:
        torch.save(found, folder / "found.pt")
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()
