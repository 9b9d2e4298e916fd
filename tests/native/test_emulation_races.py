"""The emulation reports a race where two accesses are unordered, and nowhere else.

Random kernels are compared with the definition: accesses that share a byte, not both reads and not
both atomic, by threads of which neither has heard of the other's through barriers.
"""

from __future__ import annotations

import random
from pathlib import Path

import emulated
import numpy as np
import pytest
import torch

SCRIPT = Path(__file__).resolve().parent / "script.cu"
NOTHING, READ, WRITE, ATOMIC, SYNCWARP, BARRIER = range(6)
BLOCKS, THREADS, BYTES = 2, 64, 64
GRID = BLOCKS * THREADS
RUNS = [run for run in emulated.RUNS if run.mode == "race"] + [emulated.Run("race", "reverse")]
Script = np.ndarray  # [steps, GRID, 3]: what, where or with which mask, how wide


def _script(choice: random.Random) -> Script:
    """Return up to ten steps, of accesses by a few threads or of barriers among them."""
    first = choice.randrange(GRID // 32) * 32
    lanes = range(first, first + 4)
    few = choice.choice([lanes, lanes, lanes, [0, 1, 32, 33], range(0, GRID, 5)])
    script = np.zeros((choice.randint(2, 10), GRID, 3), dtype=np.int64)
    for step in script:
        if choice.random() < 0.15:
            step[choice.choice(few) // THREADS * THREADS :][:THREADS, 0] = BARRIER
        elif choice.random() < 0.5:
            warp = step[choice.choice(few) // 32 * 32 :][:32]
            mask = choice.choice([0xFFFFFFFF, 0b11, 0b110, 0b1100, choice.getrandbits(32)])
            warp[[mask >> lane & 1 == 1 for lane in range(32)]] = (SYNCWARP, mask, 0)
        else:
            for thread in choice.sample(few, choice.randint(1, 3)):
                what = choice.choice([READ] * 8 + [WRITE, WRITE, ATOMIC])
                width = 4 if what == ATOMIC else choice.choice([1, 2, 4])
                at = choice.randrange(4 // width) * width
                step[thread] = (what, at, width)
    return script


def _races(script: Script) -> bool:
    """Tell whether any two accesses race, by what each thread has heard of each other."""
    heard = np.zeros((GRID, GRID), dtype=np.int64)  # of whom, to which of their steps
    done: list[tuple[int, int, np.ndarray]] = []  # thread, step, line
    for now, step in enumerate(script):
        for thread, line in enumerate(step):
            if line[0] not in (READ, WRITE, ATOMIC):
                continue
            for other, then, before in done:
                overlap = before[1] < line[1] + line[2] and line[1] < before[1] + before[2]
                harmless = before[0] == line[0] and line[0] in (READ, ATOMIC)
                known = other == thread or heard[thread, other] > then
                if overlap and not harmless and not known:
                    return True
            done.append((thread, now, line))
        for group in _groups(step):
            heard[group, group] = now + 1
            heard[group] = heard[group].max(axis=0)
    return False


def _groups(step: np.ndarray) -> list[np.ndarray]:
    """Return the threads that meet in this step, by block or warp."""
    blocks = np.arange(GRID) // THREADS
    warps = np.arange(GRID) // 32
    groups = [np.flatnonzero((step[:, 0] == BARRIER) & (blocks == b)) for b in range(BLOCKS)]
    groups += [np.flatnonzero((step[:, 0] == SYNCWARP) & (warps == w)) for w in range(GRID // 32)]
    return [group for group in groups if group.size]


def _reported(script: Script, run: emulated.Run) -> bool:
    lines = torch.from_numpy(script.astype(np.int32))
    memory = torch.zeros(BYTES, dtype=torch.uint8)
    try:
        emulated.library(SCRIPT, run).t4r_script_cuda(lines, len(script), BLOCKS, THREADS, memory)
    except emulated.KernelError as error:
        return "race: " in str(error)
    return False


@pytest.mark.parametrize("run", RUNS, ids=str)
def test_what_is_reported_is_what_races(run: emulated.Run) -> None:
    choice = random.Random(0)
    found = [0, 0]
    for _ in range(150):
        script = _script(choice)
        expected = _races(script)
        assert _reported(script, run) == expected, script[:, np.any(script[:, :, 0] > 0, axis=0)]
        found[expected] += 1
    assert min(found) > 30


R, W = (READ, 0, 1), (WRITE, 0, 1)


@pytest.mark.parametrize(
    ("steps", "races"),
    [
        # a lane that reads again after the lanes met: its second reading counts
        ([{0: R, 1: R}, {lane: (SYNCWARP, 7, 0) for lane in range(3)}, {1: R}, {2: W}], True),
        ([{0: R, 1: R}, {1: R}, {lane: (SYNCWARP, 7, 0) for lane in range(3)}, {2: W}], False),
        # lanes of one warp met; the other's have heard nothing of it
        ([{32: W}, {lane: (SYNCWARP, -1, 0) for lane in range(32)}, {0: R}], True),
        ([{32: W}, {thread: (BARRIER, 0, 0) for thread in range(THREADS)}, {0: R}], False),
        ([{32: W}, {thread: (BARRIER, 0, 0) for thread in range(GRID)}, {THREADS: R}], True),
    ],
)
def test_who_has_heard_of_whom(steps: list[dict[int, tuple[int, int, int]]], races: bool) -> None:
    script = np.zeros((len(steps), GRID, 3), dtype=np.int64)
    for step, lines in zip(script, steps, strict=True):
        for thread, line in lines.items():
            step[thread] = line
    assert _races(script) == races
    assert [_reported(script, run) for run in RUNS] == [races] * len(RUNS)
