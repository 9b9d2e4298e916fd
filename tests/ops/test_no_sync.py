"""A training step on a GPU never waits for it: proved where there is none.

Fake tensors that say they are on ``cuda`` and tensors on ``meta`` have no values: whoever looks at
one (``.item()``, ``if tensor``, a shape that depends on values) raises. The former serve where an
operator is one call; a CPU build of torch cannot slice or differentiate them, so that the loops
over tiles and whole steps run on meta. The kernels answer with their fakes; what they themselves
may call is read from their source.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from device_steps import ITEMS, LOSSES, OPTIMIZERS, batch, on, pure_arguments, pure_step, train
from op_table import OPS, TABLE, Inputs, Op
from torch import Tensor
from torch._subclasses.fake_tensor import DynamicOutputShapeException, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from transformers4rec_ext import functional, samplers
from transformers4rec_ext.ops import reference
from transformers4rec_ext.ops.tiles import full, ranking, sampled
from transformers4rec_ext.ranks import ranking_metrics_from_rank

CSRC = Path(__file__).resolve().parent.parent.parent / "csrc"
CUDA = torch.device("cuda:0")


def faked(arguments: tuple[Any, ...]) -> tuple[Any, ...]:
    """Return tensors of the same shapes and dtypes on the GPU that is not there."""
    return tuple(
        torch.empty(a.shape, dtype=a.dtype, device=CUDA) if isinstance(a, Tensor) else a
        for a in arguments
    )


@pytest.mark.parametrize("op", TABLE, ids=lambda op: op.name)
def test_shapes_depend_on_no_value(op: Op) -> None:
    arguments = op.arguments()
    real = op.overload(*op.arguments())
    with FakeTensorMode(), torch.no_grad():
        result = op.overload(*faked(arguments))
    for a, b in zip(tensors(result), tensors(real), strict=True):
        assert (a.shape, a.dtype, a.device) == (b.shape, b.dtype, CUDA)


def tensors(result: Any) -> list[Tensor]:
    if isinstance(result, Tensor):
        return [result]
    return [] if result is None else list(result)


def _inputs(*more: Any) -> tuple[Any, ...]:
    return on("meta", (*Inputs.make(dtype=torch.float32).all(), 0.7, True, *more))


def _items() -> tuple[Any, ...]:
    hidden, weight, targets = torch.empty(1500, 4), torch.empty(ITEMS, 4), torch.zeros(1500).long()
    return on("meta", (hidden, weight, torch.empty(ITEMS), targets))


def _cross_entropy_backward() -> Any:
    options = (0.7, -100, 0.1, True)
    _, maximum, total, _, kept = full.linear_cross_entropy(*_items(), *options, 0, True)
    row_grad = torch.empty(1500, device="meta")
    arguments = (*_items(), maximum, total, kept, *options, True)
    return full.linear_cross_entropy_backward(row_grad, *arguments)


def _ranking(run: Callable[..., Any], *first: Any) -> Any:
    hidden, weight, bias, targets = _items()
    exclude = torch.zeros(1500, 3, dtype=torch.int64, device="meta")
    return run(hidden, weight, *(first or (targets,)), bias, exclude, 0)


BETA = torch.tensor(0.4)
TILE_LOOPS: dict[str, Callable[[], Any]] = {
    "sampled_softmax": lambda: sampled.sampled_loss(
        OPS.sampled_softmax_tile, *_inputs(False), with_grad=True
    ),
    "sampled_bce": lambda: sampled.sampled_loss(
        OPS.sampled_bce_tile, *_inputs(BETA), with_grad=True
    ),
    "sampled_logits": lambda: sampled.sampled_logits(*_inputs()),
    "sampled_logits_backward": lambda: sampled.sampled_logits_backward(
        torch.empty(5, 8, device="meta"), *_inputs()[:4], 0.7, True
    ),
    "linear_cross_entropy_backward": _cross_entropy_backward,
    "target_rank": lambda: _ranking(ranking.target_rank),
    "topk_items": lambda: _ranking(ranking.topk_items, 4),
    "a whole step": lambda: pure_step(*pure_arguments("meta")),
}


@pytest.mark.parametrize("name", TILE_LOOPS)
def test_the_loops_over_tiles_look_at_no_value(name: str) -> None:
    for tensor in tensors(TILE_LOOPS[name]()):
        assert tensor.device.type == "meta"


COUNTS = torch.arange(ITEMS)
UNIFORM = samplers.UniformSampler(20, ITEMS, 1)
SAMPLERS = {
    "log-uniform": samplers.LogUniformSampler(20, ITEMS, 1),
    "uniform": UNIFORM,
    "with repetitions": samplers.UniformSampler(20, ITEMS, 1, unique_sampling=False),
    "popularity": samplers.PopularitySampler(20, COUNTS, 1),
    "in-batch": samplers.InBatchSampler(COUNTS, 1),
    "mixed": samplers.MixedSampler([UNIFORM, samplers.InBatchSampler(COUNTS, 1)]),
}


@pytest.mark.parametrize("name", SAMPLERS)
def test_samplers_look_at_no_value(name: str, request: pytest.FixtureRequest) -> None:
    sampler = copy.deepcopy(SAMPLERS[name]).to("meta")
    targets = torch.ones(7, dtype=torch.int64, device="meta")
    request.getfixturevalue("no_host_data")
    candidates, log_q = sampler.draw(targets)
    assert candidates.ids.device.type == log_q.device.type == "meta"


class NoHostData(TorchDispatchMode):
    """Raises where values come from the host, which waits for the copy too."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        devices = {arg.device.type for arg in args if isinstance(arg, Tensor) and arg.dim()}
        assert not (devices == {"cpu"} and tensors(result)[0].device.type == "meta"), func
        return result


@pytest.fixture
def no_host_data(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let every way from Python's numbers or the host's tensors to the device raise."""
    make = torch.tensor

    def checked(data: Any, **options: Any) -> Tensor:
        assert torch.device(options.get("device") or "cpu").type == "cpu", "torch.tensor copies"
        return make(data, **options)

    monkeypatch.setattr(torch, "tensor", checked)
    with NoHostData():
        yield


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_training_step_looks_at_no_value(
    loss: Callable[..., Tensor],
    optimizer: type[torch.optim.Optimizer],
    request: pytest.FixtureRequest,
) -> None:
    data = batch("meta")
    request.getfixturevalue("no_host_data")
    train(loss, optimizer([data[1]], lr=0.1), *data)
    assert data[0].grad is not None


@pytest.mark.parametrize("name", ["sampled_softmax_loss", "sampled_bce_loss"])
def test_a_dense_gradient_looks_at_no_value(name: str, request: pytest.FixtureRequest) -> None:
    hidden, weight, targets = batch("meta")
    request.getfixturevalue("no_host_data")
    loss = getattr(functional, name)(hidden, weight, targets, torch.arange(9, device="meta"))
    loss.backward()
    assert weight.grad is not None
    assert weight.grad.shape == weight.shape
    assert not weight.grad.is_sparse


@pytest.mark.usefixtures("no_host_data")
def test_metrics_of_ranks_copy_nothing() -> None:
    ranks = torch.ones(3, dtype=torch.int64, device="meta")
    found = ranking_metrics_from_rank(ranks, [5, 10])
    assert {values.shape for values in found.values()} == {(3, 2)}


@pytest.mark.usefixtures("no_host_data")
def test_log_q_of_known_tries_copies_nothing() -> None:
    ids = torch.ones(3, dtype=torch.int64, device="meta")
    assert functional.log_uniform_log_q(ids, 10, num_tries=4).shape == (3,)


@pytest.mark.usefixtures("no_host_data")
def test_a_copy_is_noticed() -> None:
    with pytest.raises(AssertionError, match=r"torch\.tensor copies"):
        torch.tensor(3, device="meta")
    with pytest.raises(AssertionError, match="_to_copy"):
        torch.ones(3).to("meta")


def test_a_look_is_noticed() -> None:
    """The formulas wait for the number of distinct ids; so a kernel is what takes that away."""
    seed = torch.tensor(1)
    with FakeTensorMode() as mode, pytest.raises(DynamicOutputShapeException):
        reference.log_uniform_sample(mode.from_tensor(seed), 20, ITEMS, 1, True)
    with pytest.raises(NotImplementedError, match="aten::_unique2"):
        reference.log_uniform_sample(seed.to("meta"), 20, ITEMS, 1, True)


# What a launcher may ask of the CUDA runtime: nothing that waits, copies or allocates.
RUNTIME = {
    "cudaDeviceGetAttribute",
    "cudaDevAttrMaxSharedMemoryPerBlockOptin",
    "cudaError_t",
    "cudaFuncAttributeMaxDynamicSharedMemorySize",
    "cudaFuncSetAttribute",
    "cudaGetDevice",
    "cudaGetLastError",
    "cudaMemsetAsync",
    "cudaSetDevice",
    "cudaStream_t",
    "cudaSuccess",
}
# What a binding may call of torch: operators that give a shape known before.
OPERATORS = {"aten::sort", "aten::zero_", "aten::fill_", "aten::copy_", "aten::empty"}


def _code(path: Path) -> str:
    return re.sub(r"//.*", "", path.read_text())


@pytest.mark.parametrize("path", sorted((CSRC / "cuda").glob("*")), ids=lambda path: path.name)
def test_launchers_ask_nothing_of_the_runtime_that_waits(path: Path) -> None:
    assert set(re.findall(r"\bcuda[A-Z]\w+", _code(path))) <= RUNTIME


@pytest.mark.parametrize("path", sorted(CSRC.glob("bind_*cuda*")), ids=lambda path: path.name)
def test_bindings_call_nothing_of_torch_that_waits(path: Path) -> None:
    code = _code(path)
    assert set(re.findall(r'"(aten::\w+)"', code)) <= OPERATORS
    assert not re.findall(r"\bcuda[A-Z]\w+\(", code)
