"""The CUDA kernels of candidates under the emulation: value by value what the CPU gives."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import emulated
import pytest
import torch
from torch import Tensor

from transformers4rec_ext import functional
from transformers4rec_ext.ops import reference
from transformers4rec_ext.ops.reference.uniform import uniform_classes

OPS = torch.ops.transformers4rec_ext
INT64_MAX = 2**63 - 1
TRIES = (1, 2, 17, 10**6, INT64_MAX)
SMALL = 1024  # bytes of shared memory in which no set fits, so that it lies in global memory


def same(found: Sequence[Tensor], wanted: Sequence[Tensor]) -> None:
    """Assert equal bits, but for those of a NaN."""
    for a, b in zip(found, wanted, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0, equal_nan=True)
        assert torch.equal(a.isnan() | a.signbit(), b.isnan() | b.signbit())


def unwritten(wanted: Sequence[Tensor]) -> list[Tensor]:
    """Return tensors for these results that do not begin at a multiple of 16 bytes."""
    return [torch.full((w.numel() + 1,), -7, dtype=w.dtype)[1:].view(w.shape) for w in wanted]


def workspace(ask: Callable[..., None], *sizes: int) -> Tensor | None:
    """Return what a launcher asks for: nothing where shared memory is enough."""
    size = torch.full((), -7)
    ask(*sizes, size)
    return torch.full((int(size),), 5, dtype=torch.uint8) if size else None


def log_uniform(
    run: emulated.Run,
    samples: int,
    items: int,
    min_id: int = 0,
    unique: bool = True,
    *,
    seed: int = 1,
    targets: int = 3,
) -> bool:
    """Compare a draw with the CPU's; tell whether its set lay in global memory."""
    library = emulated.library("draws", run)
    start = torch.tensor(seed)
    of = torch.randint(min_id, items, (targets,))
    wanted = OPS.log_uniform_draw(start, of, samples, items, min_id, unique)
    size = wanted[0].numel()
    draws = unique and size < items - min_id
    space = workspace(library.t4r_draw_workspace_cuda, size) if draws else None
    found = unwritten(wanted)
    library.t4r_log_uniform_draw_cuda(
        start, of, targets, size, items, min_id, unique, space, *found
    )
    same(found, wanted)
    return space is not None


def uniform(
    run: emulated.Run,
    samples: int,
    items: int,
    min_id: int = 0,
    unique: bool = True,
    *,
    seed: int = 1,
) -> bool:
    """Compare a draw with the CPU's; tell whether its set lay in global memory."""
    library = emulated.library("draws", run)
    wanted = OPS.uniform_sample(torch.tensor(seed), samples, items, min_id, unique)
    size = wanted[0].numel()
    space = workspace(library.t4r_uniform_workspace_cuda, size, items - min_id, unique)
    found = unwritten(wanted)
    library.t4r_uniform_sample_cuda(torch.tensor(seed), size, items, min_id, unique, space, *found)
    same(found, wanted)
    return space is not None


def weighted(
    run: emulated.Run, samples: int, weights: Tensor, min_id: int, unique: bool, *, seed: int = 1
) -> bool:
    """Compare a draw with the CPU's; tell whether its set lay in global memory."""
    library = emulated.library("draws", run)
    table = functional.alias_table(weights)
    start = torch.tensor(seed)
    wanted = OPS.alias_sample(start, table.threshold, table.alias, samples, min_id, unique)
    space = workspace(library.t4r_draw_workspace_cuda, samples) if unique else None
    found = unwritten(wanted)
    library.t4r_alias_sample_cuda(
        start, table.threshold, table.alias, weights.numel(), samples, min_id, unique, space, *found
    )
    same(found, wanted)
    return space is not None


@emulated.every_run
def test_log_uniform_candidates(run: emulated.Run) -> None:
    for items in (1, 2, 3, 4, 5):  # the whole range, and all that is below it
        for samples in range(1, items + 1):
            assert not log_uniform(run, samples, items + 1, 1, seed=samples)
    for samples, items in ((31, 33), (33, 10**9), (129, 1000), (255, 256), (600, 2**53)):
        for min_id in (0, 1):
            assert not log_uniform(run, samples, items + min_id, min_id)
    assert not log_uniform(run, 1, 10**6, targets=0)
    assert not log_uniform(run, 5, 10**12 + 50, 10**12, targets=700)
    assert not log_uniform(run, 5, 100, seed=-(2**63))  # all 64 bits of a seed count


@emulated.every_run
def test_log_uniform_candidates_with_repetitions(run: emulated.Run) -> None:
    for samples, items in ((1, 1), (3, 1), (9, 2), (31, 3), (257, 40), (700, 2**53)):
        for min_id in (0, 1):
            assert not log_uniform(run, samples, items + min_id, min_id, unique=False, targets=9)


@emulated.every_run
def test_uniform_candidates(run: emulated.Run) -> None:
    for items in range(1, 6):
        for samples in range(1, items + 1):
            assert not uniform(run, samples, items + 1, 1, seed=samples)
    # below, at and above half of the range, and at a multiple of a word of 32 classes
    for samples, items in ((31, 64), (32, 64), (33, 64), (63, 64), (70, 129), (600, 2**53)):
        assert not uniform(run, samples, items)
    assert not uniform(run, 39_000, 39_100)  # more than a round of the block's words
    for samples, items in ((1, 1), (33, 7), (300, 2**53 - 1)):
        assert not uniform(run, samples, items + 1, 1, unique=False)


@emulated.every_run
@pytest.mark.parametrize("unique", [True, False])
def test_a_rejected_draw_counts_and_is_no_candidate(run: emulated.Run, unique: bool) -> None:
    items = 3 * 2**51  # a draw in 4096 falls into the incomplete run
    seed = next(
        seed
        for seed in range(1000)
        if (uniform_classes(torch.tensor(seed), 0, 40, items) < 0).any()
    )
    assert not uniform(run, 40, items, unique=unique, seed=seed)


@emulated.every_run
def test_weighted_candidates(run: emulated.Run) -> None:
    weights = torch.arange(1, 101, dtype=torch.float64).reciprocal()
    weights[::3] = 0
    support = int((weights > 0).sum())
    for samples in (1, 31, support - 1, support):
        assert not weighted(run, samples, weights, 0, unique=True)
    assert not weighted(run, 700, torch.rand(50_000) + 1e-3, 10**12, unique=True)
    for samples in (1, 33, 700):
        assert not weighted(run, samples, weights, 1, unique=False)
    assert not weighted(run, 1, torch.ones(1), 0, unique=True)


@emulated.every_run
def test_sets_in_global_memory(run: emulated.Run) -> None:
    with emulated.most_shared(SMALL):
        assert log_uniform(run, 1, 1000)
        assert log_uniform(run, 299, 300, seed=3)
        assert log_uniform(run, 700, 10**6, 1)
        assert uniform(run, 300, 10**6, 1)
        assert uniform(run, 300, 400, 1)
        assert weighted(run, 40, torch.rand(60), 0, unique=True)


def test_large_sets() -> None:
    run = emulated.RUNS[0]
    assert not log_uniform(run, 8192, 10**7)
    assert log_uniform(run, 20_000, 10**6)
    assert log_uniform(run, 100_000, 10**9)
    assert uniform(run, 100_000, 150_001)
    assert uniform(run, 100_000, 2**53)


@emulated.every_run
@pytest.mark.parametrize("unique", [True, False])
def test_log_q_of_ids(run: emulated.Run, unique: bool) -> None:
    library = emulated.library("draws", run)
    for classes in (1, 2, 3, 4, 1000, 2**53):
        ids = torch.randint(5, 5 + classes, (259,))
        ids[:2] = torch.tensor([5, 4 + classes])
        for tries in TRIES:
            arguments = (torch.tensor(tries), 5 + classes, 5, unique)
            wanted = OPS.log_uniform_log_q(ids, *arguments)
            (found,) = unwritten([wanted])
            library.t4r_log_uniform_log_q_cuda(ids, ids.numel(), *arguments, found)
            same([found], [wanted])


@emulated.every_run
def test_ids_out_of_range_have_no_log_q(run: emulated.Run) -> None:
    library = emulated.library("draws", run)
    ids = torch.tensor([1, 0, -1, 9, 10, INT64_MAX, -(2**63)])
    for unique in (True, False):
        tries = torch.tensor(3)
        found = torch.zeros(7)
        library.t4r_log_uniform_log_q_cuda(ids, 7, tries, 10, 1, unique, found)
        wanted = reference.log_uniform_log_q(ids, tries, 10, 1, unique)
        assert torch.equal(found.isnan(), wanted.isnan())
        seed, one = torch.tensor(0), torch.zeros(1, dtype=torch.int64)
        library.t4r_log_uniform_draw_cuda(
            seed, ids, 7, 1, 10, 1, unique, None, one, torch.zeros(1), tries, one.clone(), found
        )
        assert found.isnan().tolist() == [False, True, True, False, True, True, True]


@emulated.every_run
@pytest.mark.parametrize("unique", [True, False])
def test_log_expected_counts(run: emulated.Run, unique: bool) -> None:
    library = emulated.library("draws", run)
    p = torch.cat([torch.rand(290) * 10.0**-power for power in (0, 3, 30)])
    edges = [0.0, -0.0, 1.0, 0.5, 0.5 + 2**-24, 1 - 2**-24, 1e-45, 2.0, -1.0]
    p = torch.cat([p, torch.tensor([*edges, float("inf"), float("-inf"), float("nan")])])[1:]
    for tries in TRIES:
        wanted = OPS.log_expected_count(p, torch.tensor(tries), unique)
        (found,) = unwritten([wanted])
        library.t4r_log_expected_count_cuda(p, p.numel(), torch.tensor(tries), unique, found)
        same([found], [wanted])


def test_nothing_is_asked_of_no_ids() -> None:
    library = emulated.library("draws")
    none = torch.empty(0, dtype=torch.int64)
    library.t4r_log_uniform_log_q_cuda(none, 0, torch.tensor(1), 9, 0, True, torch.empty(0))
    library.t4r_log_expected_count_cuda(torch.empty(0), 0, torch.tensor(1), True, torch.empty(0))


def test_a_range_that_a_slot_cannot_hold_is_refused() -> None:
    with pytest.raises(emulated.LaunchError):
        log_uniform(emulated.RUNS[0], 5, 2**53 + 1)
    with pytest.raises(emulated.LaunchError):
        uniform(emulated.RUNS[0], 5, 2**53 + 2, 1)
