"""The emulation finds what is planted in small kernels, and lets them pass where nothing is."""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable
from pathlib import Path
from typing import Any

import emulated
import pytest
import torch

HERE = Path(__file__).resolve().parent
PLANTED, GROUND = HERE / "planted.cu", HERE / "ground.cu"
# in planted.cu's order
BUGS = [
    "none",
    "missing barrier",
    "missing second barrier",
    "one column too far",
    "shared overflow",
    "divergent barrier",
    "two barriers",
    "early return",
    "missing syncwarp",
    "lanes leave",
    "lane out of mask",
    "warp order",
    "non-atomic counter",
    "block order",
    "race between blocks",
    "read beside atomics",
    "uninitialised",
    "misaligned",
    "global store",
    "local array",
    "local pointer",
    "local of another",
    "waits",
    "writes const",
]
Kernel = Callable[[Any, int], bool]


def _ramp(*shape: int) -> torch.Tensor:
    return torch.arange(float(torch.Size(shape).numel())).reshape(shape)


def _reverse(lib: Any, bug: int) -> bool:
    x, out = _ramp(4, 96), torch.zeros(4, 96)
    lib.t4r_reverse_cuda(x, out, blocks=4, threads=96, bug=bug)
    return torch.equal(out, x.flip(1))


def _tiles(lib: Any, bug: int) -> bool:
    x, out = _ramp(3, 96), torch.zeros(96)
    lib.t4r_tiles_cuda(x, 3, out, threads=96, bug=bug)
    return torch.equal(out, x.flip(1).sum(0))


def _columns(lib: Any, bug: int) -> bool:
    out = torch.zeros(5, 33)
    lib.t4r_columns_cuda(out, rows=5, width=33, bug=bug)
    return torch.equal(out, torch.outer(torch.arange(5.0), torch.arange(33.0)))


def _shared(lib: Any, bug: int) -> bool:
    out = torch.zeros(100)
    lib.t4r_shared_cuda(out, 100, bug=bug)
    return torch.equal(out, _ramp(100))


def _half(lib: Any, bug: int) -> bool:
    x, out = _ramp(128), torch.zeros(64)
    lib.t4r_half_cuda(x, out, threads=128, bug=bug)
    return torch.equal(out, x[:64].view(-1, 2).sum(1).repeat_interleave(2))


def _neighbours(lib: Any, bug: int) -> bool:
    x, out = _ramp(64), torch.zeros(64)
    lib.t4r_neighbours_cuda(x, out, threads=64, bug=bug)
    return torch.equal(out, x.view(-1, 2).flip(1).flatten())


def _warps(lib: Any, bug: int) -> bool:
    x, out = _ramp(64), torch.zeros(2)
    lib.t4r_warps_cuda(x, out, threads=64, bug=bug)
    return torch.equal(out, x.view(2, 32).sum(1))


def _last_warp(lib: Any, bug: int) -> bool:
    out = torch.zeros(1, dtype=torch.int32)
    lib.t4r_last_warp_cuda(out, threads=256, bug=bug)
    return out.tolist() == [7]


def _count(lib: Any, bug: int) -> bool:
    count, last = (torch.full((1,), -1, dtype=torch.int32) for _ in range(2))
    lib.t4r_count_cuda(count, last, blocks=5, threads=64, bug=bug)
    return (count.item(), last.item()) == (320, 4)


def _cleared(lib: Any, bug: int) -> bool:
    out = torch.zeros(40)
    lib.t4r_cleared_cuda(out, threads=40, bug=bug)
    return torch.equal(out, 1 + _ramp(40))


def _packs(lib: Any, bug: int) -> bool:
    x, out = _ramp(101)[1:], torch.zeros(101)[1:]
    lib.t4r_packs_cuda(x, out, 100, bug=bug)
    return torch.equal(out, x)


def _locals(lib: Any, bug: int) -> bool:
    out = torch.zeros(32)
    lib.t4r_locals_cuda(out, bug=bug)
    return torch.equal(out, 3 * _ramp(32) + 3)


def _one(lib: Any, bug: int) -> bool:
    x, out, ready = torch.ones(1), torch.zeros(1), torch.zeros(1, dtype=torch.int32)
    lib.t4r_one_cuda(x, out, ready, bug=bug)
    return out.item() == 1


KERNELS = [
    _reverse,
    _tiles,
    _columns,
    _shared,
    _half,
    _neighbours,
    _warps,
    _last_warp,
    _count,
    _cleared,
    _packs,
    _locals,
    _one,
]
PLAIN, RACE, ASAN = ("plain",), ("race",), ("asan",)
CHECKED = (*RACE, *ASAN)
ALL = (*PLAIN, *CHECKED)
# the kernel, what the report says, and in which builds there is one, whatever the order
FOUND = [
    ("missing barrier", _reverse, "race: it .* shared memory|nobody has written", RACE),
    ("missing second barrier", _tiles, "race: it (reads|writes) .*shared memory", RACE),
    ("one column too far", _columns, "wrote out of bounds: at out \\+660", PLAIN),
    ("one column too far", _columns, "race: it writes out|out of bounds: it writes", RACE),
    ("one column too far", _columns, "out of bounds: it writes 4 bytes at out \\+ 660", ASAN),
    ("shared overflow", _shared, "writes 4 bytes at shared memory \\+400.* has 400", CHECKED),
    ("divergent barrier", _half, "deadlock.*\n.*64-127 ended\n.*0-63 wait at __sync", ALL),
    ("two barriers", _half, "divergent barrier in half_kernel", ALL),
    ("early return", _half, "deadlock.*\n.*64-127 ended\n.*0-63 wait at __sync", ALL),
    ("missing syncwarp", _neighbours, "race: .*shared memory|nobody has written", RACE),
    ("lanes leave", _warps, "deadlock.*\n.*30-31.*ended\n.*0-29.*wait at __shfl_xor", ALL),
    ("lane out of mask", _warps, "reads from lane 20, which is not in the mask 0xffff", ALL),
    ("non-atomic counter", _count, "race: it (reads|writes) count", RACE),
    ("race between blocks", _count, "race: it writes last \\+ 0 at planted.cu", RACE),
    ("read beside atomics", _count, "race: it .* last", RACE),
    ("uninitialised", _cleared, "reads shared memory \\+ .*, which nobody has written", RACE),
    ("misaligned", _packs, "misaligned: .*pack.cuh", CHECKED),
    ("global store", _packs, "it stores to global memory at shared memory \\+ ", ALL),
    ("local array", _locals, "out of bounds: an index exceeds a local array", CHECKED),
    ("local pointer", _locals, "out of bounds: it reads 4 bytes beside a local array", ASAN),
    ("local of another", _locals, "it reads the local memory of another thread", CHECKED),
    ("writes const", _one, "it writes to x, which is const", CHECKED),
]


@pytest.mark.parametrize("kernel", KERNELS)
@emulated.every_run
def test_a_right_kernel_passes(run: emulated.Run, kernel: Kernel) -> None:
    assert kernel(emulated.library(PLANTED, run), BUGS.index("none"))


@pytest.mark.parametrize(("bug", "kernel", "report", "modes"), FOUND)
@emulated.every_run
def test_a_planted_bug_is_reported(
    run: emulated.Run, bug: str, kernel: Kernel, report: str, modes: tuple[str, ...]
) -> None:
    if run.mode not in modes:
        return
    with pytest.raises(emulated.KernelError, match=report):
        kernel(emulated.library(PLANTED, run), BUGS.index(bug))


@pytest.mark.parametrize("mode", ["plain", "race", "asan"])
def test_waiting_for_another_thread_in_a_loop_is_reported(mode: str) -> None:
    with pytest.raises(emulated.KernelError, match="waits for another thread in a loop"):
        _one(emulated.library(PLANTED, emulated.Run(mode, "forward")), BUGS.index("waits"))


# What is no race and yet depends on the order, or is not looked for in the plain build: some order
# gives a wrong result.
@pytest.mark.parametrize(
    ("bug", "kernel"),
    [
        ("missing barrier", _reverse),
        ("missing second barrier", _tiles),
        ("missing syncwarp", _neighbours),
        ("warp order", _last_warp),
        ("block order", _count),
        ("uninitialised", _cleared),
    ],
)
def test_some_order_shows_a_wrong_result(bug: str, kernel: Kernel) -> None:
    plain = [run for run in emulated.RUNS if run.mode == "plain"]
    right = [kernel(emulated.library(PLANTED, run), BUGS.index(bug)) for run in plain]
    assert not all(right)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("threads", [32, 64, 96, 256, 1024])
@emulated.every_run
def test_reductions(run: emulated.Run, threads: int, dtype: torch.dtype) -> None:
    x = torch.randint(-999, 999, (2, threads)).to(dtype)
    sums, largest, before, totals = (torch.zeros_like(x) for _ in range(4))
    code = [torch.float32, torch.float64].index(dtype)
    emulated.library(GROUND, run).t4r_reductions_cuda(
        x, sums, largest, before, totals, code, blocks=2, threads=threads
    )
    total = x.sum(1, keepdim=True).expand_as(x)
    assert torch.equal(sums, total)
    assert torch.equal(totals, total)
    assert torch.equal(largest, x.amax(1, keepdim=True).expand_as(x))
    assert torch.equal(before, x.cumsum(1) - x)


@pytest.mark.parametrize(("by", "width"), [(0, 32), (1, 32), (5, 8), (16, 32), (3, 4), (9, 8)])
@emulated.every_run
def test_warp_collectives(run: emulated.Run, by: int, width: int) -> None:
    x, out = torch.randint(0, 99, (64,)).double(), torch.zeros(6, 64, dtype=torch.float64)
    emulated.library(GROUND, run).t4r_collectives_cuda(x, by, width, out, threads=64)
    lane = torch.arange(64)
    group = lane // width * width
    up, down = lane - by, lane + by
    flipped = (lane % 32 ^ by) + lane // 32 * 32
    sources = [
        group + by % width,
        torch.where(flipped < group + width, flipped, lane),
        torch.where(up >= group, up, lane),
        torch.where(down < group + width, down, lane),
    ]
    assert torch.equal(out[:4], torch.stack([x[source] for source in sources]))
    odd = (x.view(2, 32)[:, :16] % 2).bool()
    first = torch.where(odd.any(1), odd.int().argmax(1) + 1, 0)
    expected = torch.zeros(2, 32, dtype=torch.float64)
    expected[:, :16] = (odd.sum(1) + 0.5 * first)[:, None]
    assert torch.equal(out[4], expected.flatten())
    assert torch.equal(out[5], (x % 2).sum().expand(64))


@emulated.every_run
def test_atomics(run: emulated.Run) -> None:
    x = torch.randint(0, 99, (3, 64), dtype=torch.int32)
    out = torch.tensor([0, 1000, -1000, 0, 0, -1], dtype=torch.int32)
    emulated.library(GROUND, run).t4r_atomics_cuda(x, out, blocks=3, threads=64)
    union = functools.reduce(operator.or_, x.flatten().tolist())
    assert out[:5].tolist() == [x.sum(), x.min(), x.max(), union, 1]
    assert out[5] in x


@pytest.mark.parametrize("offset", [0, 1])
@pytest.mark.parametrize("width", [1, 16, 33, 128])
@pytest.mark.parametrize(
    "dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16], ids=str
)
@emulated.every_run
def test_packs(run: emulated.Run, dtype: torch.dtype, width: int, offset: int) -> None:
    x = torch.randn(3, width + 16).to(dtype)[:, offset : offset + width]
    out, packs = torch.zeros(3, width, dtype=dtype), torch.zeros(1, dtype=torch.int32)
    code = [torch.float32, torch.float64, torch.float16, torch.bfloat16].index(dtype)
    lib = emulated.library(GROUND, run)
    lib.t4r_copy_cuda(x, x.stride(0), out, out.stride(0), 3, width, packs, code)
    assert torch.equal(out, x)
    in_packs = (x.stride(0) * x.element_size()) % 16 == 0 and width in (16, 128)
    assert packs.item() == (in_packs and offset == 0)


def test_an_unknown_dtype_is_a_bad_argument() -> None:
    with pytest.raises(emulated.LaunchError) as caught:
        emulated.library(GROUND).t4r_copy_cuda(None, 0, None, 0, 1, 1, None, dtype=4)
    assert caught.value.status == 1  # cudaErrorInvalidValue


@pytest.mark.parametrize(
    ("blocks", "threads", "shared", "allowed", "status"),
    [
        (0, 32, 0, 0, 9),
        (1, 0, 0, 0, 9),
        (1, 1025, 0, 0, 9),
        (1, 32, 48 * 1024 + 4, 0, 9),
        (1, 32, 227 * 1024 + 4, 227 * 1024 + 4, 1),
    ],
)
def test_launches_that_cannot_start(
    blocks: int, threads: int, shared: int, allowed: int, status: int
) -> None:
    chosen = torch.zeros(1, dtype=torch.int32)
    with pytest.raises(emulated.LaunchError) as caught:
        emulated.library(GROUND).t4r_launch_cuda(chosen, blocks, threads, shared, allowed)
    assert caught.value.status == status


def test_the_largest_launch_starts_on_the_device_it_names() -> None:
    chosen = torch.full((1,), -1, dtype=torch.int32)
    lib = emulated.library(GROUND)
    lib.t4r_launch_cuda(chosen, 2, 1024, 227 * 1024, 227 * 1024, device=1)
    assert chosen.item() == 1
    assert lib.current_device() == 0
    with pytest.raises(emulated.LaunchError) as caught:
        lib.t4r_launch_cuda(chosen, 1, 32, 0, 0, device=2)
    assert caught.value.status == 101


def test_a_device_with_less_shared_memory() -> None:
    chosen = torch.zeros(1, dtype=torch.int32)
    lib = emulated.library(GROUND)
    with emulated.most_shared(64 * 1024):
        lib.t4r_launch_cuda(chosen, 1, 32, 64 * 1024, 64 * 1024)
        with pytest.raises(emulated.LaunchError):
            lib.t4r_launch_cuda(chosen, 1, 32, 64 * 1024 + 4, 64 * 1024 + 4)


def test_whoever_allows_shared_memory_allows_all_of_it() -> None:
    """Two threads may start one kernel: what one is about to use the other does not forbid."""
    chosen = torch.zeros(1, dtype=torch.int32)
    emulated.library(GROUND).t4r_launch_cuda(chosen, 1, 32, 227 * 1024, 60 * 1024)


def test_arguments_are_checked() -> None:
    lib = emulated.library(PLANTED)
    with pytest.raises(TypeError, match=r"t4r_locals_cuda takes \(out, bug, stream\)"):
        lib.t4r_locals_cuda(torch.zeros(32))
    with pytest.raises(TypeError, match=r"out is float\*; got torch.float64"):
        lib.t4r_locals_cuda(torch.zeros(32, dtype=torch.float64), 0)
    with pytest.raises(AttributeError, match="no launcher 't4r_missing_cuda'"):
        lib.t4r_missing_cuda()
