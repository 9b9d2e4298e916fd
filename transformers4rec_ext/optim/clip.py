"""Gradient clipping by norm that takes gradients of rows too."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor

from transformers4rec_ext import _checks
from transformers4rec_ext._errors import type_error, value_error
from transformers4rec_ext.ops import reference
from transformers4rec_ext.optim.base import check_number


@torch.no_grad()
def clip_grad_norm_(
    parameters: Tensor | Iterable[Tensor],
    max_norm: float,
    norm_type: float = 2.0,
    error_if_nonfinite: bool = False,
) -> Tensor:
    """Scale gradients by ``min(1, max_norm / (norm + 1e-6))``; return the norm before.

    Equivalent to ``torch.nn.utils.clip_grad_norm_`` with every sparse gradient in dense form, which
    is not made: rows of one id are summed (the norm of a sum is not that of its parts), and the
    norm taken of the distinct rows.

    Parameters
    ----------
    parameters : Tensor or iterable of Tensor
        Those without a gradient are passed over.
    max_norm : float
        ``inf``: nothing is scaled, as in torch.
    norm_type : float
        p of the norm; ``inf`` for the largest element.
    error_if_nonfinite : bool
        Whether a norm of NaN or infinity raises instead of scaling.

    Returns
    -------
    Tensor, []
        The norm of all gradients as one vector.

    Raises
    ------
    TypeError
        if a parameter is not a tensor, or ``max_norm`` not a number.
    ValueError
        if ``max_norm`` is negative, or a gradient neither dense nor sparse COO with one sparse
        dimension.
    RuntimeError
        if the norm is not finite and ``error_if_nonfinite``.

    Notes
    -----
    Dense gradients are scaled in place; a sparse one is replaced by its coalesced form, scaled: the
    values that autograd stored may be shared with other tensors of the graph. On a GPU it stays
    uncoalesced, as the number of distinct rows is not known there without waiting. Deterministic.
    No host synchronisation, unless ``error_if_nonfinite``.

    Examples
    --------
    >>> table = torch.nn.Embedding(10, 1, sparse=True)
    >>> table(torch.tensor([3, 3])).sum().backward()
    >>> clip_grad_norm_(table.parameters(), 1.0)
    tensor(2.)
    """
    name = "clip_grad_norm_"
    if max_norm != math.inf:
        check_number(name, "max_norm", max_norm)
    listed = [parameters] if isinstance(parameters, Tensor) else list(parameters)
    dense, sparse, parts = [], [], []
    for parameter in listed:
        if not isinstance(parameter, Tensor):
            raise type_error(name, "parameters", "be tensors", _checks.describe(parameter))
        grad = parameter.grad
        if grad is None:
            continue
        if grad.layout == torch.strided:
            dense.append(parameter)
            parts.append(grad)
        elif grad.layout == torch.sparse_coo and grad.sparse_dim() == 1:
            rows, values, sums = _summed(grad)
            sparse.append((parameter, rows, values))
            parts.append(sums)
        else:
            raise value_error(name, "gradients", "be dense or sparse COO of rows", grad.layout)
    norm = torch.nn.utils.get_total_norm(parts, norm_type, error_if_nonfinite)
    if max_norm == math.inf:
        return norm
    torch.nn.utils.clip_grads_with_norm_(dense, max_norm, norm)
    scale = (max_norm / (norm + 1e-6)).clamp(max=1.0)
    for parameter, rows, values in sparse:
        scaled = values * scale.to(values.device)
        # not torch.sparse_coo_tensor(check_invariants=False): torch 2.12 warns of it all the same
        parameter.grad = torch.ops.aten.sparse_coo_tensor.indices_size(
            rows[None], scaled, parameter.shape, is_coalesced=values.device.type == "cpu"
        )
    return norm


def _summed(grad: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the ids and rows to scale, and the sums of equal ids, whose norm is taken.

    On the CPU the former are the sums themselves; elsewhere their number would have to be waited
    for, and the rows stay as they are.
    """
    ids, values = grad._indices()[0], grad._values()
    if grad.device.type != "cpu":
        return ids, values, reference.padded_sums(ids, values).to(grad.dtype)
    rows, sums = reference.sum_rows(ids, values)
    sums = sums.to(grad.dtype)
    return rows, sums, sums
