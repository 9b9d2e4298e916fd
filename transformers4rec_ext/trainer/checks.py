"""What a Trainer is given, or overrides: refused where it would fail later, or change nothing."""

from __future__ import annotations

import functools
import inspect
from typing import Any

from transformers4rec_ext._errors import type_error, value_error
from transformers4rec_ext.config.trainer import T4RecTrainingArguments
from transformers4rec_ext.model.fit import has_row_gradients
from transformers4rec_ext.model.model import Model
from transformers4rec_ext.trainer.rows import lazy_optimizer
from transformers4rec_ext.utils.data_utils import dataloader_registry

#: Arguments of transformers' Trainer that have no effect here, and what to do instead.
_NOT_TAKEN = {
    "model_init": "Give the model.",
    "train_dataset": "It is called train_dataset_or_path.",
    "eval_dataset": "It is called eval_dataset_or_path.",
    "data_collator": "Give train_dataloader=DataLoader(..., collate_fn=...), and so on.",
    "compute_loss_func": "Give the task a loss, or override compute_loss.",
    "preprocess_logits_for_metrics": "Metrics are those of the model's tasks, and need no logits.",
    "processing_class": "There is no text.",
}


def check_arguments(model: Any, args: Any, compute_metrics: Any, others: dict[str, Any]) -> None:
    """Raise unless a Trainer can be made of these; ``others`` go to transformers' Trainer."""
    for name, hint in _NOT_TAKEN.items():
        if others.get(name) is not None:
            raise type_error("Trainer", name, "be left out", type(others[name]).__name__, hint)
    if not isinstance(model, Model):
        hint = "A body becomes one with task.to_model(body)."
        raise type_error(
            "Trainer", "model", "be a Model, which has a head", type(model).__name__, hint
        )
    if not isinstance(args, T4RecTrainingArguments):
        raise type_error("Trainer", "args", "be T4RecTrainingArguments", type(args).__name__)
    if args.data_loader_engine not in dataloader_registry:
        expectation = f"be one of {tuple(dataloader_registry)}"
        got = repr(args.data_loader_engine)
        raise value_error("Trainer", "args.data_loader_engine", expectation, got)
    if compute_metrics is not None and not isinstance(compute_metrics, bool):
        hint = "Metrics are those of the model's tasks: give a task metrics=[...]."
        raise type_error(
            "Trainer", "compute_metrics", "be a bool", type(compute_metrics).__name__, hint
        )
    if args.n_gpu > 1:
        raise value_error(
            "Trainer",
            "the process",
            "see one GPU",
            args.n_gpu,
            "Start one process for each with `torchrun --nproc-per-node`, or set "
            "CUDA_VISIBLE_DEVICES.",
        )
    if has_row_gradients(model) and not _has_optimizer(others):
        lazy_optimizer(args)  # raises for an args.optim that takes none


def take_former_compute_loss(kind: Any) -> None:
    """Let a subclass define ``compute_loss`` without ``num_items_in_batch``, as of transformers 4.

    Nothing is lost: for a Trainer of ours transformers counts no items, and the argument is None.
    """
    given = kind.compute_loss
    taken = inspect.signature(given, follow_wrapped=False).parameters
    hands_on = any(each.kind is each.VAR_KEYWORD for each in taken.values())
    if hands_on or "num_items_in_batch" in taken:
        return

    @functools.wraps(given)
    def compute_loss(
        trainer: Any, *args: Any, num_items_in_batch: Any = None, **options: Any
    ) -> Any:
        return given(trainer, *args, **options)

    kind.compute_loss = compute_loss


def _has_optimizer(others: dict[str, Any]) -> bool:
    """Tell whether the caller says what optimizes; a pair of None, the default, says nothing."""
    optimizer, _ = others.get("optimizers") or (None, None)
    return optimizer is not None or others.get("optimizer_cls_and_kwargs") is not None
