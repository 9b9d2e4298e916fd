"""Two processes do what one does with twice the batch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from distributed_run import CASES, of_one_row, outcome
from processes import run_in_processes
from trainer_helpers import model_of, write

from transformers4rec_ext.trainer.rows import row_parameters, rows_exchanged

HERE = Path(__file__).resolve().parent
ROWS = 43  # of 8 in a step 3 are left over: not even for two processes


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("distributed")
    write(folder / "data", ROWS)
    write(folder / "one row", 1)
    return folder


@pytest.fixture(scope="module")
def of_two(folder: Path) -> Any:
    """Return what two processes with half the batch found."""
    run_in_processes(2, HERE / "distributed_run.py", folder)
    return torch.load(folder / "found.pt", weights_only=True)


@pytest.mark.parametrize("case", CASES)
def test_two_processes_equal_one_with_twice_the_batch(folder: Path, of_two: Any, case: str) -> None:
    expected, found = outcome(folder, case, batch_size=8), of_two[case]
    assert expected.keys() == found.keys()
    assert len(expected["losses"]) == (3 if case == "rows, accumulated" else 6)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("case", ["resume", "resume rows"])
def test_a_run_of_two_processes_is_resumed_to_the_bit(of_two: Any, case: str) -> None:
    found = of_two[case]
    assert len(found["whole"]) == 6
    assert torch.equal(found["whole"], found["resumed"])


def test_ddp_passes_over_the_item_table_by_all_its_names(of_two: Any) -> None:
    """Else it would average rows once more, over gloo, and fail over NCCL."""
    found = of_two["start"]
    assert len(found["table"]) > 1
    assert set(found["table"]) <= set(found["passed over"])
    assert "of the user" in found["passed over"]


def test_a_process_without_rows_joins_in_the_metrics(folder: Path, of_two: Any) -> None:
    expected = of_one_row(folder)
    assert len(expected) == 5
    torch.testing.assert_close(of_two["one row"], expected)


def test_something_else_must_be_trained(of_two: Any) -> None:
    assert "Trainer: model must have something to learn besides" in of_two["refused"]


@pytest.mark.parametrize("kind", ["FSDP", "DEEPSPEED", "MEGATRON_LM"])
def test_row_gradients_are_for_ddp(kind: str) -> None:
    class Accelerator:
        num_processes, distributed_type = 2, kind

    model = model_of(CASES["rows"]())
    text = (
        f"sparse_grad must be False where not DistributedDataParallel shares the model; got {kind}"
    )
    with pytest.raises(ValueError, match=text), rows_exchanged(model, Accelerator()):
        raise AssertionError


def test_which_parameters_get_row_gradients() -> None:
    tied, own, dense = (model_of(CASES[name]()) for name in ("rows", "rows of a layer", "next"))
    (table,) = row_parameters(tied)
    assert table is tied.prediction_tasks[0].item_embedding_table.weight
    (layer,) = row_parameters(own)
    assert layer is own.prediction_tasks[0].pre.module.output_layer
    assert row_parameters(dense) == []
    with rows_exchanged(dense, None):  # nothing is asked of it
        assert dense._ddp_params_and_buffers_to_ignore == []
