"""The public functions of the engine: checks, autocast, choice of backend.

Letters: N labelled positions, D width, V items (rows of the table, padding included), S candidates,
M tries.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from transformers4rec_ext import _backend, _checks, _native
from transformers4rec_ext._errors import type_error, value_error
from transformers4rec_ext.ops import reference
from transformers4rec_ext.ops.schemas import operators as _ops

_native.load()


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
        Number of valid entries of ``ids``.
    """

    ids: Tensor
    log_q: Tensor
    num_tries: Tensor
    count: Tensor  # type: ignore[assignment]  # hides tuple.count, which nobody asks of candidates


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
    instead. No host synchronisation.

    Examples
    --------
    >>> candidates = log_uniform_sample(5, 1_000_000_000)
    >>> candidates.ids.unique().numel(), int(candidates.count)
    (5, 5)
    """
    name = "log_uniform_sample"
    num_samples = _checks.integer(name, "num_samples", num_samples, minimum=1)
    num_items, min_id = _checks.id_range(name, num_items, min_id)
    if generator is not None and not isinstance(generator, torch.Generator):
        raise type_error(
            name, "generator", "be a torch.Generator or None", type(generator).__name__
        )
    if device is None:
        device = generator.device if generator is not None else "cpu"
    device = torch.device(device)
    seed = torch.randint(reference.INT64_MAX, (), generator=generator, device=device)
    if _backend.use_reference(backend, name, "log_uniform_sample", device.type):
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

    Examples
    --------
    >>> log_uniform_log_q(torch.tensor([0, 999]), 1000, num_tries=1).exp()
    tensor([0.1003, 0.0001])
    """
    name = "log_uniform_log_q"
    _checks.int64(name, "ids", ids)
    num_items, min_id = _checks.id_range(name, num_items, min_id)
    if isinstance(num_tries, Tensor):
        _checks.int64(name, "num_tries", num_tries)
        if num_tries.dim() != 0:
            got = _checks.describe(num_tries)
            raise value_error(name, "num_tries", "be an int or of shape []", got)
        if num_tries.device.type == "cpu" and not torch.compiler.is_compiling():
            _checks.integer(name, "num_tries", int(num_tries), minimum=1)
        tries = num_tries.to(ids.device)
    else:
        num_tries = _checks.integer(name, "num_tries", num_tries, minimum=1)
        tries = torch.tensor(num_tries, dtype=torch.int64, device=ids.device)
    if _backend.use_reference(backend, name, "log_uniform_log_q", ids.device.type):
        _checks.ids_within(name, "ids", ids, min_id, num_items)
        return reference.log_uniform_log_q(ids, tries, num_items, min_id, unique)
    try:
        log_q: Tensor = _ops.log_uniform_log_q(ids, tries, num_items, min_id, unique)
    except RuntimeError:
        _checks.ids_within(name, "ids", ids, min_id, num_items)
        raise
    return log_q


def sampled_logits(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    candidate_ids: Tensor,
    *,
    target_log_q: Tensor | None = None,
    candidate_log_q: Tensor | None = None,
    temperature: float = 1.0,
    remove_accidental_hits: bool = True,
    backend: str | None = None,
) -> Tensor:
    """``l_j = hidden . weight_j / T - log q_j`` for the target (column 0) and the candidates.

    The temperature divides the score only. A candidate that equals its row's target is excluded:
    -inf. For a loss that needs no logits, `sampled_softmax_loss` never builds this matrix.

    Parameters
    ----------
    hidden : Tensor, floating, [N, D]
    weight : Tensor, floating, [V, D]
    targets : Tensor, int64, [N]
    candidate_ids : Tensor, int64, [S]
        Shared by all rows; may contain duplicates.
    target_log_q : Tensor, floating, [N], optional
    candidate_log_q : Tensor, floating, [S], optional
    temperature : float
        T > 0.
    remove_accidental_hits : bool
        Whether candidates equal to the target are excluded.
    backend : str, optional
        ``auto``, ``fused`` or ``reference``.

    Returns
    -------
    Tensor, float32 (float64 for float64), [N, 1+S]

    Raises
    ------
    TypeError
        if a dtype is wrong.
    ValueError
        if shapes or devices disagree, S = 0, T <= 0, or (on the CPU) an id is outside ``[0, V)``.

    Notes
    -----
    Gradients for ``hidden`` and ``weight`` (dense) only. No host synchronisation on CUDA.

    Examples
    --------
    >>> sampled_logits(torch.ones(1, 2), torch.eye(3, 2), torch.tensor([0]), torch.tensor([2, 0]))
    tensor([[1., 0., -inf]])
    """
    name = "sampled_logits"
    hidden, arguments = _checks.sampled_arguments(
        name,
        hidden,
        weight,
        targets,
        candidate_ids,
        target_log_q,
        candidate_log_q,
        temperature,
    )
    arguments = (*arguments, bool(remove_accidental_hits))
    if _backend.use_reference(backend, name, "sampled_logits_tile", hidden.device.type):
        return reference.sampled_logits(hidden, *arguments)
    result: Tensor = _ops.sampled_logits(hidden, *arguments)
    return result


def sampled_softmax_loss(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    candidate_ids: Tensor,
    *,
    target_log_q: Tensor | None = None,
    candidate_log_q: Tensor | None = None,
    temperature: float = 1.0,
    remove_accidental_hits: bool = True,
    corrected: bool = False,
    sparse_grad: bool = False,
    reduction: str = "mean",
    backend: str | None = None,
) -> Tensor:
    """``-l_target + log(e^(l_target) + sum_j e^(l_j))``, ``l = hidden . weight / T - log q``.

    Equivalent to ``F.cross_entropy(sampled_logits(...), zeros)``; the [N, 1+S] logits never exist:
    they are made and used a tile of rows at a time, and the gradients are formed while a tile is in
    cache.

    ``corrected=True`` is the correction of "Correcting the LogQ Correction" (RecSys 2025,
    arXiv:2507.09331): the positive is always present, so it carries no log q;
    ``loss = stopgrad(1 - P) (log Z - s_target)``, ``Z = sum_j e^(l_j)``,
    ``P = e^(s_target) / (e^(s_target) + Z)``.

    Parameters
    ----------
    hidden, weight, targets, candidate_ids, target_log_q, candidate_log_q, temperature,
    remove_accidental_hits
        As in `sampled_logits`.
    corrected : bool
        Whether to use the correction above (``target_log_q`` is then not used).
    sparse_grad : bool
        Whether the gradient of ``weight`` is a sparse COO tensor over the N + S touched rows (not
        coalesced) instead of a dense [V, D] tensor; nothing of size V is then written.
    reduction : str
        ``mean`` over the N rows (0 for N = 0), ``sum``, or ``none``: [N].
    backend : str, optional
        ``auto``, ``fused`` or ``reference`` (which does build [N, 1+S], and is differentiated by
        autograd).

    Returns
    -------
    Tensor, float32 (float64 for float64), [] or [N]

    Raises
    ------
    TypeError
        if a dtype is wrong.
    ValueError
        if shapes or devices disagree, S = 0, T <= 0, the reduction is unknown, ``sparse_grad`` is
        asked of the
        reference, or (on the CPU) an id is outside ``[0, V)``.

    Notes
    -----
    Extra memory O((N + S) D + tile). Under autocast the scores are computed in autocast's dtype and
    accumulated in float32. A row whose ``hidden`` is NaN has loss NaN; other rows are not affected.
    A row of which every candidate is a hit has loss 0. Gradients for ``hidden`` and ``weight``
    only; a second derivative raises RuntimeError.

    Examples
    --------
    >>> hidden, weight = torch.randn(4, 8), torch.randn(1000, 8, requires_grad=True)
    >>> candidates = log_uniform_sample(16, 1000, min_id=1)
    >>> targets = torch.tensor([1, 5, 9, 999])
    >>> log_q = log_uniform_log_q(targets, 1000, min_id=1, num_tries=candidates.num_tries)
    >>> loss = sampled_softmax_loss(hidden, weight, targets, candidates.ids, target_log_q=log_q,
    ...                             candidate_log_q=candidates.log_q, sparse_grad=True)
    >>> loss.backward()
    >>> weight.grad.is_sparse, weight.grad.shape
    (True, torch.Size([1000, 8]))
    """
    name = "sampled_softmax_loss"
    if reduction not in ("mean", "sum", "none"):
        raise value_error(name, "reduction", "be 'mean', 'sum' or 'none'", repr(reduction))
    hidden, arguments = _checks.sampled_arguments(
        name,
        hidden,
        weight,
        targets,
        candidate_ids,
        target_log_q,
        candidate_log_q,
        temperature,
    )
    arguments = (*arguments, bool(remove_accidental_hits), bool(corrected))
    if _backend.use_reference(backend, name, "sampled_softmax_tile", hidden.device.type):
        if sparse_grad:
            hint = "Use backend='auto': it needs no native kernel either."
            raise value_error(name, "sparse_grad", "be False with the reference", True, hint)
        rows: Tensor = reference.sampled_softmax_loss(hidden, *arguments)
        total = rows.sum()
    elif reduction == "none" or not (
        torch.is_grad_enabled() and (hidden.requires_grad or weight.requires_grad)
    ):
        rows = _ops.sampled_softmax_rows(hidden, *arguments, sparse_grad)
        total = rows.sum()
    else:
        total = _ops.sampled_softmax_sum(hidden, *arguments, sparse_grad)[0]
    if reduction == "none":
        return rows
    return total / max(1, hidden.shape[0]) if reduction == "mean" else total
