"""The other rows' targets as candidates."""

from __future__ import annotations

import torch

from transformers4rec_ext import _checks, functional
from transformers4rec_ext.functional import Candidates
from transformers4rec_ext.samplers.base import Sampler
from transformers4rec_ext.samplers.merge import distinct_first, padded
from transformers4rec_ext.samplers.popularity import as_counts, checked_counts


class InBatchSampler(Sampler):
    """Take the batch's targets as candidates: no draw, and rows that are in memory already.

    To a row, the candidates are the targets of the *other* N - 1 rows (its own is excluded as an
    accidental hit). Where rows are drawn independently by popularity, ``p = counts / sum``, an
    item is among them with probability ``q = -expm1((N - 1) log1p(-p))``: that is the ``log q``
    of candidates and targets. The positions of one session are not independent of each other, so
    for sequences it is an approximation, and no popularity, exact or estimated while training,
    can know more. Duplicates are merged.

    Parameters
    ----------
    counts : Tensor or numpy array, integer or floating, [V]
        How often each id occurs as a target in the training data
        (``torch.bincount(ids, minlength=V)``). An id of count 0 counts as the rarest that occurs:
        in a batch it can turn up all the same.
    min_id : int
        The lowest id of an item, usually ``padding_idx + 1``.

    Raises
    ------
    TypeError    if an argument is of the wrong type.
    ValueError   if ``counts`` are no counts or ``min_id`` is out of range.

    Notes
    -----
    Shapes are static and nothing waits for the device: N candidates (1 for an empty batch), of
    which ``count`` are valid; the rest are duplicates with ``log_q = +inf``. The ids are
    ascending. 4 bytes an item, as a buffer that is not in the ``state_dict``,
    and ``counts`` are kept for ``save_pretrained``.

    Examples
    --------
    >>> sampler = InBatchSampler(torch.tensor([0, 5, 2, 1]), min_id=1)
    >>> candidates, target_log_q = sampler.draw(torch.tensor([2, 1, 2]))
    >>> candidates.ids[: int(candidates.count)]
    tensor([1, 2])
    """

    _probability_bits: torch.Tensor

    def __init__(self, counts: torch.Tensor, min_id: int = 0) -> None:
        counts = as_counts(counts)
        weights = checked_counts("InBatchSampler", counts, min_id)
        super().__init__(counts.numel(), min_id, unique_sampling=True, seed=None)
        weights = torch.where(weights > 0, weights, weights[weights > 0].min())
        probability = (weights / weights.sum()).float()
        # As integers, since `module.half()` rounds every floating buffer.
        bits = probability.view(torch.int32)
        self.register_buffer("_probability_bits", bits, persistent=False)

    def log_q(self, ids: torch.Tensor, candidates: Candidates) -> torch.Tensor:
        """Return ``log q`` of any ids, given what was drawn."""
        return self._log_q(ids, candidates.num_tries)

    def _draw(
        self, targets: torch.Tensor, generator: torch.Generator | None
    ) -> tuple[Candidates, torch.Tensor]:
        ids = targets.flatten()
        if ids.numel() == 0:
            ids = torch.full((1,), self.min_id, dtype=torch.int64, device=targets.device)
        valid = torch.full_like(ids, targets.numel() > 0, dtype=torch.bool)
        ids, count = distinct_first(ids, valid)
        # at least one, so that no q is 0
        tries = torch.full_like(count, max(1, targets.numel() - 1))
        log_q = padded(self._log_q(ids, tries), count)
        return Candidates(ids, log_q, tries, count), self._log_q(targets, tries)

    def _log_q(self, ids: torch.Tensor, tries: torch.Tensor) -> torch.Tensor:
        hint = "Move the sampler with .to(device)."
        counts = self._probability_bits
        _checks.same_device("InBatchSampler.draw", "targets", ids, counts, "the counts", hint)
        index = (ids - self.min_id).flatten()
        p = counts.view(torch.float32).index_select(0, index).view(ids.shape)
        return functional.log_expected_count(p, num_tries=tries)
