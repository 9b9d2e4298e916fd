"""The lazy optimizers' CUDA kernels, run on the CPU, against the CPU kernels and the reference."""

from __future__ import annotations

import emulated
import pytest
import torch
from torch import Tensor

from transformers4rec_ext.ops import reference
from transformers4rec_ext.ops.schemas import operators

CODES = {torch.float32: 0, torch.float64: 1, torch.float16: 2, torch.bfloat16: 3}
WIDE = {torch.float64: torch.float64}
ADAM = {"lr": 0.01, "beta1": 0.9, "beta2": 0.99, "eps": 1e-8, "weight_decay": 0.1}
ADAGRAD = {"lr": 0.1, "eps": 1e-10, "weight_decay": 0.0}
every_dtype = pytest.mark.parametrize("dtype", CODES, ids=str)


def _gradient(
    num_rows: int, width: int, ids: list[int], dtype: torch.dtype
) -> tuple[Tensor, Tensor, Tensor]:
    """Return a table, ids and values."""
    generator = torch.Generator().manual_seed(17 * width + len(ids))
    weight = torch.randn(num_rows, width, generator=generator, dtype=torch.float64)
    values = torch.randn(len(ids), width, generator=generator, dtype=torch.float64)
    return weight.to(dtype), torch.tensor(ids, dtype=torch.int64), values.to(dtype)


def _state(weight: Tensor, rowwise: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Return first and second moments and steps, as after some updates."""
    generator = torch.Generator().manual_seed(3)
    wide = WIDE.get(weight.dtype, torch.float32)
    first = torch.randn(weight.shape, generator=generator, dtype=wide)
    second = torch.rand(weight.shape[:1] if rowwise else weight.shape, generator=generator)
    steps = torch.randint(0, 50, weight.shape[:1], generator=generator, dtype=torch.int32)
    return first, second.to(wide), steps


def _parts(values: Tensor) -> Tensor:
    """Return the room for sums of parts of runs; NaN, so that one which nobody made is seen."""
    rows = (max(values.shape[0], 1) - 1) // 32
    dtype = WIDE.get(values.dtype, torch.float32)
    return torch.full((rows, values.shape[1]), torch.nan, dtype=dtype)


def _adam(
    run: emulated.Run, weight: Tensor, ids: Tensor, values: Tensor, rowwise: bool
) -> tuple[list[Tensor], list[Tensor]]:
    """Return weight and state after the kernel's update, and after the CPU operator's."""
    order = ids.sort(stable=True)
    first, second, steps = _state(weight, rowwise)
    mine = [tensor.clone() for tensor in (weight, first, second, steps)]
    emulated.library("rows", run).t4r_adam_rows_cuda(
        *mine,
        order.values,
        order.indices,
        values,
        _parts(values),
        ids.numel(),
        *weight.shape,
        rowwise,
        **ADAM,
        dtype=CODES[weight.dtype],
    )
    theirs = [tensor.clone() for tensor in (weight, first, second, steps)]
    operators.adam_rows(*theirs, ids, values, *ADAM.values())
    return mine, theirs


def _adagrad(
    run: emulated.Run,
    weight: Tensor,
    ids: Tensor,
    values: Tensor,
    rowwise: bool,
    decay: float = 0.0,
) -> tuple[list[Tensor], list[Tensor]]:
    order = ids.sort(stable=True)
    options = {**ADAGRAD, "weight_decay": decay}
    _, second, _ = _state(weight, rowwise)
    mine = [weight.clone(), second.clone()]
    emulated.library("rows", run).t4r_adagrad_rows_cuda(
        *mine,
        order.values,
        order.indices,
        values,
        _parts(values),
        ids.numel(),
        *weight.shape,
        rowwise,
        **options,
        dtype=CODES[weight.dtype],
    )
    theirs = [weight.clone(), second.clone()]
    operators.adagrad_rows(*theirs, ids, values, *options.values())
    return mine, theirs


def _assert_close(mine: list[Tensor], theirs: list[Tensor]) -> None:
    """Row-wise moments are summed in another order than on the CPU."""
    for ours, expected in zip(mine, theirs, strict=True):
        wide = torch.finfo(ours.dtype).eps if ours.is_floating_point() else 0.0
        torch.testing.assert_close(ours, expected, rtol=8 * wide, atol=8 * wide)


IDS = [5, 2, 5, 0, 9, 2, 5, 5, 5, 5, 7, 5, 1, 5]  # runs of 1, 2 and 8


@emulated.every_run
@every_dtype
@pytest.mark.parametrize("width", [64, 33])
def test_full_moments_have_the_cpus_bits(run: emulated.Run, dtype: torch.dtype, width: int) -> None:
    arguments = (run, *_gradient(10, width, IDS, dtype), False)
    for update in (_adam, _adagrad):
        for ours, expected in zip(*update(*arguments), strict=True):
            assert torch.equal(ours, expected)


@emulated.every_run
@every_dtype
@pytest.mark.parametrize("width", [48, 7])
def test_row_wise_moments(run: emulated.Run, dtype: torch.dtype, width: int) -> None:
    arguments = (run, *_gradient(10, width, IDS, dtype), True)
    _assert_close(*_adam(*arguments))
    _assert_close(*_adagrad(*arguments))


@pytest.mark.parametrize("width", [1, 2, 3, 4, 8, 31, 32, 127, 128, 129, 512])
@pytest.mark.parametrize("rowwise", [False, True])
def test_widths(width: int, rowwise: bool) -> None:
    run = emulated.RUNS[-1]
    weight, ids, values = _gradient(12, width, [11, 0, 3, 3, 8], torch.float32)
    _assert_close(*_adam(run, weight, ids, values, rowwise))
    _assert_close(*_adagrad(run, weight, ids, values, rowwise, decay=0.1))


@pytest.mark.parametrize("size", [0, 1, 31, 33, 129, 300])
def test_sizes(size: int) -> None:
    generator = torch.Generator().manual_seed(size)
    ids = torch.randint(0, 40, (size,), generator=generator).tolist()
    for run in (emulated.RUNS[2], emulated.RUNS[-1]):
        mine, theirs = _adam(run, *_gradient(40, 16, ids, torch.float32), False)
        assert all(map(torch.equal, mine, theirs))


@emulated.every_run
@every_dtype
@pytest.mark.parametrize("width", [16, 3])  # by 16 bytes, and by one element
def test_runs_of_many_parts(run: emulated.Run, dtype: torch.dtype, width: int) -> None:
    """The coalescing is by parts of 32 rows, in order: sums of hundreds to the CPU's bits."""
    ids = torch.tensor([1] * 200 + [2] * 33 + [3] * 31 + [5] * 32 + [7] * 97 + [8] + [9] * 64)
    shuffled = ids[torch.randperm(len(ids), generator=torch.Generator().manual_seed(2))]
    arguments = _gradient(10, width, shuffled.tolist(), dtype)
    mine, theirs = _adam(run, *arguments, False)
    assert all(map(torch.equal, mine, theirs))
    assert torch.equal(mine[0][0], arguments[0][0])
    _assert_close(*_adagrad(run, *arguments, True))


@pytest.mark.parametrize("before", [0, 1, 15, 31, 32, 33, 63])
@pytest.mark.parametrize("length", [31, 32, 33, 63, 64, 65, 96, 97])
def test_where_a_run_lies_does_not_change_its_sum(before: int, length: int) -> None:
    """A part begins where its run does, whatever else the batch holds."""
    weight, ids, values = _gradient(100, 4, [*range(before), *[99] * length], torch.float32)
    alone, _ = _adam(emulated.RUNS[0], weight, ids[before:], values[before:], False)
    mine, theirs = _adam(emulated.RUNS[-1], weight, ids, values, False)
    assert all(map(torch.equal, mine, theirs))
    assert all(torch.equal(tensor[99], same[99]) for tensor, same in zip(mine, alone, strict=True))


def _off(tensor: Tensor) -> Tensor:
    """Return a copy that begins 4 bytes off, so that nothing can be read 16 bytes at a time."""
    off = torch.zeros(tensor.numel() + 1)[1:].view_as(tensor).copy_(tensor)
    assert off.data_ptr() % 16 != 0
    return off


@emulated.every_run
@pytest.mark.parametrize("unaligned", ["all", "weight", "exp_avg", "exp_avg_sq", "values"])
def test_unaligned_tensors(run: emulated.Run, unaligned: str) -> None:
    weight, ids, values = _gradient(10, 16, IDS, torch.float32)
    first, second, steps = _state(weight, False)
    order = ids.sort(stable=True)
    rows = emulated.library("rows", run)
    tensors = {"weight": weight, "exp_avg": first, "exp_avg_sq": second, "values": values}
    mine = {
        name: _off(tensor) if unaligned in ("all", name) else tensor.clone()
        for name, tensor in tensors.items()
    }
    of = {"ids": order.values, "positions": order.indices, "size": 14, "num_rows": 10, "width": 16}
    of["parts"] = None
    rows.t4r_adam_rows_cuda(**mine, **of, steps=steps.clone(), rowwise=False, **ADAM, dtype=0)
    operators.adam_rows(weight, first, second, steps, ids, values, *ADAM.values())
    assert all(torch.equal(mine[name], tensor) for name, tensor in tensors.items())
    # the same tensors serve Adagrad, whose state is the second moment
    mine["square_sum"] = mine.pop("exp_avg_sq")
    del mine["exp_avg"]
    rows.t4r_adagrad_rows_cuda(**mine, **of, rowwise=False, **ADAGRAD, dtype=0)
    operators.adagrad_rows(weight, second, ids, values, *ADAGRAD.values())
    assert torch.equal(mine["weight"], weight)
    assert torch.equal(mine["square_sum"], second)


def test_ids_outside_the_table_are_passed_over() -> None:
    weight, ids, values = _gradient(4, 8, [-1, 3, 4, -1, 2**40], torch.float32)
    expected = [weight.clone(), torch.zeros(4, 8)]
    mine = [tensor.clone() for tensor in expected]
    order = ids.sort(stable=True)
    emulated.library("rows", emulated.RUNS[-1]).t4r_adagrad_rows_cuda(
        *mine, order.values, order.indices, values, None, 5, 4, 8, False, **ADAGRAD, dtype=0
    )
    reference.adagrad_rows(*expected, ids[1:2], values[1:2], *ADAGRAD.values())
    _assert_close(mine, expected)
    assert torch.equal(mine[0][:3], weight[:3])


def test_long_runs_outside_the_table_are_passed_over() -> None:
    weight, ids, values = _gradient(4, 8, [*[-1] * 70, 3, *[4] * 70, *[3] * 40], torch.float32)
    expected = [weight.clone(), torch.zeros(4, 8)]
    mine = [tensor.clone() for tensor in expected]
    order = ids.sort(stable=True)
    parts = _parts(values)
    emulated.library("rows", emulated.RUNS[-1]).t4r_adagrad_rows_cuda(
        *mine, order.values, order.indices, values, parts, len(ids), 4, 8, False, **ADAGRAD, dtype=0
    )
    inside = ids == 3
    reference.adagrad_rows(*expected, ids[inside], values[inside], *ADAGRAD.values())
    _assert_close(mine, expected)
    assert parts.isfinite().any(1).sum() == 1  # of the 41 rows, 9 are a second part


def test_nan_and_infinity_stay_in_their_rows() -> None:
    weight, ids, values = _gradient(6, 8, [1, 3], torch.float32)
    values[0, 2], values[1, 5] = torch.nan, torch.inf
    mine, theirs = _adam(emulated.RUNS[-1], weight, ids, values, False)
    for ours, expected in zip(mine, theirs, strict=True):
        torch.testing.assert_close(ours, expected, rtol=0, atol=0, equal_nan=True)
    assert mine[0].isnan().sum() == 2


def test_the_device_is_chosen_and_restored() -> None:
    rows = emulated.library("rows")
    weight, ids, values = _gradient(4, 8, [1], torch.float32)
    state = torch.zeros(4, 8)
    rows.t4r_adagrad_rows_cuda(
        weight, state, ids, ids * 0, values, None, 1, 4, 8, False, **ADAGRAD, dtype=0, device=1
    )
    assert rows.current_device() == 0
    with pytest.raises(emulated.LaunchError):
        rows.t4r_adagrad_rows_cuda(
            weight, state, ids, ids * 0, values, None, 1, 4, 8, False, **ADAGRAD, dtype=0, device=7
        )
    # The error went with the call: the runtime keeps one until it is asked for.
    rows.t4r_adagrad_rows_cuda(
        weight, state, ids, ids * 0, values, None, 1, 4, 8, False, **ADAGRAD, dtype=0, device=0
    )


def test_an_unknown_dtype_is_an_error() -> None:
    weight, ids, values = _gradient(4, 8, [1], torch.float32)
    with pytest.raises(emulated.LaunchError, match="cudaError 1"):
        emulated.library("rows").t4r_adagrad_rows_cuda(
            weight, weight * 0, ids, ids * 0, values, None, 1, 4, 8, False, **ADAGRAD, dtype=9
        )
