"""Uniform candidates."""

from __future__ import annotations

import math

import torch

from transformers4rec_ext import _checks, functional
from transformers4rec_ext.functional import Candidates
from transformers4rec_ext.samplers.base import Sampler


class UniformSampler(Sampler):
    """Draw ids of ``[min_id, max_id)``, every one as likely as any other.

    ``log q = log(S / R)`` for all items, ``R = max_id - min_id``: exact, and no table is kept, for
    up to 2^53 items. A constant in every logit changes no classic sampled softmax, but the
    corrected one and :class:`MixedSampler` need it.

    Parameters
    ----------
    max_n_samples : int
        Candidates to draw, S; the whole range when it is not larger.
    max_id, min_id : int
        The range of ids.
    unique_sampling : bool
        Draw distinct ids, all sets of them equally likely. Without it S ids are drawn with
        replacement, and duplicates stay.
    seed : int, optional
        Seed of a generator of the sampler's own; torch's global one otherwise.

    Raises
    ------
    TypeError    if an argument is of the wrong type.
    ValueError   if ``max_n_samples`` is not positive, or ``min_id`` is not in ``[0, max_id)``.

    Examples
    --------
    >>> candidates, target_log_q = UniformSampler(5, max_id=21, min_id=1).draw(torch.tensor([7]))
    >>> candidates.ids.unique().numel(), target_log_q.exp()
    (5, tensor([0.2500]))
    """

    def __init__(
        self,
        max_n_samples: int,
        max_id: int,
        min_id: int = 0,
        unique_sampling: bool = True,
        *,
        seed: int | None = None,
    ) -> None:
        name = "UniformSampler"
        size = _checks.integer(name, "max_n_samples", max_n_samples, minimum=1)
        max_id, min_id = _checks.id_range(name, max_id, min_id, argument="max_id")
        super().__init__(max_id, min_id, unique_sampling, seed)
        self.max_n_samples = size

    def log_q(self, ids: torch.Tensor, candidates: Candidates) -> torch.Tensor:
        """Return ``log(S / R)`` for every id."""
        q = self.max_n_samples / (self.max_id - self.min_id)
        log_q = math.log(min(q, 1.0) if self.unique_sampling else q)
        return torch.full_like(ids, log_q, dtype=torch.float32)

    def extra_repr(self) -> str:
        """Describe the sampler inside ``repr`` of a model."""
        return f"max_n_samples={self.max_n_samples}, {super().extra_repr()}"

    def _draw(
        self, targets: torch.Tensor, generator: torch.Generator | None
    ) -> tuple[Candidates, torch.Tensor]:
        candidates = functional.uniform_sample(
            self.max_n_samples,
            self.max_id,
            min_id=self.min_id,
            unique=self.unique_sampling,
            generator=generator,
            device=targets.device,
        )
        return candidates, self.log_q(targets, candidates)
