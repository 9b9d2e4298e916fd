"""Write the tables of the documents from the JSON results."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from benchmarks import race_report

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
#: The most warps that a multiprocessor holds, by architecture (CUDA programming guide).
MOST_WARPS = {"7.5": 32, "8.0": 64, "8.6": 48, "8.9": 48, "9.0": 64, "10.0": 64, "12.0": 48}


def _load(name: str) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((RESULTS / f"{name}.json").read_text())
    return content


def _table(header: list[str], rows: list[list[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _items(count: int) -> str:
    return f"{count // 1_000_000}M" if count >= 1_000_000 else f"{count // 1000}k"


def _ratio(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def _machine(content: dict[str, Any]) -> str:
    machine = content["environment"]
    peer = f", TensorFlow {content['tensorflow']}" if content.get("tensorflow") else ""
    return (
        f"{machine['cpu']}, {machine['cores']} cores, {machine['threads']} thread(s), "
        f"{machine['isa']}, torch {machine['torch']}{peer}, commit {machine['commit']}, "
        f"load average at the end {machine['load_at_end']}."
    )


def sampler() -> str:
    """Return the table of the sampler."""
    content = _load("sampler")
    rows = []
    # of results recorded before `LogUniformSampler.draw` was measured, too
    one_call = any("one call" in row["seconds"] for row in content["rows"])
    for row in content["rows"]:
        times = {name: value["median"] for name, value in row["seconds"].items()}
        fused = times["fused"]
        ours = [f"{fused * 1e6:.0f} us"]
        if one_call:
            ours.append(f"{times['one call'] * 1e6:.0f} us")
        cells = [f"{fused / times[name]:.2f}" if name in times else "-" for name in ("tensorflow",)]
        cells += [
            _ratio(times[name] / fused) if name in times else "-"
            for name in ("upstream", "reference")
        ]
        rows.append([_items(row["items"]), str(row["samples"]), *ours, *cells])
    names = ["ours", "in one call"] if one_call else ["ours"]
    header = ["V", "S", *names, "ours / TensorFlow", "upstream / ours", "reference / ours"]
    return f"{_table(header, rows)}\n\n{_machine(content)}"


def sampled_softmax() -> str:
    """Return the table of sampled softmax."""
    content = _load("sampled_softmax")
    rows = []
    for row in content["rows"]:
        times = {name: value["median"] for name, value in row["seconds"].items()}
        names = ("fused", "tensorflow", "reference", "compiled reference", "upstream")
        cells = [_ratio(times[name] / times["gemms"]) if name in times else "-" for name in names]
        shape = [str(row["width"]), str(row["samples"]), f"{times['gemms'] * 1e3:.1f} ms"]
        rows.append([*shape, *cells])
    header = [
        "D",
        "S",
        "3 GEMMs",
        "ours",
        "TensorFlow",
        "reference",
        "compiled reference",
        "upstream",
    ]
    return f"{_table(header, rows)}\n\n{_machine(content)}"


def full_softmax() -> str:
    """Return the table of full softmax: time over that of the three GEMMs, and peak memory."""
    content = _load("full_softmax")
    rows = []
    for row in content["rows"]:
        times = {name: value["median"] for name, value in row["seconds"].items()}
        shape = f"V={_items(row['items'])} N={row['rows']} D={row['width']}"
        for name, seconds in times.items():
            memory = row["peak_mebibytes"].get(name)
            rows.append(
                [
                    shape,
                    _NAMES.get(name, name),
                    f"{seconds * 1e3:.0f} ms",
                    _ratio(seconds / times["gemms"]),
                    _ratio(seconds / times["chunked gemms"]),
                    "-" if memory is None else f"{memory:.0f} MiB",
                ]
            )
    header = ["shape", "what", "time", "/ 3 GEMMs", "/ 3 GEMMs in chunks", "peak extra memory"]
    return f"{_table(header, rows)}\n\n{_machine(content)}"


def evaluation() -> str:
    """Return the table of rank and top-k: time over that of the GEMM, and peak memory."""
    content = _load("evaluation")
    rows = []
    for row in content["rows"]:
        times = {name: value["median"] for name, value in row["seconds"].items()}
        shape = f"V={_items(row['items'])} N={row['rows']} D={row['width']}"
        for name, seconds in times.items():
            memory = f"{row['peak_mebibytes'][name]:.0f} MiB"
            ratio = _ratio(seconds / times["gemm"])
            rows.append([shape, _NAMES.get(name, name), f"{seconds * 1e3:.0f} ms", ratio, memory])
    header = ["shape", "what", "time", "/ GEMM", "peak extra memory"]
    return f"{_table(header, rows)}\n\n{_machine(content)}"


def step() -> str:
    """Return the table of whole training steps: what the size of the catalogue costs."""
    content = _load("step")
    smallest = content["rows"][0]["seconds"]["ours"]["median"]
    rows = []
    for row in content["rows"]:
        times = {name: value["median"] for name, value in row["seconds"].items()}
        peaks = row["peak_mebibytes"]
        theirs = times.get("upstream")
        rows.append(
            [
                _items(row["items"]),
                f"{times['ours'] * 1e3:.1f} ms",
                _ratio(times["ours"] / smallest),
                "-" if theirs is None else _ratio(theirs / times["ours"]),
                f"{peaks['ours']:.0f} MiB",
                "-" if theirs is None else f"{peaks['upstream']:.0f} MiB",
            ]
        )
    header = [
        "V",
        "ours",
        "/ ours at 10k",
        "upstream / ours",
        "peak extra memory",
        "upstream's",
    ]
    return f"{_table(header, rows)}\n\n{_machine(content)}"


def optim() -> str:
    """Return the table of optimizers: time over that of `torch.optim.SparseAdam`, and floors."""
    content = _load("optim")
    rows = []
    for row in content["rows"]:
        times = {name: value["median"] for name, value in row["seconds"].items()}
        shape = f"V={_items(row['items'])} N={row['rows']} D={row['width']}"
        for name, seconds in times.items():
            # what moves the bytes of one update of the rows is compared with the step alone
            alone = name.endswith(", step") or name in ("rows", "stream")
            whole = "-" if alone else _ratio(seconds / times["SparseAdam"])
            step = _ratio(seconds / times["SparseAdam, step"]) if alone else "-"
            label = _NAMES.get(name, name)
            rows.append([shape, label, f"{seconds * 1e3:.2f} ms", whole, step])
    header = ["shape", "what", "time", "/ SparseAdam", "/ its step alone"]
    fbgemm = f" FBGEMM {content['fbgemm']}." if content.get("fbgemm") else ""
    return f"{_table(header, rows)}\n\n{_machine(content)}{fbgemm}"


def time_to_quality() -> str:
    """Return the section of the race to a quality; nothing before one is recorded."""
    if not (RESULTS / "time_to_quality.json").exists():
        return ""
    content = _load("time_to_quality")
    table = _table(*race_report.table(content))
    return f"{race_report.text(content)}\n{table}\n\n{_machine(content)}"


def startup() -> str:
    """Return the table of build and import times."""
    content = _load("startup")
    rows = [[row["what"], f"{row['seconds']:.2f} s"] for row in content["rows"]]
    return f"{_table(['what', 'time'], rows)}\n\n{_machine(content)}"


def occupancy(registers: int, arch: str) -> float:
    """Return which part of a multiprocessor's warps the registers of a thread leave room for."""
    of_warp = -(-registers * 32 // 256) * 256  # they are given to a warp in pieces of 256
    warps = 4 * (16 * 1024 // of_warp)  # a multiprocessor has four parts with 16 K each
    return min(MOST_WARPS[arch], warps) / MOST_WARPS[arch]


def registers() -> str:
    """Return the table of the CUDA kernels' registers, and the occupancy that they allow."""
    content = _load("registers")
    archs = [arch.removesuffix("+PTX") for arch in content["archs"]]
    rows = []
    for row in content["rows"]:
        used = row["registers"]
        cells = [f"{used[arch]} ({100 * occupancy(used[arch], arch):.0f} %)" for arch in archs]
        rows.append([f"`{row['file']}`", f"`{row['kernel']}`", str(row["variants"]), *cells])
    table = _table(["file", "kernel", "variants", *archs], rows)
    return f"{table}\n\nnvcc {content['nvcc']}; no kernel spills a register."


def inclusion() -> str:
    """Return the table of candidates found and claimed, by decade of rank."""
    content = _load("statistics")
    rows = []
    for row in content["rows"]:
        for at, (low, high) in enumerate(row["ranks"]):
            cells = []
            for who in ("ours", "upstream"):
                claimed, found, error = (
                    row[who][name][at] for name in ("claimed", "found", "error")
                )
                cells += [f"{claimed:.2f}", f"{found:.2f} ± {error:.2f}", f"{found / claimed:.3f}"]
            shape = [f"{row['items']:,}", str(row["samples"])] if at == 0 else ["", ""]
            rows.append([*shape, f"{low:,} to {high:,}", *cells])
    header = ["V", "S", "ranks", "ours: claimed", "drawn", "ratio"]
    table = _table([*header, "upstream: claimed", "drawn", "ratio"], rows)
    draws = ", ".join(f"{row['draws']:,}" for row in content["rows"])
    largest = ", ".join(f"{row['upstream_largest_rank']:,}" for row in content["rows"])
    return (
        f"{table}\n\nDraws of each catalogue: {draws}. The largest rank that upstream's sampler "
        f"drew in them: {largest}."
    )


def probabilities() -> str:
    """Return the table of upstream's float32 probabilities against the exact law."""
    rows = [
        [
            f"{row['items']:,}",
            f"{_ratio(100 * row['median'])} %",
            f"{_ratio(100 * row['worst'])} %",
            f"{100 * row['zero']:.1f} %",
            f"{row['ours_worst']:.1e}",
        ]
        for row in _load("statistics")["probabilities"]
    ]
    names = ["median error of p", "largest", "items with p = 0", "largest error of our q"]
    return _table(["V", *names], rows)


def gradients() -> str:
    """Return the table of the bias of sampled softmax's gradient."""
    rows = []
    for row in _load("statistics")["gradients"]:
        cells = [
            f"{100 * value[what]['size']:.2f} ± {100 * value[what]['error']:.2f} %"
            for value in row["bias"].values()
            for what in ("hidden", "items")
        ]
        rows.append([f"{row['items']:,}", str(row["samples"]), f"{row['draws']:,}", *cells])
    names = ["ours", "ours, corrected", "upstream"]
    columns = [f"{name}: {what}" for name in names for what in ("hidden", "item rows")]
    content = _load("statistics")
    return f"{_table(['V', 'S', 'draws', *columns], rows)}\n\n{_machine(content)}"


#: What the results call differently from the tables.
_NAMES = {
    "fused": "**ours**",
    "fused with rank": "**ours**, and the rank",
    "rank": "**ours**, rank",
    "top-k": "**ours**, top-k",
    "gemm": "the GEMM alone",
    "gemms": "the 3 GEMMs alone",
    "own gemms": "the up to 4 GEMMs of ours alone",
    "chunked gemms": "the 3 GEMMs in chunks of 64 rows",
    "rows": "floor: W, m, v rows gathered and scattered by torch",
    "stream": "floor: as many bytes read and written in a stream",
    "ours": "**LazyAdam**",
    "ours, step": "**LazyAdam**, step alone",
    "ours, row-wise": "**LazyAdam**, row-wise",
    "ours, row-wise, step": "**LazyAdam**, row-wise, step alone",
    "our Adagrad": "**LazyAdagrad**",
    "our Adagrad, row-wise": "**LazyAdagrad**, row-wise",
    "SparseAdam, step": "SparseAdam, step alone",
    "upstream": "upstream (scores, one-hot labels, top-k)",
}
TABLES = {
    "sampler": sampler,
    "sampled_softmax": sampled_softmax,
    "full_softmax": full_softmax,
    "evaluation": evaluation,
    "step": step,
    "optim": optim,
    "time_to_quality": time_to_quality,
    "startup": startup,
    "registers": registers,
    "inclusion": inclusion,
    "probabilities": probabilities,
    "gradients": gradients,
}
DOCUMENTS = ("README.md", "benchmarks/README.md", "benchmarks/statistics.md", "docs/kernels.md")


def render(text: str) -> str:
    """Return ``text`` with every ``<!-- table: NAME -->`` section made anew from the results."""
    for name, table in TABLES.items():
        begin, end = f"<!-- table: {name} -->", f"<!-- end: {name} -->"
        if begin in text:
            head, _, rest = text.partition(begin)
            _, _, tail = rest.partition(end)
            text = f"{head}{begin}\n{table()}\n{end}{tail}"
    return text


def write(check: bool = False) -> None:
    """Write the tables into the documents, or only compare them and exit where they differ."""
    for name in DOCUMENTS:
        path = ROOT / name
        text = path.read_text()
        new = render(text)
        if check and new != text:
            sys.exit(f"{name} differs from results/*.json; run python -m benchmarks.report")
        path.write_text(new)


def main() -> None:
    """Write the tables, or with --check fail where they differ from the results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="only compare")
    write(check=parser.parse_args().check)


if __name__ == "__main__":
    main()
