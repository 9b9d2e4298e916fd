"""Candidates of several samplers in one set."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from transformers4rec_ext._errors import type_error, value_error
from transformers4rec_ext.functional import Candidates
from transformers4rec_ext.samplers.base import Sampler, finite
from transformers4rec_ext.samplers.merge import distinct_first, padded, valid_first
from transformers4rec_ext.samplers.protocol import MixableSampler


class MixedSampler(Sampler):
    """Draw from several independent samplers and give every candidate the ``log q`` of them all.

    If all sources draw distinct ids, their union is formed: duplicates are merged, and an item is
    in it with probability ``q = 1 - prod_k (1 - q_k)``. If one of them draws with repetitions, all
    candidates stay, and the expected count is ``q = sum_k q_k``. Either is exact for independent
    sources (the sum for any), whichever of them a candidate came from.

    Parameters
    ----------
    samplers : sequence of MixableSampler
        At least one; those of the library all of one range of ids. In a source's ``log_q`` an item
        that it never draws is -inf; a *target* that none draws gets the ``log q`` of the rarest
        candidate.
    seed : int, optional
        Seed of a generator that all sources draw from. Without it each uses its own, or torch's.

    Raises
    ------
    TypeError    if a source is not a `MixableSampler`.
    ValueError   if there is none, if their ranges differ, or two have the same seed: they would
                 not be independent.

    Notes
    -----
    Shapes are static: as many candidates as the sources have together, of which ``count`` are
    valid; the rest have ``log_q = +inf``. The union is ascending. ``num_tries`` is the largest of
    the sources'. No host synchronisation of its own.

    Examples
    --------
    >>> from transformers4rec_ext.samplers import InBatchSampler, UniformSampler
    >>> counts = torch.arange(100).flip(0)
    >>> sampler = MixedSampler([InBatchSampler(counts), UniformSampler(20, max_id=100)])
    >>> candidates, target_log_q = sampler.draw(torch.tensor([5, 6, 7, 7]))
    >>> candidates.ids.shape, 20 <= int(candidates.count) <= 23
    (torch.Size([24]), True)
    """

    def __init__(self, samplers: Sequence[MixableSampler], *, seed: int | None = None) -> None:
        name = "MixedSampler"
        sources = tuple(samplers)
        if not sources:
            raise value_error(name, "samplers", "hold at least one sampler", "none")
        for source in sources:
            if not isinstance(source, MixableSampler):
                raise type_error(
                    name,
                    "samplers",
                    "have draw(targets, generator), log_q(ids, candidates) and unique_sampling",
                    type(source).__name__,
                    "Of a MixedSampler give the sources instead.",
                )
        seeds = [getattr(s, "seed", None) for s in {id(s): s for s in sources}.values()]
        own = [value for value in seeds if value is not None]
        if seed is None and len(set(own)) < len(own):
            hint = "One seed gives one stream of random numbers; or give MixedSampler the seed."
            raise value_error(name, "samplers", "have different seeds", own, hint)
        ranges = {(s.min_id, s.max_id) for s in sources if isinstance(s, Sampler)}
        if len(ranges) > 1:
            hint = "For other items than these use a PopularitySampler, with counts of 0 elsewhere."
            raise value_error(name, "samplers", "share one range of ids", sorted(ranges), hint)
        min_id, max_id = ranges.pop() if ranges else (0, 2**53)
        unique = all(source.unique_sampling for source in sources)
        super().__init__(max_id, min_id, unique, seed)
        self.samplers = sources
        for index, source in enumerate(sources):
            if isinstance(source, torch.nn.Module):  # so that its buffers move with this module
                self.add_module(str(index), source)

    def generator_states(self) -> dict[str, torch.Tensor]:
        """Return the states of its own generators by device, and of its sources' by their place."""
        states = super().generator_states()
        for index, source in enumerate(self.samplers):
            if isinstance(source, Sampler):
                of_source = source.generator_states()
                states |= {f"{index}/{key}": state for key, state in of_source.items()}
        return states

    def load_generator_states(self, states: dict[str, torch.Tensor]) -> None:
        """Go on drawing where :meth:`generator_states` was taken."""
        super().load_generator_states({k: s for k, s in states.items() if "/" not in k})
        for index, source in enumerate(self.samplers):
            if isinstance(source, Sampler):
                own = f"{index}/"
                of_source = {k.removeprefix(own): s for k, s in states.items() if k.startswith(own)}
                source.load_generator_states(of_source)

    def _draw(
        self, targets: torch.Tensor, generator: torch.Generator | None
    ) -> tuple[Candidates, torch.Tensor]:
        drawn = [source.draw(targets, generator)[0] for source in self.samplers]
        ids = torch.cat([part.ids for part in drawn])
        valid = torch.cat([part.log_q != torch.inf for part in drawn])
        arrange = distinct_first if self.unique_sampling else valid_first
        ids, count = arrange(ids, valid)
        num_tries = torch.stack([part.num_tries for part in drawn]).max()
        log_q = padded(self._log_q(ids, drawn), count)
        candidates = Candidates(ids, log_q, num_tries, count)
        return candidates, finite(self._log_q(targets, drawn), candidates)

    def _log_q(self, ids: torch.Tensor, drawn: Sequence[Candidates]) -> torch.Tensor:
        q = torch.zeros_like(ids, dtype=torch.float64)
        for source, part in zip(self.samplers, drawn, strict=True):
            of_source = source.log_q(ids, part).double().exp()
            # of a union 1 - (1 - q) (1 - q_k), written so that small q keep their digits
            q = q + (of_source * (1 - q) if self.unique_sampling else of_source)
        return q.log().float()
