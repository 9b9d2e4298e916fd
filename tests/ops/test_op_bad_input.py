"""Every check of the public functions: what is wrong, and what it says."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from op_table import Inputs

from transformers4rec_ext import functional


def sampled(function: str, **changes: Any) -> Any:
    """Call a sampled function with good arguments, changed as told."""
    data = Inputs.make(dtype=torch.float32)
    names = ("hidden", "weight", "targets", "candidate_ids")
    arguments = dict(zip(names, data.all()[:4], strict=True)) | data.keywords() | changes
    return getattr(functional, function)(**arguments)


FLOATS, IDS = torch.zeros(5), torch.zeros(5, dtype=torch.int64)
SAMPLED = [
    ({"hidden": [1.0]}, TypeError, "hidden must be a Tensor; got list"),
    ({"hidden": IDS}, TypeError, "hidden must be floating [N, D]; got int64 [5]"),
    ({"hidden": FLOATS}, ValueError, "hidden must be [N, D]; got float32 [5]"),
    ({"weight": IDS}, TypeError, "weight must be floating [V, D]"),
    ({"weight": torch.zeros(11, 3)}, ValueError, "weight must be [V, D=4]; got float32 [11, 3]"),
    ({"weight": torch.zeros(11, 4).double()}, TypeError, "hidden and weight must share a dtype"),
    ({"targets": FLOATS}, TypeError, "targets must be int64; got float32 [5]. Ids stay int64"),
    ({"targets": IDS.int()}, TypeError, "targets must be int64; got int32 [5]"),
    ({"targets": IDS[:3]}, ValueError, "targets must be int64 [N=5]; got int64 [3]"),
    ({"targets": IDS[:, None]}, ValueError, "targets must be int64 [N=5]"),
    ({"targets": IDS + 11}, ValueError, "targets must lie in [0, 11); got 11. The table is too"),
    ({"targets": IDS - 1}, ValueError, "targets must lie in [0, 11); got -1"),
    ({"candidate_ids": FLOATS}, TypeError, "candidate_ids must be int64"),
    ({"candidate_ids": IDS[:, None]}, ValueError, "candidate_ids must be int64 [S]"),
    ({"candidate_ids": IDS[:0]}, ValueError, "candidate_ids must hold at least one id; got S=0"),
    (
        {"candidate_ids": torch.arange(7) + 93},
        ValueError,
        "candidate_ids must lie in [0, 11); got 99",
    ),
    ({"target_log_q": IDS}, TypeError, "target_log_q must be floating [N=5]"),
    ({"target_log_q": FLOATS[:2]}, ValueError, "target_log_q must be [N=5]; got float32 [2]"),
    ({"candidate_log_q": FLOATS}, ValueError, "candidate_log_q must be [S=7]; got float32 [5]"),
    ({"temperature": "1"}, TypeError, "temperature must be a number; got str"),
    ({"temperature": True}, TypeError, "temperature must be a number; got bool"),
    ({"temperature": 0.0}, ValueError, "temperature must be positive and finite; got 0.0"),
    ({"temperature": -1}, ValueError, "temperature must be positive and finite; got -1"),
    ({"temperature": float("nan")}, ValueError, "temperature must be positive and finite"),
    ({"temperature": float("inf")}, ValueError, "temperature must be positive and finite"),
    ({"weight": torch.zeros(11, 4, device="meta")}, ValueError, "weight must be on cpu like"),
    ({"targets": IDS.to("meta")}, ValueError, "targets must be on cpu like hidden; got meta"),
    ({"backend": "gpu"}, ValueError, "backend must be one of auto, fused, reference; got 'gpu'"),
]
LOSS_ONLY = [
    ({"reduction": "avg"}, ValueError, "reduction must be 'mean', 'sum' or 'none'; got 'avg'"),
    (
        {"sparse_grad": True, "backend": "reference"},
        ValueError,
        "sparse_grad must be False with the reference",
    ),
]


FUNCTIONS = ["sampled_softmax_loss", "sampled_bce_loss", "sampled_logits"]
LOSSES = FUNCTIONS[:2]


@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize(("changes", "error", "text"), SAMPLED)
def test_sampled_functions(
    function: str, changes: dict[str, Any], error: type[Exception], text: str
) -> None:
    with pytest.raises(error, match=re.escape(f"{function}: {text}")):
        sampled(function, **changes)


@pytest.mark.parametrize("function", LOSSES)
@pytest.mark.parametrize(("changes", "error", "text"), LOSS_ONLY)
def test_loss_only(
    function: str, changes: dict[str, Any], error: type[Exception], text: str
) -> None:
    with pytest.raises(error, match=re.escape(f"{function}: {text}")):
        sampled(function, **changes)


@pytest.mark.parametrize(
    ("changes", "error", "text"),
    [
        ({"t": 1.5}, ValueError, "t must lie in [0, 1]; got 1.5"),
        ({"t": -0.1}, ValueError, "t must lie in [0, 1]; got -0.1"),
        ({"t": float("nan")}, ValueError, "t must lie in [0, 1]; got nan"),
        ({"t": "1"}, TypeError, "t must be a number; got str"),
        ({"t": True}, TypeError, "t must be a number; got bool"),
        ({"num_items": 1}, ValueError, "num_items must be at least 2; got 1"),
        ({"num_items": 7.0}, TypeError, "num_items must be an int; got float"),
    ],
)
def test_bce_only(changes: dict[str, Any], error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=re.escape(f"sampled_bce_loss: {text}")):
        sampled("sampled_bce_loss", **changes)


SAMPLERS = ["log_uniform_sample", "uniform_sample"]


@pytest.mark.parametrize("function", SAMPLERS)
@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        ((0, 10), ValueError, "num_samples must be at least 1; got 0"),
        ((-3, 10), ValueError, "num_samples must be at least 1; got -3"),
        ((2.5, 10), TypeError, "num_samples must be an int; got float"),
        ((True, 10), TypeError, "num_samples must be an int; got bool"),
        ((3, "10"), TypeError, "num_items must be an int; got str"),
        ((3, 0), ValueError, "num_items must be at least 1; got 0"),
        ((3, 2**53 + 1), ValueError, "num_items must be at most 2^53"),
    ],
)
def test_samples_of_a_range(
    function: str, arguments: Any, error: type[Exception], text: str
) -> None:
    with pytest.raises(error, match=re.escape(f"{function}: {text}")):
        getattr(functional, function)(*arguments)


@pytest.mark.parametrize("function", SAMPLERS)
@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"min_id": 10}, ValueError, "num_items must exceed min_id=10; got 10"),
        ({"min_id": -1}, ValueError, "min_id must be at least 0; got -1"),
        ({"generator": 5}, TypeError, "generator must be a torch.Generator or None; got int"),
        ({"backend": "fast"}, ValueError, "backend must be one of"),
    ],
)
def test_options_of_a_range(
    function: str, options: dict[str, Any], error: type[Exception], text: str
) -> None:
    with pytest.raises(error, match=re.escape(f"{function}: {text}")):
        getattr(functional, function)(3, 10, **options)


@pytest.mark.parametrize("backend", ["auto", "reference"])
@pytest.mark.parametrize(
    ("targets", "options", "error", "text"),
    [
        (FLOATS, {}, TypeError, "targets must be int64; got float32 [5]"),
        (IDS, {}, ValueError, "targets must lie in [1, 10); got 0"),
        (IDS + 10, {}, ValueError, "targets must lie in [1, 10); got 10"),
        (IDS + 1, {"num_samples": 0}, ValueError, "num_samples must be at least 1; got 0"),
        (IDS + 1, {"min_id": 10}, ValueError, "num_items must exceed min_id=10; got 10"),
        (IDS + 1, {"generator": 1}, TypeError, "generator must be a torch.Generator or None"),
    ],
)
def test_log_uniform_draw(
    targets: Any, options: dict[str, Any], error: type[Exception], text: str, backend: str
) -> None:
    arguments = {"num_samples": 3, "num_items": 10, "min_id": 1, "backend": backend} | options
    with pytest.raises(error, match=re.escape(f"log_uniform_draw: {text}")):
        functional.log_uniform_draw(targets, **arguments)


@pytest.mark.parametrize(
    ("probability", "num_tries", "error", "text"),
    [
        ([0.5], 1, TypeError, "probability must be a Tensor; got list"),
        (FLOATS.double(), 1, TypeError, "probability must be float32; got float64 [5]"),
        (FLOATS, 0, ValueError, "num_tries must be at least 1; got 0"),
        (FLOATS, FLOATS, TypeError, "num_tries must be int64"),
    ],
)
def test_log_expected_count(
    probability: Any, num_tries: Any, error: type[Exception], text: str
) -> None:
    with pytest.raises(error, match=re.escape(f"log_expected_count: {text}")):
        functional.log_expected_count(probability, num_tries=num_tries)


@pytest.mark.parametrize("backend", ["auto", "reference"])
@pytest.mark.parametrize(
    ("ids", "options", "error", "text"),
    [
        (FLOATS, {}, TypeError, "ids must be int64; got float32 [5]"),
        ([1], {}, TypeError, "ids must be a Tensor; got list"),
        (IDS + 10, {}, ValueError, "ids must lie in [0, 10); got 10"),
        (IDS, {"min_id": 1}, ValueError, "ids must lie in [1, 10); got 0"),
        (IDS, {"num_tries": 0}, ValueError, "num_tries must be at least 1; got 0"),
        (IDS, {"num_tries": 1.5}, TypeError, "num_tries must be an int; got float"),
        (IDS, {"num_tries": FLOATS}, TypeError, "num_tries must be int64"),
        (IDS, {"num_tries": IDS[0]}, ValueError, "num_tries must be at least 1; got 0"),
        (IDS, {"num_tries": IDS}, ValueError, "num_tries must be an int or of shape []"),
    ],
)
def test_log_uniform_log_q(
    ids: Any, options: dict[str, Any], error: type[Exception], text: str, backend: str
) -> None:
    arguments = {"num_tries": 5, "backend": backend} | options
    with pytest.raises(error, match=re.escape(f"log_uniform_log_q: {text}")):
        functional.log_uniform_log_q(ids, 10, **arguments)


@pytest.mark.parametrize(
    ("weights", "error", "text"),
    [
        ([1.0], TypeError, "weights must be a Tensor; got list"),
        (FLOATS > 0, TypeError, "weights must be floating or integer; got bool [5]"),
        (FLOATS[None], ValueError, "weights must be [R], 0 < R < 2^31; got float32 [1, 5]"),
        (FLOATS[:0], ValueError, "weights must be [R], 0 < R < 2^31; got float32 [0]"),
        (FLOATS, ValueError, "weights must be finite, at least 0 and not all 0; got values from"),
        (FLOATS - 1, ValueError, "weights must be finite, at least 0 and not all 0; got values"),
        (FLOATS / 0, ValueError, "weights must be finite, at least 0 and not all 0; got values"),
        (1 / FLOATS, ValueError, "weights must be finite, at least 0 and not all 0; got values"),
    ],
)
def test_alias_table(weights: Any, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=re.escape(f"alias_table: {text}")):
        functional.alias_table(weights)


@pytest.mark.parametrize(
    ("changes", "error", "text"),
    [
        ({"num_samples": 0}, ValueError, "num_samples must be at least 1; got 0"),
        ({"num_samples": 3}, ValueError, "num_samples must be at most 2, the distinct items that"),
        ({"table": FLOATS}, TypeError, "table must be an AliasTable; got Tensor"),
        ({"min_id": -1}, ValueError, "min_id must be at least 0; got -1"),
        ({"generator": 5}, TypeError, "generator must be a torch.Generator or None; got int"),
        ({"backend": "fast"}, ValueError, "backend must be one of"),
    ],
)
def test_weighted_sample(changes: dict[str, Any], error: type[Exception], text: str) -> None:
    table = functional.alias_table(torch.tensor([1.0, 0.0, 2.0]))
    arguments = {"num_samples": 2, "table": table} | changes
    with pytest.raises(error, match=re.escape(f"weighted_sample: {text}")):
        functional.weighted_sample(**arguments)


@pytest.mark.parametrize(
    ("ids", "options", "error", "text"),
    [
        (FLOATS, {}, TypeError, "ids must be int64; got float32 [5]"),
        (IDS + 3, {}, ValueError, "ids must lie in [0, 3); got 3"),
        (IDS, {"min_id": 1}, ValueError, "ids must lie in [1, 4); got 0"),
        (IDS, {"num_tries": 0}, ValueError, "num_tries must be at least 1; got 0"),
        (IDS, {"table": None}, TypeError, "table must be an AliasTable; got NoneType"),
    ],
)
def test_weighted_log_q(
    ids: Any, options: dict[str, Any], error: type[Exception], text: str
) -> None:
    table = functional.alias_table(torch.tensor([1.0, 0.0, 2.0]))
    arguments = {"table": table, "num_tries": 5} | options
    with pytest.raises(error, match=re.escape(f"weighted_log_q: {text}")):
        functional.weighted_log_q(ids, **arguments)
