"""What is read from ptxas: registers, spills, occupancy; and that nothing of it is lost."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import registers, report

ROOT = Path(__file__).resolve().parent.parent.parent

KERNEL = """\
ptxas info    : 0 bytes gmem
ptxas info    : Compiling entry function '{symbol}' for 'sm_{arch}'
ptxas info    : Function properties for {symbol}
    {stack} bytes stack frame, {spilled} bytes spill stores, 0 bytes spill loads
ptxas info    : Used {used} registers, used 0 barriers, 364 bytes cmem[0]
ptxas info    : Compile time = 1.447 ms
"""
FLOAT = "_ZN3t4r33_GLOBAL__N__8881ff32_4_a_cu_archs11anon_kernelIfEEvPT_"
DOUBLE = FLOAT.replace("IfE", "IdE")


def ptxas(symbol: str, arch: str, used: int, spilled: int = 0, stack: int = 0) -> str:
    return KERNEL.format(symbol=symbol, arch=arch, used=used, spilled=spilled, stack=stack)


def test_the_most_registers_of_a_kernels_variants_are_kept() -> None:
    log = ptxas(FLOAT, "80", 20) + ptxas(DOUBLE, "80", 38) + ptxas(FLOAT, "120", 24)
    assert registers.summary({"a_cuda.cu": log}) == [
        {
            "file": "a_cuda.cu",
            "kernel": "anon_kernel",
            "variants": 2,
            "registers": {"8.0": 38, "12.0": 24},
        }
    ]


def test_local_memory_and_warnings_are_faults() -> None:
    clean = {"a.cu": ptxas(FLOAT, "80", 20), "b.cu": ""}
    assert registers.faults(clean) == []
    for spilled, stack in ((8, 8), (0, 16)):
        log = ptxas(FLOAT, "80", 20) + ptxas(DOUBLE, "75", 255, spilled, stack)
        (fault,) = registers.faults({"a.cu": log})
        assert fault.startswith(f"a.cu: {DOUBLE} needs local memory: {stack} bytes stack frame")
    # a function that was not inlined spills, not the kernel that calls it
    helper = "ptxas info    : Function properties for helper\n    0 bytes stack frame, "
    helper += "0 bytes spill stores, 4 bytes spill loads\n"
    (fault,) = registers.faults({"a.cu": ptxas(FLOAT, "80", 20) + helper})
    assert "helper needs local memory" in fault
    (fault,) = registers.faults({"a.cu": "a.cu(3): warning #177-D: variable is unused\n"})
    assert "#177-D" in fault


def test_lines_that_do_not_belong_together_are_no_result() -> None:
    entry, used = ptxas(FLOAT, "80", 20).split("ptxas info    : Used")
    with pytest.raises(ValueError, match="nothing of the registers"):
        list(registers.parse(entry + entry))
    with pytest.raises(ValueError, match="of no kernel"):
        list(registers.parse("ptxas info    : Used" + used))


@pytest.mark.parametrize(
    ("used", "arch", "expected"),
    # from NVIDIA's occupancy tables: 32 registers fill a multiprocessor of 64 warps
    [
        (32, "9.0", 1.0),
        (33, "9.0", 48 / 64),
        (40, "8.6", 1.0),
        (64, "9.0", 0.5),
        (64, "7.5", 1.0),
        (128, "8.0", 0.25),
        (255, "9.0", 8 / 64),
        (255, "7.5", 8 / 32),
    ],
)
def test_occupancy(used: int, arch: str, expected: float) -> None:
    assert report.occupancy(used, arch) == expected


def test_every_kernel_file_is_in_the_recorded_results() -> None:
    recorded = json.loads(registers.RESULT.read_text())["rows"]
    with_kernels = {
        path.name
        for path in (ROOT / "csrc" / "cuda").glob("*_cuda.cu")
        if "__global__" in path.read_text()
    }
    assert {row["file"] for row in recorded} == with_kernels
