"""The public functions under torch.func, forward-mode AD and on the meta device."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from op_table import Inputs, close
from torch import Tensor
from torch.autograd import forward_ad

from transformers4rec_ext import functional
from transformers4rec_ext.losses import SampledSoftmaxLoss
from transformers4rec_ext.samplers import InBatchSampler, MixedSampler, UniformSampler
from transformers4rec_ext.samplers.base import Sampler

# torch's own forward mode scripts its formulas when it is first used (from 2.14: FutureWarning).
pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit.script")
Scalar = Callable[..., Tensor]
# Made once: inside a transform no tensor can be asked for its gradient.
DATA = Inputs.make()


def _loss(hidden: Tensor, weight: Tensor, **options: Any) -> Tensor:
    ids = DATA.targets, DATA.candidate_ids
    return functional.sampled_softmax_loss(hidden, weight, *ids, **DATA.keywords(), **options)


def _rows(hidden: Tensor, weight: Tensor, **options: Any) -> Tensor:
    return _loss(hidden, weight, reduction="none", **options).mean()


def _bce(hidden: Tensor, weight: Tensor, **options: Any) -> Tensor:
    ids = DATA.targets, DATA.candidate_ids
    options = DATA.keywords() | {"t": 0.75} | options
    return functional.sampled_bce_loss(hidden, weight, *ids, **options)


def _logits(hidden: Tensor, weight: Tensor, **options: Any) -> Tensor:
    ids = DATA.targets, DATA.candidate_ids
    logits = functional.sampled_logits(hidden, weight, *ids, **DATA.keywords(), **options)
    return logits.logsumexp(dim=1).mean()


def _full(hidden: Tensor, weight: Tensor, **options: Any) -> Tensor:
    return functional.linear_cross_entropy(hidden, weight, DATA.targets, **options)


FUNCTIONS = {
    _full: "linear_cross_entropy",
    _loss: "sampled_softmax_loss",
    _rows: "sampled_softmax_loss",
    _bce: "sampled_bce_loss",
    _logits: "sampled_logits",
}


def _leaves() -> tuple[Tensor, Tensor]:
    return DATA.hidden.detach().clone(), DATA.weight.detach().clone()


def _forward_mode(function: Scalar, hidden: Tensor, weight: Tensor) -> Tensor:
    with forward_ad.dual_level():
        dual = forward_ad.make_dual(hidden, torch.ones_like(hidden))
        return forward_ad.unpack_dual(function(dual, weight)).tangent


def _vmap_in_grad(function: Scalar, hidden: Tensor, weight: Tensor) -> Tensor:
    mapped = torch.func.vmap(function, in_dims=(0, None))
    return torch.func.grad(lambda h: mapped(h[None], weight).sum())(hidden)


TRANSFORMS: dict[str, Callable[[Scalar, Tensor, Tensor], Any]] = {
    "grad": lambda f, h, w: torch.func.grad(f)(h, w),
    "grad of weight": lambda f, h, w: torch.func.grad(f, argnums=1)(h, w),
    "vmap of grad": lambda f, h, w: torch.func.vmap(torch.func.grad(f), (0, None))(h[None], w),
    "grad of vmap": _vmap_in_grad,
    "jacrev": lambda f, h, w: torch.func.jacrev(f)(h, w),
    "jvp": lambda f, h, w: torch.func.jvp(f, (h, w), (h, w)),
    "forward mode": _forward_mode,
}


@pytest.mark.parametrize("transform", TRANSFORMS)
@pytest.mark.parametrize("function", FUNCTIONS)
def test_what_is_no_backward_is_refused(function: Scalar, transform: str) -> None:
    """Forward mode gave tangents of zero, the others an error in autograd's own words."""
    text = f"{FUNCTIONS[function]}: its gradient must be asked for by backward() or torch.autograd"
    with pytest.raises(RuntimeError, match=re.escape(text)) as caught:
        TRANSFORMS[transform](function, *_leaves())
    assert "Use backend='reference'" in str(caught.value)


@pytest.mark.parametrize("function", FUNCTIONS)
def test_the_reference_takes_them(function: Scalar) -> None:
    hidden, weight = (leaf.requires_grad_() for leaf in _leaves())
    expected = torch.autograd.grad(function(hidden, weight), (hidden, weight))
    leaves = _leaves()

    def reference(hidden: Tensor, weight: Tensor) -> Tensor:
        return function(hidden, weight, backend="reference")

    found = torch.func.grad(reference, argnums=(0, 1))(*leaves)
    for gradient, right in zip(found, expected, strict=True):
        close(gradient, right)
    close(TRANSFORMS["forward mode"](reference, *leaves), expected[0].sum())
    close(TRANSFORMS["vmap of grad"](reference, *leaves)[0], expected[0])


@pytest.mark.parametrize("sampled", [True, False])
def test_gradients_of_each_row_by_the_reference(sampled: bool) -> None:
    """Ids are mapped over too, so that their values cannot be looked at."""
    hidden, weight = _leaves()

    def loss(rows: Tensor, targets: Tensor, **options: Any) -> Tensor:
        options["reduction"] = "sum"
        if sampled:
            ids = targets, DATA.candidate_ids
            return functional.sampled_softmax_loss(rows, weight, *ids, **options)
        return functional.linear_cross_entropy(rows, weight, targets, **options)

    def of_a_row(row: Tensor, target: Tensor) -> Tensor:
        return loss(row[None], target[None], backend="reference")

    found = torch.func.vmap(torch.func.grad(of_a_row))(hidden, DATA.targets)
    hidden.requires_grad_()
    close(found, torch.autograd.grad(loss(hidden, DATA.targets), hidden)[0])


# It runs row by row, and says so once in a process.
@pytest.mark.filterwarnings("ignore:There is a performance drop:UserWarning")
@pytest.mark.parametrize("function", FUNCTIONS)
def test_vmap_alone_works(function: Scalar) -> None:
    hidden, weight = _leaves()
    stacked = torch.stack([hidden, 2 * hidden])
    found = torch.func.vmap(function, in_dims=(0, None))(stacked, weight)
    close(found, torch.stack([function(each, weight) for each in stacked]))


@pytest.mark.parametrize("mixed", [False, True])
def test_vmap_over_a_loss_whose_sampler_looks_at_the_batch(mixed: bool) -> None:
    sampler: Sampler = InBatchSampler(torch.arange(1, 21))
    if mixed:
        sampler = MixedSampler([sampler, UniformSampler(3, 20)])
    loss = SampledSoftmaxLoss(sampler)
    hidden, weight, targets = torch.randn(3, 5, 6), torch.randn(20, 6), torch.randint(20, (3, 5))
    batched = torch.func.vmap(lambda h, t: loss(h, weight, t), randomness="different")
    found = batched(hidden, targets)
    assert found.shape == (3,)
    if not mixed:
        one_by_one = [loss(h, weight, t) for h, t in zip(hidden, targets, strict=True)]
        close(found, torch.stack(one_by_one))


# Meta


def _on_meta() -> tuple[tuple[Any, ...], dict[str, Any]]:
    data = Inputs.make(dtype=torch.float32)
    leaves = (each.detach().to("meta").requires_grad_() for each in (data.hidden, data.weight))
    ids = (data.targets.to("meta"), data.candidate_ids.to("meta"))
    return (*leaves, *ids), {name: each.to("meta") for name, each in data.keywords().items()}


@pytest.mark.parametrize("name", ["sampled_softmax_loss", "sampled_bce_loss"])
@pytest.mark.parametrize("backend", ["auto", "reference"])
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_the_loss_on_meta(name: str, backend: str, reduction: str) -> None:
    arguments, options = _on_meta()
    options |= {"reduction": reduction, "backend": backend}
    loss = getattr(functional, name)(*arguments, **options)
    assert (loss.device.type, loss.dtype) == ("meta", torch.float32)
    assert loss.shape == ((5,) if reduction == "none" else ())
    loss.sum().backward()
    assert [leaf.grad.shape for leaf in arguments[:2]] == [(5, 4), (11, 4)]


def test_row_gradients_on_meta() -> None:
    arguments, options = _on_meta()
    functional.sampled_softmax_loss(*arguments, **options, sparse_grad=True).backward()
    assert arguments[1].grad.is_sparse
    assert arguments[1].grad.shape == (11, 4)


@pytest.mark.parametrize("backend", ["auto", "reference"])
def test_the_others_on_meta(backend: str) -> None:
    arguments, options = _on_meta()
    logits = functional.sampled_logits(*arguments, **options, backend=backend)
    assert (logits.device.type, logits.dtype, logits.shape) == ("meta", torch.float32, (5, 8))
    for unique in (True, False):
        options = {"unique": unique, "backend": backend}
        drawn = functional.log_uniform_sample(7, 100, device="meta", **options)
        uniform = functional.uniform_sample(7, 100, device="meta", **options)
        candidates, log_q = functional.log_uniform_draw(arguments[2], 7, 100, **options)
        on_cpu = functional.alias_table(torch.rand(100))
        table = functional.AliasTable(*(each.to("meta") for each in on_cpu[:3]), *on_cpu[3:])
        weighted = functional.weighted_sample(7, table, **options)
        for each in (*drawn, *uniform, *candidates, log_q, *weighted):
            assert each.device.type == "meta"
        assert [len(d.ids) for d in (drawn, uniform, candidates, weighted)] == [7] * 4
        assert (drawn.ids.shape, drawn.ids.dtype) == ((7,), torch.int64)
        log_q = functional.log_uniform_log_q(
            drawn.ids, 100, num_tries=drawn.num_tries, unique=unique, backend=backend
        )
        assert (log_q.device.type, log_q.dtype, log_q.shape) == ("meta", torch.float32, (7,))
    hidden, weight, targets, _ = arguments
    full = functional.linear_cross_entropy(
        hidden, weight, targets, return_rank=True, backend=backend
    )
    rank = functional.target_rank(hidden, weight, targets, backend=backend)
    scores, ids = functional.topk_items(hidden, weight, 3, backend=backend)
    found = [(each.device.type, each.dtype, each.shape) for each in (*full, rank, scores, ids)]
    assert found == [
        ("meta", torch.float32, ()),
        ("meta", torch.int64, (5,)),
        ("meta", torch.int64, (5,)),
        ("meta", torch.float32, (5, 3)),
        ("meta", torch.int64, (5, 3)),
    ]
    whole = functional.log_uniform_sample(7, 5, device="meta", backend=backend)
    assert whole.ids.shape == (5,)


def test_autocast_of_another_device_leaves_meta_alone() -> None:
    arguments, options = _on_meta()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert functional.sampled_logits(*arguments, **options).dtype == torch.float32
