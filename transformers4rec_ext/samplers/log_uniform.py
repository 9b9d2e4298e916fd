"""Log-uniform candidates: upstream's sampler, with its names and the true law."""

from __future__ import annotations

from typing import Any

import torch

from transformers4rec_ext import _checks, functional
from transformers4rec_ext._errors import type_error, value_error
from transformers4rec_ext._numbers import is_integer
from transformers4rec_ext.functional import Candidates
from transformers4rec_ext.samplers.base import Sampler


def _positive_int(function: str, argument: str, value: Any, text: str) -> int:
    """Return ``value`` when it is an int above zero; ``text`` leads the message otherwise."""
    if not is_integer(value):
        raise type_error(function, argument, "be an int", type(value).__name__)
    if value <= 0:
        raise ValueError(f"{text} {function}: {argument} must be at least 1; got {value}.")
    return int(value)


class LogUniformSampler(Sampler):
    """Draw ids by ``P(id) = log1p(1 / (c + 1)) / log1p(max_id - min_id)``, ``c = id - min_id``.

    The law is the approximate popularity of ids sorted by falling frequency (Zipf). One set of
    candidates serves the whole batch. Exactly ``max_n_samples`` ids are drawn (the whole range
    when it is not larger), and their probabilities follow from the true number of tries. No
    table of ``max_id`` entries is kept: :meth:`get_log_uniform_distr` makes one when asked.

    Parameters
    ----------
    max_n_samples : int
        Candidates to draw, S.
    max_id : int
        Exclusive upper bound of the ids; the number of rows V of the item table.
    min_id : int
        The lowest id that can be drawn, usually ``padding_idx + 1``.
    unique_sampling : bool
        Draw distinct ids. Without it duplicates stay and S ids are drawn with replacement.
    n_samples_multiplier_before_unique : int
        Fixes the attribute ``n_sample`` (and with it ``unique_sampling_dist``) as upstream does.
        Draws do not depend on it: they go on until S distinct ids are found.
    seed : int, optional
        Seed of a generator of the sampler's own. Without it torch's global generator is used, so
        ``torch.manual_seed`` and a saved RNG state reproduce a run.

    Raises
    ------
    TypeError    if an argument is of the wrong type.
    ValueError   if ``max_id`` or ``max_n_samples`` is not positive, or ``min_id`` is not in
                 ``[0, max_id)``.

    Examples
    --------
    >>> sampler = LogUniformSampler(max_n_samples=5, max_id=1000, min_id=1, seed=0)
    >>> ids, target_probs, candidate_probs = sampler.sample(torch.tensor([1, 999]))
    >>> ids.shape, target_probs.shape, candidate_probs.shape
    (torch.Size([5]), torch.Size([2]), torch.Size([5]))
    """

    def __init__(
        self,
        max_n_samples: int,
        max_id: int,
        min_id: int = 0,
        unique_sampling: bool = True,
        n_samples_multiplier_before_unique: int = 2,
        *,
        seed: int | None = None,
    ) -> None:
        name = "LogUniformSampler"
        max_id = _positive_int(name, "max_id", max_id, "max_id must be a positive integer.")
        max_n_samples = _positive_int(
            name, "max_n_samples", max_n_samples, "n_sample must be a positive integer."
        )
        min_id = self._check_min_id(name, min_id, max_id)
        argument = "n_samples_multiplier_before_unique"
        multiplier = _checks.finite(name, argument, n_samples_multiplier_before_unique)
        if multiplier < 1:
            raise value_error(name, argument, "be at least 1", multiplier)
        super().__init__(max_id, min_id, unique_sampling, seed)
        self.max_n_samples = max_n_samples
        self.n_sample = int(max_n_samples * multiplier) if unique_sampling else max_n_samples

    def log_q(self, ids: torch.Tensor, candidates: Candidates) -> torch.Tensor:
        """Return ``log q`` of any ids in the range, given what was drawn."""
        return functional.log_uniform_log_q(
            ids,
            self.max_id,
            min_id=self.min_id,
            num_tries=candidates.num_tries,
            unique=self.unique_sampling,
        )

    def sample(self, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Draw candidates and return ``(ids, q(labels), q(ids))``, as probabilities.

        Parameters
        ----------
        labels : Tensor, int64, [N] or [N, 1] or [1, N]

        Returns
        -------
        neg_samples : Tensor, int64, [S]
        true_probs : Tensor, float32, like ``labels``
            Expected count of each label in the draw (with ``unique_sampling``: the probability
            that it is among the candidates).
        samp_probs : Tensor, float32, [S]

        Raises
        ------
        TypeError    if ``labels`` is not a tensor.
        ValueError   if it is not int64, is empty, has another shape, or (on the CPU) an id lies
                     outside ``[min_id, max_id)``.
        """
        self._check_targets(labels)
        if labels.dim() == 0 or labels.dim() > 2 or (labels.dim() == 2 and min(labels.shape) > 1):
            raise ValueError(
                "Labels must be a 1-dimensional tensor or a 2-dimensional tensor"
                f"with one of the dimensions equal to 1. Got shape {list(labels.shape)}."
            )
        if labels.numel() == 0:
            raise ValueError("Labels must not be an empty tensor.")
        with torch.no_grad():
            candidates, target_log_q = self._draw(labels, self._generator(labels.device))
        return candidates.ids, target_log_q.exp(), candidates.log_q.exp()

    def forward(self, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return :meth:`sample` of ``labels``."""
        return self.sample(labels)

    def get_log_uniform_distr(self, max_id: int, min_id: int = 0) -> torch.Tensor:
        """Return the table ``p`` [max_id] of the law; zero below ``min_id``.

        Computed in float64 in closed form and returned as float32. For inspection: sampling needs
        no table.
        """
        name = "LogUniformSampler.get_log_uniform_distr"
        _positive_int(name, "max_id", max_id, "max_id must be a positive integer.")
        self._check_min_id(name, min_id, max_id)
        classes = torch.arange(1, max_id - min_id + 1, dtype=torch.float64)
        total = torch.log1p(torch.tensor(float(max_id - min_id), dtype=torch.float64))
        probabilities = torch.log1p(classes.reciprocal()) / total
        return torch.nn.functional.pad(probabilities, (min_id, 0)).float()

    def get_unique_sampling_distr(self, dist: torch.Tensor, n_sample: int) -> torch.Tensor:
        """Return ``1 - (1 - dist)^n_sample`` as ``-expm1(n_sample * log1p(-dist))``, float32."""
        name = "LogUniformSampler.get_unique_sampling_distr"
        if not isinstance(dist, torch.Tensor):
            raise type_error(name, "dist", "be a torch.Tensor", type(dist).__name__)
        if not dist.is_floating_point():
            raise type_error(name, "dist", "be floating", dist.dtype)
        _positive_int(name, "n_sample", n_sample, "n_sample must be a positive integer.")
        return torch.log1p(-dist.double()).mul(n_sample).expm1().neg().float()

    @property
    def dist(self) -> torch.Tensor:
        """The table of :meth:`get_log_uniform_distr`, made anew at each access."""
        return self.get_log_uniform_distr(self.max_id, self.min_id)

    @property
    def unique_sampling_dist(self) -> torch.Tensor:
        """:meth:`get_unique_sampling_distr` for ``n_sample`` tries, made anew at each access."""
        return self.get_unique_sampling_distr(self.dist, self.n_sample)

    def extra_repr(self) -> str:
        """Describe the sampler inside ``repr`` of a model."""
        return f"max_n_samples={self.max_n_samples}, {super().extra_repr()}"

    def _draw(
        self, targets: torch.Tensor, generator: torch.Generator | None
    ) -> tuple[Candidates, torch.Tensor]:
        try:
            return functional.log_uniform_draw(
                targets,
                self.max_n_samples,
                self.max_id,
                min_id=self.min_id,
                unique=self.unique_sampling,
                generator=generator,
            )
        except ValueError:
            self._check_range(targets)
            raise

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, *args: Any, **kwargs: Any
    ) -> None:
        # Upstream's checkpoints hold the two [V] tables; nothing here needs them.
        state_dict.pop(f"{prefix}dist", None)
        state_dict.pop(f"{prefix}unique_sampling_dist", None)
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)

    def _check_targets(self, labels: object) -> None:
        if not isinstance(labels, torch.Tensor):
            raise TypeError(f"Labels must be a torch.Tensor. Got {type(labels).__name__}.")
        if labels.dtype != torch.int64:
            raise ValueError(f"Labels must be a tensor of dtype long. Got {labels.dtype}.")

    def _check_range(self, labels: torch.Tensor) -> None:
        low, high = (int(bound) for bound in labels.aminmax())
        if low < self.min_id or high >= self.max_id:
            raise ValueError(
                "All label values must be within the range [0, max_id]. Valid here are "
                f"[{self.min_id}, {self.max_id - 1}]; got ids from {low} to {high}."
            )

    @staticmethod
    def _check_min_id(function: str, min_id: Any, max_id: int) -> int:
        if not is_integer(min_id):
            raise type_error(function, "min_id", "be an int", type(min_id).__name__)
        if not 0 <= min_id < max_id:
            raise value_error(function, "min_id", f"lie in [0, max_id={max_id})", min_id)
        return int(min_id)
