"""Which runs there are: data sets, objectives and seeds, named once."""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

from transformers4rec_ext.cli import build_parser
from transformers4rec_ext.training.config import RunConfig

#: What decides the best epoch, on the validation items.
METRIC = "ndcg_at_10"
#: The bar of the baselines that only count; the others are published.
COUNTED = "best counted"


class Dataset(NamedTuple):
    """A set of ``../shared/data`` and how it is trained on, besides the defaults."""

    name: str
    title: str
    options: tuple[str, ...]
    metrics: tuple[tuple[str, str], ...]
    """What its tables show, and by which name; the first decides their order."""
    bars: tuple[tuple[str, str, float], ...]
    """What others reach: label, metric, value; sources in benchmarks/quality.md."""

    def shared(self) -> list[str]:
        """Return the options of ``train`` that all its runs have."""
        return ["--items-column", "items", *self.options]


class Objective(NamedTuple):
    """A loss and its negatives."""

    name: str
    title: str
    options: tuple[str, ...]


class Run(NamedTuple):
    """One training run."""

    dataset: Dataset
    objective: Objective
    seed: int

    @property
    def name(self) -> str:
        """Where its folder and its record are, below those of all runs."""
        return f"{self.dataset.name}/{self.objective.name}-seed{self.seed}"

    def arguments(self) -> list[str]:
        """Return the options of ``train``, without the file and the folder."""
        return [*self.dataset.shared(), *self.objective.options, "--seed", str(self.seed)]

    def config(self) -> dict[str, Any]:
        """Return what the command line makes of them."""
        options = vars(build_parser().parse_args(["train", *self.arguments()]))
        names = {field.name for field in dataclasses.fields(RunConfig)}
        return RunConfig(**{name: options[name] for name in names & options.keys()}).as_dict()


_MOVIES = (
    *("--exclude-seen", "--max-length", "100", "--batch-size", "32"),
    *("--d-model", "128", "--heads", "2", "--dropout", "0.3"),
    *("--epochs", "30", "--patience", "0"),
)
_PURCHASES = (
    *("--exclude-seen", "--max-length", "50", "--batch-size", "128"),
    *("--d-model", "64", "--heads", "1", "--dropout", "0.5"),
    *("--epochs", "40", "--patience", "0"),
)
_OF_USERS = ((METRIC, "NDCG@10"), ("recall_at_10", "Recall@10"), ("mrr", "MRR"))
_SESSIONS = (
    *("--split-column", "split", "--validation-fraction", "0.02"),
    *("--cosine-scale", "16"),
)
_OF_SESSIONS = (("recall_at_20", "P@20"), ("mrr_at_20", "MRR@20"), (METRIC, "NDCG@10"))
DATASETS = (
    Dataset(
        "ml-1m",
        "MovieLens-1M",
        _MOVIES,
        _OF_USERS,
        (
            (COUNTED, METRIC, 0.1573),
            ("SASRec, full cross-entropy", METRIC, 0.1821),
            ("SASRec, sampled cross-entropy, 3,000 negatives", METRIC, 0.1857),
        ),
    ),
    Dataset(
        "amazon-beauty-bert4rec",
        "Amazon Beauty (BERT4Rec)",
        (*_PURCHASES, "--cosine-scale", "16"),
        _OF_USERS,
        ((COUNTED, METRIC, 0.0313), ("SASRec, full cross-entropy", METRIC, 0.0327)),
    ),
    Dataset(
        "amazon-beauty-s3rec",
        "Amazon Beauty (S3-Rec)",
        _PURCHASES,
        _OF_USERS,
        ((COUNTED, METRIC, 0.0478), ("SASRec, sampled softmax", METRIC, 0.0531)),
    ),
    Dataset(
        "amazon-sports-s3rec",
        "Amazon Sports (S3-Rec)",
        _PURCHASES,
        _OF_USERS,
        ((COUNTED, METRIC, 0.0279), ("eSASRec", METRIC, 0.0323)),
    ),
    Dataset(
        "diginetica-gcegnn",
        "Diginetica",
        _SESSIONS,
        _OF_SESSIONS,
        (
            ("SR-GNN", "recall_at_20", 0.5073),
            ("SR-GNN", "mrr_at_20", 0.1759),
            ("TAGNN", "recall_at_20", 0.5131),
            ("TAGNN", "mrr_at_20", 0.1803),
        ),
    ),
    Dataset(
        "yoochoose1_64-cgenet",
        "Yoochoose 1/64",
        _SESSIONS,
        _OF_SESSIONS,
        (
            ("SR-GNN", "recall_at_20", 0.7057),
            ("SR-GNN", "mrr_at_20", 0.3094),
            ("TAGNN", "recall_at_20", 0.7102),
            ("TAGNN", "mrr_at_20", 0.3112),
            ("SGNN-HN", "mrr_at_20", 0.3261),
        ),
    ),
)


def _sampled(sampler: str, number: int) -> Objective:
    return Objective(
        f"{sampler}-{number}",
        f"sampled, {sampler}, S = {number:,}",
        ("--loss", "sampled", "--sampler", sampler, "--num-negatives", str(number)),
    )


FULL = Objective("full", "full softmax", ("--loss", "full"))
OBJECTIVES = (
    FULL,
    *(
        _sampled(sampler, number)
        for number in (1000, 3000, 100)
        for sampler in ("log-uniform", "uniform", "popularity")
    ),
    Objective(
        "corrected-1000",
        "corrected, log-uniform, S = 1,000",
        ("--loss", "corrected", "--num-negatives", "1000"),
    ),
    Objective(
        "gbce-256",
        "gBCE, t = 0.75, uniform, S = 256",
        (
            *("--loss", "gbce", "--num-negatives", "256", "--gbce-t", "0.75", "--clip", "0"),
            *("--cosine-scale", "0"),
        ),
    ),
)
#: Seeds of the two headline rows of a set; the others have the first.
SEEDS = (0, 1, 2)


def plan(headline: dict[str, str], *, everything: bool = False) -> list[Run]:
    """Return all runs: first every objective once, then more seeds for the headline rows.

    Parameters
    ----------
    headline : dict
        For each set the name of its best sampled objective, where that is known.
    everything : bool
        More seeds for all of them.
    """
    first = [Run(dataset, objective, SEEDS[0]) for objective in OBJECTIVES for dataset in DATASETS]
    more = [
        Run(dataset, objective, seed)
        for seed in SEEDS[1:]
        for dataset in DATASETS
        for objective in OBJECTIVES
        if everything or objective is FULL or objective.name == headline.get(dataset.name)
    ]
    return first + more
