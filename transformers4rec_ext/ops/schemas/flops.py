"""What the operators' matrix products cost, for ``torch.utils.flop_counter.FlopCounterMode``.

It looks at operators, and does not see into them. As torch does, matrix products are counted, two
operations for a product and a sum, as often as they are made: the backward pass of the full softmax
makes the scores again that were not kept.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

Formula = Callable[..., int]


def products(first: int, second: int, count: int = 1) -> Formula:
    """Return ``2 N D M count`` of the arguments of shape [N, D] and [M, ...] at these places."""

    def formula(*arguments: Any, **_: Any) -> int:
        num_rows, width = arguments[first]
        flops: int = 2 * count * num_rows * width * arguments[second][0]  # symbolic in a trace
        return flops

    return formula


def full_backward(row_grad: Any, hidden: Any, weight: Any, *arguments: Any, **_: Any) -> int:
    """Return what ``linear_cross_entropy_backward`` makes: scores that are not kept, gradients."""
    (num_rows, width), num_items = hidden, weight[0]
    kept, with_weight = arguments[4], arguments[-1]
    made = num_items - kept[1] + num_items * (1 + with_weight)
    flops: int = 2 * num_rows * width * made
    return flops
