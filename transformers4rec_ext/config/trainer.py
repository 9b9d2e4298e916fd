"""Training arguments: those of transformers, and what a recommender needs besides."""

from __future__ import annotations

import abc
import functools
import inspect
from collections.abc import Container
from dataclasses import dataclass, field
from typing import Any

import transformers

from transformers4rec_ext._errors import type_error, value_error
from transformers4rec_ext._numbers import is_integer

_NAME = "T4RecTrainingArguments"
_BEST = "metric_for_best_model"
_TrainingArguments: Any = transformers.TrainingArguments

if int(transformers.__version__.split(".")[0]) < 5:
    raise ImportError(
        f"transformers4rec_ext's Trainer needs transformers >= 5; got {transformers.__version__}. "
        "Install it with `pip install 'transformers>=5'`, or train with Model.fit."
    )

# Names of transformers 4 that upstream's scripts use, and what they are called now.
_RENAMED = {
    "evaluation_strategy": "eval_strategy",
    "no_cuda": "use_cpu",
    "per_gpu_train_batch_size": "per_device_train_batch_size",
    "per_gpu_eval_batch_size": "per_device_eval_batch_size",
    "warmup_ratio": "warmup_steps",  # below 1 it is a ratio
}
# Names that are gone: the values that ask for nothing, and what to do about others.
_GONE: dict[str, tuple[tuple[Any, ...], str]] = {
    "overwrite_output_dir": ((False, True), ""),
    "save_safetensors": ((False, True, None), ""),
    "logging_dir": ((None,), "Set the environment variable TENSORBOARD_LOGGING_DIR."),
    "adafactor": ((False,), "Use optim='adafactor'."),
    "use_mps_device": ((False,), "The device is found by itself."),
    "group_by_length": ((False,), "ParquetLoader shuffles rows of all lengths."),
    "half_precision_backend": (("auto",), "Use bf16=True or fp16=True."),
    "fp16_backend": (("auto",), "Use bf16=True or fp16=True."),
    "fp16_opt_level": (("O1",), "Use fp16=True."),
    "past_index": ((-1,), "A session model keeps no past."),
    "jit_mode_eval": ((False,), ""),
    "use_ipex": ((False,), ""),
    "torchdynamo": ((None,), "Use torch_compile=True."),
    "sharded_ddp": (("", False), "Use fsdp."),
    "fsdp_min_num_params": ((0,), "Use fsdp_config."),
    "fsdp_transformer_layer_cls_to_wrap": ((None,), "Use fsdp_config."),
    "mp_parameters": (("",), ""),
    "use_legacy_prediction_loop": ((False,), ""),
    "include_inputs_for_metrics": ((False,), "The metrics are those of the model's tasks."),
    "ray_scope": (("last",), ""),
    "xpu_backend": ((None,), "Use ddp_backend."),
    "tpu_num_cores": ((None,), ""),
    "tpu_metrics_debug": ((False,), ""),
    "push_to_hub_model_id": ((None,), "Use hub_model_id."),
    "push_to_hub_organization": ((None,), "Use hub_model_id."),
    "push_to_hub_token": ((None,), "Use hub_token."),
}
# Names of transformers 5 that would have no effect here: the value that asks for nothing.
_NO_EFFECT: dict[str, tuple[Any, str]] = {
    "label_smoothing_factor": (0, "Use a task with CrossEntropyLoss(label_smoothing=...)."),
    "fp16_full_eval": (False, "Use fp16=True, which evaluates under autocast too."),
    "bf16_full_eval": (False, "Use bf16=True, which evaluates under autocast too."),
    "activation_checkpointing": (
        False,
        "Call activation_checkpointing_enable() of a block's transformer.",
    ),
    "gradient_checkpointing": (
        False,
        "Call gradient_checkpointing_enable() of a block's transformer.",
    ),
    "neftune_noise_alpha": (None, "Use pre='stochastic-swap-noise' of the input block."),
    "train_sampling_strategy": ("random", "Give a train_dataloader in the order you want."),
    "batch_eval_metrics": (False, "Metrics are summed up a batch at a time as it is."),
    "eval_do_concat_batches": (True, "predict gives whole arrays."),
    "include_for_metrics": ([], "The metrics are those of the model's tasks."),
}


class _TakesFormerNames(abc.ABCMeta):
    """Of a class, and of those that inherit from it: arguments by names of transformers 4.

    What an ``__init__`` of one's own takes is left to it.
    """

    def __call__(cls, *args: Any, **kwargs: Any) -> Any:
        taken = inspect.signature(cls.__init__).parameters  # type: ignore[misc]
        if any(each.kind is each.VAR_KEYWORD for each in taken.values()):
            return super().__call__(*args, **kwargs)
        return super().__call__(*args, **_translated(kwargs, taken))

    @property
    def __signature__(cls) -> inspect.Signature:
        whole = inspect.signature(cls.__init__)  # type: ignore[misc]  # of this class, no subclass
        return whole.replace(parameters=[*whole.parameters.values()][1:], return_annotation=cls)


def _translated(given: dict[str, Any], known: Container[str]) -> dict[str, Any]:
    """Return keyword arguments of transformers 4 by their names of transformers 5."""
    kept = {}
    for name, value in given.items():
        if name in known or (name not in _RENAMED and name not in _GONE):
            kept[name] = value
        elif name in _RENAMED:
            new = _RENAMED[name]
            if new in given:
                raise type_error(_NAME, name, f"be left out beside {new}", repr(value))
            if value is not None:
                kept[new] = value
        else:
            harmless, hint = _GONE[name]
            if value not in harmless:
                raise type_error(
                    _NAME, name, "be left out: transformers 5 has it no more", repr(value), hint
                )
    if kept.get("optim") == "adamw_hf":  # a former AdamW; where eps and decay come in differs
        kept["optim"] = "adamw_torch"
    return kept


def _taken_by_super(cls: Any) -> Any:
    """Let ``super().__init__(...)`` take former names too: it is no call of the class."""
    init = cls.__init__

    @functools.wraps(init)
    def __init__(self: Any, *args: Any, **kwargs: Any) -> None:
        init(self, *args, **_translated(kwargs, inspect.signature(init).parameters))

    cls.__init__ = __init__
    return cls


@_taken_by_super
@dataclass
class T4RecTrainingArguments(_TrainingArguments, metaclass=_TakesFormerNames):
    """``transformers.TrainingArguments`` and what the data and the metrics of a recommender need.

    Names of transformers 4 (``evaluation_strategy``, ``no_cuda``, ``warmup_ratio``, ...) are taken
    too, also by dataclasses that inherit from it, but not by an ``HfArgumentParser``.
    ``metric_for_best_model`` may be ``"loss"`` or a metric, ``"next-item/ndcg_at_10"``; of
    evaluation data by name ``"a_/loss"``.

    Parameters
    ----------
    max_sequence_length : int, optional
        Width of list columns, what is longer cut behind it; by default the longest row's of each
        batch.
    shuffle_buffer_size : int
        Rows that are shuffled together. With 0 the ``merlin`` engines shuffle 65,536 at once and
        the ``pyarrow`` engines keep the order of the file.
    data_loader_engine : str
        One of upstream's names, all of which read parquet with
        :class:`~transformers4rec_ext.data.ParquetLoader`, or one registered in
        ``utils.data_utils.dataloader_registry``; the Trainer looks it up.
    eval_on_test_set : bool
        Whether ``evaluate()`` reads the test data instead of the evaluation data, where the
        Trainer has some.
    eval_steps_on_train_set : int
        With ``metric_key_prefix="train"`` evaluate so many batches only; 0 for all.
    predict_top_k : int, optional
        Items that ``predict`` recommends a row; 0 or None for the scores of all items.
    learning_rate_num_cosine_cycles_by_epoch : float
        Times ``num_train_epochs`` (whatever ``max_steps`` is) the waves of a cosine schedule; half
        a wave falls to 0 once.
    log_predictions : bool
        Whether to give the best items of every evaluated batch to ``log_predictions_callback``,
        which needs the scores of all items of a batch at a time.
    compute_metrics_each_n_steps : int
        Evaluate metrics (not the loss) on every n-th batch.
    experiments_group : str
        The group of the run in Weights & Biases, where ``report_to`` names it.

    Raises
    ------
    TypeError    for an argument that no longer exists.
    ValueError   for a value out of range, or one that would have no effect.

    Examples
    --------
    >>> args = T4RecTrainingArguments("runs/first", evaluation_strategy="steps", use_cpu=True)
    >>> args.eval_strategy.value, args.predict_top_k
    ('steps', 100)
    """

    max_sequence_length: int | None = field(
        default=None, metadata={"help": "Width of list columns; by default the longest row's."}
    )
    shuffle_buffer_size: int = field(
        default=0, metadata={"help": "Rows that are shuffled together; 0 for the engine's own."}
    )
    data_loader_engine: str = field(
        default="merlin", metadata={"help": "merlin, pyarrow, or the name of a loader of yours."}
    )
    eval_on_test_set: bool = field(
        default=False, metadata={"help": "Evaluate on the test data instead of the eval data."}
    )
    eval_steps_on_train_set: int = field(
        default=20, metadata={"help": "Batches to evaluate of the training data; 0 for all."}
    )
    predict_top_k: int | None = field(
        default=100, metadata={"help": "Items to recommend a row; 0 for the scores of all."}
    )
    learning_rate_num_cosine_cycles_by_epoch: float = field(
        default=1.25, metadata={"help": "Times num_train_epochs: waves of a cosine schedule."}
    )
    log_predictions: bool = field(
        default=False, metadata={"help": "Give the best items to log_predictions_callback."}
    )
    compute_metrics_each_n_steps: int = field(
        default=1, metadata={"help": "Evaluate metrics on every n-th batch."}
    )
    experiments_group: str = field(
        default="default", metadata={"help": "The group of the run in Weights & Biases."}
    )

    def __post_init__(self) -> None:
        """Check the values, and name the metric of the best model as the Trainer does."""
        self._check()
        super().__post_init__()
        best = getattr(self, _BEST)
        if best is not None:
            setattr(self, _BEST, _metric_key(best))

    def _check(self) -> None:
        for name, least in (
            ("max_sequence_length", 1),
            ("shuffle_buffer_size", 0),
            ("eval_steps_on_train_set", 0),
            ("predict_top_k", 0),
            ("compute_metrics_each_n_steps", 1),
        ):
            value = getattr(self, name)
            if value is None and name in ("max_sequence_length", "predict_top_k"):
                continue
            if not is_integer(value) or value < least:
                raise value_error(_NAME, name, f"be an int >= {least}", repr(value))
        cycles = self.learning_rate_num_cosine_cycles_by_epoch
        if cycles <= 0:
            raise value_error(_NAME, "learning_rate_num_cosine_cycles_by_epoch", "be > 0", cycles)
        for argument, (only, hint) in _NO_EFFECT.items():
            got = getattr(self, argument, only)  # a few came, and went, after transformers 5.0
            if got is not None and got != only:
                raise value_error(_NAME, argument, f"be {only}", got, hint)


def _metric_key(name: str) -> str:
    """Return the name for which transformers finds ``eval_/{name}`` among the metrics."""
    name = name.removeprefix("eval_")
    return name if name.startswith("/") or "_/" in name else f"/{name}"
