"""The Trainer: transformers' own, for models of this package."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Mapping
from typing import Any

import torch
from transformers.optimization import TYPE_TO_SCHEDULER_FUNCTION, get_scheduler
from transformers.trainer_utils import SchedulerType

from transformers4rec_ext._errors import value_error
from transformers4rec_ext.config.trainer import T4RecTrainingArguments
from transformers4rec_ext.model.batch import num_rows, on_device
from transformers4rec_ext.model.fit import has_row_gradients
from transformers4rec_ext.model.model import Model
from transformers4rec_ext.model.positions import IGNORED
from transformers4rec_ext.trainer import evaluation
from transformers4rec_ext.trainer.callbacks import (
    IncrementalLoggingCallback,
    StartEpoch,
    name_group,
)
from transformers4rec_ext.trainer.checkpoints import Checkpoints
from transformers4rec_ext.trainer.checks import check_arguments, take_former_compute_loss
from transformers4rec_ext.trainer.loaders import DatasetMock, make_loader
from transformers4rec_ext.trainer.rows import clip_rows_too, lazy_optimizer


class Trainer(Checkpoints):
    """``transformers.Trainer`` for a :class:`~transformers4rec_ext.Model`.

    Data are parquet files by the schema, a torch ``Dataset``, a ``DataLoader``, or any iterable of
    batches: dictionaries of tensors, or pairs of them and the targets.

    Parameters
    ----------
    model : Model
    args : T4RecTrainingArguments
    schema : Schema, optional
        The columns to read where data are paths.
    train_dataset_or_path, eval_dataset_or_path, test_dataset_or_path : optional
        Path or paths of parquet files, folders or patterns, or a ``Dataset``; evaluation data may
        be a dict of such by name.
    train_dataloader, eval_dataloader, test_dataloader : optional
        Loaders to use instead.
    callbacks : list of transformers.TrainerCallback, optional
    compute_metrics : bool, optional
        Whether to evaluate the metrics of the model's tasks, besides the loss.
    incremental_logging : bool
        Whether the steps of several calls of :meth:`train` count on in what is logged.
    **kwargs
        Of ``transformers.Trainer``, such as ``optimizers``.

    Raises
    ------
    TypeError    if ``model`` or ``args`` is something else, ``compute_metrics`` a function, or an
                 argument of ``transformers.Trainer`` would have no effect, such as
                 ``data_collator``.
    ValueError   if several GPUs are visible to one process.

    Notes
    -----
    A run that is resumed equals one that was not interrupted, to the bit: order of the data, random
    numbers, weights and state of the optimizer. The ``RandomSampler`` of a DataLoader
    (``shuffle=True``) is made so by seeding it at each epoch, unless it has a generator of its own;
    other samplers, data without a length, and an epoch that a callback cut short, may go on with
    other rows.

    Under ``torchrun`` each process takes its share of every batch, and the gradient is that of the
    mean over all labels of all processes (with several tasks: over all rows), so that two processes
    do what one does with twice the batch; of a ``Dataset`` a last batch of fewer rows than there
    are processes is left out. Accumulated gradients are the mean of those of the
    batches, however many labels each has.

    With row gradients (``sparse_grad=True``) AdamW is
    :class:`~transformers4rec_ext.optim.LazyAdam`, and processes exchange them as rows
    (:func:`~transformers4rec_ext.optim.average_row_gradients_`); not with FSDP or DeepSpeed.

    Metrics and losses are gathered a batch at a time; nothing that is kept has the size of the
    catalogue. Evaluation asks the model for its loss: who overrides :meth:`compute_loss` overrides
    :meth:`prediction_step` too.
    """

    def __init__(
        self,
        model: Model,
        args: T4RecTrainingArguments,
        schema: Any = None,
        train_dataset_or_path: Any = None,
        eval_dataset_or_path: Any = None,
        test_dataset_or_path: Any = None,
        train_dataloader: Any = None,
        eval_dataloader: Any = None,
        test_dataloader: Any = None,
        callbacks: list[Any] | None = None,
        compute_metrics: bool | None = None,
        incremental_logging: bool = False,
        **kwargs: Any,
    ) -> None:
        check_arguments(model, args, compute_metrics, kwargs)
        self.past_global_steps, self.counts_steps = 0, False
        self.incremental_logging = incremental_logging
        callbacks = [StartEpoch(), *(callbacks or [])]
        if incremental_logging:
            callbacks.append(IncrementalLoggingCallback(self))
        name_group(args.report_to, args.experiments_group)
        super().__init__(
            model=model,
            args=args,
            train_dataset=DatasetMock(),
            eval_dataset=DatasetMock(),  # what it stands for may be given later
            callbacks=callbacks,
            **kwargs,
        )
        # The loss is a mean over labels already; transformers then divides by accumulation steps.
        self.model_accepts_loss_kwargs = False
        self._optimizer_was_given = self.optimizer is not None or self.lr_scheduler is not None
        if has_row_gradients(model):
            clip_rows_too(self.accelerator)
        self.compute_metrics: Any = True if compute_metrics else None
        self.schema = schema
        self.train_dataset_or_path = train_dataset_or_path
        self.eval_dataset_or_path = eval_dataset_or_path
        self.test_dataset_or_path = test_dataset_or_path
        self.train_dataloader = train_dataloader
        self.eval_dataloader = eval_dataloader
        self.test_dataloader = test_dataloader
        self._log_predictions: Callable[..., None] | None = None

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        take_former_compute_loss(cls)

    def get_train_dataloader(self) -> Any:
        """Return the loader of the training data."""
        source = _first(self.train_dataloader, self.train_dataset_or_path)
        return self._loader(source, "Train", self._train_batch_size)

    def get_eval_dataloader(self, eval_dataset: Any = None) -> Any:
        """Return the loader of ``eval_dataset``, or of the Trainer's evaluation data."""
        given = None if isinstance(eval_dataset, DatasetMock) else eval_dataset
        source = _first(given, self._evaluated)
        return self._loader(source, "Eval", self.args.per_device_eval_batch_size)

    @property
    def _evaluated(self) -> Any:
        """What is evaluated unless something else is given."""
        tests = (self.test_dataloader, self.test_dataset_or_path)
        own = (self.eval_dataloader, self.eval_dataset_or_path)
        return _first(*(tests if self.args.eval_on_test_set else ()), *own)

    def get_test_dataloader(self, test_dataset: Any = None) -> Any:
        """Return the loader of ``test_dataset``, or of the Trainer's test data."""
        source = _first(test_dataset, self.test_dataloader, self.test_dataset_or_path)
        return self._loader(source, "Test", self.args.per_device_eval_batch_size)

    def _loader(self, source: Any, kind: str, batch_size: int) -> Any:
        if source is None:
            which = kind.lower()
            hint = f"Give {which}_dataset_or_path or {which}_dataloader."
            if kind == "Eval" and self.args.eval_strategy != "no":
                hint += " Or leave out eval_strategy."
            raise value_error("Trainer", f"{which} data", "be given", "none", hint)
        training = kind == "Train"
        return make_loader(
            source, kind, self.schema, self.args, batch_size=batch_size, training=training
        )

    @staticmethod
    def get_optimizer_cls_and_kwargs(args: Any, model: Any = None) -> tuple[Any, dict[str, Any]]:
        """Return the class and the arguments of ``args.optim``; for row gradients ``LazyAdam``."""
        if model is not None and has_row_gradients(model):
            return lazy_optimizer(args)
        return Checkpoints.get_optimizer_cls_and_kwargs(args, model)

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
        """Make the schedule of the learning rate, unless there is one.

        It goes on through several calls of :meth:`train`, but begins anew where training is resumed
        from a checkpoint, or tried again with smaller batches; see :meth:`reset_lr_scheduler`.
        """
        if self.lr_scheduler is None:
            epochs = self.args.num_train_epochs
            self.lr_scheduler = self.get_scheduler(
                self.args.lr_scheduler_type,
                optimizer=self.optimizer if optimizer is None else optimizer,
                num_warmup_steps=self.args.get_warmup_steps(num_training_steps),
                num_training_steps=num_training_steps,
                num_cycles=self.args.learning_rate_num_cosine_cycles_by_epoch * epochs,
                scheduler_specific_kwargs=self.args.lr_scheduler_kwargs,
            )
            self._own_schedule = self.lr_scheduler
        return self.lr_scheduler

    def reset_lr_scheduler(self) -> None:
        """Forget the schedule, so that the next :meth:`train` begins a new one."""
        self.lr_scheduler = None

    @staticmethod
    def get_scheduler(
        name: Any,
        optimizer: Any,
        num_warmup_steps: int | None = None,
        num_training_steps: int | None = None,
        num_cycles: float | None = 0.5,
        scheduler_specific_kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Return transformers' schedule ``name``, with ``num_cycles`` where it has cycles.

        Raises
        ------
        ValueError   if the name is unknown, or the schedule wants a number that is missing.
        """
        kind = SchedulerType(name)
        options = dict(scheduler_specific_kwargs or {})
        function: Any = TYPE_TO_SCHEDULER_FUNCTION[kind]
        if "num_cycles" in inspect.signature(function).parameters:
            options.setdefault("num_cycles", num_cycles)
        return get_scheduler(kind, optimizer, num_warmup_steps, num_training_steps, options)

    def _prepare_inputs(self, inputs: Any) -> Any:
        return super()._prepare_inputs(on_device(self.model, inputs, self.args.device))

    def compute_loss(
        self,
        model: Any,
        inputs: Any,
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> Any:
        """Return the loss of a training batch, and the model's outputs if asked for.

        Parameters
        ----------
        model : Model, possibly wrapped for distributed training
        inputs : dict of tensors, or (dict, targets)
        return_outputs : bool
        num_items_in_batch : not used: the model's loss is a mean over its labels
        """
        columns, targets = on_device(self.model, inputs, self.args.device)
        with self.accelerator.autocast():
            outputs = model(columns, targets=targets, training=True)
        loss = outputs["loss"]
        if self.args.world_size > 1:
            loss = loss * self._share(outputs["labels"], num_rows(inputs))
        return (loss, outputs) if return_outputs else loss

    def _share(self, labels: Any, rows: int) -> torch.Tensor:
        """Return what makes the mean over processes the mean over labels (of several tasks: rows).

        A process with n of N labels counts n / N, times the number of processes, by which the
        gradients are divided afterwards. Of a single task a loss that is a sum stays one.
        """
        tasks = self.model.prediction_tasks
        if len(tasks) == 1 and getattr(tasks[0].loss, "reduction", "mean") == "sum":
            return torch.tensor(float(self.args.world_size))
        count: Any = rows if isinstance(labels, Mapping) else labels.numel()
        if not isinstance(labels, Mapping) and evaluation.next_item_task(self.model) is not None:
            count = (labels != IGNORED).sum()  # of static_shapes some rows have none
        own = torch.as_tensor(count, dtype=torch.float64, device=self.args.device)
        total = self.accelerator.reduce(own, "sum").clamp(min=1.0)
        return (own * self.args.world_size / total).float()

    def evaluate(
        self,
        eval_dataset: Any = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> dict[str, float]:
        """Return ``eval_/loss`` and, with ``compute_metrics``, ``eval_/next-item/ndcg_at_10``, ...

        Parameters
        ----------
        eval_dataset : path, Dataset, DataLoader or iterable of batches, optional
            The Trainer's evaluation data by default. A dict of them evaluates each, its name behind
            the prefix.
        ignore_keys : not used
        metric_key_prefix : str
            In the place of ``eval``. With ``"train"`` only ``args.eval_steps_on_train_set`` batches
            are evaluated.
        """
        if eval_dataset is None:
            own = self._evaluated
            eval_dataset = dict(own) if isinstance(own, Mapping) else DatasetMock()
        result: dict[str, float] = super().evaluate(eval_dataset, ignore_keys, metric_key_prefix)
        return result

    def predict(
        self,
        test_dataset: Any = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "test",
    ) -> Any:
        """Predict for every row, without looking at targets; files may lack their columns.

        Parameters
        ----------
        test_dataset : path, Dataset, DataLoader or iterable of batches, optional
            The Trainer's test data by default.
        ignore_keys : not used
        metric_key_prefix : str

        Returns
        -------
        transformers.trainer_utils.PredictionOutput
            Its ``predictions`` are arrays on the CPU: of a next-item task ``(ids, scores)``
            [rows, predict_top_k], or the scores [rows, V] with ``predict_top_k=0``; of several
            tasks a dictionary.
        """
        return super().predict(test_dataset, ignore_keys, metric_key_prefix)

    def evaluation_loop(
        self,
        dataloader: Any,
        description: str,
        prediction_loss_only: bool | None = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> Any:
        """Evaluate, or predict if ``description`` is ``"Prediction"``; what both rest on."""
        self.callback_handler.eval_dataloader = dataloader
        if description == "Prediction":
            return evaluation.predict(self, dataloader)
        if prediction_loss_only is None:
            prediction_loss_only = self.args.prediction_loss_only
        return evaluation.evaluate(self, dataloader, metric_key_prefix, prediction_loss_only)

    def prediction_step(
        self,
        model: Any,
        inputs: Any,
        prediction_loss_only: bool,
        ignore_keys: list[str] | None = None,
        training: bool = False,
        testing: bool = True,
    ) -> tuple[Any, Any, Any, Any]:
        """Return ``(loss, predictions, labels, None)`` of a batch.

        Without flags loss and labels are None, and a next-item task recommends ``(ids, scores)``.
        With one, its predictions are the ranks of the labels, or None with
        ``prediction_loss_only``; scores where a metric, or ``log_predictions``, wants them.
        """
        columns, targets = on_device(self.model, inputs, self.args.device)
        with torch.no_grad(), self.accelerator.autocast():
            if not (training or testing):
                return None, evaluation.recommend(self, model, columns, targets), None, None
            returns = "loss" if prediction_loss_only else "ranks"
            if returns == "ranks" and self.args.log_predictions and self._log_predictions:
                returns = "predictions"
            outputs = model(
                columns, targets=targets, training=training, testing=testing, returns=returns
            )
        return outputs["loss"], outputs["predictions"], outputs["labels"], None

    def after_prediction_step(self) -> None:
        """Tell the callbacks that a batch was evaluated."""
        self.control = self.callback_handler.on_prediction_step(self.args, self.state, self.control)

    @property
    def log_predictions_callback(self) -> Callable[..., None] | None:
        """Called with ``labels, pred_item_ids, pred_item_scores, metrics, dataset_type``.

        ``metrics`` is None of a batch of which none are computed.
        """
        return self._log_predictions

    @log_predictions_callback.setter
    def log_predictions_callback(self, callback: Callable[..., None] | None) -> None:
        self._log_predictions = callback

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log values; with ``incremental_logging`` at a step that counts all ``train()`` calls."""
        if not self.incremental_logging:
            super().log(logs, start_time)
            return
        own = self.state
        self.state = copy.copy(own)  # shares log_history
        self.state.global_step = self.past_global_steps
        self.state.global_step += own.global_step if self.counts_steps else 0
        try:
            super().log(logs, start_time)
        finally:
            self.state = own

    def floating_point_ops(self, inputs: Any) -> int:
        """Return 0: they are not counted."""
        return 0


def _first(*sources: Any) -> Any:
    return next((source for source in sources if source is not None), None)
