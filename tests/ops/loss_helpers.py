"""What the tests of the sampled losses share: gradients, and what is allocated for them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from op_table import Inputs
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

Loss = Callable[..., Tensor]
DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]


def loss_gradients(loss_of: Loss, data: Inputs, **options: Any) -> tuple[Tensor, Tensor, Tensor]:
    """Return the loss and the gradients of hidden and weight (dense)."""
    data.hidden.grad = data.weight.grad = None
    loss = loss_of(*data.all()[:4], **data.keywords(), **options)
    loss.sum().backward()
    assert data.hidden.grad is not None
    assert data.weight.grad is not None
    return loss.detach(), data.hidden.grad.clone(), data.weight.grad.to_dense().clone()


class Largest(TorchDispatchMode):
    """Remembers the largest tensor that any operation makes."""

    def __init__(self) -> None:
        super().__init__()
        self.numel = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        made = result if isinstance(result, tuple | list) else [result]
        for value in made:
            if isinstance(value, Tensor) and value.layout == torch.strided:
                self.numel = max(self.numel, value.numel())
        return result


def peak_bytes(loss_of: Loss, rows: int, samples: int, items: int) -> int:
    """Return the peak of what the loss and its backward allocate on top of their arguments."""
    data = Inputs.make(rows, 4, items, samples, dtype=torch.float32)
    with torch.profiler.profile(
        profile_memory=True, activities=[torch.profiler.ProfilerActivity.CPU]
    ) as profile:
        loss_of(*data.all()[:4], **data.keywords(), sparse_grad=True).backward()
    held = peak = 0
    for event in profile.profiler.kineto_results.events():
        if event.name() == "[memory]":
            held += event.nbytes()
            peak = max(peak, held)
    return peak
