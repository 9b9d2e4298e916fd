"""Arguments for the operators of all items, from one seed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass
class Items:
    """Hidden rows, a table, its bias, targets (the first row ignored), ids to exclude."""

    hidden: Tensor
    weight: Tensor
    targets: Tensor
    bias: Tensor | None
    exclude: Tensor

    @classmethod
    def make(
        cls,
        rows: int = 5,
        width: int = 4,
        items: int = 11,
        *,
        dtype: torch.dtype = torch.float64,
        with_bias: bool = True,
        integers: bool = False,
        seed: int = 0,
    ) -> Items:
        """Draw inputs; ``integers`` makes scores exact in every dtype, with many ties."""
        generator = torch.Generator().manual_seed(seed)

        def draw(*shape: int) -> Tensor:
            if integers:
                return torch.randint(-1, 2, shape, generator=generator).to(dtype)
            return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)

        return cls(
            draw(rows, width).requires_grad_(),
            draw(items, width).requires_grad_(),
            torch.randint(items, (rows,), generator=generator),
            draw(items).requires_grad_() if with_bias else None,
            torch.randint(-1, items, (rows, 3), generator=generator),
        )

    def some_ignored(self) -> Tensor:
        """Return the targets with every third one ignored."""
        targets = self.targets.clone()
        targets[1::3] = -100
        return targets

    def tensors(self) -> list[Tensor]:
        """Return what has gradients."""
        return [self.hidden, self.weight, *([] if self.bias is None else [self.bias])]

    def detached(self) -> tuple[Any, ...]:
        """Return hidden, weight and bias without gradients."""
        bias = None if self.bias is None else self.bias.detach()
        return self.hidden.detach(), self.weight.detach(), bias
