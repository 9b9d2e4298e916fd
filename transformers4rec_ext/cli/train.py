"""``train``: from a parquet file of sessions to a model, resumable at every checkpoint."""

from __future__ import annotations

import argparse
import dataclasses
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformers4rec_ext._errors import value_error
from transformers4rec_ext.cli import options as shared
from transformers4rec_ext.cli.signals import stop_on_signals
from transformers4rec_ext.cli.train_options import EPILOG, add_config

if TYPE_CHECKING:
    from transformers4rec_ext.training.config import RunConfig
    from transformers4rec_ext.training.folder import RunFolder

_ENDS = "the cosine schedule ends with the last epoch"
# What may differ between the beginning and the continuation of a run.
_FREE_ON_RESUME = {"epochs", "patience", "checkpoint_every", "test_sessions"}


def add_parser(commands: Any) -> None:
    """Add the command."""
    parser = shared.add_command(commands, "train", "train a model on sessions", EPILOG, run)
    parser.add_argument(
        "files",
        nargs="*",
        metavar="FILE.parquet",
        help="sessions, one a row; or folders of such files, or patterns: 'sessions/**/*.parquet'",
    )
    parser.add_argument(
        "--out", type=shared.folder, default="run", metavar="DIR", help="run folder (default: run)"
    )
    parser.add_argument("--resume", action="store_true", help="continue the run in --out")
    parser.add_argument(
        "--overwrite", action="store_true", help="start again in --out, removing its earlier run"
    )
    add_config(parser)
    shared.add_common(parser)


def run(options: argparse.Namespace) -> int:
    """Train or resume."""
    from transformers4rec_ext.training.folder import RunFolder

    shared.use_threads(options)
    device = shared.model_device(options)
    folder = RunFolder(Path(options.out))
    shared.check_out_folder("train", folder.path)
    config = None
    if options.resume:
        folder.read()  # before a folder is made for the lock
    with folder.held():
        if options.resume:
            config = _prepare_resume(folder, options)
            if config is None:
                return 0
        else:
            _prepare_new(folder, options)
        return train_to_the_end(folder, options, device, config)


def train_to_the_end(
    folder: RunFolder, options: argparse.Namespace, device: Any, config: Any = None
) -> int:
    """Train the run of a folder, which is held, until it ends or a signal stops it; report it."""
    from transformers4rec_ext.training.run import train_run

    with stop_on_signals() as should_stop:
        result = train_run(
            folder,
            config,
            device=device,
            progress=not options.no_progress,
            say=shared.say,
            should_stop=should_stop,
        )
    if result is None:
        shared.say(f"stopped; continue with: {again(options)}")
        return 130
    report(folder, result)
    return 0


def again(options: argparse.Namespace) -> str:
    """Return the command that goes on with the run of ``--out``."""
    where = "" if options.device is None else f" --device {options.device}"
    return f"python -m transformers4rec_ext train --resume --out {shlex.quote(options.out)}{where}"


def report(folder: RunFolder, result: dict[str, Any]) -> None:
    """Print the metrics table of a finished run and where its files are."""
    config, _ = folder.read()
    trained = f"best epoch {result['best_epoch']} of {result['epochs']}"
    if not config.validates:
        trained = f"{result['epochs']} epoch{'s' * (result['epochs'] != 1)}"
    trained += f", {result['training_seconds']:.0f} s"
    if config.tests:
        _report_test(config, result, trained)
    else:
        shared.say(f"\n{trained}; nothing was held out, so there is nothing to judge the model by")
    shared.say(f"model, log and curves: {folder.path}")


def _report_test(config: RunConfig, result: dict[str, Any], trained: str) -> None:
    ranked = "items not seen in the session" if config.exclude_seen else "all items"
    targets = "the last item of each session"
    if config.split_column is not None:
        targets = "every item but the first of the test sessions"
    if config.test_sessions is not None:
        targets += f" (a sample of at most {config.test_sessions:,})"
    shared.say(f"\ntest: {targets}, ranked among {ranked}; {trained}")
    rows = {name: result[name] for name in ("model", "popularity")}
    shared.say(shared.metrics_table(rows))


def _given(options: argparse.Namespace) -> dict[str, Any]:
    """Return the fields of RunConfig that were given on the command line."""
    from transformers4rec_ext.training.config import RunConfig

    names = {field.name for field in dataclasses.fields(RunConfig)}
    return {name: value for name, value in vars(options).items() if name in names}


def _prepare_new(folder: RunFolder, options: argparse.Namespace) -> None:
    from transformers4rec_ext.training.config import RunConfig
    from transformers4rec_ext.training.folder import open_sessions
    from transformers4rec_ext.training.run import begin_run

    if not options.files:
        raise value_error("train", "FILE.parquet", "be given", "none", "Or --resume a run.")
    given = _given(options)
    config = RunConfig(**{"items_column": "item_id", **given})
    if not config.validates and "epochs" not in given:
        hint = "Nothing tells when to stop; a run that holds out both prints its best epoch."
        expectation = f"be given with --hold-out {config.hold_out}"
        raise value_error("train", "--epochs", expectation, "none", hint)
    sessions = open_sessions(config, options.files)
    status = folder.status()
    if status == "foreign" and not options.overwrite:
        there = ", ".join(path.name for path in folder.files if path.exists())
        hint = "Choose another folder, or add --overwrite to replace them."
        expectation = "hold no files that a run would replace"
        raise value_error("train", "--out", expectation, f"{options.out} with {there}", hint)
    if status != "new" and not options.overwrite:
        hint = "Add --overwrite to start again."
        if status == "unfinished":
            hint = f"Continue it with `{again(options)}`. {hint}"
        raise value_error("train", "--out", "hold no run", f"the {status} {options.out}", hint)
    begin_run(folder, config, sessions, progress=not options.no_progress)


def _prepare_resume(folder: RunFolder, options: argparse.Namespace) -> RunConfig | None:
    """Check the options against those of the run; return the config to go on with, or None."""
    from transformers4rec_ext.data.files import files_below

    if options.overwrite:
        raise value_error("train", "--overwrite", "not go with --resume", "both")
    config, _ = folder.read()
    changed = _changed(config, _given(options))
    config = dataclasses.replace(config, **changed)
    if options.files:
        folder.move(files_below("train", options.files))
    if folder.status() == "finished":
        end = folder.end()
        if end.ended(config):
            if "test_sessions" in changed:
                hint = f"Rank a sample with `evaluate {options.out} --sessions N`."
                expectation = "come before the run is finished"
                raise value_error("train", "--test-sessions", expectation, options.out, hint)
            more = _ENDS if config.schedule == "cosine" else "more --epochs would be"
            if end.epoch < config.epochs:
                more = f"a --patience above {config.patience}, or 0 for all epochs, would be"
            shared.say(f"{options.out} is finished; nothing to resume ({more})")
            return None
    if lost := folder.lost():
        raise value_error(
            "train",
            "--resume",
            f"find {lost}, without which a run begins anew",
            f"none in {options.out}",
            "Add --overwrite instead of --resume to start again.",
        )
    return config


def _changed(config: RunConfig, given: dict[str, Any]) -> dict[str, Any]:
    changed = {name: new for name, new in given.items() if getattr(config, name) != new}
    for name in changed:
        began = getattr(config, name)
        ends = name == "epochs" and config.schedule != "constant"
        if ends or name not in _FREE_ON_RESUME:
            hint = "Leave it out to resume, or start another run."
            raise value_error(
                "train",
                f"--{name.replace('_', '-')}",
                "be left out" if began is None else f"be {began!r} as the run began",
                repr(given[name]),
                f"{_ENDS.capitalize()}. {hint}" if ends else hint,
            )
    return changed
