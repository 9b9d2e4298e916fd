"""The log-uniform law: inverse CDF, candidates and their expected counts.

The native kernels agree with these formulas bit for bit in the ids, to float32 rounding in log q.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from transformers4rec_ext.ops.reference.draws import (
    INT64_MAX,
    draw_distinct,
    log_expected_count,
    uniforms,
)

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
    ``q = -expm1(M log1p(-p))`` if unique, else ``q = M p``: the expected count of the item. NaN for
    an id that the law does not know.
    """
    classes = (ids - min_id).to(torch.float64)
    p = torch.log1p(1.0 / (classes + 1.0)) / math.log1p(num_items - min_id)
    unknown = (ids < min_id) | (ids >= num_items)
    return log_expected_count(p.masked_fill(unknown, math.nan), num_tries, unique)


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
        classes, tries = draw_distinct(
            lambda start, count: log_uniform_classes(uniforms(seed, start, count), num_classes),
            num_samples,
            seed.device,
        )
    else:
        classes = log_uniform_classes(uniforms(seed, 0, num_samples), num_classes)
        tries = num_samples
    ids = classes + min_id
    num_tries = torch.tensor(tries, dtype=torch.int64, device=seed.device)
    log_q = log_uniform_log_q(ids, num_tries, num_items, min_id, unique)
    count = torch.tensor(ids.numel(), dtype=torch.int64, device=seed.device)
    return ids, log_q, num_tries, count


def log_uniform_draw(
    seed: Tensor, targets: Tensor, num_samples: int, num_items: int, min_id: int, unique: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Draw candidates as `log_uniform_sample`; also ``log q`` of the targets, under their M."""
    ids, log_q, num_tries, count = log_uniform_sample(seed, num_samples, num_items, min_id, unique)
    target_log_q = log_uniform_log_q(targets, num_tries, num_items, min_id, unique)
    return ids, log_q, num_tries, count, target_log_q
