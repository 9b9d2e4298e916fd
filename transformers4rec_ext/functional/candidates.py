"""Candidates of the log-uniform law and their log expected counts.

Letters: V items (rows of the table, padding included), S candidates, M tries.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from transformers4rec_ext import _backend, _checks
from transformers4rec_ext._errors import type_error, value_error
from transformers4rec_ext.ops import reference
from transformers4rec_ext.ops.schemas import operators as _ops


class Candidates(NamedTuple):
    """A set of candidate (negative) items shared by all rows of a batch.

    Attributes
    ----------
    ids : Tensor, int64, [S]
        Item ids.
    log_q : Tensor, float32, [S]
        Log of each item's expected count among the candidates.
    num_tries : Tensor, int64, []
        Number of draws M that produced the set; the largest int64 when the set is the whole range.
    count : Tensor, int64, []
        Number of valid entries. Those after it are padding: some id of the table with
        ``log_q = +inf``, which excludes it from every loss (logit -inf, gradient 0).
    """

    ids: Tensor
    log_q: Tensor
    num_tries: Tensor
    count: Tensor  # type: ignore[assignment]  # hides tuple.count, which nobody asks of candidates


def seed_of(
    function: str, generator: torch.Generator | None, device: torch.device | str | None
) -> Tensor:
    """Draw the seed of an operator, int64 [], on ``device`` (the generator's, else the CPU)."""
    if generator is not None and not isinstance(generator, torch.Generator):
        raise type_error(
            function, "generator", "be a torch.Generator or None", type(generator).__name__
        )
    if device is None:
        device = generator.device if generator is not None else "cpu"
    return torch.randint(reference.INT64_MAX, (), generator=generator, device=torch.device(device))


def runs_reference(backend: str | None, function: str, op: str, device: torch.device) -> bool:
    """Tell whether a sampler is to run its reference formulas rather than the operator.

    They look at what they drew; on meta there are only shapes, which the operator knows.
    """
    use_reference = _backend.use_reference(backend, function, op, device.type)
    return use_reference and device.type != "meta"


def tries_of(function: str, num_tries: int | Tensor, device: torch.device) -> Tensor:
    """Return M >= 1 as int64 [] on ``device`` (a tensor's value is checked on the CPU only)."""
    if isinstance(num_tries, Tensor):
        _checks.int64(function, "num_tries", num_tries)
        if num_tries.dim() != 0:
            got = _checks.describe(num_tries)
            raise value_error(function, "num_tries", "be an int or of shape []", got)
        if _checks.looking_is_free(num_tries):
            _checks.integer(function, "num_tries", int(num_tries), minimum=1)
        return num_tries.to(device)
    num_tries = _checks.integer(function, "num_tries", num_tries, minimum=1)
    if num_tries > reference.INT64_MAX:
        raise value_error(function, "num_tries", "be below 2^63", num_tries)
    # not torch.tensor, which copies from the host: a GPU would be waited for
    return torch.full((), num_tries, dtype=torch.int64, device=device)


def log_uniform_sample(
    num_samples: int,
    num_items: int,
    *,
    min_id: int = 0,
    unique: bool = True,
    generator: torch.Generator | None = None,
    device: torch.device | str | None = None,
    backend: str | None = None,
) -> Candidates:
    """Draw candidates with ``p(id) = log1p(1 / (id - min_id + 1)) / log1p(num_items - min_id)``.

    With ``unique=True`` it draws until exactly S distinct ids are found and reports the true
    number of tries M; ``log_q = log(-expm1(M log1p(-p)))``. Otherwise S draws with repetitions,
    ``log_q = log(S p)``. The law
    assumes ids sorted by decreasing frequency. No table of length V exists; time and memory
    depend on S only.

    Parameters
    ----------
    num_samples : int
        S > 0. With ``unique=True`` and ``num_samples >= num_items - min_id`` the whole range is
        returned, with ``log_q = 0``: sampled softmax then equals the full one.
    num_items : int
        V: ids lie in ``[min_id, num_items)``. At most 2^53.
    min_id : int
        First id that can be drawn (``padding_idx + 1``).
    unique : bool
        Whether the ids are distinct.
    generator : torch.Generator, optional
        Source of the seed; torch's default generator otherwise. One seed gives one result on every
        device, for the native kernel and the reference alike.
    device : torch.device or str, optional
        Where the result lies; the generator's device, else the CPU.
    backend : str, optional
        ``auto``, ``fused`` or ``reference``.

    Returns
    -------
    Candidates
        ids [S] in the order found, log_q [S], num_tries [], count [].

    Raises
    ------
    TypeError
        if a count is not an int, or the generator not a ``torch.Generator``.
    ValueError
        if ``num_samples < 1`` or the range of ids is empty or too large.

    Notes
    -----
    Time is O(M). M grows without bound as S approaches the size of the range; ask for all of it
    instead. No host synchronisation in a native kernel; the reference waits for the number of
    distinct draws.

    Examples
    --------
    >>> candidates = log_uniform_sample(5, 1_000_000_000)
    >>> candidates.ids.unique().numel(), int(candidates.count)
    (5, 5)
    """
    name = "log_uniform_sample"
    num_samples = _checks.integer(name, "num_samples", num_samples, minimum=1)
    num_items, min_id = _checks.id_range(name, num_items, min_id)
    seed = seed_of(name, generator, device)
    if runs_reference(backend, name, "log_uniform_sample", seed.device):
        return Candidates(
            *reference.log_uniform_sample(seed, num_samples, num_items, min_id, unique)
        )
    return Candidates(*_ops.log_uniform_sample(seed, num_samples, num_items, min_id, unique))


def log_uniform_log_q(
    ids: Tensor,
    num_items: int,
    *,
    min_id: int = 0,
    num_tries: int | Tensor,
    unique: bool = True,
    backend: str | None = None,
) -> Tensor:
    """``log q`` of given items: ``log(-expm1(M log1p(-p)))`` if unique, else ``log(M p)``.

    Computed in float64 from the closed form; stable from q = 1 down to the rarest of 2^53 items.

    Parameters
    ----------
    ids : Tensor, int64, any shape
        Items in ``[min_id, num_items)``.
    num_items, min_id, unique
        As in `log_uniform_sample`.
    num_tries : int or Tensor, int64, []
        M as reported by `log_uniform_sample`; S if not unique.
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
        if an id is outside ``[min_id, num_items)`` or ``num_tries < 1`` (tensors are
        checked on the CPU only).

    Notes
    -----
    No host synchronisation: on a device an id outside the range has ``log q`` NaN.

    Examples
    --------
    >>> log_uniform_log_q(torch.tensor([0, 999]), 1000, num_tries=1).exp()
    tensor([0.1003, 0.0001])
    """
    name = "log_uniform_log_q"
    _checks.int64(name, "ids", ids)
    num_items, min_id = _checks.id_range(name, num_items, min_id)
    tries = tries_of(name, num_tries, ids.device)
    if _backend.use_reference(backend, name, "log_uniform_log_q", ids.device.type):
        _checks.ids_within(name, "ids", ids, min_id, num_items)
        return reference.log_uniform_log_q(ids, tries, num_items, min_id, unique)
    try:
        log_q: Tensor = _ops.log_uniform_log_q(ids, tries, num_items, min_id, unique)
    except RuntimeError:
        _checks.ids_within(name, "ids", ids, min_id, num_items)
        raise
    return log_q


def log_uniform_draw(
    targets: Tensor,
    num_samples: int,
    num_items: int,
    *,
    min_id: int = 0,
    unique: bool = True,
    generator: torch.Generator | None = None,
    backend: str | None = None,
) -> tuple[Candidates, Tensor]:
    """Draw candidates and find ``log q`` of a batch's targets, in one call.

    `log_uniform_sample` and `log_uniform_log_q` of ``targets``, at half of their overhead.

    Parameters
    ----------
    targets : Tensor, int64, any shape
        Items in ``[min_id, num_items)``. The candidates lie on their device.
    num_samples, num_items, min_id, unique, generator, backend
        As in `log_uniform_sample`.

    Returns
    -------
    (Candidates, Tensor float32 like ``targets``)

    Raises
    ------
    TypeError, ValueError
        as the two functions.

    Notes
    -----
    No host synchronisation: on a device a target outside the range has ``log q`` NaN.

    Examples
    --------
    >>> candidates, target_log_q = log_uniform_draw(torch.tensor([1, 999]), 5, 1000, min_id=1)
    >>> candidates.ids.shape, target_log_q.shape
    (torch.Size([5]), torch.Size([2]))
    """
    name = "log_uniform_draw"
    _checks.int64(name, "targets", targets)
    num_samples = _checks.integer(name, "num_samples", num_samples, minimum=1)
    num_items, min_id = _checks.id_range(name, num_items, min_id)
    seed = seed_of(name, generator, targets.device)
    arguments = (seed, targets, num_samples, num_items, min_id, unique)
    if runs_reference(backend, name, "log_uniform_draw", targets.device):
        _checks.ids_within(name, "targets", targets, min_id, num_items)
        *drawn, target_log_q = reference.log_uniform_draw(*arguments)
        return Candidates(*drawn), target_log_q
    try:
        *drawn, target_log_q = _ops.log_uniform_draw(*arguments)
    except RuntimeError:
        _checks.ids_within(name, "targets", targets, min_id, num_items)
        raise
    return Candidates(*drawn), target_log_q
