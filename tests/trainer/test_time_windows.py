"""Training from one time window to the next, as upstream's tutorials do."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from trainer_helpers import losses, trainer_of, write

from transformers4rec_ext.utils.examples_utils import fit_and_evaluate, list_files


def windows(folder: Path, *numbers: int) -> Path:
    """Write a window's two files for each number."""
    for number in numbers:
        window = folder / "windows" / str(number)
        window.mkdir(parents=True)
        for seed, name in ((2 * number, "train"), (2 * number + 1, "valid")):
            part = write(window, rows=16, seed=seed) / "part.parquet"
            part.rename(window / f"{name}.parquet")
    return folder / "windows"


def test_each_window_is_trained_on_and_the_next_evaluated(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = windows(tmp_path, 1, 2, 3)
    trainer = trainer_of(tmp_path, num_train_epochs=1)
    results = fit_and_evaluate(trainer, start_time_index=1, end_time_index=2, input_dir=data)
    assert set(results) == {
        f"indexed_by_time_eval_/next-item/{metric}@{k}"
        for metric in ("ndcg", "recall")
        for k in (5, 10)
    }
    assert all(len(values) == 2 for values in results.values())
    printed = capsys.readouterr().out
    for place, number in enumerate((2, 3)):
        value = results["indexed_by_time_eval_/next-item/recall@5"][place]
        words = f"window {number}, after training on {number - 1}: "
        line = next(line for line in printed.splitlines() if line.startswith(words))
        assert f"eval_/next-item/recall_at_5 {value:.4f}" in line

    # The same by hand.
    torch.manual_seed(0)
    by_hand = trainer_of(tmp_path, num_train_epochs=1)
    for number in (1, 2):
        by_hand.train_dataset_or_path = str(data / str(number) / "train.parquet")
        by_hand.reset_lr_scheduler()
        by_hand.train()
        by_hand.eval_dataset_or_path = str(data / str(number + 1) / "valid.parquet")
        values = by_hand.evaluate()
        for name, of_windows in results.items():
            key = name.removeprefix("indexed_by_time_").replace("@", "_at_")
            assert of_windows[number - 1] == pytest.approx(values[key], abs=1e-12)
    assert losses(trainer) == losses(by_hand)


def test_missing_windows_are_found_before_anything_is_trained(tmp_path: Path) -> None:
    data = windows(tmp_path, 1, 2)
    trainer = trainer_of(tmp_path)
    before = {name: value.clone() for name, value in trainer.model.state_dict().items()}
    with pytest.raises(ValueError, match=r"input_dir must hold 3/valid\.parquet; got"):
        fit_and_evaluate(trainer, 1, 2, data)
    with pytest.raises(ValueError, match=r"end_time_index must be at least start_time_index \(2\)"):
        fit_and_evaluate(trainer, 2, 1, data)
    assert all(torch.equal(before[name], v) for name, v in trainer.model.state_dict().items())


@pytest.mark.parametrize("name", ["train_dataloader", "eval_dataloader", "eval_on_test_set"])
def test_data_that_would_be_read_in_every_window_are_refused(tmp_path: Path, name: str) -> None:
    data = windows(tmp_path, 1, 2)
    trainer = trainer_of(tmp_path)
    if name == "eval_on_test_set":
        trainer.args.eval_on_test_set, trainer.test_dataset_or_path = True, str(data)
    else:
        setattr(trainer, name, [])
    with pytest.raises(ValueError, match=f"fit_and_evaluate: trainer must have no {name}; got one"):
        fit_and_evaluate(trainer, 1, 1, data)


def test_folders_are_listed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "x.txt").touch()
    list_files(tmp_path)
    assert capsys.readouterr().out == f"{tmp_path.name}/\n    a/\n        x.txt\n"
