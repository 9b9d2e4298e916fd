"""Row gradients of several processes, exchanged as rows."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, distributed

from transformers4rec_ext import _checks
from transformers4rec_ext._errors import type_error, value_error

_NAME = "average_row_gradients_"
#: What is sent in the place of a number of rows.
_DENSE, _MISSING, _BAD = -1, -2, -3


@torch.no_grad()
def average_row_gradients_(parameters: Tensor | Iterable[Tensor], group: Any = None) -> None:
    """Replace gradients by their mean over the processes, those of rows without a dense form.

    ``grad = (1 / W) sum_w grad_w`` for W processes. What each receives of gradients of n rows is
    the rows and their ids, ``W max_w(n_w) (8 + 4 D)`` bytes in float32, where a dense gradient is
    ``4 V D``: less, unless W processes touch about as many rows as there are.

    Parameters
    ----------
    parameters : Tensor or iterable of Tensor
        The same in every process, in the same order, on one device. A gradient that is missing in
        some processes counts as zero there; one that is dense in any comes out dense.
    group : torch.distributed.ProcessGroup, optional
        By default all processes. Without any, or a single one, nothing is done.

    Raises
    ------
    TypeError
        if a parameter is not a tensor.
    ValueError
        if a gradient, of any process, is neither dense nor sparse COO with one sparse dimension.

    Notes
    -----
    Equal in all processes, bit by bit: ranks follow each other in the sum. Only dense tensors are
    gathered, which NCCL can do as well (run over gloo so far); torch's ``DistributedDataParallel``
    sums sparse gradients by itself, over gloo alone and of its own embeddings alone. The Trainer
    does all that is needed. In a loop of your own let DDP pass over these parameters
    (``_set_params_and_buffers_to_ignore_for_model``), broadcast their values once
    (``torch.distributed.broadcast``), which DDP then leaves out too, make it with
    ``find_unused_parameters=True`` (a transformer never uses its own word table), and call this
    between ``backward`` and the optimizer's step: ``docs/recipes.md`` has it in full. Waits for the
    device, for the number of rows.

    Examples
    --------
    >>> table = torch.nn.Embedding(10, 4, sparse=True)
    >>> table(torch.tensor([3, 3])).sum().backward()
    >>> average_row_gradients_(table.parameters())  # one process: nothing to do
    >>> table.weight.grad.is_sparse
    True
    """
    listed = [parameters] if isinstance(parameters, Tensor) else list(parameters)
    for parameter in listed:
        if not isinstance(parameter, Tensor):
            raise type_error(_NAME, "parameters", "be tensors", _checks.describe(parameter))
    if not listed or _num_processes(group) <= 1:
        return
    own = [_coalesced(parameter.grad) for parameter in listed]
    device = listed[0].device
    counts = torch.tensor([_num_rows(grad) for grad in own], dtype=torch.int64, device=device)
    of_all = torch.stack(_gathered(counts, group)).t().tolist()
    if any(_BAD in numbers for numbers in of_all):  # in all processes: none waits for another
        got = [grad.layout for grad in own if _num_rows(grad) == _BAD]
        expectation = "be dense or sparse COO of rows"
        raise value_error(_NAME, "gradients", expectation, got[0] if got else "another elsewhere")
    for parameter, grad, numbers in zip(listed, own, of_all, strict=True):
        if _DENSE in numbers:
            parameter.grad = _mean_of_dense(parameter, grad, group)
        elif max(numbers) > 0:
            parameter.grad = _mean_of_rows(parameter, grad, numbers, group)
        elif _MISSING in numbers:
            parameter.grad = None


def _num_processes(group: Any) -> int:
    """Return how many there are in ``group``, -1 in a process that is none of them."""
    if not (distributed.is_available() and distributed.is_initialized()):
        return 1
    return distributed.get_world_size(group)


def _coalesced(grad: Tensor | None) -> Any:
    return grad.coalesce() if grad is not None and grad.layout == torch.sparse_coo else grad


def _num_rows(grad: Any) -> int:
    if grad is None:
        return _MISSING
    if grad.layout == torch.strided:
        return _DENSE
    of_rows = grad.layout == torch.sparse_coo and grad.sparse_dim() == 1
    number: int = grad._nnz() if of_rows else _BAD
    return number


def _gathered(own: Tensor, group: Any) -> list[Tensor]:
    """Return the tensors of all processes, which have one shape."""
    parts = [torch.empty_like(own) for _ in range(_num_processes(group))]
    distributed.all_gather(parts, own.contiguous(), group=group)
    return parts


def _mean_of_dense(parameter: Tensor, grad: Tensor | None, group: Any) -> Tensor:
    if grad is None:
        grad = torch.zeros_like(parameter)
    total = grad.to_dense() if grad.is_sparse else grad.contiguous()
    distributed.all_reduce(total, group=group)
    return total.div_(_num_processes(group))


def _mean_of_rows(parameter: Tensor, grad: Tensor | None, numbers: list[int], group: Any) -> Tensor:
    longest = max(numbers)
    ids = torch.zeros(longest, dtype=torch.int64, device=parameter.device)
    rows = parameter.new_zeros(longest, *parameter.shape[1:])
    if grad is not None:
        ids[: grad._nnz()], rows[: grad._nnz()] = grad._indices()[0], grad._values()
    rows /= _num_processes(group)
    all_ids, all_rows = (
        torch.cat(
            [part[: max(n, 0)] for part, n in zip(_gathered(own, group), numbers, strict=True)]
        )
        for own in (ids, rows)
    )
    # not torch.sparse_coo_tensor(check_invariants=False): torch 2.12 warns of it all the same
    mean: Tensor = torch.ops.aten.sparse_coo_tensor.indices_size(
        all_ids[None], all_rows, parameter.shape, is_coalesced=False
    )
    return mean
