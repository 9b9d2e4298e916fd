"""Every check of the functions of all items: what is wrong, and what it says."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from item_inputs import Items

from transformers4rec_ext import functional

FLOATS, IDS = torch.zeros(5), torch.zeros(5, dtype=torch.int64)
ALL = [
    ({"hidden": [1.0]}, TypeError, "hidden must be a Tensor; got list"),
    ({"hidden": IDS}, TypeError, "hidden must be floating [N, D]; got int64 [5]"),
    ({"hidden": FLOATS}, ValueError, "hidden must be [N, D]; got float32 [5]"),
    ({"weight": torch.zeros(11, 3)}, ValueError, "weight must be [V, D=4]; got float32 [11, 3]"),
    ({"weight": torch.zeros(0, 4)}, ValueError, "weight must have at least one row"),
    ({"weight": torch.zeros(11, 4).double()}, TypeError, "hidden and weight must share a dtype"),
    ({"weight": torch.zeros(11, 4, device="meta")}, ValueError, "weight must be on cpu like"),
    ({"bias": torch.zeros(10)}, ValueError, "bias must be [V=11]; got float32 [10]"),
    ({"bias": torch.arange(11)}, TypeError, "bias must be floating [V=11]; got int64 [11]"),
    ({"padding_idx": 11}, ValueError, "padding_idx must be below V=11; got 11"),
    ({"padding_idx": -1}, ValueError, "padding_idx must be at least 0; got -1"),
    ({"padding_idx": 0.5}, TypeError, "padding_idx must be an int; got float"),
    ({"backend": "gpu"}, ValueError, "backend must be one of auto, fused, reference; got 'gpu'"),
]
TARGETS = [
    ({"targets": FLOATS}, TypeError, "targets must be int64; got float32 [5]. Ids stay int64"),
    ({"targets": IDS[:3]}, ValueError, "targets must be int64 [N=5]; got int64 [3]"),
    ({"targets": IDS[:, None]}, ValueError, "targets must be int64 [N=5]"),
    ({"targets": IDS + 11}, ValueError, "targets must lie in [0, 11); got 11. The table is too"),
    ({"targets": IDS - 1}, ValueError, "targets must lie in [0, 11); got -1"),
    ({"targets": IDS.to("meta")}, ValueError, "targets must be on cpu like hidden; got meta"),
]
LOSS = [
    ({"temperature": 0}, ValueError, "temperature must be positive and finite; got 0"),
    ({"temperature": "1"}, TypeError, "temperature must be a number; got str"),
    ({"label_smoothing": 1.5}, ValueError, "label_smoothing must lie in [0, 1]; got 1.5"),
    ({"label_smoothing": None}, TypeError, "label_smoothing must be a number; got NoneType"),
    ({"ignore_index": 0.0}, TypeError, "ignore_index must be an int; got float"),
    ({"reduction": "avg"}, ValueError, "reduction must be 'mean', 'sum' or 'none'; got 'avg'"),
    ({"targets": IDS - 100, "ignore_index": -7}, ValueError, "targets must lie in [0, 11)"),
]
EXCLUDE = [
    ({"exclude_ids": FLOATS[:, None]}, TypeError, "exclude_ids must be int64; got float32 [5, 1]"),
    ({"exclude_ids": IDS}, ValueError, "exclude_ids must be int64 [N=5, L]; got int64 [5]"),
    ({"exclude_ids": IDS[:3, None]}, ValueError, "exclude_ids must be int64 [N=5, L]"),
    ({"exclude_ids": IDS[:, None] - 2}, ValueError, "exclude_ids must lie in [-1, 11); got -2"),
    ({"exclude_ids": IDS[:, None] + 11}, ValueError, "exclude_ids must lie in [-1, 11); got 11"),
]
TOP_K = [
    ({"k": 0}, ValueError, "k must be at least 1; got 0"),
    ({"k": 12}, ValueError, "k must be at most V=11; got 12"),
    ({"k": 2.0}, TypeError, "k must be an int; got float"),
]
CASES = [
    (function, *case)
    for function, cases in (
        ("linear_cross_entropy", ALL + TARGETS + LOSS),
        ("target_rank", ALL + TARGETS + EXCLUDE),
        ("topk_items", ALL + EXCLUDE + TOP_K),
    )
    for case in cases
]


@pytest.mark.parametrize("backend", ["auto", "reference"])
@pytest.mark.parametrize(("function", "changes", "error", "text"), CASES)
def test_what_is_wrong_is_said(
    function: str, changes: dict[str, Any], error: type[Exception], text: str, backend: str
) -> None:
    data = Items.make(dtype=torch.float32)
    arguments: dict[str, Any] = {"hidden": data.hidden, "weight": data.weight, "backend": backend}
    arguments |= {"k": 3} if function == "topk_items" else {"targets": data.targets}
    with pytest.raises(error, match=re.escape(f"{function}: {text}")):
        getattr(functional, function)(**arguments | changes)
