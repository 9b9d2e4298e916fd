"""Row gradients in the Trainer: an optimizer and a clipping that take them."""

from __future__ import annotations

from typing import Any

import torch
from transformers.training_args import OptimizerNames

from transformers4rec_ext._errors import value_error
from transformers4rec_ext.optim import LazyAdam, clip_grad_norm_

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


def check_processes(model: Any, num_processes: int) -> None:
    """Raise where torch could not sum the row gradients of several processes.

    It knows those of an ``nn.Embedding``, hence of an item table whose weights are tied.
    """
    for task in model.prediction_tasks:
        tied = getattr(task, "weight_tying", False)
        if num_processes > 1 and getattr(task, "sparse_grad", False) and not tied:
            raise value_error(
                "Trainer",
                "sparse_grad",
                f"be used with weight_tying=True in {num_processes} processes",
                f"an output layer of its own in {task.task_name!r}",
            )
        if num_processes > 1 and getattr(task, "sparse_grad", False) and _backend() == "nccl":
            raise value_error(
                "Trainer",
                "sparse_grad",
                "go with processes that sum sparse tensors",
                "those of NCCL, which does not",
                "Give ddp_backend='gloo', or sparse_grad=False.",
            )


def _backend() -> str | None:
    """Return what the processes of torch.distributed speak by, None without any."""
    there = torch.distributed.is_available() and torch.distributed.is_initialized()
    return str(torch.distributed.get_backend()) if there else None


def clip_rows_too(accelerator: Any) -> None:
    """Make ``accelerator.clip_grad_norm_`` take gradients of rows."""

    def clip(parameters: Any, max_norm: float, norm_type: float = 2) -> Any:
        accelerator.unscale_gradients()
        return clip_grad_norm_(parameters, max_norm, norm_type)

    accelerator.clip_grad_norm_ = clip
