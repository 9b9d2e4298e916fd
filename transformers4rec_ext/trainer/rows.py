"""Row gradients in the Trainer: what optimizes, clips and exchanges them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import distributed, nn
from transformers.training_args import OptimizerNames

from transformers4rec_ext._errors import value_error
from transformers4rec_ext.optim import LazyAdam, average_row_gradients_, clip_grad_norm_

_ADAMW = (OptimizerNames.ADAMW_TORCH, OptimizerNames.ADAMW_TORCH_FUSED)


def lazy_optimizer(args: Any) -> tuple[type, dict[str, Any]]:
    """Return ``optimizer_cls_and_kwargs`` of AdamW for row gradients.

    Raises
    ------
    ValueError   if ``args.optim`` is another optimizer.
    """
    if args.optim not in _ADAMW:
        raise value_error(
            "Trainer",
            "optim",
            "be adamw_torch with row gradients (sparse_grad=True)",
            str(args.optim),
            "Or give Trainer optimizers=(optimizer, None).",
        )
    options = {
        "lr": args.learning_rate,
        "betas": (args.adam_beta1, args.adam_beta2),
        "eps": args.adam_epsilon,
    }
    return LazyAdam, options


def row_parameters(model: nn.Module) -> list[nn.Parameter]:
    """Return the parameters that get row gradients: item tables, and output layers of tasks."""
    found = {}
    for module in model.modules():
        for flag, name in (("sparse", "weight"), ("sparse_grad", "output_layer")):
            parameter = getattr(module, name, None)
            if getattr(module, flag, False) is True and isinstance(parameter, nn.Parameter):
                found[id(parameter)] = parameter
    return list(found.values())


@contextmanager
def rows_exchanged(model: Any, accelerator: Any) -> Iterator[None]:
    """While the block trains, let processes exchange row gradients as rows after ``backward``.

    DistributedDataParallel, which is made inside, passes over the parameters that get them. It
    would sum their gradients over gloo only and, unless an embedding of torch makes them, not at
    all. Their values are those of the first process to start with, as DDP sees to for the others.

    Raises
    ------
    ValueError
        If something else than DDP shares the parameters, or there are no others to train.
    """
    parameters = row_parameters(model)
    if not parameters or accelerator.num_processes == 1:
        yield
        return
    names = _names_to_pass_over(model, parameters, accelerator)
    for parameter in parameters:
        distributed.broadcast(parameter.data, 0)
    given = list(vars(model).get("_ignored_by_ddp", []))
    backward = accelerator.backward

    def and_exchange(loss: torch.Tensor, **kwargs: Any) -> None:
        backward(loss, **kwargs)
        if accelerator.sync_gradients:  # of steps that accumulate, the last
            average_row_gradients_(parameters)

    model._ddp_params_and_buffers_to_ignore = [*given, *names]
    accelerator.backward = and_exchange
    try:
        yield
    finally:
        accelerator.backward = backward
        model._ddp_params_and_buffers_to_ignore = given


def _names_to_pass_over(
    model: nn.Module, parameters: list[nn.Parameter], accelerator: Any
) -> list[str]:
    kind = str(getattr(accelerator.distributed_type, "value", accelerator.distributed_type))
    if not kind.startswith("MULTI_"):
        expectation = "be False where not DistributedDataParallel shares the model"
        hint = "Give it dense gradients, or train with DDP."
        raise value_error("Trainer", "sparse_grad", expectation, kind, hint)
    ours = {id(parameter) for parameter in parameters}
    if not any(each.requires_grad for each in model.parameters() if id(each) not in ours):
        raise value_error(
            "Trainer",
            "model",
            "have something to learn besides what gets row gradients",
            "nothing, in several processes",
            "Give it dense gradients (sparse_grad=False).",
        )
    named = model.named_parameters(remove_duplicate=False)
    return [name for name, parameter in named if id(parameter) in ours]


def clip_rows_too(accelerator: Any) -> None:
    """Make ``accelerator.clip_grad_norm_`` take gradients of rows."""

    def clip(parameters: Any, max_norm: float, norm_type: float = 2) -> Any:
        accelerator.unscale_gradients()
        return clip_grad_norm_(parameters, max_norm, norm_type)

    accelerator.clip_grad_norm_ = clip
