"""Compiled functions take every number of rows in one graph: no size becomes a constant of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from transformers4rec_ext import functional as F
from transformers4rec_ext.losses import GBCELoss, SampledSoftmaxLoss
from transformers4rec_ext.samplers import UniformSampler

V, D, S = 50, 8, 7
WEIGHT = torch.linspace(-1, 1, V * D).reshape(V, D)
CANDIDATES = torch.arange(3, 3 + S)
LOG_Q = torch.full((S,), -1.0)
Function = Callable[[torch.Tensor, torch.Tensor], Any]


def sampled(function: Callable[..., torch.Tensor]) -> Function:
    def call(hidden: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        log_q = hidden[:, 0].detach()
        options = {"target_log_q": log_q, "candidate_log_q": LOG_Q}
        return function(hidden, WEIGHT, targets, CANDIDATES, **options)

    return call


FUNCTIONS: dict[str, Function] = {
    "linear_cross_entropy": lambda h, t: F.linear_cross_entropy(h, WEIGHT, t),
    "with bias": lambda h, t: F.linear_cross_entropy(h, WEIGHT, t, bias=WEIGHT[:, 0]),
    "sampled_softmax_loss": sampled(F.sampled_softmax_loss),
    "sampled_bce_loss": sampled(F.sampled_bce_loss),
    "sampled_logits": sampled(F.sampled_logits),
    "target_rank": lambda h, t: F.target_rank(h.detach(), WEIGHT, t),
    "topk_items": lambda h, t: F.topk_items(h.detach(), WEIGHT, 3),
    "log_uniform_draw": lambda h, t: F.log_uniform_draw(t, 5, V),
    "SampledSoftmaxLoss": lambda h, t: SampledSoftmaxLoss(UniformSampler(S, V))(h, WEIGHT, t),
    "GBCELoss": lambda h, t: GBCELoss(UniformSampler(S, V))(h, WEIGHT, t),
}
RANDOM = {"log_uniform_draw", "SampledSoftmaxLoss", "GBCELoss"}


def inputs(rows: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(rows)
    hidden = torch.randn(rows, D, generator=generator, requires_grad=True)
    return hidden, torch.randint(V, (rows,), generator=generator)


@pytest.mark.parametrize("dynamic", [None, True])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_two_graphs_serve_all_sizes(name: str, dynamic: bool | None) -> None:
    graphs: list[Any] = []

    def backend(graph: torch.fx.GraphModule, _: list[torch.Tensor]) -> Any:
        graphs.append(graph)
        return graph.forward

    torch.compiler.reset()
    function = FUNCTIONS[name]
    compiled = torch.compile(function, fullgraph=True, backend=backend, dynamic=dynamic)
    for rows in (4, 2, 9, 3, 17, 5):
        found = compiled(*inputs(rows))
        if name not in RANDOM:
            torch.testing.assert_close(found, function(*inputs(rows)))
    # the first is of its size alone, the second of any
    assert len(graphs) <= (2 if dynamic is None else 1)


@pytest.mark.parametrize("name", sorted(FUNCTIONS.keys() - RANDOM))
def test_strict_export_of_any_number_of_rows(name: str) -> None:
    class Module(torch.nn.Module):
        def forward(self, hidden: torch.Tensor, targets: torch.Tensor) -> Any:
            return FUNCTIONS[name](hidden, targets)

    rows = torch.export.Dim("rows", min=2, max=4096)
    shapes = ({0: rows}, {0: rows})
    program = torch.export.export(Module(), inputs(4), dynamic_shapes=shapes, strict=True)
    torch.testing.assert_close(program.module()(*inputs(11)), FUNCTIONS[name](*inputs(11)))


def test_ids_of_a_subclass_of_tensor_are_looked_at() -> None:
    class Ids(torch.Tensor):
        pass

    targets = torch.tensor([10**9]).as_subclass(Ids)
    with pytest.raises(ValueError, match="targets must lie in"):
        F.linear_cross_entropy(WEIGHT[:1], WEIGHT, targets)


def test_a_fake_tensor_has_no_values_to_look_at() -> None:
    with torch._subclasses.FakeTensorMode():
        hidden, weight = torch.randn(4, D), torch.randn(V, D)
        targets = torch.zeros(4, dtype=torch.int64)
        assert F.linear_cross_entropy(hidden, weight, targets).shape == ()
        assert F.sampled_softmax_loss(hidden, weight, targets, targets).shape == ()
        assert F.sampled_bce_loss(hidden, weight, targets, targets).shape == ()
        assert F.sampled_logits(hidden, weight, targets, targets).shape == (4, 5)
        assert F.target_rank(hidden, weight, targets).shape == (4,)
        assert F.topk_items(hidden, weight, 3)[1].shape == (4, 3)
