"""The mean of a run's latest weights: what they would come to if the learning rate fell."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Generic, TypeVar, cast

from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from transformers4rec_ext.samplers.base import Sampler

_UPDATES_AN_EPOCH = 32
_Module = TypeVar("_Module", bound=nn.Module)


class WeightAverage(Generic[_Module]):
    r"""A second copy of a model whose weights are a mean over the run, mostly of its last part.

    .. math:: \bar w_t = \bar w_{t-1} + \frac{1}{1 + x (t - 1)} (w_t - \bar w_{t-1})

    The weights of step s count like :math:`s^{1/x - 1}`: with x = 0.1 two thirds of the mean are of
    the last tenth of the run so far, however long that is, and no number of epochs has to be known
    before. Adam at a constant rate goes round a minimum, and the mean is nearer to it than its
    steps are. While validation still rises fast, the mean lags by :math:`x / (1 + x)` of the run.

    Parameters
    ----------
    model : nn.Module
        Is copied; its parameters are floats.
    part : float
        x, in [0, 1]; 1 is the mean of all, 0 the model itself and no copy. ``RunConfig`` has
        checked it.
    steps_per_epoch : int
        The mean takes in 32 to 63 of them (all, below 64), evenly spaced, so that what it costs, a
        pass over all weights, does not come with every step of a long epoch.

    Attributes
    ----------
    module : nn.Module
        The copy with the mean, the model's initial weights until the first update; with x = 0 the
        model.

    References
    ----------
    Shamir and Zhang, Stochastic gradient descent for non-smooth optimization, ICML 2013, section 4
    (polynomial-decay averaging, with eta = 1/x - 1).
    """

    def __init__(self, model: _Module, part: float, steps_per_epoch: int) -> None:
        self.every = max(1, steps_per_epoch // _UPDATES_AN_EPOCH)

        def update(mean: Sequence[Tensor], now: Sequence[Tensor], updates: Tensor | int) -> None:
            rate = 1 / (1 + part * int(updates))
            for held, weight in zip(mean, now, strict=True):
                held.lerp_(weight, rate)

        self._averaged = AveragedModel(model, multi_avg_fn=update) if part else None
        self.module = model if self._averaged is None else cast(_Module, self._averaged.module)
        if self.module is not model:
            _share_samplers(model, self.module)

    def __call__(self, model: _Module, step: int) -> None:
        """Take in the weights after ``step`` steps (counted over the run), if it is their turn."""
        if self._averaged is not None and step % self.every == 0:
            self._averaged.update_parameters(model)

    def state_dict(self) -> dict[str, Tensor]:
        """Return what a checkpoint keeps of it: tensors to be filled; nothing with x = 0."""
        return {} if self._averaged is None else self._averaged.state_dict()


def _share_samplers(model: nn.Module, copy: nn.Module) -> None:
    """Give a copy the model's own samplers: their tables are of the data, and not learned."""
    for name, module in model.named_modules(remove_duplicate=False):
        if isinstance(module, Sampler):
            copy.set_submodule(name, module)
