"""Row gradients in the Trainer: what optimizes, clips and exchanges them."""

from __future__ import annotations

from typing import Any

import torch
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel
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


def exchange_rows(model: nn.Module, accelerator: Any) -> None:
    """Make the processes of ``accelerator`` exchange row gradients as rows, after ``backward``.

    DistributedDataParallel passes over these parameters then. It would sum their gradients over
    gloo only and, unless an ``nn.Embedding`` makes them, not as rows.
    """
    parameters = row_parameters(model)
    ours = {id(parameter) for parameter in parameters}
    named = model.named_parameters(remove_duplicate=False)
    names = [name for name, parameter in named if id(parameter) in ours]
    DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(model, names)
    for parameter in parameters:
        distributed.broadcast(parameter.data, 0)  # else each process would keep its own start
    backward = accelerator.backward

    def and_exchange(loss: torch.Tensor, **kwargs: Any) -> None:
        backward(loss, **kwargs)
        if accelerator.sync_gradients:  # of steps that accumulate, the last
            average_row_gradients_(parameters)

    accelerator.backward = and_exchange


def clip_rows_too(accelerator: Any) -> None:
    """Make ``accelerator.clip_grad_norm_`` take gradients of rows."""

    def clip(parameters: Any, max_norm: float, norm_type: float = 2) -> Any:
        accelerator.unscale_gradients()
        return clip_grad_norm_(parameters, max_norm, norm_type)

    accelerator.clip_grad_norm_ = clip
