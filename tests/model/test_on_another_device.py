"""Models, tasks, losses and optimizers compute on another device what they do on the CPU."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import device_run
import pytest

CODE = f"""
import sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
import device_run
device_run.main("standin")
"""


@pytest.fixture(scope="module")
def found(on_standin: Callable[..., Any]) -> Any:
    return on_standin(CODE)


@pytest.mark.parametrize("name", device_run.cases())
def test_it_comes_to_the_same(found: Any, name: str) -> None:
    on_the_cpu, there = found[name]
    assert len(on_the_cpu) >= 6
    # Adam's first steps are as long for a gradient of rounding errors: one of 12 ranks may move.
    metrics = {key: there.pop(key) for key in list(there) if "_at_" in key}
    expected = {key: on_the_cpu.pop(key) for key in metrics}
    assert there == pytest.approx(on_the_cpu, rel=2e-3, abs=2e-3)
    assert metrics == pytest.approx(expected, abs=1.01 / 12)
