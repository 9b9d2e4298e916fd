"""What is kept of a run: small enough for the repository, whole enough to draw its curves."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from benchmarks.quality.matrix import METRIC, OBJECTIVES, SEEDS, Dataset, Run
from benchmarks.timing import RESULTS
from transformers4rec_ext._files import write_text
from transformers4rec_ext.training.config import RunConfig
from transformers4rec_ext.training.log import read_log

FOLDER = RESULTS / "quality"


def path_of(run: Run) -> Path:
    """Return where the record of a run is."""
    return FOLDER / f"{run.name}.json"


def read(run: Run) -> dict[str, Any] | None:
    """Return the record of a run, None if there is none, or one with other options than now."""
    path = path_of(run)
    if not path.exists():
        return None
    record: dict[str, Any] = json.loads(path.read_text())
    try:
        then = RunConfig.from_dict(record["config"]).as_dict()
    except (TypeError, ValueError):  # options that there are no longer
        return None
    return record if then == run.config() else None


def write(run: Run, folder: Path, environment: dict[str, Any]) -> dict[str, Any]:
    """Keep what a finished run's folder says: config, metrics and curves.

    Parameters
    ----------
    run : Run
    folder : Path
        Of ``train --out``.
    environment : dict
        Machine, versions, commit, threads.
    """
    log = read_log(folder / "log.jsonl")
    record = {
        "environment": environment,
        "config": json.loads((folder / "run.json").read_text())["config"],
        **json.loads((folder / "metrics.json").read_text()),
        "loss": _means(log),
        "validation": [round(line[METRIC], 5) for line in log if line["event"] == "validation"],
    }
    path = path_of(run)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, json.dumps(record) + "\n")
    return record


def _means(log: list[dict[str, Any]]) -> list[float]:
    """Return the mean training loss of every epoch."""
    sums: dict[int, list[float]] = {}
    for line in log:
        if line["event"] == "train":
            sums.setdefault(line["epoch"], []).append(line["loss"])
    return [round(sum(values) / len(values), 5) for _, values in sorted(sums.items())]


def best_validation(record: dict[str, Any]) -> float:
    """Return what the best epoch was chosen by."""
    return max(record["validation"])


def best_sampled(dataset: Dataset) -> str | None:
    """Return the name of the objective with negatives that validates best, by the first seed.

    None until each of them has a record: an earlier answer could change.
    """
    scores = {}
    for objective in OBJECTIVES[1:]:
        record = read(Run(dataset, objective, SEEDS[0]))
        if record is None:
            return None
        scores[objective.name] = best_validation(record)
    return max(scores, key=lambda name: scores[name])
