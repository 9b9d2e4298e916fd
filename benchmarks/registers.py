"""Registers, spills and occupancy of every CUDA kernel, from what ptxas says while compiling.

``python -m benchmarks.registers`` compiles for every architecture and writes
``results/registers.json`` and the table made from it; ``--check`` compares instead. Both fail where
a kernel needs local memory (it spills) or nvcc warns. No GPU is needed.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks import report
from transformers4rec_ext import _build

RESULT = report.RESULTS / "registers.json"

_ENTRY = re.compile(r"ptxas info\s+: Compiling entry function '(\w+)' for 'sm_(\d+)[af]?'")
_USED = re.compile(r"ptxas info\s+: Used (\d+) registers")
_FUNCTION = re.compile(r"ptxas info\s+: Function properties for (\w+)")
# of a local array the stack alone, of a spilled register its stores and loads too
_LOCAL = re.compile(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads")


class Kernel(NamedTuple):
    """What ptxas says of one kernel on one architecture."""

    symbol: str
    arch: str
    registers: int


def parse(text: str) -> Iterator[Kernel]:
    """Yield the kernels that ptxas speaks of.

    Raises
    ------
    ValueError
        if its lines do not come in the order in which one kernel is compiled.
    """
    symbol = arch = ""
    for line in text.splitlines():
        if entry := _ENTRY.match(line):
            if symbol:
                raise ValueError(f"ptxas said nothing of the registers of {symbol}")
            symbol, arch = entry[1], f"{entry[2][:-1]}.{entry[2][-1]}"
        elif used := _USED.match(line):
            if not symbol:
                raise ValueError(f"ptxas said {line!r} of no kernel")
            yield Kernel(symbol, arch, int(used[1]))
            symbol = ""


def faults(logs: dict[str, str]) -> list[str]:
    """Return what is wrong with a compilation, in words: warnings, and use of local memory."""
    found = []
    for file, text in sorted(logs.items()):
        function = "?"
        for line in text.splitlines():
            if properties := _FUNCTION.match(line):
                function = properties[1]
            local = _LOCAL.search(line)
            if local and set(local.groups()) != {"0"}:
                found.append(f"{file}: {function} needs local memory: {line.strip()}")
            if re.search(r"\bwarning\b", line, re.IGNORECASE):
                found.append(f"{file}: {line.strip()}")
    return found


def _names(symbols: list[str]) -> dict[str, str]:
    """Return the functions' own names: no namespaces, no template arguments."""
    done = subprocess.run(
        ["c++filt"], input="\n".join(symbols), capture_output=True, text=True, check=True
    )
    plain = [re.sub(r"\(anonymous namespace\)::", "", line) for line in done.stdout.splitlines()]
    found = [re.search(r"(\w+)(?:<.*>)?\(", line) for line in plain]
    return {s: name[1] if name else s for s, name in zip(symbols, found, strict=True)}


def summary(logs: dict[str, str]) -> list[dict[str, Any]]:
    """Return a row for each kernel: file, how many variants, most registers by architecture.

    Parameters
    ----------
    logs : dict of file -> what nvcc said
    """
    rows = []
    for file, text in sorted(logs.items()):
        kernels = list(parse(text))
        names = _names(sorted({kernel.symbol for kernel in kernels}))
        for name in sorted(set(names.values())):
            own = [kernel for kernel in kernels if names[kernel.symbol] == name]
            most: dict[str, int] = {}
            for kernel in own:
                most[kernel.arch] = max(most.get(kernel.arch, 0), kernel.registers)
            most = {arch: most[arch] for arch in sorted(most, key=float)}
            variants = len({kernel.symbol for kernel in own})
            rows.append({"file": file, "kernel": name, "variants": variants, "registers": most})
    return rows


def _nvcc_version(nvcc: Path) -> str:
    done = subprocess.run([nvcc, "--version"], capture_output=True, text=True, check=True)
    version = re.search(r"\bV([\d.]+)", done.stdout)
    return version[1] if version else "unknown"


def main() -> None:
    """Compile, look for faults, then write the results and the table, or compare with them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="only compare")
    check = parser.parse_args().check
    toolkit = next(_build.toolkits(), None)
    if toolkit is None:
        sys.exit("found no nvcc; let CUDA_HOME name the folder of a CUDA toolkit")
    objects = [Path(name) for name in _build.compile_cuda(toolkit)]
    logs = {
        f"{path.name.partition('.')[0]}.cu": path.with_suffix(".log").read_text()
        for path in objects
    }
    if wrong := faults(logs):
        sys.exit("\n".join(wrong))
    found = {
        "nvcc": _nvcc_version(toolkit.nvcc),
        "archs": _build.architectures(toolkit),
        "rows": summary(logs),
    }
    if not check:
        RESULT.write_text(json.dumps(found, indent=1) + "\n")
        report.write()
        return
    recorded = json.loads(RESULT.read_text())
    same_compiler = all(recorded[key] == found[key] for key in ("nvcc", "archs"))
    if same_compiler and recorded != found:
        sys.exit(f"the kernels are not those of {RESULT.name}; run `make cuda-report`")
    said = "as recorded" if same_compiler else f"recorded with another nvcc ({recorded['nvcc']})"
    print(f"{len(found['rows'])} kernels, no spills, no warnings; registers {said}")


if __name__ == "__main__":
    main()
