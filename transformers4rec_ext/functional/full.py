"""Cross-entropy over all V items that never builds its logits.

Letters: N labelled positions, D width, V items (rows of the table, padding included).
"""

from __future__ import annotations

from typing import Literal, overload

import torch
from torch import Tensor

from transformers4rec_ext import _backend, _checks
from transformers4rec_ext._errors import value_error
from transformers4rec_ext.ops import reference
from transformers4rec_ext.ops.schemas import operators as _ops


@overload
def linear_cross_entropy(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    *,
    bias: Tensor | None = None,
    temperature: float = 1.0,
    ignore_index: int = -100,
    label_smoothing: float = 0.0,
    reduction: str = "mean",
    return_rank: Literal[False] = False,
    padding_idx: int | None = None,
    backend: str | None = None,
) -> Tensor: ...


@overload
def linear_cross_entropy(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    *,
    bias: Tensor | None = None,
    temperature: float = 1.0,
    ignore_index: int = -100,
    label_smoothing: float = 0.0,
    reduction: str = "mean",
    return_rank: Literal[True],
    padding_idx: int | None = None,
    backend: str | None = None,
) -> tuple[Tensor, Tensor]: ...


def linear_cross_entropy(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    *,
    bias: Tensor | None = None,
    temperature: float = 1.0,
    ignore_index: int = -100,
    label_smoothing: float = 0.0,
    reduction: str = "mean",
    return_rank: bool = False,
    padding_idx: int | None = None,
    backend: str | None = None,
) -> Tensor | tuple[Tensor, Tensor]:
    """``logsumexp_v l_v - l_target``, ``l_v = (hidden . weight_v + bias_v) / T``, over all items.

    Equivalent to ``F.cross_entropy((hidden @ weight.T + bias) / T, targets, ...)``; the [N, V]
    logits never exist: the table is walked in tiles of items with a running log-sum-exp (Milakov &
    Gimelshein, "Online normalizer calculation for softmax", arXiv:1805.02867), and the backward
    pass makes the scores of a tile again (Wijmans et al., "Cut Your Losses", arXiv:2411.09009,
    without its filter: the gradient is exact).

    With label smoothing e: ``(1 - e) (lse - l_target) + e mean_v (lse - l_v)``.

    Parameters
    ----------
    hidden : Tensor, floating, [N, D]
    weight : Tensor, floating, [V, D]
    targets : Tensor, int64, [N]
        In ``[0, V)``, or ``ignore_index``.
    bias : Tensor, floating, [V], optional
    temperature : float
        T > 0.
    ignore_index : int
        Rows with this target have loss 0, no gradient, and do not count in the mean.
    label_smoothing : float
        e in [0, 1].
    reduction : str
        ``mean`` over the counted rows (0 if there are none), ``sum``, or ``none``: [N].
    return_rank : bool
        Whether to count, in the same pass, the items that score at least as much as the target.
    padding_idx : int, optional
        With ``return_rank``: an item that does not compete for the rank. It is part of the softmax
        all the same, as in upstream.
    backend : str, optional
        ``auto``, ``fused`` or ``reference`` (which does build [N, V], and is differentiated by
        autograd).

    Returns
    -------
    loss : Tensor, float32 (float64 for float64), [] or [N]
    rank : Tensor, int64, [N], with ``return_rank``
        As `target_rank`; beyond every cut-off where the target is ignored.

    Raises
    ------
    TypeError
        if a dtype is wrong.
    ValueError
        if shapes or devices disagree, T <= 0, e is outside [0, 1], the reduction is unknown, or (on
        the CPU) a target is outside ``[0, V)``.

    Notes
    -----
    Extra memory: O(N) and a constant, of which up to 64 MiB hold scores for the backward pass; the
    gradient of ``weight`` is dense, [V, D]. Under autocast the scores are those of values in
    autocast's dtype, accumulated in float32; a loss is exact to some 1e-7 of the row's largest
    score, as the scores are: of float32 values by TF32 (``torch.set_float32_matmul_precision``) to
    some 1e-3 of ``|hidden| |weight|``, but for the target's, which is float64. With ``return_rank``
    scores are float32 products whatever is set. TF32 takes nothing from scores of float16 and
    bfloat16; without it a GPU multiplies them at the speed of float32. A row whose ``hidden`` is
    NaN has loss NaN. No host synchronisation on CUDA. Gradients by backward only: a second
    derivative, ``torch.func.grad`` and forward-mode AD raise RuntimeError (but for
    ``backend="reference"``).

    Examples
    --------
    >>> hidden, weight = torch.randn(4, 8), torch.randn(1000, 8, requires_grad=True)
    >>> targets = torch.tensor([1, 5, 999, -100])
    >>> loss, rank = linear_cross_entropy(hidden, weight, targets, return_rank=True)
    >>> logits = hidden @ weight.T
    >>> bool((loss - torch.nn.functional.cross_entropy(logits, targets)).abs() < 1e-5)
    True
    >>> int(rank[0]) == int((logits[0] >= logits[0, 1]).sum()) - 1
    True
    """
    name = "linear_cross_entropy"
    if reduction not in ("mean", "sum", "none"):
        raise value_error(name, "reduction", "be 'mean', 'sum' or 'none'", repr(reduction))
    hidden = _checks.full_arguments(name, hidden, weight, bias)
    ignore_index = _checks.integer(name, "ignore_index", ignore_index, minimum=-(2**62))
    num_items = weight.shape[0]
    _checks.targets(name, hidden, targets, num_items, ignore_index)
    temperature = _checks.positive(name, "temperature", temperature)
    label_smoothing = _checks.fraction(name, "label_smoothing", label_smoothing)
    if padding_idx is not None:
        padding_idx = _checks.item(name, "padding_idx", padding_idx, num_items)
    options = (temperature, ignore_index, label_smoothing)
    rank: Tensor | None = None
    given = (hidden, weight) if bias is None else (hidden, weight, bias)
    if _backend.use_reference(backend, name, "logsumexp_tile", hidden.device.type, given):
        rows = reference.linear_cross_entropy(hidden, weight, bias, targets, *options)
        if return_rank:
            counted = targets != ignore_index
            with torch.no_grad():
                at = torch.where(counted, targets, 0)
                rank = reference.target_rank(hidden, weight, at, bias, None, padding_idx)
                rank = torch.where(counted, rank, reference.MISSED)
    else:
        keep = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in given)
        rows, _, _, rank, _ = _ops.linear_cross_entropy(
            hidden, weight, bias, targets, *options, return_rank, padding_idx, keep
        )
    loss = _reduced(rows, targets != ignore_index, reduction)
    return (loss, rank) if return_rank and rank is not None else loss


def _reduced(rows: Tensor, counted: Tensor, reduction: str) -> Tensor:
    if reduction == "none":
        return rows
    total = rows.sum()
    return total if reduction == "sum" else total / counted.sum().clamp(min=1)
