"""Losses as modules: sampled softmax, and a smoothed cross-entropy that knows excluded classes."""

from __future__ import annotations

import math
from typing import Protocol

import torch

from transformers4rec_ext import functional
from transformers4rec_ext._errors import type_error, value_error
from transformers4rec_ext.functional import Candidates

REDUCTIONS = ("mean", "sum", "none")


class Sampler(Protocol):
    """What :class:`SampledSoftmaxLoss` needs of a sampler."""

    def draw(self, targets: torch.Tensor) -> tuple[Candidates, torch.Tensor]:
        """Return candidates for a batch and ``log q`` of its targets."""


class SampledSoftmaxLoss(torch.nn.Module):
    """``-log softmax(s / T - log q)[target]`` over {target} and candidates drawn anew per call.

    The module form of :func:`transformers4rec_ext.functional.sampled_softmax_loss` with a sampler;
    the [N, 1+S] logits never exist.

    Parameters
    ----------
    sampler : module with ``draw(targets) -> (Candidates, target_log_q)``
        For example :class:`transformers4rec_ext.samplers.LogUniformSampler`.
    temperature : float
        T, above zero. It divides the score, never ``log q``.
    remove_accidental_hits : bool
        Exclude a candidate that equals the row's target.
    corrected : bool
        Use the correction in which the target is not taken as sampled.
    sparse_grad : bool
        Give ``weight`` a sparse COO gradient over the touched rows.
    reduction : {"mean", "sum", "none"}

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
        sampler: Sampler,
        *,
        temperature: float = 1.0,
        remove_accidental_hits: bool = True,
        corrected: bool = False,
        sparse_grad: bool = False,
        reduction: str = "mean",
    ) -> None:
        super().__init__()
        name = "SampledSoftmaxLoss"
        if not callable(getattr(sampler, "draw", None)):
            raise type_error(name, "sampler", "have a method draw(targets)", type(sampler).__name__)
        if isinstance(temperature, bool) or not isinstance(temperature, int | float):
            raise type_error(name, "temperature", "be a number", type(temperature).__name__)
        if not (math.isfinite(temperature) and temperature > 0):
            raise value_error(name, "temperature", "be finite and above 0", temperature)
        flags = {
            "remove_accidental_hits": remove_accidental_hits,
            "corrected": corrected,
            "sparse_grad": sparse_grad,
        }
        for argument, flag in flags.items():
            if not isinstance(flag, bool):
                raise type_error(name, argument, "be a bool", type(flag).__name__)
        if reduction not in REDUCTIONS:
            raise value_error(name, "reduction", f"be one of {REDUCTIONS}", repr(reduction))
        self.sampler = sampler
        self.temperature = float(temperature)
        self.remove_accidental_hits = remove_accidental_hits
        self.corrected = corrected
        self.sparse_grad = sparse_grad
        self.reduction = reduction

    def forward(
        self, hidden: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor
    ) -> torch.Tensor:
        """Return the loss of ``hidden`` [N, D] for ``targets`` [N] among rows of ``weight`` [V, D].

        Returns float32, a scalar unless ``reduction="none"`` ([N]). N = 0 gives 0 with gradient.
        """
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

    def extra_repr(self) -> str:
        """Describe the loss inside ``repr`` of a model."""
        return (
            f"temperature={self.temperature}, corrected={self.corrected}, "
            f"sparse_grad={self.sparse_grad}, reduction={self.reduction!r}"
        )


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
    if reduction == "none":
        return loss
    return loss.mean() if reduction == "mean" else loss.sum()
