"""The tables of what was timed, as markdown, from the content of a file of results."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

Content = dict[str, Any]
#: What the results call differently from the tables.
NAMES = {
    "fused": "**ours**",
    "fused with rank": "**ours**, and the rank",
    "rank": "**ours**, rank",
    "rank, reference": "reference, rank",
    "top-k": "**ours**, top-k",
    "gemm": "floor: the GEMM alone",
    "gemms": "floor: the 3 GEMMs alone",
    "own gemms": "floor: the up to 4 GEMMs of ours alone",
    "chunked gemms": "floor: the 3 GEMMs in chunks of 64 rows",
    "rows": "floor: W, m, v rows gathered and scattered by torch",
    "stream": "floor: as many bytes read and written in a stream",
    "ours": "**LazyAdam**",
    "ours, step": "**LazyAdam**, step alone",
    "ours, row-wise": "**LazyAdam**, row-wise",
    "ours, row-wise, step": "**LazyAdam**, row-wise, step alone",
    "ours, reference": "LazyAdam, reference",
    "our Adagrad": "**LazyAdagrad**",
    "our Adagrad, row-wise": "**LazyAdagrad**, row-wise",
    "SparseAdam, step": "SparseAdam, step alone",
    "tensorflow": "TensorFlow",
    "fbgemm": "FBGEMM",
    "transformers4rec": "Transformers4Rec",
}
LETTERS = {
    "items": "V", "sessions": "B", "length": "T", "rows": "N", "width": "D", "samples": "S"
}  # fmt: skip


def table(header: list[str], rows: list[list[str]]) -> str:
    """Return a markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def items(count: int) -> str:
    """Return a number of items as people say it."""
    million, thousand = count // 1_000_000, count // 1000
    return f"{million}M" if million else f"{thousand}k" if thousand else str(count)


def shape(case: dict[str, Any]) -> str:
    """Return the sizes of a case, or of a row of results, by the letters of the project."""
    return " ".join(
        f"{letter}={items(case[key]) if key == 'items' else case[key]}"
        for key, letter in LETTERS.items()
        if key in case
    )


def ratio(value: float) -> str:
    """Return a ratio in three figures."""
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def time(seconds: float) -> str:
    """Return a time in three figures."""
    if seconds < 1e-3:
        return f"{seconds * 1e6:.0f} us"
    if seconds < 1:
        digits = 0 if seconds >= 0.1 else 1 if seconds >= 0.01 else 2
        return f"{seconds * 1e3:.{digits}f} ms"
    return f"{seconds:.2f} s"


def setting(environment: dict[str, Any]) -> str:
    """Return machine, threads and version."""
    found = environment
    return (
        f"{found['cpu']}, {found['cores']} cores, {found['threads']} thread(s), "
        f"{found['isa']}, torch {found['torch']}"
    )


def machine(content: Content) -> str:
    """Return the line that says where, with what and from which commit, and what was left out."""
    found = content["environment"]
    peers = "".join(f", {_peer(name, what)}" for name, what in content.get("peers", {}).items())
    where = f"{content['gpu']}, " if "gpu" in content else ""
    line = (
        f"{where}{setting(found)}{peers}, commit {found['commit']}, "
        f"load average at the end {found['load_at_end']}."
    )
    reasons: dict[str, list[str]] = {}
    for what, why in content.get("left_out", {}).items():
        reasons.setdefault(why, []).append(what)
    absent = "; ".join(f"{', '.join(names)} ({why})" for why, names in reasons.items())
    return f"{line} Left out: {absent}." if absent else line


def _peer(name: str, what: str | dict[str, str]) -> str:
    if isinstance(what, str):
        return f"{NAMES.get(name, name)} {what}"
    rest = ", ".join(f"{package} {version}" for package, version in what.items() if package != name)
    return f"{NAMES[name]} {what[name]} (with {rest})"


def medians(row: dict[str, Any]) -> dict[str, float]:
    """Return the median seconds of a row, by provider."""
    return {name: value["median"] for name, value in row["seconds"].items()}


def over(times: dict[str, float], name: str, other: str) -> str:
    """Return how many times the other's time a provider takes, "-" where either is absent."""
    return ratio(times[name] / times[other]) if name in times and other in times else "-"


def _present(content: Content, names: tuple[str, ...]) -> list[str]:
    """Return those of the names that any row has."""
    return [name for name in names if any(name in row["seconds"] for row in content["rows"])]


def sampler(content: Content) -> str:
    """Return the table of the sampler."""
    others = _present(content, ("transformers4rec", "reference"))
    rows = []
    for row in sorted(content["rows"], key=lambda row: (row["items"], row["samples"])):
        times = medians(row)
        rows.append(
            [
                items(row["items"]),
                str(row["samples"]),
                f"{times['fused'] * 1e6:.0f} us",
                f"{times['one call'] * 1e6:.0f} us",
                over(times, "fused", "tensorflow"),
                *(over(times, name, "fused") for name in others),
            ]
        )
    header = ["V", "S", "ours", "in one call", "ours / TensorFlow"]
    header += [f"{NAMES.get(name, name)} / ours" for name in others]
    return f"{table(header, rows)}\n\n{machine(content)}"


def sampled_softmax(content: Content) -> str:
    """Return the table of sampled softmax: times over that of the three GEMMs, and memory."""
    known = ("fused", "tensorflow", "reference", "compiled reference", "transformers4rec")
    names = _present(content, known)
    memory = _memories(content, ("fused", "transformers4rec"))
    rows = []
    for row in sorted(content["rows"], key=lambda row: (row["items"], row["width"])):
        times = medians(row)
        sizes = [items(row["items"]), str(row["width"]), str(row["samples"])]
        ratios = [over(times, name, "gemms") for name in names]
        peaks = [mebibytes(row, name) for name in memory]
        rows.append([*sizes, f"{times['gemms'] * 1e3:.1f} ms", *ratios, *peaks])
    header = ["V", "D", "S", "3 GEMMs", *(NAMES.get(name, name).strip("*") for name in names)]
    header += [f"peak memory, {NAMES[name].strip('*')}" for name in memory]
    return f"{table(header, rows)}\n\n{machine(content)}"


def _memories(content: Content, names: tuple[str, ...]) -> list[str]:
    rows = content["rows"]
    return [name for name in names if any(name in row.get("peak_mebibytes", {}) for row in rows)]


def mebibytes(row: dict[str, Any], name: str) -> str:
    """Return the peak memory of a provider, "-" where it was not measured."""
    found = row.get("peak_mebibytes", {}).get(name)
    return "-" if found is None else f"{found:.0f} MiB"


def full_softmax(content: Content) -> str:
    """Return the table of full softmax: time over that of the three GEMMs, and peak memory."""
    rows = []
    for row in content["rows"]:
        times = medians(row)
        for name, seconds in times.items():
            floors = [over(times, name, floor) for floor in ("gemms", "chunked gemms")]
            what, memory = NAMES.get(name, name), mebibytes(row, name)
            rows.append([shape(row), what, time(seconds), *floors, memory])
    header = ["shape", "what", "time", "/ 3 GEMMs", "/ 3 GEMMs in chunks", "peak extra memory"]
    return f"{table(header, rows)}\n\n{machine(content)}"


def evaluation(content: Content) -> str:
    """Return the table of rank and top-k: time over that of the GEMM, and peak memory."""
    more = {"transformers4rec": "Transformers4Rec (scores, its three metrics)"}
    rows = []
    for row in content["rows"]:
        times = medians(row)
        for name, seconds in times.items():
            what, memory = (NAMES | more).get(name, name), mebibytes(row, name)
            rows.append([shape(row), what, time(seconds), over(times, name, "gemm"), memory])
    header = ["shape", "what", "time", "/ GEMM", "peak extra memory"]
    return f"{table(header, rows)}\n\n{machine(content)}"


def step(content: Content) -> str:
    """Return the table of whole training steps: what the size of the catalogue costs."""
    smallest = content["rows"][0]
    others = _present(content, ("transformers4rec", "reference", "compiled reference"))
    memory = _memories(content, ("ours", "transformers4rec"))
    floor = _present(content, ("floor",))
    rows = []
    for row in content["rows"]:
        times = medians(row)
        rows.append(
            [
                items(row["items"]),
                f"{times['ours'] * 1e3:.1f} ms",
                ratio(times["ours"] / medians(smallest)["ours"]),
                *(over(times, "ours", name) for name in floor),
                *(over(times, name, "ours") for name in others),
                *(mebibytes(row, name) for name in memory),
            ]
        )
    header = ["V", "ours", f"/ ours at {items(smallest['items'])}"]
    header += [f"/ {name}" for name in floor] + [f"{NAMES.get(n, n)} / ours" for n in others]
    header += [f"peak extra memory, {'ours' if n == 'ours' else NAMES[n]}" for n in memory]
    return f"{table(header, rows)}\n\n{machine(content)}"


def held_bytes(case: dict[str, Any]) -> float:
    """Return the bytes of a float32 table and of one number for each of its rows."""
    return float(4 * case["items"] * (case["width"] + 1))


def largest(content: Content) -> str:
    """Return the table of the largest catalogue: a step, ranks and top-k beside a smaller one."""
    rows = []
    for row in content["rows"]:
        times = medians(row)
        if "ours" not in times:
            continue
        cells = [items(row["items"]), f"{held_bytes(row) / 2**30:.2f} GiB"]
        for name, floor in (("ours", "floor"), ("rank", "gemm"), ("top-k", "gemm")):
            cells += [time(times[name]), over(times, name, floor)]
        rows.append([*cells, mebibytes(row, "ours"), mebibytes(row, "rank")])
    header = ["V", "table and state", "a step", "/ floor", "ranks", "/ GEMM", "top-k", "/ GEMM"]
    header += [f"peak extra memory, {what}" for what in ("step", "ranks")]
    return f"{table(header, rows)}\n\n{machine(content)}"


def optim(content: Content) -> str:
    """Return the table of optimizers: time over that of `torch.optim.SparseAdam`, and floors."""
    rows = []
    for row in content["rows"]:
        times = medians(row)
        for name, seconds in times.items():
            # what moves the bytes of one update of the rows is compared with the step alone
            alone = name.endswith(", step") or name in ("rows", "stream")
            whole = "-" if alone else ratio(seconds / times["SparseAdam"])
            only = ratio(seconds / times["SparseAdam, step"]) if alone else "-"
            what = NAMES.get(name, name)
            rows.append([shape(row), what, f"{seconds * 1e3:.2f} ms", whole, only])
    header = ["shape", "what", "time", "/ SparseAdam", "/ its step alone"]
    return f"{table(header, rows)}\n\n{machine(content)}"


def startup(content: Content) -> str:
    """Return the table of build and import times."""
    rows = [[row["what"], f"{row['seconds']:.2f} s"] for row in content["rows"]]
    return f"{table(['what', 'time'], rows)}\n\n{machine(content)}"


#: By the names of the files of results.
TABLES: dict[str, Callable[[Content], str]] = {
    "sampler": sampler,
    "sampled_softmax": sampled_softmax,
    "full_softmax": full_softmax,
    "evaluation": evaluation,
    "step": step,
    "largest": largest,
    "optim": optim,
    "startup": startup,
}
