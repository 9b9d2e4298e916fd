"""Logits and loss over {target} + sampled candidates.

Letters: N labelled positions, D width, V items (rows of the table, padding included), S candidates.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from transformers4rec_ext import _backend, _checks
from transformers4rec_ext._errors import value_error
from transformers4rec_ext.ops import reference
from transformers4rec_ext.ops.schemas import operators as _ops


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
    Gradients for ``hidden`` and ``weight`` (dense) only, by backward: ``torch.func.grad`` and
    forward-mode AD raise RuntimeError (but for ``backend="reference"``). No host synchronisation
    on CUDA.

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
    differentiable = hidden, arguments[0]
    if _backend.use_reference(
        backend, name, "sampled_logits_tile", hidden.device.type, differentiable
    ):
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
    ignore_index: int | None = None,
    reduction: str = "mean",
    backend: str | None = None,
) -> Tensor:
    """``-l_target + log(e^(l_target) + sum_j e^(l_j))``, ``l = hidden . weight / T - log q``.

    Equivalent to ``F.cross_entropy(sampled_logits(...), zeros)``; the [N, 1+S] logits never exist:
    they are made and used a tile of rows at a time, and the gradients are formed while a tile is in
    cache.

    ``corrected=True`` is the correction of "Correcting the LogQ Correction" (RecSys 2025,
    arXiv:2507.09331). The gradient of the full softmax is, with the probability ``P*`` of the
    target and ``Z* = sum_{j != target} e^(s_j)``,

        ``(1 - P*) (-ds_target + sum_{j != target} (e^(s_j) / Z*) ds_j)``,

    and only ``Z*`` is not known: the target is there in every step, it is not sampled, so it gets
    no log q. Over the candidates, ``Z = sum_j e^(s_j) / q_j`` has expectation ``Z*`` for every
    sampler, since q is the expected count. In its place it gives

        ``loss = stopgrad(1 - P) (log Z - s_target)``, ``P = e^(s_target) / (e^(s_target) + Z)``,

    where ``log Z`` is the sum over ``e^(l_j)``, the paper's constant factor apart. The *gradient*
    is that of the full softmax when all items are candidates; the value is no cross-entropy.

    Parameters
    ----------
    hidden, weight, targets, candidate_ids, target_log_q, candidate_log_q, temperature,
    remove_accidental_hits
        As in `sampled_logits`.
    corrected : bool
        Whether to use the correction above (``target_log_q`` is then not used).
    sparse_grad : bool
        Whether the gradient of ``weight`` is a sparse COO tensor over the N + S touched rows (not
        coalesced) instead of a dense [V, D] tensor; nothing of size V is then written. For a
        ``weight`` that is a parameter: few operations pass such a gradient on (a slice, or a norm
        by ``torch.nn.utils.parametrize``, does not).
    ignore_index : int, optional
        Rows with this target have loss 0 and no gradient, and the mean leaves them out: a batch
        whose number of labels is known on the device only. They cost as much as others.
    reduction : str
        ``mean`` over the rows that count (0 for none), ``sum``, or ``none``: [N].
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
        asked of the reference, or (on the CPU) an id is outside ``[0, V)``.

    Notes
    -----
    Extra memory O((N + S) D + tile). Under autocast the scores are computed in autocast's dtype and
    accumulated in float32. A row whose ``hidden`` is NaN has loss NaN; other rows are not affected.
    A row of which every candidate is a hit has loss 0. Gradients for ``hidden`` and ``weight``
    only, by backward: a second derivative, ``torch.func.grad`` and forward-mode AD raise
    RuntimeError (but for ``backend="reference"``).

    Examples
    --------
    >>> from transformers4rec_ext.functional import log_uniform_log_q, log_uniform_sample
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
    counted = _counted(name, targets, ignore_index)
    hidden, targets, target_log_q = _ignoring(counted, hidden, targets, candidate_ids, target_log_q)
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
    arguments = (hidden, *arguments, bool(remove_accidental_hits), bool(corrected))
    return _reduced("sampled_softmax", arguments, sparse_grad, reduction, backend, counted)


def sampled_bce_loss(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    candidate_ids: Tensor,
    *,
    t: float = 0.0,
    num_items: int | None = None,
    target_log_q: Tensor | None = None,
    candidate_log_q: Tensor | None = None,
    temperature: float = 1.0,
    remove_accidental_hits: bool = True,
    sparse_grad: bool = False,
    ignore_index: int | None = None,
    reduction: str = "mean",
    backend: str | None = None,
) -> Tensor:
    """``beta softplus(-l_target) + sum_j softplus(l_j)``, ``l = hidden . weight / T - log q``.

    Binary cross-entropy of the target (label 1) and the candidates (label 0), which all rows
    share; ``softplus(x) = log(1 + e^x)``. With ``t > 0`` it is gBCE (Petrov & Macdonald, "gSASRec",
    RecSys 2023): sampling shows a model too few negatives and makes it overconfident; the power
    ``beta`` of the target's probability undoes that,

        ``beta = alpha (t (1 - 1 / alpha) + 1 / alpha) = 1 - t (1 - alpha)``,
        ``alpha = S / (num_items - 1)``, not above 1.

    ``t = 0`` is plain BCE (beta = 1); ``t = 1`` calibrates fully (beta = alpha). As `l` is a score
    without log q in the paper, give none; with ``target_log_q`` and ``candidate_log_q`` and
    ``t = 0`` the loss is that of noise-contrastive estimation (Gutmann & Hyvärinen 2010).

    The terms of a row are *summed*. The paper's code divides the row's sum by ``1 + S``.

    Parameters
    ----------
    hidden, weight, targets, candidate_ids, target_log_q, candidate_log_q, temperature,
    remove_accidental_hits
        As in `sampled_logits`. Candidates with ``candidate_log_q = +inf`` are excluded, and do not
        count in S. Accidental hits are excluded, but count.
    t : float
        Calibration, in [0, 1].
    num_items : int, optional
        Items that could be candidates, without padding; the rows V of ``weight`` by default. Only
        with ``t > 0`` does it matter.
    sparse_grad, ignore_index, reduction, backend
        As in `sampled_softmax_loss`.

    Returns
    -------
    Tensor, float32 (float64 for float64), [] or [N]

    Raises
    ------
    TypeError
        if a dtype is wrong.
    ValueError
        as `sampled_softmax_loss`; if ``t`` is outside [0, 1] or ``num_items`` below 2.

    Notes
    -----
    Memory, autocast, NaN and derivatives as in `sampled_softmax_loss`. Of a row of which every
    candidate is excluded the target's term remains. No host synchronisation.

    Examples
    --------
    >>> hidden, weight = torch.zeros(1, 2), torch.zeros(9, 2)
    >>> ids = torch.tensor([0]), torch.tensor([1, 2, 3, 4])
    >>> sampled_bce_loss(hidden, weight, *ids)  # 5 log 2
    tensor(3.4657)
    >>> sampled_bce_loss(hidden, weight, *ids, t=1.0)  # alpha = 4 / 8: (1 / 2 + 4) log 2
    tensor(3.1192)
    """
    name = "sampled_bce_loss"
    counted = _counted(name, targets, ignore_index)
    hidden, targets, target_log_q = _ignoring(counted, hidden, targets, candidate_ids, target_log_q)
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
    t = _checks.fraction(name, "t", t)
    if num_items is not None:
        num_items = _checks.integer(name, "num_items", num_items, minimum=2)
    beta = _beta(t, num_items or max(2, weight.shape[0]), candidate_ids, candidate_log_q)
    arguments = (hidden, *arguments, bool(remove_accidental_hits), beta)
    return _reduced("sampled_bce", arguments, sparse_grad, reduction, backend, counted)


def _beta(
    t: float, num_items: int, candidate_ids: Tensor, candidate_log_q: Tensor | None
) -> Tensor:
    """``1 - t (1 - alpha)`` as a float64 tensor [], since the padding of candidates is on it."""
    count = candidate_ids.shape[0]
    if t == 0.0 or candidate_log_q is None:
        beta = 1 - t * (1 - min(1.0, count / (num_items - 1)))
        return torch.full((), beta, dtype=torch.float64, device=candidate_ids.device)
    valid = (candidate_log_q != torch.inf).sum().double()
    return 1 - t * (1 - (valid / (num_items - 1)).clamp(max=1.0))


def _counted(name: str, targets: Tensor, ignore_index: int | None) -> Tensor | None:
    """Tell which rows [N] have a target; None if all do."""
    if ignore_index is None:
        return None
    ignore_index = _checks.integer(name, "ignore_index", ignore_index, minimum=-(2**62))
    _checks.int64(name, "targets", targets)
    return targets != ignore_index


def _ignoring(
    counted: Tensor | None,
    hidden: Tensor,
    targets: Tensor,
    candidate_ids: Tensor,
    target_log_q: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Give rows that do not count a hidden state of 0 and a target that is touched anyway.

    What is no tensor, or of a wrong shape, is left as it is, for the checks to name.
    """
    if counted is None or not all(isinstance(x, Tensor) for x in (hidden, candidate_ids)):
        return hidden, targets, target_log_q
    fits = hidden.dim() == 2 and targets.shape == hidden.shape[:1]
    if not fits or candidate_ids.dim() != 1 or candidate_ids.shape[0] == 0:
        return hidden, targets, target_log_q
    hidden = torch.where(counted[:, None], hidden, 0)
    if isinstance(target_log_q, Tensor) and target_log_q.shape == targets.shape:
        target_log_q = torch.where(counted, target_log_q, 0)
    return hidden, stand_in(counted, targets, candidate_ids), target_log_q


def stand_in(counted: Tensor, targets: Tensor, candidate_ids: Tensor) -> Tensor:
    """Give rows that do not count candidates as targets, int64 [N].

    Those are touched anyway: a lazy optimizer would move any other. All of them in turn, since on a
    GPU the gradients of one item are summed one after the other.
    """
    turn = torch.arange(targets.shape[0], device=targets.device)
    turn = turn % torch.sym_max(1, candidate_ids.shape[0])
    return torch.where(counted, targets, candidate_ids[turn])


def _reduced(
    loss: str,
    arguments: tuple[Any, ...],
    sparse_grad: bool,
    reduction: str,
    backend: str | None,
    counted: Tensor | None,
) -> Tensor:
    """Run a loss over {target} and candidates by its operators or its reference, and reduce it."""
    name = f"{loss}_loss"
    if reduction not in ("mean", "sum", "none"):
        raise value_error(name, "reduction", "be 'mean', 'sum' or 'none'", repr(reduction))
    hidden, weight = arguments[:2]
    differentiable = hidden, weight
    total: Tensor
    if _backend.use_reference(backend, name, f"{loss}_tile", hidden.device.type, differentiable):
        if sparse_grad:
            hint = (
                "The library has no code for this GPU: an install with T4R_EXT_BUILD=cpu takes it "
                "(by backend='auto')."
                if _backend.lacks_code(hidden.device.type)
                else "Use backend='auto': it needs no native kernel either."
            )
            raise value_error(name, "sparse_grad", "be False with the reference", True, hint)
        rows: Tensor = getattr(reference, name)(*arguments)
        rows = rows if counted is None else torch.where(counted, rows, 0)
        total = rows.sum()
    elif reduction == "none" or not (
        torch.is_grad_enabled() and (hidden.requires_grad or weight.requires_grad)
    ):
        rows = getattr(_ops, f"{loss}_rows")(*arguments, sparse_grad)
        rows = rows if counted is None else torch.where(counted, rows, 0)
        total = rows.sum()
    else:
        weights = None if counted is None else counted.to(hidden.dtype)
        total = getattr(_ops, f"{loss}_sum")(*arguments, sparse_grad, weights)[0]
    if reduction == "none":
        return rows
    if reduction == "mean":
        count = max(1, hidden.shape[0]) if counted is None else counted.sum().clamp(min=1)
        total = total / count
    return total
