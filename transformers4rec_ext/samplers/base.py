"""What the samplers of the library share: checks of targets, generators, no gradient."""

from __future__ import annotations

from typing import Any

import torch

from transformers4rec_ext import _checks
from transformers4rec_ext._errors import type_error
from transformers4rec_ext._numbers import is_integer
from transformers4rec_ext._recipe import Recorded
from transformers4rec_ext.functional import Candidates


class Sampler(Recorded, torch.nn.Module):
    """A sampler of ids in ``[min_id, max_id)``; subclasses say what is drawn, in ``_draw``.

    Parameters
    ----------
    max_id : int
        Exclusive upper bound of the ids; the number of rows V of the item table.
    min_id : int
        The lowest id that can be drawn, usually ``padding_idx + 1``.
    unique_sampling : bool
        Whether the candidates are distinct.
    seed : int, optional
        Seed of a generator of the sampler's own. Without it torch's global generator is used, so
        ``torch.manual_seed`` and a saved RNG state reproduce a run. Whoever has a copy of a sampler
        with a seed draws the same: give processes and workers of a DataLoader seeds of their own.
        For ``torch.utils.checkpoint``, which draws anew in the backward pass after it has put back
        torch's generator alone, and for ``torch.compile(fullgraph=True)`` leave it out.
    """

    def __init__(self, max_id: int, min_id: int, unique_sampling: bool, seed: int | None) -> None:
        super().__init__()
        name = type(self).__name__
        if not isinstance(unique_sampling, bool):
            raise type_error(name, "unique_sampling", "be a bool", type(unique_sampling).__name__)
        if seed is not None and not is_integer(seed):
            raise type_error(name, "seed", "be an int or None", type(seed).__name__)
        self.max_id = max_id
        self.min_id = min_id
        self.unique_sampling = unique_sampling
        self.seed = None if seed is None else int(seed)
        self._generators: dict[str, torch.Generator] = {}
        self._loaded: dict[str, torch.Tensor] = {}  # states of devices that have not drawn since

    def draw(
        self, targets: torch.Tensor, generator: torch.Generator | None = None
    ) -> tuple[Candidates, torch.Tensor]:
        """Draw candidates and return them with ``log q`` of the targets.

        Parameters
        ----------
        targets : Tensor, int64, any shape
            May be empty.
        generator : torch.Generator, optional
            Used instead of the sampler's own or the global one.

        Returns
        -------
        (Candidates, Tensor float32 like ``targets``)
            ``log q`` is the logarithm of the expected count, for both.

        Raises
        ------
        TypeError    if ``targets`` is not an int64 tensor.
        ValueError   if (on the CPU) an id lies outside ``[min_id, max_id)``.
        """
        self._check_targets(targets)
        with torch.no_grad():
            return self._draw(targets, generator or self._generator(targets.device))

    def generator_states(self) -> dict[str, torch.Tensor]:
        """Return the states of the sampler's own generators by device; none without a seed."""
        of_devices = {device: own.get_state() for device, own in self._generators.items()}
        return self._loaded | of_devices

    def load_generator_states(self, states: dict[str, torch.Tensor]) -> None:
        """Go on drawing where :meth:`generator_states` was taken.

        A device that has no state takes one of its type: a run may go on with another GPU.
        """
        self._generators = {}
        self._loaded = dict(states)

    def __getstate__(self) -> dict[str, Any]:
        # As bytes: a process that is spawned opens a tensor's shared memory, and of a generator's
        # state, a tensor made for the pickle, that is gone by then.
        states = {device: bytes(s.numpy()) for device, s in self.generator_states().items()}
        return {**super().__getstate__(), "_generators": states, "_loaded": {}}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__({**state, "_generators": {}, "_loaded": {}})
        states = {
            device: torch.frombuffer(bytearray(own), dtype=torch.uint8)
            for device, own in state["_generators"].items()
        }
        self.load_generator_states(states)

    def extra_repr(self) -> str:
        """Describe the sampler inside ``repr`` of a model."""
        return f"max_id={self.max_id}, min_id={self.min_id}, unique_sampling={self.unique_sampling}"

    def _draw(
        self, targets: torch.Tensor, generator: torch.Generator | None
    ) -> tuple[Candidates, torch.Tensor]:
        raise NotImplementedError

    def _check_targets(self, targets: torch.Tensor) -> None:
        name = f"{type(self).__name__}.draw"
        _checks.int64(name, "targets", targets)
        _checks.ids_within(name, "targets", targets, self.min_id, self.max_id)

    def _generator(self, device: torch.device) -> torch.Generator | None:
        """Return the sampler's own generator for a device; None without a seed."""
        if self.seed is None:
            return None
        key = str(device)
        if key not in self._generators:
            own = torch.Generator(device).manual_seed(self.seed)
            alike = [name for name in self._loaded if torch.device(name).type == device.type]
            if alike:
                own.set_state(self._loaded.pop(key if key in alike else alike[0]))
            self._generators[key] = own
        return self._generators[key]


def finite(target_log_q: torch.Tensor, candidates: Candidates) -> torch.Tensor:
    """Give targets that are never drawn (-inf) the ``log q`` of the rarest candidate drawn.

    Their own would make their logit +inf and their loss 0, whatever their score.
    """
    rarest = candidates.log_q.min()
    return torch.where(target_log_q == -torch.inf, rarest, target_log_q)
