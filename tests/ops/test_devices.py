"""The table of operators on ``meta`` and on a GPU; on a GPU also streams, graphs, two devices."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from device_steps import LOSSES, OPTIMIZERS, batch, on, pure_arguments, pure_step, train
from op_table import TABLE, Op, close
from torch import Tensor

from transformers4rec_ext import _native
from transformers4rec_ext.optim import clip_grad_norm_


def outcome(op: Op, arguments: tuple[Any, ...]) -> list[Tensor]:
    """Return what an operator returns, or what it wrote to its arguments."""
    result = op.overload(*arguments)
    if isinstance(result, Tensor):
        return [result]
    if result is not None:
        return list(result)
    writes = [a.alias_info is not None for a in op.overload._schema.arguments]
    written = [a for a, is_out in zip(arguments, writes, strict=True) if is_out]
    if op.name == "topk_tile":
        return _best(*written, k=arguments[4])
    # without gradients a loss leaves the scores and the target's gradient undefined
    return written if "with_grad" not in str(op.overload._schema) or arguments[10] else written[1:2]


def _best(best: Tensor, ids: Tensor, fill: Tensor, threshold: Tensor, *, k: int) -> list[Tensor]:
    """Return the k best of a state, sorted: a kernel may keep more, in an order of its own."""
    if best.device.type != "meta":
        places = torch.arange(best.shape[1], device=best.device)
        best = torch.where(places < fill[:, None], best, -torch.inf)
        ids = torch.where(best == -torch.inf, -1, ids)
    ids, order = ids.sort(dim=1, stable=True)
    best, order = best.gather(1, order).sort(dim=1, descending=True, stable=True)
    return [best[:, :k], ids.gather(1, order)[:, :k]]


@pytest.mark.parametrize("op", TABLE, ids=lambda op: op.name)
def test_meta(op: Op) -> None:
    expected = outcome(op, copy.deepcopy(op.arguments()))
    found = outcome(op, on("meta", op.arguments()))
    assert [(t.shape, t.dtype) for t in found] == [(t.shape, t.dtype) for t in expected]
    assert {t.device.type for t in found} == {"meta"}


@pytest.mark.gpu
@pytest.mark.parametrize("op", TABLE, ids=lambda op: op.name)
def test_cuda_gives_what_the_cpu_gives(op: Op) -> None:
    arguments = op.arguments()
    expected = outcome(op, on("cpu", arguments))
    for a, b in zip(outcome(op, on("cuda", arguments)), expected, strict=True):
        assert a.device.type == "cuda"
        if b.is_floating_point():
            close(a.cpu(), b)
        else:
            assert torch.equal(a.cpu(), b)


@pytest.mark.gpu
def test_every_native_operator_has_its_kernel() -> None:
    assert {op: _native.why_reference(op, "cuda") for op in _native.NATIVE_OPS} == dict.fromkeys(
        _native.NATIVE_OPS, ""
    )


@pytest.fixture
def waiting_is_an_error() -> Iterator[None]:
    """Let torch raise where the host waits for the device."""
    torch.cuda.set_sync_debug_mode("error")
    yield
    torch.cuda.set_sync_debug_mode("default")


@pytest.mark.gpu
@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_training_step_never_waits(
    loss: Callable[..., Tensor],
    optimizer: type[torch.optim.Optimizer],
    request: pytest.FixtureRequest,
) -> None:
    data = batch("cuda")
    rule = optimizer([data[1]], lr=0.1)
    train(loss, rule, *data)  # libraries start, states are made
    request.getfixturevalue("waiting_is_an_error")
    train(loss, rule, *data)


@pytest.mark.gpu
@pytest.mark.parametrize("sparse", [False, True])
def test_clipped_gradients_are_the_cpus(sparse: bool) -> None:
    clipped = {}
    for device in ("cpu", "cuda"):
        table = torch.nn.Embedding.from_pretrained(batch(device)[1].detach(), sparse=sparse)
        table.weight.requires_grad_()
        ids = batch(device)[2]
        (table(ids) ** 2).sum().backward()
        norm = clip_grad_norm_(table.weight, 0.5)
        clipped[device] = norm.cpu(), table.weight.grad.to_dense().cpu()
    for a, b in zip(clipped["cuda"], clipped["cpu"], strict=True):
        close(a, b)


@pytest.mark.gpu
def test_a_graph_replays_the_step() -> None:
    expected = pure_arguments("cuda")
    losses = [pure_step(*expected) for _ in range(3)]
    captured = pure_arguments("cuda")
    weight, state = captured[2], captured[3]
    before = [tensor.clone() for tensor in (weight, *state)]
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        pure_step(*captured)  # warm up, as torch.cuda.graph asks for
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        loss = pure_step(*captured)
    for tensor, value in zip((weight, *state), before, strict=True):
        tensor.copy_(value)
    for wanted in losses:
        graph.replay()
        assert torch.equal(loss, wanted)
    assert torch.equal(weight, expected[2])


@pytest.mark.gpu
def test_the_current_stream_is_used() -> None:
    """What another stream does first comes first: a kernel on the wrong stream would miss it."""
    expected = pure_arguments("cuda")
    pure_step(*expected)
    arguments = pure_arguments("cuda")
    hidden = arguments[1].clone()
    arguments[1].zero_()
    torch.cuda.synchronize()
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        torch.cuda._sleep(50_000_000)
        arguments[1].copy_(hidden)
        pure_step(*arguments)
    torch.cuda.synchronize()
    assert torch.equal(arguments[2], expected[2])


@pytest.mark.gpu
def test_a_tensors_device_is_used_and_the_current_one_kept() -> None:
    if torch.cuda.device_count() < 2:
        pytest.skip("needs two CUDA devices")
    first, second = pure_arguments("cuda:0"), pure_arguments("cuda:1")
    with torch.cuda.device(0):
        pure_step(*second)
        assert torch.cuda.current_device() == 0
        pure_step(*first)
    assert torch.equal(first[2].cpu(), second[2].cpu())
