"""Average gradients as one of several processes; each writes what came out.

usage: torchrun --nproc-per-node 3 exchange_run.py FOLDER
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from torch import Tensor, distributed

from transformers4rec_ext.optim import average_row_gradients_

V, D = 9, 2
#: Rows that each of three processes touches; None where it has no gradient, "dense" for all.
CASES: dict[str, list[list[int] | str | None]] = {
    "as many": [[1, 2], [2, 3], [8, 0]],
    "unlike many": [[4], [1, 2, 3, 4, 5], []],
    "repeated": [[4, 4, 4], [4], [0, 4, 0]],
    "missing": [[1], None, [1, 7]],
    "missing in the first": [None, None, [5]],
    "nothing": [[], [], []],
    "none": [None, None, None],
    "missing or empty": [None, [], None],
    "dense in one": [[1, 1], "dense", None],
    "dense": ["dense", "dense", "dense"],
}


def gradient(case: str, rank: int, dtype: torch.dtype) -> Tensor | None:
    """Return the gradient [V, D] that a process begins with."""
    rows = CASES[case][rank]
    if rows is None:
        return None
    generator = torch.Generator().manual_seed(rank)
    values = torch.randn(V if rows == "dense" else len(rows), D, generator=generator).to(dtype)
    if rows == "dense":
        return values
    return torch.sparse_coo_tensor(torch.tensor([rows], dtype=torch.int64), values, (V, D))


def main() -> None:
    """Run every case, all parameters of one dtype at once, then one by one."""
    distributed.init_process_group("gloo")
    rank, found = distributed.get_rank(), {}
    for dtype in (torch.float32, torch.bfloat16):
        tables = {case: torch.nn.Parameter(torch.zeros(V, D, dtype=dtype)) for case in CASES}
        for case, table in tables.items():
            table.grad = gradient(case, rank, dtype)
        average_row_gradients_(tables.values())
        found[str(dtype)] = {case: table.grad for case, table in tables.items()}
    alone = torch.nn.Parameter(torch.zeros(V, D))
    alone.grad = gradient("as many", rank, torch.float32)
    average_row_gradients_(alone)
    found["alone"] = {"as many": alone.grad}
    pair = distributed.new_group([0, 1])
    if rank < 2:
        alone.grad = gradient("as many", rank, torch.float32)
        average_row_gradients_([alone], pair)
        found["pair"] = {"as many": alone.grad}
        alone.grad = gradient("dense in one", rank, torch.float32)
        average_row_gradients_([alone], pair)
        found["pair"]["dense in one"] = alone.grad
    try:  # in all processes, the others do not wait for ever
        bad = torch.nn.Parameter(torch.zeros(3, 3))
        bad.grad = torch.eye(3).to_sparse() if rank == 1 else torch.zeros(3, 3)
        average_row_gradients_(bad)
    except ValueError as error:
        found["bad"] = str(error)
    average_row_gradients_(bad, pair) if rank == 2 else None  # which is no part of it
    torch.save(found, Path(sys.argv[1]) / f"{rank}.pt")
    distributed.destroy_process_group()


if __name__ == "__main__":
    main()
