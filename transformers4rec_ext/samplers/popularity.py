"""Candidates by popularity, as given by counts."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch

from transformers4rec_ext import _checks, functional
from transformers4rec_ext._errors import type_error, value_error
from transformers4rec_ext.functional import AliasTable, Candidates
from transformers4rec_ext.functional.weighted import within_reach
from transformers4rec_ext.ops.reference import INT64_MAX
from transformers4rec_ext.samplers.base import Sampler, finite


class PopularitySampler(Sampler):
    """Draw ids with ``P(id) = counts[id]^power / sum``, by an alias table in constant time.

    Needs no order of the ids, unlike :class:`LogUniformSampler`. Distinct candidates are drawn
    until there are S; their ``log q = log(-expm1(M log1p(-P)))`` follows from the true number of
    tries M. With repetitions ``q = S P``.

    An item of count 0 is never drawn. As a *target* its ``log q`` would be -inf, which makes its
    loss 0 whatever its score; :meth:`draw` gives it the ``log q`` of the rarest candidate of the
    draw. :meth:`log_q` says -inf.

    Parameters
    ----------
    max_n_samples : int
        Candidates to draw, S. If that is not below the number of items with a positive count, all
        of these are the candidates, with ``log q = 0``.
    counts : Tensor or numpy array, integer or floating, [V]
        How often each id occurs (``torch.bincount(ids, minlength=V)``); finite and not negative.
    min_id : int
        Counts of ids below it are not used.
    power : float
        1 draws by popularity, 0 uniformly among the items that occur, 0.75 is word2vec's.
    unique_sampling : bool
        Draw distinct ids. Without it S ids are drawn with replacement, and duplicates stay.
    seed : int, optional
        Seed of a generator of the sampler's own; torch's global one otherwise.

    Raises
    ------
    TypeError    if an argument is of the wrong type.
    ValueError   if ``max_n_samples`` is not positive, ``counts`` are no counts, all of them are 0
                 from ``min_id`` on, ``power`` is negative or not finite, or so few items carry
                 nearly all the weight that S distinct ones would take more than 1000 S tries.

    Notes
    -----
    12 bytes an item, as buffers: they move with the module, keep their precision under
    ``.half()``, and are not in its ``state_dict``. They are bits, no numbers to average: not for
    ``AveragedModel(use_buffers=True)`` with a mean of its own. ``counts`` are kept as well, on
    their device: ``save_pretrained`` writes them. Under the reference implementation (a device
    without a native kernel) a draw of distinct ids waits for the device.

    Examples
    --------
    >>> history = torch.tensor([1, 1, 1, 4, 2, 1, 2])
    >>> sampler = PopularitySampler(2, torch.bincount(history, minlength=6), min_id=1)
    >>> candidates, target_log_q = sampler.draw(history)
    >>> bool(torch.isin(candidates.ids, history).all()), target_log_q.shape
    (True, torch.Size([7]))
    """

    _threshold_bits: torch.Tensor
    _alias: torch.Tensor
    _probability_bits: torch.Tensor
    _occurring: torch.Tensor | None

    def __init__(
        self,
        max_n_samples: int,
        counts: torch.Tensor,
        min_id: int = 0,
        power: float = 1.0,
        unique_sampling: bool = True,
        *,
        seed: int | None = None,
    ) -> None:
        name = "PopularitySampler"
        size = _checks.integer(name, "max_n_samples", max_n_samples, minimum=1)
        counts = as_counts(counts)
        weights = checked_counts(name, counts, min_id)
        super().__init__(counts.numel(), min_id, unique_sampling, seed)
        self.max_n_samples = size
        self.power = _checks.not_negative(name, "power", power)
        # relative to the largest, so that no power overflows; 0^0 is 1, but what does not occur
        # is not drawn
        weights = torch.where(weights > 0, (weights / weights.max()) ** power, 0.0)
        table = functional.alias_table(weights)
        self._support, self._reach = table.support, table.reach
        # As integers, since `module.half()` rounds every floating buffer.
        self.register_buffer("_threshold_bits", table.threshold.view(torch.int32), persistent=False)
        self.register_buffer("_alias", table.alias, persistent=False)
        bits = table.probability.view(torch.int32)
        self.register_buffer("_probability_bits", bits, persistent=False)
        occurring = None
        if unique_sampling and max_n_samples >= table.support:
            occurring = table.probability.nonzero().squeeze(1) + min_id
        elif unique_sampling and max_n_samples > table.reach:
            hint = f"Ask for fewer, for all {table.support} that occur, or use a lower power."
            raise value_error(name, "max_n_samples", within_reach(table), max_n_samples, hint)
        self.register_buffer("_occurring", occurring, persistent=False)

    @property
    def table(self) -> AliasTable:
        """The alias table of the ids from ``min_id`` on."""
        return AliasTable(
            self._threshold_bits.view(torch.float32),
            self._alias,
            self._probability_bits.view(torch.float32),
            self._support,
            self._reach,
        )

    def log_q(self, ids: torch.Tensor, candidates: Candidates) -> torch.Tensor:
        """Return ``log q`` of any ids, given what was drawn; -inf for an id of count 0."""
        if self._occurring is not None:  # all of them, for certain
            _checks.ids_within("PopularitySampler.log_q", "ids", ids, self.min_id, self.max_id)
            never = self.table.probability[ids - self.min_id] == 0
            return torch.zeros_like(ids, dtype=torch.float32).masked_fill(never, -torch.inf)
        return functional.weighted_log_q(
            ids,
            self.table,
            min_id=self.min_id,
            num_tries=candidates.num_tries,
            unique=self.unique_sampling,
        )

    def extra_repr(self) -> str:
        """Describe the sampler inside ``repr`` of a model."""
        return f"max_n_samples={self.max_n_samples}, power={self.power}, {super().extra_repr()}"

    def _draw(
        self, targets: torch.Tensor, generator: torch.Generator | None
    ) -> tuple[Candidates, torch.Tensor]:
        if self._occurring is None:
            candidates = functional.weighted_sample(
                self.max_n_samples,
                self.table,
                min_id=self.min_id,
                unique=self.unique_sampling,
                generator=generator,
            )
        else:
            ids = self._occurring
            tries = torch.full((), INT64_MAX, dtype=torch.int64, device=ids.device)
            log_q = torch.zeros_like(ids, dtype=torch.float32)
            candidates = Candidates(ids, log_q, tries, torch.full_like(tries, ids.numel()))
        return candidates, finite(self.log_q(targets, candidates), candidates)


def as_counts(counts: Any) -> Any:
    """Return an array of numpy, such as ``Catalogue.popularity``, as a tensor; others as is."""
    return torch.from_numpy(counts) if isinstance(counts, np.ndarray) else counts


def checked_counts(function: str, counts: torch.Tensor, min_id: int) -> torch.Tensor:
    """Return ``counts[min_id:]`` as float64, if they are counts and not all 0."""
    _checks.tensor(function, "counts", counts)
    if counts.dtype == torch.bool or counts.is_complex():
        raise type_error(function, "counts", "be integer or floating", _checks.describe(counts))
    if counts.dim() != 1:
        raise value_error(function, "counts", "be [V]", _checks.describe(counts))
    _checks.id_range(function, counts.numel(), min_id, argument="the length of counts")
    wide = counts[min_id:].to(torch.float64)
    lowest, highest = (float(bound) for bound in wide.aminmax())
    if not (lowest >= 0 and 0 < highest < math.inf):
        raise value_error(
            function,
            "counts",
            "be finite, at least 0, and not all 0 from min_id on",
            f"values from {lowest} to {highest}",
        )
    return wide
