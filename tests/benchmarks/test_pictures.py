"""Pictures and summary: drawn of the results that lie beside them, and saying what they say."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from benchmarks import plots, scaling, summary, tables, timing
from benchmarks.quality import matrix, overview
from benchmarks.quality import report as quality


def _row(items: int, **medians: float) -> dict[str, Any]:
    seconds = {name: {"median": value, "q1": value, "q3": value} for name, value in medians.items()}
    peaks = dict.fromkeys(seconds, items / 1000)
    shape = {"items": items, "sessions": 64, "length": 20, "width": 64, "samples": 1000}
    return {**shape, "seconds": seconds, "peak_mebibytes": peaks}


@pytest.fixture
def step(tmp_path: Path) -> dict[str, Any]:
    machine = {"cpu": "abacus", "cores": 2, "threads": 2, "isa": "beads", "torch": "2.13"}
    content = {
        "environment": {**machine, "commit": "abc", "load_at_end": 0.1},
        "rows": [
            _row(10_000, floor=0.01, ours=0.02, transformers4rec=0.04),
            _row(1_000_000, floor=0.01, ours=0.02, transformers4rec=0.6),
            _row(10_000_000, floor=0.01, ours=0.02),
        ],
    }
    (tmp_path / "step.json").write_text(json.dumps(content))
    return content


#: The pictures of the documents, and what each is drawn of; nothing, nothing.
DRAWN: dict[str, Any] = {
    **{
        name: scaling.load(timing.RESULTS, panels) for name, (panels, _) in scaling.PICTURES.items()
    },
    "statistics": timing.load("statistics"),
    "time_to_quality": timing.load("time_to_quality"),
    **{f"quality/{each.name}": quality.drawn_of(each) for each in matrix.DATASETS},
    "quality": overview.drawn_of(),
}


@pytest.mark.parametrize("name", DRAWN)
def test_pictures_are_drawn_of_the_results(name: str) -> None:
    """Who changes results, runs ``python -m benchmarks.report``, which draws them again."""
    path, results = timing.RESULTS / f"{name}.png", DRAWN[name]
    assert path.exists() == bool(results)
    if results:
        with Image.open(path) as picture:
            assert picture.text["Description"] == plots.digest(results)


def test_a_picture_of_what_there_is(step: dict[str, Any], tmp_path: Path) -> None:
    paths = scaling.draw(tmp_path)
    assert [path.name for path in paths] == ["time.png", "memory.png"]
    assert all(path.stat().st_size > 20_000 for path in paths)


def test_a_single_catalogue_is_no_curve(step: dict[str, Any], tmp_path: Path) -> None:
    step["rows"] = step["rows"][:1]
    (tmp_path / "step.json").write_text(json.dumps(step))
    assert scaling.draw(tmp_path) == []


def test_a_line_ends_where_its_results_end(step: dict[str, Any]) -> None:
    rows = scaling._series(step["rows"][::-1], scaling.STEP)
    ours, theirs, floor = scaling._curves(rows, scaling.STEP, memory=False)
    assert ours.items == floor.items == [10_000, 1_000_000, 10_000_000]
    assert theirs.label == "Transformers4Rec"
    assert theirs.items == [10_000, 1_000_000]
    assert theirs.values == [40, 600]


def test_rows_of_one_curve_differ_in_the_catalogue_alone() -> None:
    shapes = [(100, 32), (200, 32), (300, 32), (200, 512), (300, 512)]
    rows = [{"items": items, "rows": rows, "width": 64} for items, rows in shapes]
    found = scaling._series(rows, scaling.EVALUATION)
    assert [(row["items"], row["rows"]) for row in found] == shapes[:3]


def test_labels_do_not_overlap() -> None:
    placed = scaling._spread([1.0, 0.95, 3.0, 1.02], 0.1)
    assert placed == pytest.approx([1.05, 0.95, 3.0, 1.15])


def test_the_summary_takes_the_largest_catalogue_of_both(step: dict[str, Any]) -> None:
    text = summary.summary({"step": step}.get)
    what = "a training step (V=1M B=64 T=20 D=64 S=1000)"
    assert text.splitlines()[-1] == f"| {what} | 20.0 ms | 2.00 | 30.0 | 1000 MiB | 1000 MiB |"
    for each in step["rows"]:
        each["seconds"]["eager"] = each["seconds"].pop("transformers4rec", None)
    step["rows"].pop()
    text = summary.summary({"step": step}.get)
    assert "| 30.0 [3] |" in text
    assert text.endswith("[3] plain PyTorch: logits, then cross-entropy.")


def test_times_have_three_figures() -> None:
    seconds = [12e-6, 2.96e-3, 53.7e-3, 0.549, 1.271]
    expected = ["12 us", "2.96 ms", "53.7 ms", "549 ms", "1.27 s"]
    assert [tables.time(each) for each in seconds] == expected
