"""What all laws share: counter-based random bits, drawing until distinct, expected counts."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

INT64_MAX = 2**63 - 1

# splitmix64 (Steele, Lea & Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014);
# the constants are written as the signed 64-bit integers that torch multiplies with.
_GAMMA = 0x9E3779B97F4A7C15 - 2**64
_MIX_1 = 0xBF58476D1CE4E5B9 - 2**64
_MIX_2 = 0x94D049BB133111EB - 2**64


def _shift_right(x: Tensor, bits: int) -> Tensor:
    """Shift int64 right as if it were unsigned."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)


def random_bits(seed: Tensor, start: int, count: int) -> Tensor:
    """``splitmix64(seed, i)``, ``start <= i < start + count``: all 64 bits, as int64."""
    index = torch.arange(start + 1, start + count + 1, dtype=torch.int64, device=seed.device)
    x = seed + index * _GAMMA
    x = (x ^ _shift_right(x, 30)) * _MIX_1
    x = (x ^ _shift_right(x, 27)) * _MIX_2
    return x ^ _shift_right(x, 31)


def uniforms(seed: Tensor, start: int, count: int) -> Tensor:
    """``u_i = (splitmix64(seed, i) >> 11) 2^-53``, ``start <= i < start + count``: in [0, 1).

    53 bits, because 24-bit uniforms cannot reach the tail of a 10M catalogue.
    """
    bits = random_bits(seed, start, count)
    return _shift_right(bits, 11).to(torch.float64) * 2.0**-53


def first_distinct(classes: Tensor) -> Tensor:
    """Positions at which a class appears for the first time, ascending."""
    values, inverse = torch.unique(classes, return_inverse=True)
    positions = torch.arange(classes.numel(), device=classes.device)
    first = torch.full_like(values, classes.numel())
    return first.scatter_reduce_(0, inverse, positions, "amin").sort().values


def draw_distinct(
    draw: Callable[[int, int], Tensor], num_samples: int, device: torch.device
) -> tuple[Tensor, int]:
    """Return the first S distinct classes of ``draw(start, count)`` and the number of draws M.

    A draw below zero is a rejected one: it counts as a draw, but is no class.
    """
    drawn = first = torch.empty(0, dtype=torch.int64, device=device)
    while first.numel() < num_samples:
        more = draw(drawn.numel(), max(drawn.numel(), 2 * num_samples))
        drawn = torch.cat([drawn, more])
        first = first_distinct(drawn)
        first = first[drawn[first] >= 0]
    first = first[:num_samples]
    return drawn[first], int(first[-1]) + 1


def log_expected_count(p: Tensor, num_tries: Tensor, unique: bool) -> Tensor:
    """``log q`` of classes of probability ``p`` after M draws: float32, computed in float64.

    ``q = -expm1(M log1p(-p))`` if unique, else ``q = M p``. -inf where p = 0.
    """
    p, tries = p.to(torch.float64), num_tries.to(torch.float64)
    if not unique:
        return (torch.log(p) + torch.log(tries)).to(torch.float32)
    # adding +0 turns the -0 of a certain class into 0
    return log_one_minus_exp(tries * torch.log1p(-p)).to(torch.float32) + 0.0


def log_one_minus_exp(y: Tensor) -> Tensor:
    """``log(1 - e^y)`` for ``y <= 0``: the log of a probability from the log of its complement."""
    # log(-expm1(y)) near y = 0, log1p(-e^y) far from it (Maechler 2012, "log1mexp")
    near = torch.log(-torch.expm1(y))
    far = torch.log1p(-torch.exp(y))
    return torch.where(y > -math.log(2.0), near, far)
