"""Saving and loading a model, or its parameters alone."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from transformers4rec_ext._checkpoint import load_state, open_state, save_state
from transformers4rec_ext._errors import type_error, value_error
from transformers4rec_ext._files import atomic_path
from transformers4rec_ext._modes import default_dtype, weights_to_come
from transformers4rec_ext._recipe import Recorded
from transformers4rec_ext.model._description import Reader, Writer
from transformers4rec_ext.model._rebuilt import (
    check_same,
    parameter_settings,
    set_parameters,
    without_large_tensors,
)

if TYPE_CHECKING:
    from typing_extensions import Self

    from transformers4rec_ext.model.head import Head

_FORMATS = ("pt", "safetensors")
_DTYPES = ("float16", "bfloat16", "float32", "float64")
_CONFIG, _WEIGHTS, _ARGUMENTS = "config.json", "model.safetensors", "arguments.safetensors"
#: Of the file's layout; a reader refuses one that it does not know.
_VERSION = 2


class Saving(Recorded, torch.nn.Module):
    """What :class:`Model` does with files."""

    def save(
        self,
        path: str | os.PathLike[str],
        model_name: str = "t4rec_model_class",
        *,
        format: str = "pt",
    ) -> None:
        """Write the state_dict to ``{path}/{model_name}.pt``, or ``.safetensors``.

        The folder is made. The file appears whole or, if writing fails, not at all: a file that
        was there before is then untouched.

        Parameters
        ----------
        path : path-like
            The folder.
        model_name : str
        format : {"pt", "safetensors"}
            ``"pt"`` is upstream's, for :meth:`load`. ``"safetensors"`` is for :meth:`load_weights`
            and any reader of safetensors: tied tensors are written once, under their first key,
            and tables of any size go to the file without a copy in memory.

        Raises
        ------
        ValueError              for an empty name or another format.
        OSError, RuntimeError   if the disk is full or the folder cannot be written.
        """
        if not isinstance(model_name, str) or not model_name:
            raise value_error("Model.save", "model_name", "be a non-empty str", repr(model_name))
        if format not in _FORMATS:
            raise value_error("Model.save", "format", f"be one of {_FORMATS}", repr(format))
        folder = _make_folder("Model.save", path)
        file = folder / f"{model_name}.{format}"
        if format == "safetensors":
            save_state(file, self.state_dict())
            return
        with atomic_path(file) as temporary:
            torch.save(self.state_dict(), temporary)

    def load_weights(self, file: str | os.PathLike[str]) -> None:
        """Overwrite the parameters with those of a file of ``save(..., format="safetensors")``.

        They are read into the model's own tensors, on whatever device these are: nothing of their
        size is allocated.

        Raises
        ------
        FileNotFoundError   if there is no such file.
        ValueError          if it is damaged or something else (a ``.pt`` file goes through
                            ``torch.load`` to :meth:`load`), or if names or shapes are not those
                            of the model; the model is then what it was.
        """
        if Path(file).suffix == ".pt" and Path(file).exists():
            expectation = 'be of save(..., format="safetensors")'
            hint = "Of a .pt file: model.load_state_dict(torch.load(file))."
            raise value_error("Model.load_weights", "file", expectation, file, hint)
        with open_state(file) as state:
            state.fill(self.state_dict())

    def save_pretrained(self, path: str | os.PathLike[str]) -> None:
        """Write the whole model into a folder: what it is made of, and its parameters.

        ``config.json`` has the schema and the arguments of the input block, body, tasks and heads;
        ``model.safetensors`` the parameters, each tensor once. Tensors among the arguments, such as
        the counts of a ``PopularitySampler``, go to ``arguments.safetensors``.
        :meth:`from_pretrained` needs nothing else. The model is built again from what is to be
        written, without memory for large tables, and compared, before a file is touched.

        Parameters
        ----------
        path : path-like
            The folder, made if need be.

        Raises
        ------
        ValueError
            If the model holds a function without a name (a lambda), or a module that is neither
            this package's, torch's, torchmetrics' nor Hugging Face's (derive its class from
            ``transformers4rec_ext.BlockBase``), or was changed by hand after it was made. Its
            weights can be saved all the same, by :meth:`save`. Or if FSDP has cut it in shares.
        OSError, RuntimeError   if the disk is full or the folder cannot be written.
        """
        _check_whole(self)
        writer = Writer()
        config: dict[str, Any] = {
            "version": _VERSION,
            "default_dtype": str(torch.get_default_dtype()).removeprefix("torch."),
            "model": writer.write(self),
        }
        classes = {type(part) for part in self.modules()}
        with without_large_tensors(), weights_to_come():
            rebuilt = Reader(writer.tensors, classes).read(config["model"])
            check_same(self, rebuilt)
        config["parameters"] = parameter_settings(self, rebuilt)
        folder = _make_folder("Model.save_pretrained", path)
        save_state(folder / _WEIGHTS, self.state_dict())
        if writer.tensors:
            save_state(folder / _ARGUMENTS, writer.tensors)
        with atomic_path(folder / _CONFIG) as temporary:
            Path(temporary).write_text(json.dumps(config, indent=1))

    @classmethod
    def from_pretrained(cls, path: str | os.PathLike[str], classes: Iterable[Any] = ()) -> Self:
        """Return the model that :meth:`save_pretrained` wrote, on the CPU, in evaluation mode.

        Parameters
        ----------
        path : path-like
            The folder.
        classes : iterable of classes and functions
            Those of yours that the model uses. No others are called but those of this package,
            torch, torchmetrics and Hugging Face that models are made of, whatever the file says.

        Raises
        ------
        FileNotFoundError   if a file is missing.
        ValueError          if a file is damaged, of another version, or names something that is
                            not to be called.

        Notes
        -----
        Parameters have the dtype that was written. Where torch's default was another then, it is
        that one while the model is made, for all threads of the process.
        """
        folder = Path(path)
        if not (folder / _CONFIG).is_file():
            raise FileNotFoundError(
                f"Model.from_pretrained: path must hold {_CONFIG}, as Model.save_pretrained writes "
                f"it; {folder} does not. Weights that Model.save wrote go into a model of your own "
                "making: load_state_dict of a .pt file, load_weights of safetensors."
            )
        try:
            config = json.loads((folder / _CONFIG).read_text())
            version, parameters = config["version"], config["parameters"]
        except (json.JSONDecodeError, KeyError, TypeError) as error:
            text = f"Model.from_pretrained: {folder / _CONFIG} is not a description of a model"
            raise ValueError(f"{text}: {error!r}.") from error
        if version != _VERSION:
            raise value_error(
                "Model.from_pretrained", "config.json", f"be of version {_VERSION}", version
            )
        made_under = config.get("default_dtype")
        if made_under not in _DTYPES:
            expectation = f"have a default_dtype of {_DTYPES}"
            raise value_error("Model.from_pretrained", "config.json", expectation, made_under)
        arguments = folder / _ARGUMENTS
        tensors = load_state(arguments) if arguments.exists() else {}
        # "parameters" has what differs from a model that is made so.
        with default_dtype(getattr(torch, made_under)), weights_to_come():
            model = Reader(tensors, classes).read(config["model"])
        if not isinstance(model, cls):
            raise value_error(
                "Model.from_pretrained", "config.json", f"describe a {cls.__name__}", type(model)
            )
        set_parameters(model, parameters)
        model.load_weights(folder / _WEIGHTS)
        return model.eval()

    @classmethod
    def load(
        cls,
        state_dict: dict[str, torch.Tensor],
        heads: Head | list[Head] | None = None,
        head_weights: list[float] | None = None,
        head_reduction: str = "mean",
        optimizer: type[torch.optim.Optimizer] = torch.optim.Adam,
        name: str | None = None,
        max_sequence_length: int | None = None,
        top_k: int | None = None,
        strict: bool = True,
    ) -> Self:
        """Return a model of ``heads`` with the parameters of ``state_dict``.

        Parameters
        ----------
        state_dict : dict from str to tensor
            As :meth:`save` wrote it: ``torch.load(file, weights_only=True)``.
        heads : Head or list of Head
        head_weights, head_reduction, optimizer, name, max_sequence_length, top_k
            As for :class:`Model`.
        strict : bool
            Whether the keys must match exactly.

        Raises
        ------
        TypeError      if there are no heads: parameters alone do not tell what they are of.
        ValueError     if ``state_dict`` is not a dict of tensors.
        RuntimeError   if keys (with ``strict``) or shapes do not match.
        """
        if heads is None:
            hint = "Model.from_pretrained(folder) needs none: it reads what save_pretrained wrote."
            raise type_error("Model.load", "heads", "be those of the model", "none", hint)
        if not isinstance(state_dict, Mapping) or not all(
            isinstance(key, str) and isinstance(value, torch.Tensor)
            for key, value in state_dict.items()
        ):
            raise ValueError(
                "`state_dict` must be a dictionary of parameter (torch) tensors. "
                f"Got {type(state_dict).__name__}; load the file with "
                "torch.load(file, weights_only=True)."
            )
        model = cls(
            *(heads if isinstance(heads, list | tuple) else [heads]),
            head_weights=head_weights,
            head_reduction=head_reduction,
            optimizer=optimizer,
            name=name,
            max_sequence_length=max_sequence_length,
            top_k=top_k,
        )
        model.load_state_dict(state_dict, strict=strict)
        return model


def _make_folder(function: str, path: str | os.PathLike[str]) -> Path:
    folder = Path(path)
    if folder.exists() and not folder.is_dir():
        raise NotADirectoryError(f"{function}: path must be a folder; {folder} is a file.")
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _check_whole(model: torch.nn.Module) -> None:
    """Raise ValueError for a model of which every process has a share."""
    names = {cls.__name__ for part in model.modules() for cls in type(part).__mro__}
    if names & {"FSDPModule", "FullyShardedDataParallel"}:
        hint = (
            "Gather its weights (get_model_state_dict of torch.distributed.checkpoint.state_dict, "
            "with full_state_dict=True), load them into a model that is not shared, save that."
        )
        raise value_error("Model.save_pretrained", "model", "be whole", "shares of it", hint)
