"""Uniform candidates, and candidates of a law given by weights.

Letters: V items (rows of the table, padding included), S candidates, M tries.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from transformers4rec_ext import _backend, _checks
from transformers4rec_ext._errors import type_error, value_error
from transformers4rec_ext.functional.candidates import (
    Candidates,
    runs_reference,
    seed_of,
    tries_of,
)
from transformers4rec_ext.ops import reference
from transformers4rec_ext.ops.schemas import operators as _ops

_MAX_WEIGHTS = 2**31 - 1  # an alias is an int32
_MOST_TRIES = 1000  # for each distinct item: more are not worth their time
_BINS = 64  # of probabilities, an octave


class AliasTable(NamedTuple):
    """Walker's table: a draw from any law over R classes in constant time. 12 bytes a class.

    Attributes
    ----------
    threshold : Tensor, float32, [R]
        Chance that bucket b, drawn uniformly, stands for class b.
    alias : Tensor, int32, [R]
        The class for which it stands otherwise.
    probability : Tensor, float32, [R]
    support : int
        Number of classes of positive probability.
    reach : int
        Number of distinct classes that can be drawn, at about 1000 tries each.
    """

    threshold: Tensor
    alias: Tensor
    probability: Tensor
    support: int
    reach: int


def uniform_sample(
    num_samples: int,
    num_items: int,
    *,
    min_id: int = 0,
    unique: bool = True,
    generator: torch.Generator | None = None,
    device: torch.device | str | None = None,
    backend: str | None = None,
) -> Candidates:
    """Draw candidates, every id of ``[min_id, num_items)`` as likely as any other.

    With ``unique=True`` a simple random sample: every set of S ids has the same probability, and
    the inclusion probability is ``q = S / R`` exactly, ``R = num_items - min_id``. Otherwise S
    draws with repetitions, whose expected count is ``S / R`` too. ``log_q = log(S / R)``.

    Parameters
    ----------
    num_samples : int
        S > 0. With ``unique=True`` and ``num_samples >= R`` the whole range is returned.
    num_items, min_id, unique, generator, device, backend
        As in `log_uniform_sample`.

    Returns
    -------
    Candidates
        ids [S] (ascending if unique and more than R / 2), log_q [S], num_tries [] (S, or the
        largest int64 for the whole range), count [].

    Raises
    ------
    TypeError, ValueError
        as `log_uniform_sample`.

    Notes
    -----
    Time and memory O(S), exact up to 2^53 items. No host synchronisation in a native kernel; the
    reference waits for the number of distinct draws.

    Examples
    --------
    >>> uniform_sample(3, 11, min_id=1).log_q.exp()
    tensor([0.3000, 0.3000, 0.3000])
    """
    name = "uniform_sample"
    num_samples = _checks.integer(name, "num_samples", num_samples, minimum=1)
    num_items, min_id = _checks.id_range(name, num_items, min_id)
    seed = seed_of(name, generator, device)
    if runs_reference(backend, name, "uniform_sample", seed.device):
        return Candidates(*reference.uniform_sample(seed, num_samples, num_items, min_id, unique))
    return Candidates(*_ops.uniform_sample(seed, num_samples, num_items, min_id, unique))


def alias_table(weights: Tensor) -> AliasTable:
    """Make the table for drawing class c with probability ``weights[c] / sum(weights)``.

    By sums and binary searches in float64, on the device of ``weights``; O(V) time, once. The table
    draws each class with its probability to a relative 1e-6 (10M classes; fewer: closer), and a
    class of weight 0 never.

    Parameters
    ----------
    weights : Tensor, floating or integer, [R]
        Finite, not negative, not all 0; R < 2^31.

    Raises
    ------
    TypeError
        if ``weights`` is not a tensor of numbers.
    ValueError
        if it is not of one dimension, is too long, or holds what is not a weight.

    Examples
    --------
    >>> alias_table(torch.tensor([3, 0, 1])).probability
    tensor([0.7500, 0.0000, 0.2500])
    """
    name = "alias_table"
    _checks.tensor(name, "weights", weights)
    if weights.dtype == torch.bool or weights.is_complex():
        raise type_error(name, "weights", "be floating or integer", _checks.describe(weights))
    if weights.dim() != 1 or not 0 < weights.numel() <= _MAX_WEIGHTS:
        raise value_error(name, "weights", "be [R], 0 < R < 2^31", _checks.describe(weights))
    wide = weights.to(torch.float64)
    lowest, highest = (float(bound) for bound in wide.aminmax())
    if not (lowest >= 0 and 0 < highest < float("inf")):
        got = f"values from {lowest} to {highest}"
        raise value_error(name, "weights", "be finite, at least 0 and not all 0", got)
    wide = wide / highest  # so that the sum is finite
    probability = wide / wide.sum()
    threshold, alias = reference.alias_table(probability)
    reach = reachable(probability)
    probability = probability.float()
    support = int((probability > 0).sum())
    return AliasTable(threshold.float(), alias.int(), probability, support, min(support, reach))


def weighted_sample(
    num_samples: int,
    table: AliasTable,
    *,
    min_id: int = 0,
    unique: bool = True,
    generator: torch.Generator | None = None,
    backend: str | None = None,
) -> Candidates:
    """Draw candidates with ``p(id) = table.probability[id - min_id]``.

    With ``unique=True`` it draws until exactly S distinct ids are found and reports the true
    number of tries M; ``log_q = log(-expm1(M log1p(-p)))``. Otherwise S draws with repetitions,
    ``log_q = log(S p)``.

    Parameters
    ----------
    num_samples : int
        S > 0; if unique, at most ``table.reach``.
    table : AliasTable
    min_id : int
        The id of class 0.
    unique, generator, backend
        As in `log_uniform_sample`. The result lies on the table's device.

    Raises
    ------
    TypeError
        if an argument is of the wrong type.
    ValueError
        if ``num_samples`` is below 1 or above what can be found, or ``min_id`` is negative.

    Notes
    -----
    Time is O(M), on average about 1000 S tries at most: a larger S reaches for items that are never
    drawn in practice. No host synchronisation in a native kernel; the reference waits for the
    number of distinct draws.

    Examples
    --------
    >>> table = alias_table(torch.tensor([5, 0, 2, 1]))
    >>> sorted(weighted_sample(3, table, min_id=1).ids.tolist())
    [1, 3, 4]
    """
    name = "weighted_sample"
    num_samples = _checks.integer(name, "num_samples", num_samples, minimum=1)
    _check_table(name, table)
    min_id = _checks.integer(name, "min_id", min_id, minimum=0)
    if unique and num_samples > table.reach:
        hint = "Ask for fewer, or make the weights more even."
        raise value_error(name, "num_samples", within_reach(table), num_samples, hint)
    seed = seed_of(name, generator, table.threshold.device)
    arguments = (seed, table.threshold, table.alias, num_samples, min_id, bool(unique))
    if runs_reference(backend, name, "alias_sample", seed.device):
        ids, num_tries = reference.alias_sample(*arguments)
    else:
        ids, num_tries = _ops.alias_sample(*arguments)
    p = table.probability.index_select(0, ids - min_id)
    log_q = log_expected_count(p, num_tries=num_tries, unique=unique, backend=backend)
    return Candidates(ids, log_q, num_tries, torch.full_like(num_tries, num_samples))


def weighted_log_q(
    ids: Tensor,
    table: AliasTable,
    *,
    min_id: int = 0,
    num_tries: int | Tensor,
    unique: bool = True,
    backend: str | None = None,
) -> Tensor:
    """``log q`` of given items: ``log(-expm1(M log1p(-p)))`` if unique, else ``log(M p)``.

    -inf for an item of weight 0, which is never drawn.

    Parameters
    ----------
    ids : Tensor, int64, any shape
        Items in ``[min_id, min_id + R)``.
    table, min_id, unique
        As in `weighted_sample`.
    num_tries : int or Tensor, int64, []
        M as reported by `weighted_sample`; S if not unique.
    backend : str, optional
        ``auto``, ``fused`` or ``reference``.

    Returns
    -------
    Tensor, float32, the shape of ids

    Raises
    ------
    TypeError
        if ``ids`` or ``num_tries`` is not int64.
    ValueError
        if ``ids`` and the table are on different devices, or (on the CPU) an id is out of range or
        ``num_tries < 1``.

    Examples
    --------
    >>> weighted_log_q(torch.tensor([0, 1]), alias_table(torch.tensor([1, 3])), num_tries=1).exp()
    tensor([0.2500, 0.7500])
    """
    name = "weighted_log_q"
    _checks.int64(name, "ids", ids)
    _check_table(name, table)
    hint = "Move the table, or the module that holds it, with .to(device)."
    _checks.same_device(name, "ids", ids, table.probability, "the table", hint)
    tries = tries_of(name, num_tries, ids.device)
    _checks.ids_within(name, "ids", ids, min_id, min_id + table.probability.numel())
    # index_select takes a third of the time of indexing, but one dimension
    p = table.probability.index_select(0, (ids - min_id).flatten()).view(ids.shape)
    return log_expected_count(p, num_tries=tries, unique=unique, backend=backend)


def log_expected_count(
    probability: Tensor,
    *,
    num_tries: int | Tensor,
    unique: bool = True,
    backend: str | None = None,
) -> Tensor:
    """``log q`` from probabilities: ``log(-expm1(M log1p(-p)))`` if unique, else ``log(M p)``.

    What a sampler of your own needs when it draws item by item: q is the expected count of an item
    among the candidates. Computed in float64; stable from q = 1 down to the smallest float32, and
    -inf for p = 0.

    Parameters
    ----------
    probability : Tensor, float32, any shape
        p of one draw, in [0, 1].
    num_tries : int or Tensor, int64, []
        Number of draws M.
    unique : bool
        Whether an item drawn again is not counted again.
    backend : str, optional
        ``auto``, ``fused`` or ``reference``.

    Returns
    -------
    Tensor, float32, the shape of probability

    Raises
    ------
    TypeError
        if ``probability`` is not float32 or ``num_tries`` not int64.
    ValueError
        if ``num_tries < 1`` (of a tensor, on the CPU only).

    Examples
    --------
    >>> log_expected_count(torch.tensor([0.0, 0.5, 1.0]), num_tries=2).exp()
    tensor([0.0000, 0.7500, 1.0000])
    """
    name = "log_expected_count"
    if _checks.tensor(name, "probability", probability).dtype != torch.float32:
        raise type_error(name, "probability", "be float32", _checks.describe(probability))
    tries = tries_of(name, num_tries, probability.device)
    if _backend.use_reference(backend, name, "log_expected_count", probability.device.type):
        return reference.log_expected_count(probability, tries, unique)
    log_q: Tensor = _ops.log_expected_count(probability, tries, unique)
    return log_q


def reachable(probability: Tensor) -> int:
    """Return how many distinct classes can be drawn: ``_MOST_TRIES`` S draws find S, on average.

    The largest S with ``sum(1 - (1 - p)^(_MOST_TRIES S)) >= S - 1/2``. Classes of nearly the same
    probability count as so many of their mean, which leaves a sum over some thousand terms. What M
    draws find rises ever more slowly with M, so all smaller S hold too.
    """
    p = probability[probability > 0].cpu()
    place = (-_BINS * p.log2()).to(torch.int64)
    count = torch.bincount(place)
    there = count > 0
    count, total = count[there].double(), torch.bincount(place, weights=p)[there]
    log_missed = torch.log1p(-(total / count).clamp(max=1))
    low, high = 1, p.numel() + 1  # holds, does not hold
    while high - low > 1:
        size = (low + high) // 2
        found = -(count * (_MOST_TRIES * size * log_missed).expm1()).sum()
        low, high = (size, high) if found >= size - 0.5 else (low, size)
    return low


def within_reach(table: AliasTable) -> str:
    """Return what an error expects of a number of distinct items."""
    return (
        f"be at most {table.reach}, the distinct items that about {_MOST_TRIES} tries each find "
        f"of the {table.support} with a positive weight"
    )


def _check_table(function: str, table: object) -> None:
    if not isinstance(table, AliasTable):
        raise type_error(function, "table", "be an AliasTable", type(table).__name__)
