"""What several commands share: a command's parser, device, threads, progress, tables."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformers4rec_ext._errors import value_error

if TYPE_CHECKING:
    import torch

    from transformers4rec_ext.training.folder import RunFolder

#: What a command does with rows that hold nothing, for the end of its --help.
NULLS = """\
An empty list is a session without items. A null list, a null item or a negative id is an error
that names its row; leave such rows out when you write the file."""


def add_command(
    commands: Any, name: str, summary: str, epilog: str, run: Callable[[argparse.Namespace], int]
) -> argparse.ArgumentParser:
    """Return the parser of a command that calls ``run``."""
    parser: argparse.ArgumentParser = commands.add_parser(
        name,
        help=summary,
        description=summary,
        epilog=epilog,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.set_defaults(run=run, command=name)
    return parser


def add_common(parser: argparse.ArgumentParser) -> None:
    """Add --device, --threads and --no-progress."""
    parser.add_argument(
        "--device",
        metavar="D",
        help="where the model runs: cpu, cuda, or cuda:1 and the like (default: cpu)",
    )
    parser.add_argument(
        "--threads",
        type=int,
        metavar="N",
        help="CPU threads of torch (default: all cores). Give fewer where other programs run: more "
        "threads than free cores wait for each other, and may take ten times as long",
    )
    parser.add_argument("--no-progress", action="store_true", help="no progress bar")


def use_threads(options: argparse.Namespace) -> None:
    """Apply --threads."""
    if options.threads is None:
        return
    most = 64 * (os.cpu_count() or 1)  # torch would try to start any number of them
    if not 1 <= options.threads <= most:
        expectation = f"be from 1 to {most}"
        raise value_error(options.command, "--threads", expectation, options.threads)
    import torch

    torch.set_num_threads(options.threads)


def model_device(options: argparse.Namespace) -> torch.device:
    """Return the device of --device, which is there."""
    import torch

    command, name = options.command, options.device
    if name is None:
        if torch.cuda.is_available():
            print("on the CPU; --device cuda uses the GPU", file=sys.stderr, flush=True)
        return torch.device("cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        device = None
    if device is None or str(device) != name:  # torch takes cuda:256 for cuda:0
        hint = "As in --device cuda."
        raise value_error(command, "--device", "be a device of torch", repr(name), hint)
    if device.type == "cpu":
        return device
    if device.type == "mps":
        raise value_error(command, "--device", "be one with float64, in which ranks are", name)
    module = getattr(torch, device.type, None)
    count = module.device_count() if module is not None and module.is_available() else 0
    if (device.index or 0) >= count:
        hint = "`python -m transformers4rec_ext doctor` shows which torch this is, and its GPUs."
        there = f"{name} where torch finds {count} of its kind"
        raise value_error(command, "--device", "be there", there, hint)
    return device


def folder(name: str) -> str:
    """Return the name of a folder; of a variable that is not set it is empty."""
    if not name:
        raise argparse.ArgumentTypeError("must name a folder; got ''")
    return name


def items_column(options: argparse.Namespace, of_the_run: str) -> str:
    """Return --items-column, or that of the run where it is left out."""
    given: str | None = options.items_column
    return of_the_run if given is None else given


def check_out_folder(command: str, path: Path) -> None:
    """Raise unless ``path`` is a folder that can be written to, or can be made one."""
    # os.path asks without raising, whatever is in the way.
    existing = os.path.abspath(path)
    while not os.path.lexists(existing):
        existing = os.path.dirname(existing)
    if not os.path.isdir(existing):
        hint = "Choose another folder."
        raise value_error(command, "--out", "be a folder", f"{path}: {existing} is none", hint)
    _check_writable(command, existing)


def check_out_file(command: str, path: Path) -> None:
    """Raise unless a file can be written to ``path``; its folder must be there."""
    if os.path.isdir(path):
        hint = "Add a name to it."
        raise value_error(command, "--out", "be a file", f"the folder {path}", hint)
    if os.path.exists(path) and not os.path.isfile(path):
        hint = "Write to a file, and send that on."
        raise value_error(command, "--out", "be a file", f"{path}, a device or pipe", hint)
    if not os.path.isdir(path.parent):
        hint = f"Make {path.parent} first, or choose another place."
        raise value_error(command, "--out", "lie in a folder that is there", path, hint)
    _check_writable(command, path.parent)


def check_out_is_not_read(
    command: str, out: Path, folder: RunFolder, sessions: Iterable[Path]
) -> None:
    """Raise if ``out`` is one of the files of the run, there or not, or of the sessions."""
    read = (*folder.files, folder.lock, *sessions)
    same = os.path.realpath(out) in map(os.path.realpath, read)
    if same or (out.exists() and any(path.exists() and out.samefile(path) for path in read)):
        expectation = "be another file than the sessions and those of the run"
        raise value_error(command, "--out", expectation, out)


def _check_writable(command: str, folder: str | Path) -> None:
    if not os.access(folder, os.W_OK | os.X_OK):
        hint = "Choose another place, or ask for the right to write there."
        raise value_error(command, "--out", "be where you may write", folder, hint)


#: The metrics that are printed, and how they are called; metrics.json holds all.
SHOWN = {
    "ndcg_at_10": "NDCG@10",
    "ndcg_at_10_se": "(+-SE)",
    "recall_at_10": "Recall@10",
    "mrr_at_10": "MRR@10",
    "ndcg_at_20": "NDCG@20",
    "recall_at_20": "Recall@20",
    "mrr_at_20": "MRR@20",
}


def metrics_table(rows: Mapping[str, Mapping[str, float]]) -> str:
    """Return an aligned table, a row for each ranker and a column for each metric of ``SHOWN``.

    Examples
    --------
    >>> print(metrics_table({name: dict.fromkeys(SHOWN, 0.25) for name in ("model", "popularity")}))
                NDCG@10  (+-SE)  Recall@10  MRR@10  NDCG@20  Recall@20  MRR@20
    model        0.2500  0.2500     0.2500  0.2500   0.2500     0.2500  0.2500
    popularity   0.2500  0.2500     0.2500  0.2500   0.2500     0.2500  0.2500
    """
    widths = {name: max(8, len(title) + 2) for name, title in SHOWN.items()}
    lines = [" " * 10 + "".join(f"{SHOWN[name]:>{width}}" for name, width in widths.items())]
    for ranker, metrics in rows.items():
        cells = (f"{metrics[name]:>{width}.4f}" for name, width in widths.items())
        lines.append(f"{ranker:<10}" + "".join(cells))
    return "\n".join(lines)


def say(line: str) -> None:
    """Print a line at once, so that it stands in the right place among progress bars."""
    print(line, flush=True)
