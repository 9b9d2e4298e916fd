"""Row gradients of several processes: their mean, without a dense form."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from exchange_run import CASES, D, V, gradient
from processes import run_in_processes
from torch import Tensor

from transformers4rec_ext.optim import average_row_gradients_

HERE = Path(__file__).resolve().parent
pytestmark = pytest.mark.skipif(
    not torch.distributed.is_gloo_available(), reason="torch is without gloo"
)


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    """Return what each of three processes found."""
    folder = tmp_path_factory.mktemp("exchange")
    run_in_processes(3, HERE / "exchange_run.py", folder)
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(3)]


def _dense(grad: Tensor | None) -> Tensor:
    if grad is None:
        return torch.zeros(V, D, dtype=torch.float64)
    return (grad.to_dense() if grad.is_sparse else grad).double()


def _rows(case: str) -> list[Any]:
    return [rows for rows in CASES[case] if rows]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("case", CASES)
def test_the_mean_over_processes(found: list[Any], case: str, dtype: torch.dtype) -> None:
    own = [gradient(case, rank, dtype) for rank in range(3)]
    expected = torch.stack([_dense(grad) for grad in own]).mean(0)
    for grad in (of[str(dtype)][case] for of in found):
        tolerance = 1e-6 if dtype == torch.float32 else 0.02
        torch.testing.assert_close(_dense(grad), expected, rtol=tolerance, atol=tolerance)
        if "dense" in CASES[case]:
            assert grad.layout == torch.strided
        elif case in ("none", "missing or empty"):
            assert grad is None
        else:
            assert grad.is_sparse
            assert grad.dtype == dtype
            assert grad.shape == (V, D)


@pytest.mark.parametrize("case", [case for case in CASES if any(_rows(case))])
def test_all_processes_have_the_same_bits(found: list[Any], case: str) -> None:
    grads = [of["torch.float32"][case] for of in found]
    for grad in grads[1:]:
        assert torch.equal(_dense(grad), _dense(grads[0]))
        if grad.is_sparse:  # an optimizer sums equal rows in the order that they stand in
            assert torch.equal(grad._indices(), grads[0]._indices())
            assert torch.equal(grad._values(), grads[0]._values())


def test_no_more_rows_than_there_are(found: list[Any]) -> None:
    """Those of a process are summed before they are sent; padding is not among them."""
    for case, number in (("unlike many", 6), ("repeated", 4), ("missing", 3)):
        assert found[0]["torch.float32"][case]._nnz() == number


def test_one_parameter_and_some_of_the_processes(found: list[Any]) -> None:
    grads = [_dense(gradient("as many", rank, torch.float32)) for rank in range(3)]
    for of in found:
        expected = torch.stack(grads).mean(0)
        torch.testing.assert_close(_dense(of["alone"]["as many"]), expected, rtol=1e-6, atol=1e-6)
    for of in found[:2]:
        for case, grad in of["pair"].items():
            own = [_dense(gradient(case, rank, torch.float32)) for rank in range(2)]
            expected = torch.stack(own).mean(0)
            torch.testing.assert_close(_dense(grad), expected, rtol=1e-6, atol=1e-6)
        assert len(of["pair"]) == 2
    assert "pair" not in found[2]


def test_one_process_keeps_what_it_has() -> None:
    table = torch.nn.Embedding(V, D, sparse=True)
    table(torch.tensor([3, 3])).sum().backward()
    grad = table.weight.grad
    average_row_gradients_(table.parameters())
    assert table.weight.grad is grad
    average_row_gradients_([])


def test_bad_input(found: list[Any]) -> None:
    with pytest.raises(TypeError, match="parameters must be tensors; got"):
        average_row_gradients_([1.0])  # type: ignore[list-item]
    for rank, got in enumerate(("another elsewhere", "torch.sparse_coo", "another elsewhere")):
        assert f"gradients must be dense or sparse COO of rows; got {got}" in found[rank]["bad"]
