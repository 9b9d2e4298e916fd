"""The table of operators: a new one is tested by adding a row."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from item_inputs import Items
from torch import Tensor

from transformers4rec_ext import functional
from transformers4rec_ext.ops import reference

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


def _tile(with_grad: bool, option: bool | Tensor = False) -> tuple[Any, ...]:
    data = Inputs.make()
    ids, order = data.candidate_ids.sort()
    scores = (data.hidden @ data.weight[data.candidate_ids].T).detach()
    target_scores = (data.hidden * data.weight[data.targets]).sum(1).detach()
    scored = (scores, target_scores)
    hits = (data.targets, ids, order)
    log_q = (data.target_log_q, data.candidate_log_q)
    outputs = (torch.empty(5, dtype=torch.float64), torch.empty(5, dtype=torch.float64))
    return (*scored, *hits, *log_q, 0.7, option, None, with_grad, *outputs)


def _logits_tile() -> tuple[Any, ...]:
    data = Inputs.make()
    ids, order = data.candidate_ids.sort()
    logits = torch.randn(5, 8, dtype=torch.float64)
    return logits, data.targets, ids, order, data.target_log_q, data.candidate_log_q, 0.7


def _detached(*extra: Any) -> tuple[Any, ...]:
    hidden, weight, *rest = Inputs.make().all()
    return (hidden.detach(), weight.detach(), *rest, *extra)


def _items(with_grad: bool = False) -> tuple[Any, ...]:
    data = Items.make()
    hidden, weight, bias = (data.hidden, data.weight, data.bias) if with_grad else data.detached()
    return hidden, weight, bias, data.some_ignored()


def _of_items(name: str) -> tuple[Any, ...]:
    """Arguments of a tile of items: the last 6 of 11."""
    data = Items.make()
    hidden, weight, bias = data.detached()
    tile, of_tile = weight[5:], bias[5:]
    scores = hidden @ tile.T
    counts = torch.zeros(5, dtype=torch.int64)
    state = (torch.full((5,), -math.inf, dtype=torch.float64), torch.zeros(5).double())
    if name == "logsumexp_tile":
        return scores, of_tile, 0.7, *state
    if name == "softmax_grad_tile":
        softmax = (torch.zeros(5).double(), torch.full((5,), 9.0).double())
        g = torch.tensor([1.0, 0.0, 2.0, 0.5, 1.0], dtype=torch.float64)
        return (
            scores,
            of_tile,
            data.targets,
            5,
            0.7,
            0.01,
            0.9,
            *softmax,
            g,
            torch.empty(5, 6).double(),
        )
    if name == "rank_tile":
        target_scores = reference.pair_score(hidden, weight[data.targets], bias[data.targets])
        norms = hidden.norm(dim=1)
        return scores, hidden, tile, of_tile, target_scores, norms, counts, counts.clone()
    if name == "pair_scores":
        return hidden, weight, bias, data.exclude, torch.empty(5, 3).double()
    best = torch.full((5, 70), -math.inf, dtype=torch.float64)
    ids = torch.full((5, 70), -1)
    excluded = data.exclude.sort(dim=1).values
    return scores, of_tile, 5, excluded, 4, best, ids, counts, torch.full((5,), -math.inf).double()


def _cross_entropy_backward(with_weight: bool) -> tuple[Any, ...]:
    options = (0.7, -100, 0.1, False)
    _, maximum, total, _, kept = OPS.linear_cross_entropy(*_items(), *options, None, True)
    return torch.rand(5).double(), *_items(), maximum, total, kept, *options, with_weight


def _ranking(*first: Any) -> tuple[Any, ...]:
    data = Items.make()
    hidden, weight, bias = data.detached()
    return hidden, weight, *(first or (data.targets,)), bias, data.exclude, 0


def _alias_table() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return functional.alias_table(torch.rand(50, generator=generator))[:2]


BETA = torch.tensor(0.4, dtype=torch.float64)


def _rows(rowwise: bool) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Weight, second moment, ids with repetitions, and rows of a gradient."""
    weight = torch.randn(11, 4, dtype=torch.float64)
    second = torch.rand(11, dtype=torch.float64) if rowwise else torch.rand_like(weight)
    return weight, second, torch.tensor([3, 0, 3, 10]), torch.randn(4, 4, dtype=torch.float64)


def _adam(rowwise: bool) -> tuple[Any, ...]:
    weight, second, ids, values = _rows(rowwise)
    steps = torch.arange(11, dtype=torch.int32)
    return weight, torch.randn_like(weight), second, steps, ids, values, 0.1, 0.9, 0.99, 1e-8, 0.01


def _adagrad(rowwise: bool) -> tuple[Any, ...]:
    return *_rows(rowwise), 0.1, 1e-10, 0.01


SEED = torch.tensor(1234567890123)
TABLE = [
    Op("log_uniform_sample", lambda: (SEED, 20, 1000, 1, True)),
    Op("log_uniform_sample", lambda: (SEED, 20, 10, 1, True)),
    Op("log_uniform_sample", lambda: (SEED, 20, 1000, 0, False)),
    Op("log_uniform_log_q", lambda: (torch.arange(1, 9), torch.tensor(30), 1000, 1, True)),
    Op("log_uniform_log_q", lambda: (torch.arange(8).view(2, 4), torch.tensor(3), 9, 0, False)),
    Op("log_uniform_draw", lambda: (SEED, torch.arange(1, 9).view(2, 4), 20, 1000, 1, True)),
    Op("log_uniform_draw", lambda: (SEED, torch.arange(8), 20, 10, 0, False)),
    Op("log_expected_count", lambda: (torch.rand(3, 4), torch.tensor(30), True)),
    Op("log_expected_count", lambda: (torch.rand(5), torch.tensor(3), False)),
    Op("uniform_sample", lambda: (SEED, 20, 1000, 1, True)),
    Op("uniform_sample", lambda: (SEED, 8, 10, 1, True)),
    Op("uniform_sample", lambda: (SEED, 20, 10, 1, True)),
    Op("uniform_sample", lambda: (SEED, 20, 10, 0, False)),
    Op("alias_sample", lambda: (SEED, *_alias_table(), 20, 1, True)),
    Op("alias_sample", lambda: (SEED, *_alias_table(), 80, 0, False)),
    Op("sampled_softmax_tile", lambda: _tile(with_grad=True)),
    Op("sampled_softmax_tile", lambda: _tile(with_grad=False)),
    Op("sampled_bce_tile", lambda: _tile(with_grad=True, option=BETA)),
    Op("sampled_bce_tile", lambda: _tile(with_grad=False, option=BETA)),
    Op("sampled_logits_tile", _logits_tile),
    Op("sampled_logits", lambda: (*Inputs.make().all(), 0.7, True), differentiable=True),
    Op(
        "sampled_logits_backward",
        lambda: (torch.randn(5, 8, dtype=torch.float64), *_detached()[:4], 0.7, True),
    ),
    *(
        Op(name, lambda name=name: _of_items(name))
        for name in (
            "logsumexp_tile",
            "softmax_grad_tile",
            "rank_tile",
            "pair_scores",
            "topk_tile",
        )
    ),
    Op(
        "linear_cross_entropy",
        lambda: (*_items(with_grad=True), 0.7, -100, 0.1, True, 0, True),
        differentiable=True,
    ),
    Op("linear_cross_entropy", lambda: (*_items(), 1.0, -100, 0.0, False, None, False)),
    Op("linear_cross_entropy_backward", lambda: _cross_entropy_backward(True)),
    Op("linear_cross_entropy_backward", lambda: _cross_entropy_backward(False)),
    Op("target_rank", _ranking),
    Op("topk_items", lambda: _ranking(4)),
    Op("adam_rows", lambda: _adam(rowwise=False)),
    Op("adam_rows", lambda: _adam(rowwise=True)),
    Op("adagrad_rows", lambda: _adagrad(rowwise=False)),
    Op("adagrad_rows", lambda: _adagrad(rowwise=True)),
]
WEIGHTS = torch.tensor([1.0, 0.0, 2.0, 0.5, 1.0], dtype=torch.float64)
for loss, option in (("sampled_softmax", False), ("sampled_bce", BETA)):
    TABLE += [
        Op(
            f"{loss}_rows",
            lambda option=option: (*Inputs.make().all(), 0.7, True, option, False),
            differentiable=True,
        ),
        Op(
            f"{loss}_backward",
            lambda option=option: (torch.rand(5).double(), *_detached(0.7, True, option)),
        ),
        Op(
            f"{loss}_sum",
            lambda option=option: (*Inputs.make().all(), 0.7, True, option, False, None),
            differentiable=True,
        ),
        Op(
            f"{loss}_sum",
            lambda option=option: (*Inputs.make().all(), 0.7, True, option, False, WEIGHTS),
            differentiable=True,
        ),
    ]
