"""Losses as modules: sampled softmax, gBCE, and a smoothed cross-entropy over some classes."""

from __future__ import annotations

import math
from typing import Any

import torch

from transformers4rec_ext import _checks, functional
from transformers4rec_ext._errors import type_error, value_error
from transformers4rec_ext._recipe import Recorded
from transformers4rec_ext.samplers import CandidateSampler

REDUCTIONS = ("mean", "sum", "none")


class CandidateLoss(Recorded, torch.nn.Module):
    """A loss over {target} + candidates, called as ``loss(hidden, weight, targets)``.

    The base of :class:`SampledSoftmaxLoss` and :class:`GBCELoss`. It reads hidden states and the
    item table, not logits, which never exist; ``NextItemPredictionTask(loss=...)`` knows that.

    Parameters
    ----------
    sampler : CandidateSampler
        Any of :mod:`transformers4rec_ext.samplers`, or a class of your own with the one method
        ``draw``.
    temperature : float
        T, above zero. It divides the score, never ``log q``.
    remove_accidental_hits : bool
        Exclude a candidate that equals the row's target.
    sparse_grad : bool
        Give ``weight`` a sparse COO gradient over the touched rows.
    reduction : {"mean", "sum", "none"}
    """

    def __init__(
        self,
        sampler: CandidateSampler,
        *,
        temperature: float,
        remove_accidental_hits: bool,
        sparse_grad: bool,
        reduction: str,
    ) -> None:
        super().__init__()
        name = type(self).__name__
        if not isinstance(sampler, CandidateSampler):
            raise type_error(name, "sampler", "have a method draw(targets)", type(sampler).__name__)
        self.sampler = sampler
        self.temperature = _checks.positive(name, "temperature", temperature)
        self.remove_accidental_hits = _flag(name, "remove_accidental_hits", remove_accidental_hits)
        self.sparse_grad = _flag(name, "sparse_grad", sparse_grad)
        if reduction not in REDUCTIONS:
            raise value_error(name, "reduction", f"be one of {REDUCTIONS}", repr(reduction))
        self.reduction = reduction

    def forward(
        self, hidden: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor
    ) -> torch.Tensor:
        """Return the loss of ``hidden`` [N, D] for ``targets`` [N] among rows of ``weight`` [V, D].

        Returns float32, a scalar unless ``reduction="none"`` ([N]). N = 0 gives 0 with gradient.
        """
        raise NotImplementedError

    def over_all_items(self, scores: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Return what the loss is when every item is a candidate: of testing, which never samples.

        Parameters
        ----------
        scores : Tensor, floating, [N, V]
            ``hidden . weight``; the temperature divides them here.
        targets : Tensor, int64, [N]
        """
        raise NotImplementedError

    def extra_repr(self) -> str:
        """Describe the loss inside ``repr`` of a model."""
        return (
            f"temperature={self.temperature}, sparse_grad={self.sparse_grad}, "
            f"reduction={self.reduction!r}"
        )


class SampledSoftmaxLoss(CandidateLoss):
    """``-log softmax(s / T - log q)[target]`` over {target} and candidates drawn anew per call.

    The module form of :func:`transformers4rec_ext.functional.sampled_softmax_loss` with a sampler;
    the [N, 1+S] logits never exist.

    Parameters
    ----------
    sampler, temperature, remove_accidental_hits, sparse_grad, reduction
        As for :class:`CandidateLoss`.
    corrected : bool
        Use the correction in which the target is not taken as sampled.

    Raises
    ------
    TypeError    if ``sampler`` has no ``draw`` or a flag is no bool.
    ValueError   if ``temperature`` is not a positive finite number or ``reduction`` is unknown.

    Examples
    --------
    >>> from transformers4rec_ext.samplers import LogUniformSampler
    >>> criterion = SampledSoftmaxLoss(LogUniformSampler(20, max_id=100, min_id=1))
    >>> hidden, weight = torch.randn(4, 8), torch.randn(100, 8, requires_grad=True)
    >>> criterion(hidden, weight, torch.tensor([3, 7, 1, 99])).shape
    torch.Size([])
    """

    def __init__(
        self,
        sampler: CandidateSampler,
        *,
        temperature: float = 1.0,
        remove_accidental_hits: bool = True,
        corrected: bool = False,
        sparse_grad: bool = False,
        reduction: str = "mean",
    ) -> None:
        super().__init__(
            sampler,
            temperature=temperature,
            remove_accidental_hits=remove_accidental_hits,
            sparse_grad=sparse_grad,
            reduction=reduction,
        )
        self.corrected = _flag("SampledSoftmaxLoss", "corrected", corrected)

    def forward(
        self, hidden: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor
    ) -> torch.Tensor:
        """Return the loss, see :meth:`CandidateLoss.forward`."""
        candidates, target_log_q = self.sampler.draw(targets)
        return functional.sampled_softmax_loss(
            hidden,
            weight,
            targets,
            candidates.ids,
            target_log_q=target_log_q,
            candidate_log_q=candidates.log_q,
            temperature=self.temperature,
            remove_accidental_hits=self.remove_accidental_hits,
            corrected=self.corrected,
            sparse_grad=self.sparse_grad,
            reduction=self.reduction,
        )

    def over_all_items(self, scores: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Return the cross-entropy of ``scores / T``, see :meth:`CandidateLoss.over_all_items`."""
        scores = scores / self.temperature
        return torch.nn.functional.cross_entropy(scores, targets, reduction=self.reduction)

    def extra_repr(self) -> str:
        """Describe the loss inside ``repr`` of a model."""
        return f"{super().extra_repr()}, corrected={self.corrected}"


class GBCELoss(CandidateLoss):
    """Binary cross-entropy against shared candidates, calibrated for their number (gSASRec).

    ``beta softplus(-l_target) + sum_j softplus(l_j)``, ``beta = 1 - t (1 - S / (V - 1))``,
    ``l = s / T + log(prior / (1 - prior))``: the module form of
    :func:`transformers4rec_ext.functional.sampled_bce_loss` with a sampler. It is made for
    candidates that are drawn uniformly; ``log q`` is not used. A row's terms are summed: divide by
    ``1 + S`` for the scale of the paper's code.

    Parameters
    ----------
    sampler : CandidateSampler
        For gSASRec a :class:`~transformers4rec_ext.samplers.UniformSampler`.
    t : float
        Calibration in [0, 1]; 0 is plain binary cross-entropy (SASRec's, with more negatives).
    num_items : int, optional
        Items V that could be candidates; by default the rows of the table from the sampler's
        ``min_id`` on.
    prior : float
        The probability, above 0 and below 1, that a score of 0 stands for. 0.5 is gSASRec's. One
        item of V is the target, so an untrained model with small scores says what is so with
        ``1 / V``, and not that every second item is one, which S negatives would have to push
        down first (Lin et al., "Focal Loss", ICCV 2017, section 3.3). The ranking of items does
        not depend on it.
    temperature, remove_accidental_hits, sparse_grad, reduction
        As for :class:`CandidateLoss`.

    Raises
    ------
    TypeError    if ``sampler`` has no ``draw`` or an argument is of the wrong type.
    ValueError   if ``t`` is outside [0, 1], ``prior`` not between them, ``num_items`` below 2,
                 ``temperature`` is not a positive finite number or ``reduction`` is unknown.

    Examples
    --------
    >>> from transformers4rec_ext.samplers import UniformSampler
    >>> criterion = GBCELoss(UniformSampler(20, max_id=100, min_id=1), t=0.75)
    >>> hidden, weight = torch.randn(4, 8), torch.randn(100, 8, requires_grad=True)
    >>> criterion(hidden, weight, torch.tensor([3, 7, 1, 99])).shape
    torch.Size([])
    """

    def __init__(
        self,
        sampler: CandidateSampler,
        t: float = 0.75,
        *,
        num_items: int | None = None,
        prior: float = 0.5,
        temperature: float = 1.0,
        remove_accidental_hits: bool = True,
        sparse_grad: bool = False,
        reduction: str = "mean",
    ) -> None:
        super().__init__(
            sampler,
            temperature=temperature,
            remove_accidental_hits=remove_accidental_hits,
            sparse_grad=sparse_grad,
            reduction=reduction,
        )
        self.prior = _checks.open_fraction("GBCELoss", "prior", prior)
        self.t = _checks.fraction("GBCELoss", "t", t)
        if num_items is not None:
            num_items = _checks.integer("GBCELoss", "num_items", num_items, minimum=2)
        self.num_items = num_items

    def forward(
        self, hidden: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor
    ) -> torch.Tensor:
        """Return the loss, see :meth:`CandidateLoss.forward`."""
        candidates, _ = self.sampler.draw(targets)
        padding = candidates.log_q == torch.inf
        min_id = getattr(self.sampler, "min_id", 0)
        offset = self._offset()
        log_q = candidates.log_q.double() if hidden.dtype == torch.float64 else candidates.log_q
        return functional.sampled_bce_loss(
            hidden,
            weight,
            targets,
            candidates.ids,
            t=self.t,
            num_items=self.num_items or max(2, weight.shape[0] - min_id),
            # What is taken from a score: here no matter of sampling.
            target_log_q=log_q.new_full(targets.shape, -offset),
            candidate_log_q=torch.where(padding, log_q, -offset),
            temperature=self.temperature,
            remove_accidental_hits=self.remove_accidental_hits,
            sparse_grad=self.sparse_grad,
            reduction=self.reduction,
        )

    def over_all_items(self, scores: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Return the binary cross-entropy over all items, see :meth:`CandidateLoss.over_all_items`.

        Then ``alpha = 1`` and ``beta = 1``, whatever ``t``.
        """
        scores = scores / self.temperature + self._offset()
        own = scores.gather(1, targets[:, None]).squeeze(1)
        # softplus(-s) = softplus(s) - s: no row of labels is needed
        losses = torch.nn.functional.softplus(scores).sum(dim=1) - own
        return _reduce(losses, self.reduction)

    def _offset(self) -> float:
        return math.log(self.prior) - math.log1p(-self.prior)

    def extra_repr(self) -> str:
        """Describe the loss inside ``repr`` of a model."""
        return (
            f"t={self.t}, num_items={self.num_items}, prior={self.prior:g}, {super().extra_repr()}"
        )


def LabelSmoothCrossEntropyLoss(
    smoothing: float = 0.0, reduction: str = "mean", **kwargs: Any
) -> torch.nn.CrossEntropyLoss:
    """Return ``torch.nn.CrossEntropyLoss(label_smoothing=smoothing, ...)``, which it is today.

    Parameters
    ----------
    smoothing : float in [0, 1]
    reduction : {"mean", "sum", "none"}
    **kwargs
        Arguments of :class:`torch.nn.CrossEntropyLoss`, such as ``weight``.

    Raises
    ------
    ValueError   if ``smoothing`` is outside [0, 1] or ``reduction`` is unknown.

    Examples
    --------
    >>> LabelSmoothCrossEntropyLoss(smoothing=0.1).label_smoothing
    0.1
    """
    name = "LabelSmoothCrossEntropyLoss"
    smoothing = _checks.fraction(name, "smoothing", smoothing)
    if reduction not in REDUCTIONS:
        raise value_error(name, "reduction", f"be one of {REDUCTIONS}", repr(reduction))
    return torch.nn.CrossEntropyLoss(label_smoothing=smoothing, reduction=reduction, **kwargs)


def smoothed_cross_entropy(
    logits: torch.Tensor, labels: torch.Tensor, label_smoothing: float, reduction: str = "mean"
) -> torch.Tensor:
    """Cross-entropy with label smoothing over the classes that are not excluded (-inf).

    Equals ``F.cross_entropy(logits, labels, label_smoothing=...)`` where all logits are finite.
    That function is infinite when an accidental hit is excluded; here the smoothing mass of a row
    is spread over its own remaining classes.

    Parameters
    ----------
    logits : Tensor, floating, [N, C]
    labels : Tensor, int64, [N]
    label_smoothing : float in [0, 1]
    reduction : {"mean", "sum", "none"}
    """
    log_p = torch.log_softmax(logits, dim=-1)
    excluded = torch.isneginf(logits)
    kept = (~excluded).sum(dim=-1)
    uniform = -log_p.masked_fill(excluded, 0.0).sum(dim=-1) / kept
    hard = -log_p.gather(1, labels.unsqueeze(1)).squeeze(1)
    loss = (1 - label_smoothing) * hard + label_smoothing * uniform
    return _reduce(loss, reduction)


def _reduce(losses: torch.Tensor, reduction: str) -> torch.Tensor:
    if reduction == "none":
        return losses
    return losses.mean() if reduction == "mean" else losses.sum()


def _flag(function: str, argument: str, value: object) -> bool:
    if not isinstance(value, bool):
        raise type_error(function, argument, "be a bool", type(value).__name__)
    return value
