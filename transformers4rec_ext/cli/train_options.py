"""The options of ``train`` and what its help teaches; which of them a run has is `RunConfig`'s."""

from __future__ import annotations

import argparse
from typing import Any

from transformers4rec_ext.cli.options import NULLS

_OBJECTIVES = """\
losses (--loss):
  full       softmax over all items. Exact, nothing to choose; a step costs what the catalogue
             costs.
  sampled    softmax over the target and --num-negatives drawn items, each score less its log q,
             so that more and more negatives come to `full`. A step costs the same whatever the
             catalogue.
  corrected  the same, for a target that is there for certain and not by a draw (arXiv
             2507.09331): less biased where negatives are few. What is printed is no cross-entropy
             and may be below 0.
  bce        yes or no for the target and each negative (SASRec). Knows no log q: an item that is
             a negative more often than others gets a lower score for it. Makes a model of few
             negatives too sure of itself. A score of 0 stands for one item in the catalogue.
  gbce       bce with the target's term weighed by the part of the catalogue that was drawn
             (gSASRec), which undoes that: fully with --gbce-t 1, not at all with 0.

where negatives come from (--sampler); one set serves the whole batch:
  log-uniform  by the rank of popularity, nearly 1 / rank: hard ones often, every item sometimes;
               no table, any catalogue. The default of sampled and corrected.
  uniform      all items alike. The default of bce, and what gbce is made for.
  popularity   by the counts in training, where they do not fall like 1 / rank. 12 bytes an item;
               never an item that training does not hold.
  in-batch     the other targets of the batch: no draw; as many as there are, so without
               --num-negatives.
  mixed        in-batch and --num-negatives uniform ones: items that no batch holds, too.
"""
EPILOG = f"""\
Each session of three items or more is split: the last item is the test target, the last but one
the validation target, the rest is trained on (shorter sessions are only trained on). Sessions
longer than --max-length are cut into windows, so that no interaction is lost. One session at least
needs four items (or one two and another three), to have something to train and to validate on.

With --split-column the file says which whole sessions are for what, by the strings "train",
"validation" and "test". Of a session that is held out every item but the first is a target, given
the items before it (the last --max-length of them); this is the protocol of SR-GNN and GCE-GNN for
Diginetica and Yoochoose, whose P@20 is Recall@20 here. Where no session is marked "validation",
the last tenth of the training sessions in file order is (--validation-fraction) and is not trained
on: put the file in order of time. The model that is tested is that of the best epoch. Items that
training does not hold are ranked with the others; a target among them is hardly ever found.

When a run has told the best epoch, the same options (but --validation-fraction and -sessions and
--patience) with --hold-out test, that many --epochs and another --out train anew on what chose it
as well, which are the newest items that training may see. With --hold-out none all is trained on,
for a model to recommend with; nothing is left to judge it. The weights that are tested and kept
are those of the last epoch then. It is for the constant schedule: a cosine would end sooner.

It trains on the CPU; --device cuda trains, validates and tests on a GPU (written for it, and not
yet run on one). A run may be resumed, and its model evaluated, on another device than it was begun
on. On the GPU are the weights, their mean and Adam's two moments, 16 bytes a weight (12 with
--average 0), 4 more with dense gradients; with --sampler popularity 12 bytes an item, with in-batch
and mixed 4; and with --cosine-scale a copy of the item table while it validates.

Items are re-ranked by popularity on the way in, as the log-uniform sampler assumes, and mapped
back on the way out. Metrics rank the target among all items; ties count against the model.

{NULLS}

{_OBJECTIVES}

The folder --out receives run.json, catalogue.parquet (your ids by rank), model.safetensors (the
weights, or by --average their mean, of the best validation NDCG@10, or the last without a
validation), checkpoint.safetensors, log.jsonl, run.lock, and at the end metrics.json and
curves.png. A run that was killed or stopped continues with --resume as if it had not been; so does
one that --patience ended, with a larger one, and one that is through, with more --epochs, but for
--schedule cosine, which ends with the last epoch. Files that were moved are named again: train
--resume FILE.parquet.

examples:
  python -m transformers4rec_ext train sessions.parquet --items-column item_id --out runs/first
  python -m transformers4rec_ext train week1.parquet week2.parquet --items-column items \\
      --session-column session_id --max-length 20 --num-negatives 4000 --out runs/weeks --seed 1
  python -m transformers4rec_ext train sessions.parquet --loss gbce --num-negatives 256 \\
      --gbce-t 0.75 --out runs/gbce
  python -m transformers4rec_ext train diginetica.parquet --items-column items \\
      --split-column split --loss full --out runs/diginetica
  python -m transformers4rec_ext train --resume --out runs/first
"""

# Kept here as plain values, so that --help does not import torch; a test compares them.
HOLD_OUT = ("both", "test", "none")
SCHEDULES = ("constant", "cosine")
LOSSES = ("full", "sampled", "corrected", "bce", "gbce")
SAMPLERS = ("log-uniform", "uniform", "popularity", "in-batch", "mixed")
DEFAULTS: dict[str, Any] = {
    "hold_out": "both",
    "seed": 0,
    "epochs": 40,
    "batch_size": 128,
    "max_length": 50,
    "d_model": 64,
    "layers": 2,
    "heads": 1,
    "inner": 0,
    "dropout": 0.2,
    "lr": 1e-3,
    "schedule": "constant",
    "clip": 1.0,
    "average": 0.1,
    "cosine_scale": 0.0,
    "loss": "sampled",
    "body": "gpt2",
    "checkpoint_every": 500,
    "eval_batch_size": 256,
}


def add_config(parser: argparse.ArgumentParser) -> None:
    """Add an option for each field of RunConfig; only those given reach the namespace."""

    def add(name: str, text: str, **more: Any) -> None:
        default = DEFAULTS.get(name.replace("-", "_"))
        shown = text if default is None else f"{text} (default: {default})"
        parser.add_argument(f"--{name}", default=argparse.SUPPRESS, help=shown, **more)

    number = {"type": int, "metavar": "N"}
    real = {"type": float, "metavar": "X"}
    add("items-column", "list column with the items in time order (default: item_id)", metavar="C")
    add("session-column", "column carried to recommendations (default: none)", metavar="C")
    add(
        "split-column",
        "column with 'train', 'validation' or 'test' for each session (default: none; the last "
        "two items of each session are held out)",
        metavar="C",
    )
    add(
        "validation-fraction",
        "with --split-column, where no session is marked 'validation': the part of the training "
        "sessions, the last ones, that validates, 0 < X < 1 (default: 0.1)",
        **real,
    )
    add(
        "hold-out",
        "what is not trained on: validation and test, the test only, or nothing. With test and "
        "none the weights of the last of --epochs are kept, which then must be given",
        choices=HOLD_OUT,
    )
    add("seed", "seed of weights, shuffling, dropout and negatives", **number)
    add("epochs", "passes over the training part, at most", **number)
    add("batch-size", "windows in a batch, on average: of short ones it holds more", **number)
    add("max-length", "items that the model sees, T", **number)
    add("d-model", "width of the embeddings and the transformer", **number)
    add("layers", "transformer layers", **number)
    add("heads", "attention heads; divides --d-model", **number)
    add("inner", "width of the feed-forward layers; 0: 4 x --d-model", **number)
    add("dropout", "dropout, 0 <= X < 1; with fewer than 20 interactions an item try 0.5", **real)
    add("lr", "learning rate of Adam", **real)
    add("schedule", "learning rate over the epochs; cosine ends at 0", choices=SCHEDULES)
    add("clip", "largest gradient norm; 0: no clipping", **real)
    add(
        "average",
        "validate, test and keep a mean of the weights, two thirds of it over this last part of "
        "the steps so far, 0 <= X <= 1; 0: the weights as they are, 1: the mean of all. It is one "
        "more copy of the weights, and lags where few epochs are trained",
        **real,
    )
    add("loss", "what is minimised; see below", choices=LOSSES)
    add(
        "sampler",
        "where negatives come from; see below (default: log-uniform, with bce and gbce uniform)",
        choices=SAMPLERS,
    )
    add(
        "num-negatives",
        "negatives drawn for each batch, S; of mixed the uniform ones (default: 1000)",
        **number,
    )
    add(
        "temperature",
        "divides the scores in the loss, X > 0 (default: 0.25 with bce and gbce, else 1)",
        **real,
    )
    add(
        "cosine-scale",
        "scores are X times the cosine of the session's and the item's vector, so that the length "
        "of an item's vector is no part of its score; 0: the product of the two. With fewer than "
        "30 interactions an item try 16. With a softmax only",
        **real,
    )
    add("gbce-t", "calibration of gbce, 0 <= X <= 1 (default: 0.75)", **real)
    parser.add_argument(
        "--sparse",
        action=argparse.BooleanOptionalAction,
        default=argparse.SUPPRESS,
        help="row gradients for the item table and a lazy Adam, so that a step does not pay for "
        "items it never touches (default: with more than 100,000 items, but for --loss full)",
    )
    add("body", "transformer", choices=("gpt2", "xlnet"))
    parser.add_argument(
        "--exclude-seen",
        action=argparse.BooleanOptionalAction,
        default=argparse.SUPPRESS,
        help="rank only items that the session has not held yet (default: --no-exclude-seen)",
    )
    add(
        "patience",
        "epochs without a better validation NDCG@10 before stopping; 0: never (default: 5)",
        **number,
    )
    add(
        "checkpoint-every",
        "steps between checkpoints, which wait where they take long; 0: at the end of epochs only",
        **number,
    )
    add(
        "validation-sessions",
        "validate on a sample of at most N sessions (default: 20000)",
        **number,
    )
    add(
        "test-sessions",
        "test on a sample of at most N sessions (default: all; a catalogue of millions of items "
        "is read once for each --eval-batch-size of them)",
        **number,
    )
    add("eval-batch-size", "sessions read, and items ranked, at once", **number)
