"""Checkpoints of the Trainer: weights without aliases, and all that a resumed run needs."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
import transformers

from transformers4rec_ext._checkpoint import load_state, save_state
from transformers4rec_ext._errors import type_error, value_error
from transformers4rec_ext.model.fit import has_row_gradients
from transformers4rec_ext.model.model import Model
from transformers4rec_ext.trainer.rows import clip_rows_too, rows_exchanged

_WEIGHTS = "model.safetensors"
_UPSTREAM_WEIGHTS = "pytorch_model.bin"
_ARGUMENTS = "training_args.bin"


# Any: its types differ from release to release, and the Trainer is tested, not typed, against them.
_Trainer: Any = transformers.Trainer


class Checkpoints(_Trainer):
    """What the Trainer does with the folders ``checkpoint-STEP``.

    Notes
    -----
    Weights are safetensors, an item table that the model has under several names once. Optimizer,
    schedule and random numbers are transformers' files; ``samplers_RANK.safetensors`` holds the
    generators of samplers that have a seed of their own.
    """

    state: Any
    control: Any
    lr_scheduler: Any
    _attempted: bool = False
    _own_schedule: Any = None
    _optimizer_was_given: bool = False
    _evaluated: Any

    def train(
        self, resume_from_checkpoint: str | bool | None = None, *args: Any, **kwargs: Any
    ) -> Any:
        """Train; with the folder of a checkpoint, or True for the last one, from there on.

        Raises
        ------
        FileNotFoundError   if there is no such folder.
        ValueError          if it is no checkpoint, or there is none in ``args.output_dir``; if
                            several processes cannot exchange row gradients.
        """
        if resume_from_checkpoint is not None and not isinstance(resume_from_checkpoint, bool):
            resume_from_checkpoint = os.fspath(resume_from_checkpoint)
            _check_folder("Trainer.train", "resume_from_checkpoint", resume_from_checkpoint)
        if resume_from_checkpoint:  # whose schedule is read into one of this run's length
            self._forget_own_schedule()
        if self._evaluated is None and self.args.eval_strategy != "no":
            self.get_eval_dataloader()  # says what is missing now, not after the first epoch
        self._attempted = False
        try:
            with rows_exchanged(self.model, self.accelerator):
                return super().train(resume_from_checkpoint, *args, **kwargs)
        finally:
            _unwrap(self.model)

    def _inner_training_loop(self, *args: Any, **kwargs: Any) -> Any:
        if self._attempted:  # auto_find_batch_size: that schedule was of another length
            self._forget_own_schedule()
        self._attempted = True
        return super()._inner_training_loop(*args, **kwargs)

    def _forget_own_schedule(self) -> None:
        if self.lr_scheduler is self._own_schedule:
            self.lr_scheduler = None

    def load_model_trainer_states_from_checkpoint(
        self, checkpoint_path: str | os.PathLike[str], model: Any = None
    ) -> None:
        """Load weights and random numbers, but neither optimizer nor schedule.

        Parameters
        ----------
        checkpoint_path : path
            A checkpoint of this Trainer or, for its weights, of upstream's.
        model : Model, optional
            Takes the place of the Trainer's, whose optimizer and schedule go with it: the next
            :meth:`train` begins with new ones.

        Raises
        ------
        FileNotFoundError   if there is no such folder.
        ValueError          if it holds no weights, or those of another model; if another model
                            is given to a Trainer that was given an optimizer or a schedule.
        """
        folder = os.fspath(checkpoint_path)
        function = "Trainer.load_model_trainer_states_from_checkpoint"
        _check_folder(function, "checkpoint_path", folder)
        model = self.model if model is None else model
        if not isinstance(model, Model):
            raise type_error(function, "model", "be a Model", type(model).__name__)
        replaces = model is not self.model
        if replaces and self._optimizer_was_given:
            raise value_error(
                function,
                "model",
                "be left out where Trainer was given optimizers=..., of its model's parameters",
                f"another {type(model).__name__}",
                "Make a Trainer of the new model and an optimizer of its parameters.",
            )
        self._load_from_checkpoint(folder, model)
        if replaces:
            self._replace_model(model)
        self._load_rng_state(folder)

    def _replace_model(self, model: Any) -> None:
        """Put ``model`` in the place of the Trainer's, and forget what was made for that."""
        self.model = self.model_wrapped = model.to(self.args.device)
        self.optimizer = self.lr_scheduler = self._own_schedule = None
        if has_row_gradients(model):
            clip_rows_too(self.accelerator)
        self.accelerator.free_memory()
        for name in ("model", "optimizer", "lr_scheduler"):  # which callbacks are told
            setattr(self.callback_handler, name, getattr(self, name))

    def _save_model_and_checkpoint(self, save_model_class: bool = False) -> None:
        """Write a checkpoint now; with ``save_model_class`` also ``Model.save``'s file."""
        self._save_checkpoint(self.model, trial=None)
        if save_model_class and self.args.should_save:
            self.model.save(self._checkpoint_folder())

    def _checkpoint_folder(self) -> str:
        return os.path.join(self.args.output_dir, f"checkpoint-{self.state.global_step}")

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        folder = Path(self.args.output_dir if output_dir is None else output_dir)
        if self.args.should_save:
            folder.mkdir(parents=True, exist_ok=True)
            save_state(
                folder / _WEIGHTS, self.model.state_dict() if state_dict is None else state_dict
            )
            torch.save(self.args, folder / _ARGUMENTS)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        model = self.model if model is None else model
        folder = Path(resume_from_checkpoint)
        if (folder / _WEIGHTS).exists():
            model.load_weights(folder / _WEIGHTS)
        else:
            weights = torch.load(folder / _UPSTREAM_WEIGHTS, map_location="cpu", weights_only=True)
            model.load_state_dict(weights)

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        if None not in (self.optimizer, self.lr_scheduler):  # which training makes
            super()._save_optimizer_and_scheduler(output_dir)

    def _load_best_model(self) -> None:
        self._load_from_checkpoint(self.state.best_model_checkpoint)

    def _save_rng_state(self, output_dir: str) -> None:
        super()._save_rng_state(output_dir)
        states = {
            name: module.generator_states()
            for name, module in self.model.named_modules()
            if hasattr(module, "generator_states") and module.generator_states()
        }
        if states:
            save_state(self._samplers_file(output_dir), states)

    def _load_rng_state(self, checkpoint: str | None) -> None:
        super()._load_rng_state(checkpoint)
        if checkpoint is None or not self._samplers_file(checkpoint).exists():
            return
        for name, states in load_state(self._samplers_file(checkpoint)).items():
            self.model.get_submodule(name).load_generator_states(states)

    def _samplers_file(self, folder: str) -> Path:
        return Path(folder) / f"samplers_{self.args.process_index}.safetensors"


def _unwrap(model: Any) -> None:
    """Take off what accelerate leaves on a model: a ``forward`` under autocast, and its marks.

    The Trainer asks for autocast where it calls the model. Whoever else calls it, or gives it to
    another Trainer, gets the precision that is asked for there.
    """
    own = vars(model)
    if own.pop("_original_forward", None) is not None:
        del own["forward"]
    own.pop("_is_accelerate_prepared", None)


def _check_folder(function: str, argument: str, folder: str) -> None:
    if not os.path.isdir(folder):
        raise FileNotFoundError(
            f"{function}: {argument} must be the folder of a checkpoint; {folder} does not exist."
        )
    if not any(
        os.path.isfile(os.path.join(folder, file)) for file in (_WEIGHTS, _UPSTREAM_WEIGHTS)
    ):
        raise value_error(
            function, argument, f"hold {_WEIGHTS}", f"{folder}, which does not", "Is it complete?"
        )
