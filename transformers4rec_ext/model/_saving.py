"""Saving and loading a model's parameters."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from transformers4rec_ext._checkpoint import open_state, save_state
from transformers4rec_ext._errors import value_error
from transformers4rec_ext._files import atomic_path

if TYPE_CHECKING:
    from typing_extensions import Self

    from transformers4rec_ext.model.head import Head

_FORMATS = ("pt", "safetensors")


class Saving(torch.nn.Module):
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
        folder = Path(path)
        folder.mkdir(parents=True, exist_ok=True)
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
        with open_state(file) as state:
            state.fill(self.state_dict())

    @classmethod
    def load(
        cls,
        state_dict: dict[str, torch.Tensor],
        heads: Head | list[Head],
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
        ValueError     if ``state_dict`` is not a dict of tensors.
        RuntimeError   if keys (with ``strict``) or shapes do not match.
        """
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
