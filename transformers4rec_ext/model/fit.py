"""The small steps of ``Model.fit`` and ``Model.evaluate``."""

from __future__ import annotations

import inspect
import os
from collections.abc import Iterable, Mapping
from typing import Any

import torch

from transformers4rec_ext._errors import type_error, value_error
from transformers4rec_ext.model.batch import on_device, to_device
from transformers4rec_ext.optim import LazyAdam


def check_loader(function: str, loader: Any) -> None:
    """Raise TypeError for what is no iterable of batches, though some of it can be iterated."""
    if isinstance(loader, str | os.PathLike | Mapping | torch.Tensor) or not (
        hasattr(loader, "__iter__") or hasattr(loader, "__getitem__")
    ):
        raise type_error(
            function,
            "dataloader",
            "be an iterable of batches",
            type(loader).__name__,
            "For files there is data.ParquetLoader(path, schema, batch_size); put one batch in a "
            "list.",
        )


def progress(loader: Iterable[Any], verbose: bool, text: str) -> Iterable[Any]:
    """Return the loader, behind a progress bar where ``verbose``."""
    if not verbose:
        return loader
    from tqdm import tqdm

    bar: Iterable[Any] = tqdm(loader, desc=text)
    return bar


def make_optimizer(optimizer: Any, model: torch.nn.Module, **options: Any) -> Any:
    """Return an optimizer of the model from a class, a function or an optimizer.

    torch's Adam, the default of ``fit``, gives way to `LazyAdam` where gradients are rows.

    Raises
    ------
    ValueError   if there is nothing to learn.
    TypeError    if it is and makes no optimizer.
    """
    if not any(parameter.requires_grad for parameter in model.parameters()):
        hint = "fit(train=False) measures without learning; requires_grad_() takes a freeze back."
        raise value_error("Model.fit", "model", "have a parameter to learn", "none", hint)
    if optimizer is torch.optim.Adam and has_row_gradients(model):
        optimizer = LazyAdam
    if inspect.isclass(optimizer) or (callable(optimizer) and not hasattr(optimizer, "step")):
        optimizer = optimizer(model.parameters(), **options)
    if not hasattr(optimizer, "step") or not hasattr(optimizer, "zero_grad"):
        raise type_error(
            "Model.fit", "optimizer", "be an optimizer or make one", type(optimizer).__name__
        )
    return optimizer


def has_row_gradients(model: torch.nn.Module) -> bool:
    """Tell whether an embedding of the model, or an output layer, gives sparse gradients."""
    return any(
        getattr(module, "sparse", False) is True or getattr(module, "sparse_grad", False) is True
        for module in model.modules()
    )


def run_batch(
    model: torch.nn.Module,
    batch: Any,
    device: torch.device,
    amp: bool,
    flags: dict[str, Any],
    default_targets: Any = None,
) -> dict[str, Any]:
    """Return the model's outputs of a batch of a loader, moved to the device."""
    inputs, targets = on_device(model, batch, device)
    targets = to_device(default_targets, device) if targets is None else targets
    with torch.autocast(device.type, enabled=amp):
        output: dict[str, Any] = model(inputs, targets=targets, **flags)
    return output


def step(loss: torch.Tensor, optimizer: Any, scaler: torch.amp.GradScaler | None) -> None:
    """Go a step against the gradient of ``loss``, scaled where there is a scaler."""
    optimizer.zero_grad()
    if scaler is None:
        loss.backward()
        optimizer.step()
    else:
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()


def no_batch(function: str, times: str, got: str) -> ValueError:
    """Return the error of a loader that yielded nothing."""
    hint = "A generator is spent after one epoch; pass a list or a DataLoader."
    return value_error(function, "dataloader", f"yield at least one batch{times}", got, hint)


def mean_loss(losses: list[torch.Tensor], function: str, epoch: int) -> float:
    """Return the mean of an epoch's losses; ValueError without any."""
    if not losses:
        raise no_batch(function, " per epoch", f"none in epoch {epoch + 1}")
    return float(torch.stack(losses).double().mean())


def process_metrics(metrics: Mapping[str, Any], prefix: str = "", to_cpu: bool = True) -> Any:
    """Return nested dictionaries of metrics as one, ``{prefix + name: value}``.

    Parameters
    ----------
    metrics : dict from name to tensor, or to such a dict
    prefix : str
    to_cpu : bool
        Whether tensors become numbers.

    Examples
    --------
    >>> process_metrics({"eval_click": {"click/accuracy": torch.tensor(0.5)}}, prefix="eval_/")
    {'eval_/click/accuracy': 0.5}
    """
    flat: dict[str, Any] = {}
    for name, value in metrics.items():
        if isinstance(value, Mapping):
            flat.update(process_metrics(value, prefix, to_cpu))
        else:
            flat[f"{prefix}{name}"] = float(value) if to_cpu else value
    return flat


def in_words(metrics: Mapping[str, Any]) -> str:
    """Return nested metrics as one line."""
    parts = []
    for name, value in metrics.items():
        if isinstance(value, Mapping):
            parts.append(in_words(value))
        else:
            parts.append(f"  {name} {float(value):.4f}")
    return "".join(parts)
