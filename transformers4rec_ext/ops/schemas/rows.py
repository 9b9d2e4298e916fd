"""Updates of touched rows, in place: schemas, implementations, fake kernels; no gradients."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from transformers4rec_ext.ops import reference
from transformers4rec_ext.ops.schemas.library import define


def _check_ids(weight: Tensor, ids: Tensor) -> None:
    """Raise where a look costs no host synchronisation; Python turns the error into its own."""
    if ids.device.type == "cpu" and ((ids < 0) | (ids >= weight.shape[0])).any():
        raise RuntimeError("rows: an id is out of range")


def _adam_rows(
    weight: Tensor, first: Tensor, second: Tensor, steps: Tensor, ids: Tensor, *rest: Any
) -> None:
    _check_ids(weight, ids)
    reference.adam_rows(weight, first, second, steps, ids, *rest)


def _adagrad_rows(weight: Tensor, square_sum: Tensor, ids: Tensor, *rest: Any) -> None:
    _check_ids(weight, ids)
    reference.adagrad_rows(weight, square_sum, ids, *rest)


define(
    "adam_rows(Tensor(a!) weight, Tensor(b!) exp_avg, Tensor(c!) exp_avg_sq, Tensor(d!) steps, "
    "Tensor ids, Tensor values, float lr, float beta1, float beta2, float eps, "
    "float weight_decay) -> ()",
    _adam_rows,
    lambda *args: None,
)
define(
    "adagrad_rows(Tensor(a!) weight, Tensor(b!) square_sum, Tensor ids, Tensor values, float lr, "
    "float eps, float weight_decay) -> ()",
    _adagrad_rows,
    lambda *args: None,
)
