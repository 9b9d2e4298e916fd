"""Stands for a peer in another environment: what a worker builds and runs in the tests."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Any, NamedTuple


class Case(NamedTuple):
    """How long a run takes."""

    pause: float


def versions() -> dict[str, str]:
    print("libraries talk while they are imported")
    return {"fake": "1.0"}


def sleeper(case: Case, device: str) -> Callable[[], Any]:
    calls = 0

    def run() -> int:
        nonlocal calls
        calls += 1
        print("and while they run")
        time.sleep(case.pause)
        return calls

    return run


def refusal(case: Case, device: str) -> Callable[[], Any]:
    raise ValueError(f"more than 2^24 items on {device}")


def death(case: Case, device: str) -> Callable[[], Any]:
    return lambda: os._exit(9)


def failure(case: Case, device: str) -> Callable[[], Any]:
    def run() -> None:
        raise RuntimeError("number of categories cannot exceed 2^24")

    return run


BUILDERS = {
    "sleeper": (sleeper, Case),
    "refusal": (refusal, Case),
    "death": (death, Case),
    "failure": (failure, Case),
}
