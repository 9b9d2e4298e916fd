"""Minutes of training until a model recommends well: NDCG@10 of 0.15 on MovieLens-1M.

The command line's model against SASRec in plain PyTorch (peers/sasrec.py), in turns of an epoch.
The crossing is decided on the *test* items, on which the target and the published figures are
stated; nothing is chosen by it, no epoch, weights or setting, so that none of it flatters anybody:
it only tells when the clock is read, for all by the same rule. It is the end of the first epoch
whose figure is at or above the target. Run it again after a kill: it loses at most one turn.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks import harness, plots, report, timing
from benchmarks.peers import sasrec
from benchmarks.race import Contender, race
from transformers4rec_ext.data.catalogue import Catalogue
from transformers4rec_ext.data.loader import SessionLoader
from transformers4rec_ext.data.parquet import ParquetSessions
from transformers4rec_ext.training import (
    RunConfig,
    TrainingStep,
    WeightAverage,
    build_model,
    model_query,
)

NAME = "time_to_quality"
# The paper's settings for MovieLens-1M, but the width, 50 there, which is ours.
SASREC_BATCH, SASREC_LENGTH = 128, 200
SASREC = {"width": 64, "layers": 2, "heads": 1, "dropout": 0.2}

# Of a run's config: what decides nothing here, where there is no last epoch and no early stop.
_IDLE = (
    *("items_column", "session_column", "split_column", "validation_fraction", "hold_out"),
    *("epochs", "patience", "checkpoint_every", "validation_sessions", "eval_batch_size"),
)


@dataclass(frozen=True)
class Given:
    """What the contenders are made for."""

    options: argparse.Namespace
    sessions: ParquetSessions
    catalogue: Catalogue

    def facts(self) -> dict[str, int]:
        """Return the sizes of the data."""
        return {
            "sessions": self.sessions.num_sessions,
            "items": len(self.catalogue.items),
            "training_interactions": int(self.catalogue.counts.sum()),
        }

    def settings(self, more: dict[str, Any]) -> dict[str, Any]:
        """Return what a contender's numbers depend on."""
        common = {"seed": self.options.seed, "threads": self.options.threads}
        return {**more, **common, "data": self.facts()}


def ours(given: Given, key: str, name: str, **sizes: int) -> Contender:
    """Return the command line's model, by its defaults but for the sizes and seen items."""
    seed = given.options.seed
    config = RunConfig("items", seed=seed, exclude_seen=True, **sizes)
    torch.manual_seed(seed)
    loader = SessionLoader(
        given.sessions,
        given.catalogue,
        max_length=config.max_length,
        batch_size=config.batch_size,
        seed=seed,
    )
    model = build_model(config, given.catalogue.num_items, given.catalogue.popularity)
    step = TrainingStep(model, config, len(loader))
    fields = {name: value for name, value in config.as_dict().items() if name not in _IDLE}
    settings = given.settings(fields)
    average = WeightAverage(model, config.average, len(loader))
    query = model_query(average.module)
    return Contender(key, name, settings, model, step, loader, query, config.max_length, average)


def theirs(given: Given, key: str, name: str, loss: str, negatives: int = 0) -> Contender:
    """Return SASRec in plain PyTorch."""
    seed = given.options.seed
    torch.manual_seed(seed)
    model = sasrec.SASRec(given.catalogue.num_items, max_length=SASREC_LENGTH, **SASREC)
    rows = sasrec.TrainingRows(
        given.sessions,
        given.catalogue,
        max_length=SASREC_LENGTH,
        batch_size=SASREC_BATCH,
        seed=seed,
    )
    step = sasrec.Step(model, loss, negatives)
    sizes = {"batch_size": SASREC_BATCH, "max_length": SASREC_LENGTH, **SASREC}
    settings = given.settings({**sizes, "loss": loss, "num_negatives": negatives})
    as_it_is = WeightAverage(model, 0.0, len(rows))
    query = model.query
    return Contender(key, name, settings, model, step, rows, query, SASREC_LENGTH, as_it_is)


def _own_sizes(given: Given) -> Contender:
    options = given.options
    sizes = {"batch_size": options.batch_size, "max_length": options.max_length}
    return ours(given, "ours", "ours", **sizes)


def _same_sizes(given: Given) -> Contender:
    sizes = {"batch_size": SASREC_BATCH, "max_length": SASREC_LENGTH, "inner": SASREC["width"]}
    return ours(given, "ours-alike", "ours, SASRec's sizes", **sizes)


def _all_items(given: Given) -> Contender:
    return theirs(given, "sasrec-full", "SASRec, all items", "full")


def _per_position(given: Given) -> Contender:
    count = given.options.negatives
    name = f"SASRec, {count} negatives a position"
    return theirs(given, "sasrec-sampled", name, "sampled", count)


def _as_published(given: Given) -> Contender:
    return theirs(given, "sasrec-bce", "SASRec, 1 negative (BCE)", "bce", 1)


CONTENDERS: dict[str, Callable[[Given], Contender]] = {
    "ours": _own_sizes,
    "ours-alike": _same_sizes,
    "sasrec-full": _all_items,
    "sasrec-sampled": _per_position,
    "sasrec-bce": _as_published,
}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    data = harness.data_folder() / "ml-1m" / "interactions.parquet"
    add("--data", type=Path, default=data, help="parquet file with a column 'items'")
    add("--target", type=float, default=0.15, help="test NDCG@10 to reach (default: 0.15)")
    add(
        "--budget-minutes",
        type=float,
        default=60.0,
        help="training time of a contender (default: 60)",
    )
    add("--threads", type=int, default=os.cpu_count() or 1, help="default: all cores")
    add("--seed", type=int, default=0, help="default: 0")
    add(
        "--contenders",
        nargs="+",
        choices=list(CONTENDERS),
        default=list(CONTENDERS),
        metavar="NAME",
        help=f"some of {', '.join(CONTENDERS)} (default: all)",
    )
    add("--batch-size", type=int, default=32, help="of ours (default: 32)")
    add("--max-length", type=int, default=100, help="of ours (default: 100)")
    add("--negatives", type=int, default=128, help="of SASRec's positions (default: 128)")
    add(
        "--folder",
        type=Path,
        default=timing.ROOT / "runs" / NAME,
        help="for the checkpoints (default: runs/time_to_quality)",
    )
    add(
        "--results",
        type=Path,
        default=timing.RESULTS,
        help="for the JSON and the picture (default: benchmarks/results, and the tables are made "
        "anew)",
    )
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    """Run the race to its end; write ``time_to_quality.json`` and ``.png`` and the tables."""
    options = _parser().parse_args(argv)
    torch.set_num_threads(options.threads)
    sessions = ParquetSessions(options.data, "items")
    catalogue = Catalogue.fit(sessions)
    given = Given(options, sessions, catalogue)
    contenders = [CONTENDERS[key](given) for key in options.contenders]
    race(
        contenders,
        sessions,
        catalogue,
        options.folder,
        target=options.target,
        budget_seconds=60 * options.budget_minutes,
        say=lambda line: print(line, flush=True),
    )
    rows = [
        {
            "key": contender.key,
            "name": contender.name,
            "settings": contender.settings,
            "parameters": sum(p.numel() for p in contender.model.parameters()),
            "reached": contender.reached(options.target),
            "curve": contender.curve,
        }
        for contender in contenders
    ]
    timing.save(
        NAME,
        options.threads,
        rows,
        folder=options.results,
        target=options.target,
        budget_minutes=options.budget_minutes,
        seed=options.seed,
        data=given.facts(),
    )
    plots.time_to_quality(timing.load(NAME, options.results), options.results / f"{NAME}.png")
    if options.results == timing.RESULTS:
        report.write()


if __name__ == "__main__":
    main()
