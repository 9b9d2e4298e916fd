"""What the losses ask of a sampler."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import torch

from transformers4rec_ext.functional import Candidates


@runtime_checkable
class CandidateSampler(Protocol):
    """Anything that draws one set of candidates for a batch and knows how likely it was.

    :class:`~transformers4rec_ext.losses.SampledSoftmaxLoss`, ``GBCELoss`` and
    ``NextItemPredictionTask`` take any object with this one method. ``log q`` is the logarithm of
    an item's *expected count* among the candidates: of distinct candidates the probability that it
    is one of them, of S draws with repetitions S times its probability.

    Where the number of candidates depends on the draw, tensors keep their shape: the valid
    candidates come first, ``count`` says how many, and the rest are any ids of the table with
    ``log_q = +inf``, which excludes them exactly (logit -inf, gradient 0).

    A source of :class:`MixedSampler` needs two more names, see :class:`MixableSampler`.

    Examples
    --------
    A sampler of your own, by weights and with repetitions:

    >>> from transformers4rec_ext.functional import Candidates
    >>> class WeightedSampler:
    ...     unique_sampling = False
    ...     def __init__(self, weights, max_n_samples):
    ...         self.p, self.size = weights / weights.sum(), max_n_samples
    ...     def log_q(self, ids, candidates=None):
    ...         return torch.log(self.size * self.p[ids])
    ...     def draw(self, targets, generator=None):
    ...         ids = torch.multinomial(self.p, self.size, replacement=True, generator=generator)
    ...         size = torch.tensor(self.size)
    ...         return Candidates(ids, self.log_q(ids), size, size), self.log_q(targets)
    >>> from transformers4rec_ext.losses import SampledSoftmaxLoss
    >>> criterion = SampledSoftmaxLoss(WeightedSampler(torch.arange(1.0, 101.0), 20))
    >>> criterion(torch.randn(4, 8), torch.randn(100, 8), torch.tensor([3, 7, 1, 99])).shape
    torch.Size([])
    """

    def draw(
        self, targets: torch.Tensor, generator: torch.Generator | None = None
    ) -> tuple[Candidates, torch.Tensor]:
        """Return candidates for a batch, and ``log q`` of its ``targets`` in their shape."""


@runtime_checkable
class MixableSampler(CandidateSampler, Protocol):
    """A sampler that :class:`MixedSampler` can take as a source.

    Attributes
    ----------
    unique_sampling : bool
        Whether its candidates are distinct, so that an expected count is a probability.
    """

    unique_sampling: bool

    def log_q(self, ids: torch.Tensor, candidates: Candidates) -> torch.Tensor:
        """Return ``log q`` of any ids, given what was drawn; -inf for what is never drawn."""
