"""The table of operators: a new one is tested by adding a row."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

OPS = torch.ops.transformers4rec_ext
# One place for all tolerances: (relative, absolute) by the dtype that is computed in.
TOLERANCES = {
    torch.float64: (1e-10, 1e-12),
    torch.float32: (2e-5, 2e-6),
    torch.bfloat16: (2e-2, 2e-2),
    torch.float16: (2e-3, 2e-3),
}


def close(a: Tensor, b: Tensor, dtype: torch.dtype | None = None, *, scale: float = 1.0) -> None:
    """Assert that two tensors agree within the tolerance of a dtype (that of ``b``).

    ``scale`` is the size of the terms that were summed, where it is not about 1.
    """
    rtol, atol = TOLERANCES[dtype or b.dtype]
    torch.testing.assert_close(a.to(b.dtype), b, rtol=rtol, atol=atol * scale, equal_nan=True)


@dataclass
class Inputs:
    """Arguments of the sampled functions, from one seed."""

    hidden: Tensor
    weight: Tensor
    targets: Tensor
    candidate_ids: Tensor
    target_log_q: Tensor | None
    candidate_log_q: Tensor | None

    @classmethod
    def make(
        cls,
        rows: int = 5,
        width: int = 4,
        items: int = 11,
        samples: int = 7,
        *,
        dtype: torch.dtype = torch.float64,
        with_log_q: bool = True,
        seed: int = 0,
    ) -> Inputs:
        """Draw inputs with duplicates and hits among the candidates."""
        generator = torch.Generator().manual_seed(seed)

        def normal(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=generator, dtype=torch.float64)

        targets = torch.randint(items, (rows,), generator=generator)
        candidate_ids = torch.randint(items, (samples,), generator=generator)
        if rows and samples > 1:
            candidate_ids[0] = targets[0]
            candidate_ids[-1] = targets[0]
        log_q = (-normal(rows).abs(), -normal(samples).abs()) if with_log_q else (None, None)
        return cls(
            normal(rows, width).to(dtype).requires_grad_(),
            normal(items, width).to(dtype).requires_grad_(),
            targets,
            candidate_ids,
            *log_q,
        )

    def all(self) -> tuple[Any, ...]:
        """Return the arguments in the order of the schemas."""
        return (
            self.hidden,
            self.weight,
            self.targets,
            self.candidate_ids,
            self.target_log_q,
            self.candidate_log_q,
        )

    def keywords(self) -> dict[str, Any]:
        """Return the optional arguments of the public functions."""
        return {"target_log_q": self.target_log_q, "candidate_log_q": self.candidate_log_q}


@dataclass
class Op:
    """A row: the operator, arguments for opcheck, and which gradients it has."""

    name: str
    arguments: Callable[[], tuple[Any, ...]]
    differentiable: bool = False

    @property
    def overload(self) -> Any:
        """The operator that opcheck takes."""
        return getattr(OPS, self.name).default


def _tile(with_grad: bool) -> tuple[Any, ...]:
    data = Inputs.make()
    ids, order = data.candidate_ids.sort()
    scores = (data.hidden @ data.weight[data.candidate_ids].T).detach()
    target_scores = (data.hidden * data.weight[data.targets]).sum(1).detach()
    scored = (scores, target_scores)
    hits = (data.targets, ids, order)
    log_q = (data.target_log_q, data.candidate_log_q)
    outputs = (torch.empty(5, dtype=torch.float64), torch.empty(5, dtype=torch.float64))
    return (*scored, *hits, *log_q, 0.7, False, None, with_grad, *outputs)


def _logits_tile() -> tuple[Any, ...]:
    data = Inputs.make()
    ids, order = data.candidate_ids.sort()
    logits = torch.randn(5, 8, dtype=torch.float64)
    return logits, data.targets, ids, order, data.target_log_q, data.candidate_log_q, 0.7


def _detached(*extra: Any) -> tuple[Any, ...]:
    hidden, weight, *rest = Inputs.make().all()
    return (hidden.detach(), weight.detach(), *rest, *extra)


SEED = torch.tensor(1234567890123)
TABLE = [
    Op("log_uniform_sample", lambda: (SEED, 20, 1000, 1, True)),
    Op("log_uniform_sample", lambda: (SEED, 20, 10, 1, True)),
    Op("log_uniform_sample", lambda: (SEED, 20, 1000, 0, False)),
    Op("log_uniform_log_q", lambda: (torch.arange(1, 9), torch.tensor(30), 1000, 1, True)),
    Op("log_uniform_log_q", lambda: (torch.arange(8).view(2, 4), torch.tensor(3), 9, 0, False)),
    Op("sampled_softmax_tile", lambda: _tile(with_grad=True)),
    Op("sampled_softmax_tile", lambda: _tile(with_grad=False)),
    Op("sampled_logits_tile", _logits_tile),
    Op("sampled_logits", lambda: (*Inputs.make().all(), 0.7, True), differentiable=True),
    Op(
        "sampled_logits_backward",
        lambda: (torch.randn(5, 8, dtype=torch.float64), *_detached()[:4], 0.7, True),
    ),
    Op(
        "sampled_softmax_rows",
        lambda: (*Inputs.make().all(), 0.7, True, False, False),
        differentiable=True,
    ),
    Op(
        "sampled_softmax_backward",
        lambda: (torch.rand(5, dtype=torch.float64), *_detached(0.7, True, False)),
    ),
    Op(
        "sampled_softmax_sum",
        lambda: (*Inputs.make().all(), 0.7, True, True, False),
        differentiable=True,
    ),
]
