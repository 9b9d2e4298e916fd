"""Huge pages: values and addresses stay, only whole pages of large tensors are spoken of.

And what is free goes back to the system.
"""

from __future__ import annotations

import copy
import mmap
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from transformers4rec_ext import _memory
from transformers4rec_ext.optim import LazyAdam

CPU = torch.device("cpu")
LARGE = (5000, 1000)  # 20 MB of float32
HUGEPAGE, COLLAPSE = 14, 25
Advice = list[tuple[int, int, int]]


@pytest.fixture
def advice(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Advice:
    """Record (address, length, advice) instead of giving it."""
    given: Advice = []

    class Library:
        @staticmethod
        def madvise(address: Any, length: Any, what: Any) -> None:
            given.append((address.value, length.value, what.value))

    setting = tmp_path / "enabled"
    setting.write_text("always [madvise] never\n")
    monkeypatch.setattr(_memory, "_SETTING", setting)
    monkeypatch.setattr(_memory.sys, "platform", "linux")
    monkeypatch.setattr(_memory.ctypes, "CDLL", lambda _: Library)
    return given


@pytest.mark.parametrize("size", [(), (0, 3), (7, 5), LARGE])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_zeros_are_zeros(size: tuple[int, ...], dtype: torch.dtype) -> None:
    found = _memory.empty_large(size, dtype, CPU).zero_()
    assert found.is_contiguous()
    assert torch.equal(found, torch.zeros(size, dtype=dtype))


def test_a_tensor_that_moves_keeps_values_and_address() -> None:
    tensor = torch.randn(LARGE)
    parameter = torch.nn.Parameter(tensor[3:])  # begins in the middle of a page
    before, address = tensor.clone(), parameter.data_ptr()
    _memory.gather_pages(parameter)
    assert parameter.data_ptr() == address
    assert torch.equal(tensor, before)


def test_advice_is_of_whole_pages_inside_the_tensor(advice: Advice) -> None:
    tensor = torch.empty(LARGE)[1:-1]
    _memory.gather_pages(tensor)
    made = _memory.empty_large(LARGE, torch.float32, CPU)
    assert [what for _, _, what in advice] == [COLLAPSE, HUGEPAGE]
    for (begin, length, _), given in zip(advice, (tensor, made), strict=True):
        end, size = begin + length, given.numel() * 4
        assert begin % mmap.PAGESIZE == end % mmap.PAGESIZE == 0
        assert 0 <= begin - given.data_ptr() < mmap.PAGESIZE
        assert 0 <= given.data_ptr() + size - end < mmap.PAGESIZE


def test_who_gets_no_advice(advice: Advice, monkeypatch: pytest.MonkeyPatch) -> None:
    _memory.gather_pages(torch.empty(1000))
    _memory.gather_pages(torch.empty(LARGE).T)
    _memory.gather_pages(torch.empty(LARGE, device="meta"))
    _memory._SETTING.write_text("always madvise [never]\n")
    _memory.gather_pages(torch.empty(LARGE))
    _memory._SETTING.unlink()
    _memory.gather_pages(torch.empty(LARGE))
    monkeypatch.setattr(_memory.sys, "platform", "darwin")
    _memory.gather_pages(torch.empty(LARGE))
    assert not advice


def _step(optimizer: torch.optim.Optimizer) -> list[int]:
    """Step a table with a gradient of one row; return the first pages of table and moments."""
    (weight,) = optimizer.param_groups[0]["params"]
    weight.grad = torch.sparse_coo_tensor(
        [[1]], torch.ones(1, LARGE[1]), LARGE, check_invariants=True
    )
    optimizer.step()
    state = optimizer.state[weight]
    return [t.data_ptr() // mmap.PAGESIZE for t in (weight, state["exp_avg"], state["exp_avg_sq"])]


def test_an_optimizer_asks_once_and_again_for_what_it_loads(advice: Advice) -> None:
    optimizer = LazyAdam([torch.nn.Parameter(torch.zeros(LARGE))])
    pages = _step(optimizer)
    assert [what for _, _, what in advice] == [HUGEPAGE] * 2 + [COLLAPSE] * 3
    # the first whole page of a tensor is its own or the one after
    for (begin, _, _), page in zip(advice[2:], pages, strict=True):
        assert begin // mmap.PAGESIZE - page in (0, 1)
    del advice[:]
    _step(optimizer)
    assert not advice
    optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    _step(optimizer)
    _step(copy.deepcopy(optimizer))
    assert [what for _, _, what in advice] == [COLLAPSE] * 6


def test_the_numbers_are_those_of_the_system() -> None:
    if not hasattr(mmap, "MADV_HUGEPAGE"):
        pytest.skip("this system has no huge pages")
    assert mmap.MADV_HUGEPAGE == _memory._MADV_HUGEPAGE


_FREED = """
import ctypes, sys
from transformers4rec_ext._memory import give_back

def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096

blocks = [bytes(100_000) for _ in range(3000)]  # below the size for which glibc asks the system
last = bytes(100_000)  # holds the heap's top where it is
for block in blocks:
    ctypes.memset(id(block) + 32, 1, 99_000)
full = resident()
del blocks, block
freed = resident()
given = give_back()
print(int(given), full - freed, freed - resident(), hasattr(ctypes.CDLL(None), "malloc_trim"))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="Linux only: reads /proc")
def test_what_is_free_is_given_back() -> None:
    done = subprocess.run(
        [sys.executable, "-c", _FREED], capture_output=True, text=True, check=True
    )
    given, kept_back, returned, glibc = done.stdout.split()
    if glibc == "False":
        assert given == "0"
        return
    assert int(kept_back) < 50_000_000  # what makes it necessary
    assert given == "1"
    assert int(returned) > 200_000_000


def test_elsewhere_nothing_is_given_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_memory.sys, "platform", "darwin")
    assert not _memory.give_back()
