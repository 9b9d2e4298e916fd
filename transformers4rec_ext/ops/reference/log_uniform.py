"""The log-uniform law: uniforms of a seed, inverse CDF, candidates and their expected counts.

The native kernels agree with these formulas bit for bit in the ids, to float32 rounding in log q.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

INT64_MAX = 2**63 - 1

# splitmix64 (Steele, Lea & Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014);
# the constants are written as the signed 64-bit integers that torch multiplies with.
_GAMMA = 0x9E3779B97F4A7C15 - 2**64
_MIX_1 = 0xBF58476D1CE4E5B9 - 2**64
_MIX_2 = 0x94D049BB133111EB - 2**64

# (e^r - 1) / r on |r| <= ln(2) / 2 by a Chebyshev fit, relative error 2e-17 before rounding;
# ln 2 in two parts, so that k * LN2_HIGH is exact
_EXPM1_COEFFICIENTS = [
    float.fromhex("0x1p+0"),
    float.fromhex("0x1.0000000000005p-1"),
    float.fromhex("0x1.5555555555557p-3"),
    float.fromhex("0x1.55555555520a4p-5"),
    float.fromhex("0x1.11111111100dcp-7"),
    float.fromhex("0x1.6c16c17f46982p-10"),
    float.fromhex("0x1.a01a01abe7fe1p-13"),
    float.fromhex("0x1.a019a6611cad5p-16"),
    float.fromhex("0x1.71de0231960ebp-19"),
    float.fromhex("0x1.28a2ca617b969p-22"),
    float.fromhex("0x1.af4de97ca4194p-26"),
]
_LN2_HIGH = float.fromhex("0x1.62e42feep-1")
_LN2_LOW = float.fromhex("0x1.a39ef35793c76p-33")
_LOG2_E = float.fromhex("0x1.71547652b82fep+0")


def _shift_right(x: Tensor, bits: int) -> Tensor:
    """Shift int64 right as if it were unsigned."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)


def uniforms(seed: Tensor, start: int, count: int) -> Tensor:
    """``u_i = (splitmix64(seed, i) >> 11) 2^-53``, ``start <= i < start + count``: in [0, 1).

    53 bits, because 24-bit uniforms cannot reach the tail of a 10M catalogue.
    """
    index = torch.arange(start + 1, start + count + 1, dtype=torch.int64, device=seed.device)
    x = seed + index * _GAMMA
    x = (x ^ _shift_right(x, 30)) * _MIX_1
    x = (x ^ _shift_right(x, 27)) * _MIX_2
    x = x ^ _shift_right(x, 31)
    return _shift_right(x, 11).to(torch.float64) * 2.0**-53


def _polynomial(coefficients: list[float], x: Tensor) -> Tensor:
    """``sum_i c_i x^i`` by Estrin's scheme: pairs, then pairs of pairs in x^2, and so on."""
    terms: list[Tensor | float] = list(coefficients)
    while len(terms) > 1:
        pairs = [low + high * x for low, high in zip(terms[::2], terms[1::2], strict=False)]
        terms = [*pairs, terms[-1]] if len(terms) % 2 else [*pairs]
        x = x * x
    return torch.as_tensor(terms[0])


def _exp(x: Tensor) -> Tensor:
    """``e^x`` for float64 ``x`` in [0, 44], spelled out in IEEE operations.

    ``torch.exp`` differs in the last bit from one machine to the next, and near the edge of a
    bucket that bit is another item. With every operation rounded on its own, one seed gives one
    result on every device.
    """
    k = torch.round(x * _LOG2_E)
    r = (x - k * _LN2_HIGH) - k * _LN2_LOW
    powers = torch.tensor([2.0**i for i in range(65)], dtype=torch.float64, device=x.device)
    return (_polynomial(_EXPM1_COEFFICIENTS, r) * r + 1.0) * powers[k.to(torch.int64)]


def log_uniform_classes(u: Tensor, num_classes: int) -> Tensor:
    """Inverse CDF ``c = floor(expm1(u log1p(R)))`` of the log-uniform law over R classes: int64."""
    classes = _exp(u * math.log1p(num_classes)).to(torch.int64) - 1
    return classes.clamp_(0, num_classes - 1)


def log_uniform_log_q(
    ids: Tensor, num_tries: Tensor, num_items: int, min_id: int, unique: bool
) -> Tensor:
    """``log q`` of items under the log-uniform law, float32, shape of ``ids``.

    ``p = log1p(1 / (c + 1)) / log1p(R)``, ``c = id - min_id``, ``R = num_items - min_id``;
    ``q = -expm1(M log1p(-p))`` if unique, else ``q = M p``: the expected count of the item.
    """
    classes = (ids - min_id).to(torch.float64)
    p = torch.log1p(1.0 / (classes + 1.0)) / math.log1p(num_items - min_id)
    tries = num_tries.to(torch.float64)
    if not unique:
        return (torch.log(p) + torch.log(tries)).to(torch.float32)
    log_absent = tries * torch.log1p(-p)  # log (1 - p)^M
    # log(1 - e^y): log(-expm1(y)) near y = 0, log1p(-e^y) far from it (Maechler 2012, "log1mexp")
    near = torch.log(-torch.expm1(log_absent))
    far = torch.log1p(-torch.exp(log_absent))
    # adding +0 turns the -0 of a certain item into 0
    return torch.where(log_absent > -math.log(2.0), near, far).to(torch.float32) + 0.0


def _first_distinct(classes: Tensor) -> Tensor:
    """Positions at which a class appears for the first time, ascending."""
    values, inverse = torch.unique(classes, return_inverse=True)
    positions = torch.arange(classes.numel(), device=classes.device)
    first = torch.full_like(values, classes.numel())
    return first.scatter_reduce_(0, inverse, positions, "amin").sort().values


def log_uniform_sample(
    seed: Tensor, num_samples: int, num_items: int, min_id: int, unique: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Draw candidates: ``(ids int64 [S], log_q float32 [S], num_tries int64 [], count int64 [])``.

    Unique: draw until S distinct classes are found, in the order found; ``num_tries`` is the number
    of draws. When S covers the whole range nothing is drawn, and ``num_tries`` is the largest
    int64, where every q is 1.
    """
    num_classes = num_items - min_id
    if unique and num_samples >= num_classes:
        classes = torch.arange(num_classes, device=seed.device)
        tries = INT64_MAX
    elif unique:
        drawn = first = torch.empty(0, dtype=torch.int64, device=seed.device)
        while first.numel() < num_samples:
            more = uniforms(seed, drawn.numel(), max(drawn.numel(), 2 * num_samples))
            drawn = torch.cat([drawn, log_uniform_classes(more, num_classes)])
            first = _first_distinct(drawn)
        first = first[:num_samples]
        classes = drawn[first]
        tries = int(first[-1]) + 1
    else:
        classes = log_uniform_classes(uniforms(seed, 0, num_samples), num_classes)
        tries = num_samples
    ids = classes + min_id
    num_tries = torch.tensor(tries, dtype=torch.int64, device=seed.device)
    log_q = log_uniform_log_q(ids, num_tries, num_items, min_id, unique)
    count = torch.tensor(ids.numel(), dtype=torch.int64, device=seed.device)
    return ids, log_q, num_tries, count
