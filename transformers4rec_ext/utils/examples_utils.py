"""What upstream's tutorials do with a Trainer from one time window to the next."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from transformers4rec_ext._errors import value_error
from transformers4rec_ext._lazy import elsewhere

__getattr__ = elsewhere(
    __name__,
    {
        "visualize_response": "it prints what a server of Merlin answers; model(batch, top_k=k) "
        "gives the scores and the ids of the best items"
    },
)


def fit_and_evaluate(
    trainer: Any, start_time_index: int, end_time_index: int, input_dir: Any
) -> dict[str, list[float]]:
    """Train on each time window in turn, and evaluate on the window after it.

    Window ``t`` is ``input_dir/t/train.parquet``, and what follows it
    ``input_dir/t+1/valid.parquet``. Weights and optimizer state go on from window to window; the
    schedule of the learning rate begins anew in each. Prints the ranking metrics of each window.

    Parameters
    ----------
    trainer : Trainer
    start_time_index, end_time_index : int
        The first and the last window to train on.
    input_dir : path

    Returns
    -------
    dict
        Of every ranking metric of ``trainer.evaluate()`` its values after each window, as
        ``indexed_by_time_eval_/next-item/ndcg@10``.

    Raises
    ------
    ValueError
        If there is no window, a file is missing, or the Trainer has a loader that it would read
        instead; then nothing has been trained.
    """
    windows = list(_windows(start_time_index, end_time_index, Path(input_dir)))
    if not windows:
        raise value_error(
            "fit_and_evaluate",
            "end_time_index",
            f"be at least start_time_index ({start_time_index})",
            end_time_index,
        )
    _check_reads_files(trainer)
    by_time: dict[str, list[float]] = {}
    for number, train, evaluation in windows:
        trainer.train_dataset_or_path = str(train)
        trainer.reset_lr_scheduler()
        trainer.train()
        trainer.eval_dataset_or_path = str(evaluation)
        metrics = trainer.evaluate(metric_key_prefix="eval")
        ranking = {key: float(value) for key, value in metrics.items() if "_at_" in key}
        words = ", ".join(f"{key} {value:.4f}" for key, value in sorted(ranking.items()))
        print(f"window {number + 1}, after training on {number}: {words}")
        for key, value in ranking.items():
            name = f"indexed_by_time_{key.replace('_at_', '@')}"
            by_time.setdefault(name, []).append(value)
        wipe_memory()
    return by_time


def _check_reads_files(trainer: Any) -> None:
    """Raise if the Trainer would read something else than the files of a window."""
    tests = (trainer.test_dataloader, trainer.test_dataset_or_path)
    others = {
        "train_dataloader": trainer.train_dataloader is not None,
        "eval_dataloader": trainer.eval_dataloader is not None,
        "eval_on_test_set": trainer.args.eval_on_test_set and any(t is not None for t in tests),
    }
    if found := [name for name, is_given in others.items() if is_given]:
        hint = "It would be read in every window, and the window's files would not."
        raise value_error("fit_and_evaluate", "trainer", f"have no {found[0]}", "one", hint)


def _windows(first: int, last: int, folder: Path) -> Iterator[tuple[int, Path, Path]]:
    for number in range(first, last + 1):
        train = folder / str(number) / "train.parquet"
        evaluation = folder / str(number + 1) / "valid.parquet"
        for path in (train, evaluation):
            if not path.exists():
                raise value_error(
                    "fit_and_evaluate", "input_dir", f"hold {path.relative_to(folder)}", folder
                )
        yield number, train, evaluation


def wipe_memory() -> None:
    """Collect what nothing refers to, and give cached memory of the GPU back."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def list_files(startpath: Any) -> None:
    """Print a folder and what is below it, indented."""
    root = Path(startpath)
    print(f"{root.name}/")
    for path in sorted(root.rglob("*")):
        depth = len(path.relative_to(root).parts)
        print(f"{'    ' * depth}{path.name}{'/' if path.is_dir() else ''}")
