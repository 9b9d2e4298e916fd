"""Tensors of a batch, of a ranking, and nested in lists and dictionaries."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from transformers4rec_ext import _checks
from transformers4rec_ext._errors import type_error, value_error
from transformers4rec_ext._lazy import elsewhere
from transformers4rec_ext.block.sizes import OutputSizeMixin
from transformers4rec_ext.config.schema import requires_schema
from transformers4rec_ext.ranks import best_items, check_ks, check_relevances
from transformers4rec_ext.schema import Schema, Tags, as_schema
from transformers4rec_ext.utils.padding import pad_dense

__all__ = [
    "LambdaModule",
    "LossMixin",
    "MetricsMixin",
    "OutputSizeMixin",
    "atleast_1d",
    "calculate_batch_size_from_input_size",
    "check_gpu",
    "check_inputs",
    "create_output_placeholder",
    "extract_topk",
    "get_output_sizes_from_schema",
    "nested_concat",
    "nested_detach",
    "nested_numpify",
    "nested_truncate",
    "numpy_pad_and_concatenate",
    "one_hot_1d",
    "requires_schema",
    "torch_pad_and_concatenate",
    "tranform_label_to_onehot",
]

__getattr__ = elsewhere(
    __name__,
    {
        "MappingTransformerMasking": "which maskings an architecture can serve is measured, when a "
        "TransformerBlock is made, and cannot be written down",
    },
)


class LossMixin:
    """What tasks, heads and models share: a loss of a batch."""

    def compute_loss(
        self, inputs: Any, targets: Any = None, compute_metrics: bool = True, **kwargs: Any
    ) -> Tensor:
        """Return the loss of a batch, as ``forward(training=True)`` does.

        Parameters
        ----------
        inputs, targets, **kwargs
            As for ``forward``.
        compute_metrics : bool
            Whether to update the metrics with the batch.
        """
        module: Any = self
        outputs = module(inputs, targets=targets, training=True, **kwargs)
        if compute_metrics:
            module.calculate_metrics(nested_detach(outputs["predictions"]), outputs["labels"])
        loss: Tensor = outputs["loss"]
        return loss


class MetricsMixin:
    """What tasks, heads and models share: metrics that a batch updates."""

    def calculate_metrics(self, predictions: Any, targets: Any) -> dict[str, Any]:
        """Update every metric with a batch and return its values."""
        raise NotImplementedError(f"{type(self).__name__} must define calculate_metrics(...)")

    def compute_metrics(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Return the metrics since the last reset."""
        raise NotImplementedError(f"{type(self).__name__} must define compute_metrics(...)")

    def reset_metrics(self) -> None:
        """Forget what the metrics have seen."""
        raise NotImplementedError(f"{type(self).__name__} must define reset_metrics()")


class LambdaModule(nn.Module):
    """A function as a module.

    Examples
    --------
    >>> LambdaModule(lambda x: x + 1)(torch.tensor(1.0))
    tensor(2.)
    """

    def __init__(self, lambda_fn: Callable[..., Any]) -> None:
        super().__init__()
        if not callable(lambda_fn):
            raise type_error("LambdaModule", "lambda_fn", "be callable", type(lambda_fn).__name__)
        self.lambda_fn = lambda_fn

    def forward(self, x: Any) -> Any:
        """Return ``lambda_fn(x)``."""
        return self.lambda_fn(x)


def check_gpu(module: nn.Module) -> bool:
    """Tell whether the first parameter of ``module`` lies on a CUDA device."""
    first = next(module.parameters(), None)
    return first is not None and first.is_cuda


def get_output_sizes_from_schema(
    schema: Schema, batch_size: int = -1, max_sequence_length: int | None = None
) -> dict[str, torch.Size]:
    """Return the sizes of the columns of a batch, by name; -1 is what only a batch tells.

    ``[B, T]`` of a list column, ``[B]`` of the others; with the shape of one value appended where
    that is a vector, so ``[B, T, D]`` or ``[B, D]``. T is ``max_sequence_length``, or the longest
    list by the schema.
    """
    _checks.positive_or_none(
        "get_output_sizes_from_schema", "max_sequence_length", max_sequence_length
    )
    sizes = {}
    for column in as_schema(schema, "get_output_sizes_from_schema"):
        time = [max_sequence_length or column.max_length or -1] if column.is_list else []
        value = column.shape or ((-1,) if column.has_tag(Tags.EMBEDDING) else ())
        value = () if value == (1,) else value
        sizes[column.name] = torch.Size([batch_size, *time, *value])
    return sizes


def calculate_batch_size_from_input_size(input_size: Any) -> int:
    """Return the first dimension of a size, or of the first one in a dictionary of them."""
    if isinstance(input_size, Mapping):
        input_size = next(size for size in input_size.values() if isinstance(size, torch.Size))
    return int(input_size[0])


def check_inputs(ks: Any, scores: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return cut-offs as int32 [K], scores and relevances as float32 [N, V], on one device.

    Raises
    ------
    ValueError   if the shapes disagree or a cut-off is no positive int.
    """
    cutoffs = check_ks(ks)
    check_relevances(scores, labels)
    return (
        torch.tensor(cutoffs, dtype=torch.int32, device=scores.device),
        scores.to(torch.float32),
        labels.to(scores.device, torch.float32),
    )


def extract_topk(ks: Any, scores: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return scores, ids and relevances [N, max k] of the best items of each row.

    Of items with equal scores the irrelevant come first, as in
    :mod:`transformers4rec_ext.ranking_metric`.

    Raises
    ------
    ValueError   if a cut-off is above V.
    """
    k = max(check_ks(ks))
    check_relevances(scores, labels)
    if k > scores.shape[1]:
        raise value_error("extract_topk", "ks", f"be at most V={scores.shape[1]}", k)
    ids = best_items(scores, labels, k)
    return scores.gather(1, ids), ids, labels.gather(1, ids)


def create_output_placeholder(scores: Tensor, ks: Any) -> Tensor:
    """Return zeros, float32 [N, K], for the values of a metric at K cut-offs."""
    return torch.zeros(scores.shape[0], len(ks), device=scores.device, dtype=torch.float32)


def tranform_label_to_onehot(labels: Tensor, vocab_size: int) -> Tensor:
    """Return ids int64 of any shape as one row each: int64 [N, V]."""
    return nn.functional.one_hot(labels.reshape(-1), vocab_size).detach()


def one_hot_1d(
    labels: Tensor,
    num_classes: int,
    device: torch.device | None = None,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Return ids int64 [N] as one row each: ``dtype`` [N, V].

    Raises
    ------
    ValueError   if the labels are not [N].

    Examples
    --------
    >>> one_hot_1d(torch.tensor([2, 0]), 3).tolist()
    [[0.0, 0.0, 1.0], [1.0, 0.0, 0.0]]
    """
    if labels.dim() != 1:
        raise value_error("one_hot_1d", "labels", "be [N]", list(labels.shape))
    return nn.functional.one_hot(labels.to(device), num_classes).to(dtype)


def nested_detach(tensors: Any) -> Any:
    """Detach the tensors of lists, tuples and mappings."""
    return _mapped(
        lambda tensor: tensor.detach() if isinstance(tensor, Tensor) else tensor, tensors
    )


def nested_numpify(tensors: Any) -> Any:
    """Return the tensors of lists, tuples and mappings as arrays, by :func:`as_array`."""
    return _mapped(
        lambda tensor: as_array(tensor) if isinstance(tensor, Tensor) else tensor, tensors
    )


def as_array(tensor: Tensor) -> np.ndarray:
    """Return a tensor as an array; half precision as float32, since numpy has no bfloat16."""
    half = tensor.dtype in (torch.float16, torch.bfloat16)
    array: np.ndarray = (tensor.float() if half else tensor).detach().cpu().numpy()
    return array


def nested_truncate(tensors: Any, limit: int) -> Any:
    """Cut the tensors, or arrays, of lists, tuples and mappings to their first ``limit`` rows."""
    return _mapped(lambda tensor: tensor[:limit], tensors)


def nested_concat(tensors: Any, new_tensors: Any, padding_index: int = -100) -> Any:
    """Put ``new_tensors`` under ``tensors``, which are nested alike.

    Raises
    ------
    TypeError   if they are of different types, or hold neither tensors nor arrays.
    """
    if type(tensors) is not type(new_tensors):
        raise type_error(
            "nested_concat",
            "new_tensors",
            f"be of the type of tensors, {type(tensors).__name__}",
            type(new_tensors).__name__,
        )
    if isinstance(tensors, list | tuple):
        pairs = zip(tensors, new_tensors, strict=True)
        return _like(tensors, [nested_concat(old, new, padding_index) for old, new in pairs])
    if isinstance(tensors, Mapping):
        return {
            key: nested_concat(value, new_tensors[key], padding_index)
            for key, value in tensors.items()
        }
    if isinstance(tensors, Tensor):
        return torch_pad_and_concatenate(tensors, new_tensors, padding_index)
    if isinstance(tensors, np.ndarray):
        return numpy_pad_and_concatenate(tensors, new_tensors, padding_index)
    raise type_error("nested_concat", "tensors", "hold tensors or arrays", type(tensors).__name__)


def torch_pad_and_concatenate(
    tensor1: Tensor, tensor2: Tensor, padding_index: int = -100
) -> Tensor:
    """Put ``tensor2`` under ``tensor1``; where the second dimensions differ, pad the narrower.

    Examples
    --------
    >>> torch_pad_and_concatenate(torch.zeros(1, 2), torch.ones(1, 1)).tolist()
    [[0.0, 0.0], [1.0, -100.0]]
    """
    first, second = atleast_1d(tensor1), atleast_1d(tensor2)
    width = max((t.shape[1] for t in (first, second) if t.ndim > 1), default=0)
    return torch.cat([pad_dense(t, width, padding_index) for t in (first, second)])


def numpy_pad_and_concatenate(
    array1: np.ndarray, array2: np.ndarray, padding_index: int = -100
) -> np.ndarray:
    """Do the same with arrays as :func:`torch_pad_and_concatenate` with tensors."""
    above, below = (torch.from_numpy(np.ascontiguousarray(array)) for array in (array1, array2))
    return torch_pad_and_concatenate(above, below, padding_index).numpy()


def atleast_1d(tensor_or_array: Any) -> Any:
    """Return a scalar tensor, or array, as one of one element; others unchanged."""
    if isinstance(tensor_or_array, Tensor):
        return torch.atleast_1d(tensor_or_array)
    return np.atleast_1d(tensor_or_array)


def _like(sequence: Any, items: list[Any]) -> Any:
    """Return ``items`` as a list or tuple, named or not, of the type of ``sequence``."""
    return type(sequence)(*items) if hasattr(sequence, "_fields") else type(sequence)(items)


def _mapped(function: Callable[[Any], Any], tensors: Any) -> Any:
    if isinstance(tensors, list | tuple):
        return _like(tensors, [_mapped(function, item) for item in tensors])
    if isinstance(tensors, Mapping):
        return {key: _mapped(function, item) for key, item in tensors.items()}
    return function(tensors)
