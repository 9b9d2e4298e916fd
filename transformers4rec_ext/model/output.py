"""The output layer of next-item prediction: scores of all items, or of sampled ones."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple, cast

import torch

from transformers4rec_ext import _checks, functional
from transformers4rec_ext._errors import type_error, value_error
from transformers4rec_ext._numbers import is_number
from transformers4rec_ext.block.base import Block, BuildableBlock
from transformers4rec_ext.block.mlp import MLPBlock
from transformers4rec_ext.functional.sampled import stand_in
from transformers4rec_ext.model._cosine import ScoredRows, unit_rows, unit_rows_of
from transformers4rec_ext.model.base import LOG
from transformers4rec_ext.samplers import CandidateSampler, LogUniformSampler


class Drawn(NamedTuple):
    """Candidates of one batch: ``ids`` int64 [S], ``log_q`` [S], ``target_log_q`` [N]."""

    ids: torch.Tensor
    log_q: torch.Tensor
    target_log_q: torch.Tensor


def draw_candidates(sampler: Any, targets: torch.Tensor) -> Drawn:
    """Draw from any sampler.

    One with a ``draw`` of its own gives log probabilities. One that only has, or overrides,
    ``sample(labels) -> (ids, q(labels), q(ids))`` works as in upstream.
    """
    draw, sample = (getattr(type(sampler), name, None) for name in ("draw", "sample"))
    own_sample = sample not in (None, LogUniformSampler.sample) or "sample" in vars(sampler)
    own_draw = draw not in (None, LogUniformSampler.draw)
    if own_draw or (draw is not None and not own_sample):
        candidates, target_log_q = sampler.draw(targets)
        return Drawn(candidates.ids, candidates.log_q, target_log_q)
    ids, target_q, candidate_q = sampler.sample(targets)
    # A probability of zero would make a logit infinite; 1e-16 is upstream's floor.
    return Drawn(ids, candidate_q.clamp(min=1e-16).log(), target_q.clamp(min=1e-16).log())


class _NextItemPredictionTask(torch.nn.Module):
    """Scores ``hidden @ weight.T / T``; in training, if asked for, of sampled items only.

    Parameters
    ----------
    input_size : sequence of int
        The last entry is the width D of the hidden rows.
    target_dim : int
        Items V, padding row included.
    weight_tying : bool
        Use ``item_embedding_table.weight`` [V, D] in place of an own ``output_layer``.
    item_embedding_table : torch.nn.Embedding, needed with ``weight_tying``
    softmax_temperature : float
        T; 0 means that nothing is divided.
    sampled_softmax : bool
    max_n_samples : int
        Candidates S.
    min_id : int
        The lowest id to sample.
    sparse_grad : bool
        Give the weight a sparse COO gradient in sampled training.
    corrected : bool
        See :func:`transformers4rec_ext.functional.sampled_softmax_loss`.
    sampler : CandidateSampler, optional
        Used instead of a log-uniform one.
    cosine : bool
        Divide each item's row by its length. Of hidden rows the task does that.
    """

    def __init__(
        self,
        input_size: Sequence[int],
        target_dim: int,
        weight_tying: bool = False,
        item_embedding_table: torch.nn.Module | None = None,
        softmax_temperature: float = 0,
        sampled_softmax: bool | None = False,
        max_n_samples: int | None = 100,
        min_id: int | None = 0,
        *,
        sparse_grad: bool = False,
        corrected: bool = False,
        sampler: CandidateSampler | None = None,
        cosine: bool = False,
    ) -> None:
        super().__init__()
        width = input_size[-1]
        check_temperature("NextItemPredictionTask", softmax_temperature)
        if weight_tying:
            check_tied_table(item_embedding_table, target_dim, width)
        self.input_size = input_size
        self.target_dim = target_dim
        self.weight_tying = weight_tying
        self.item_embedding_table = item_embedding_table
        self.softmax_temperature = softmax_temperature
        self.sampled_softmax = bool(sampled_softmax)
        self.sparse_grad = sparse_grad
        self.corrected = corrected
        self.cosine = cosine
        if not weight_tying:
            self.output_layer = torch.nn.Parameter(torch.empty(target_dim, width))
            torch.nn.init.kaiming_uniform_(self.output_layer, a=math.sqrt(5))
        if self.sampled_softmax and sampler is None:
            sampler = LogUniformSampler(
                max_n_samples=100 if max_n_samples is None else max_n_samples,
                max_id=target_dim,
                min_id=min_id or 0,
                unique_sampling=True,
            )
        if self.sampled_softmax:
            self.sampler = sampler

    @property
    def output_weights(self) -> torch.Tensor:
        """The item weights [V, D] that score; with cosines a copy, of rows of length one."""
        return unit_rows(self._table) if self.cosine else self._table

    @property
    def _table(self) -> torch.Tensor:
        if self.item_embedding_table is not None and self.weight_tying:
            # not get_parameter: of a parametrized table the weight is made, no parameter
            return cast(torch.Tensor, self.item_embedding_table.weight)
        return self.output_layer

    @property
    def temperature(self) -> float:
        """T with upstream's 0 (do not divide) read as 1."""
        return float(self.softmax_temperature) or 1.0

    def forward(
        self,
        inputs: torch.Tensor,
        targets: torch.Tensor | None = None,
        training: bool = False,
        testing: bool = False,
        **kwargs: Any,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Return ``(logits, labels)`` of ``inputs`` [N, D].

        [N, V] and ``targets``; in sampled training [N, 1+S] and zeros, the target in column 0.
        """
        self._check_inputs(inputs)
        if self.sampled_softmax and training:
            if targets is None:
                raise value_error(
                    "NextItemPredictionTask", "targets", "be given in sampled training", None
                )
            return self.sampled(inputs, targets, self._table)
        if targets is not None:
            num_items = self._table.shape[0]
            _checks.ids_within("NextItemPredictionTask.forward", "labels", targets, 0, num_items)
        logits = inputs @ self.output_weights.t()
        if self.temperature != 1.0:
            logits = logits / self.temperature
        return logits, targets

    def sampled(
        self, inputs: torch.Tensor, targets: torch.Tensor, output_weights: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the logits [N, 1+S] of the target and sampled items, and zeros [N] as labels.

        ``s / T - log q``; a candidate that is the row's target is -inf.
        """
        drawn = draw_candidates(self.sampler, targets)
        return self._logits(inputs, targets, output_weights, drawn), torch.zeros_like(targets)

    def sampled_loss(
        self,
        inputs: torch.Tensor,
        targets: torch.Tensor,
        reduction: str = "mean",
        return_logits: bool = False,
        ignore_index: int | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Return the float32 cross-entropy of :meth:`sampled`, whose logits never exist.

        With ``return_logits`` they are computed besides, detached; else the second value is None.
        Rows with the label ``ignore_index`` do not count.
        """
        self._check_inputs(inputs)
        labels = targets
        if ignore_index is not None:  # a sampler wants ids of its own: its first one stands in
            first = getattr(self.sampler, "min_id", 0)
            labels = torch.where(targets == ignore_index, first, targets)
        drawn = draw_candidates(self.sampler, labels)
        weights, places, candidates = self._rows(self._table, targets, drawn, ignore_index)
        loss = functional.sampled_softmax_loss(
            inputs,
            weights,
            places,
            candidates,
            target_log_q=drawn.target_log_q,
            candidate_log_q=drawn.log_q,
            temperature=self.temperature,
            corrected=self.corrected,
            sparse_grad=self.sparse_grad and not self.cosine,
            ignore_index=ignore_index,
            reduction=reduction,
        )
        if not return_logits:
            return loss, None
        with torch.no_grad():
            return loss, self._logits(inputs, labels, self._table, drawn)

    def _rows(
        self,
        weights: torch.Tensor,
        targets: torch.Tensor,
        drawn: Drawn,
        ignore_index: int | None = None,
    ) -> ScoredRows:
        """Return what is scored: all weights and ids, or the batch's rows and places in them."""
        if not self.cosine:
            return ScoredRows(weights, targets, drawn.ids)
        function, num_items = "NextItemPredictionTask", weights.shape[0]
        _checks.target_and_candidate_ids(function, targets, drawn.ids, targets.shape[0])
        _checks.same_device(function, "candidate_ids", drawn.ids, weights, "the item weights")
        items = targets
        if ignore_index is not None:
            items = stand_in(targets != ignore_index, targets, drawn.ids)
        for name, ids in (("targets", items), ("candidate_ids", drawn.ids)):
            _checks.ids_within(function, name, ids, 0, num_items)
        rows = unit_rows_of(weights, items, drawn.ids, sparse_grad=self.sparse_grad)
        if ignore_index is None:
            return rows
        return rows._replace(targets=torch.where(targets == ignore_index, targets, rows.targets))

    def _logits(
        self, inputs: torch.Tensor, targets: torch.Tensor, weights: torch.Tensor, drawn: Drawn
    ) -> torch.Tensor:
        weights, targets, candidates = self._rows(weights, targets, drawn)
        return functional.sampled_logits(
            inputs,
            weights,
            targets,
            candidates,
            target_log_q=drawn.target_log_q,
            candidate_log_q=drawn.log_q,
            temperature=self.temperature,
        )

    def checked_weights(self, inputs: torch.Tensor) -> torch.Tensor:
        """Return the item weights [V, D] if ``inputs`` are [N, D]."""
        self._check_inputs(inputs)
        return self.output_weights

    def _check_inputs(self, inputs: torch.Tensor) -> None:
        width = self._table.shape[1]
        if inputs.dim() != 2 or inputs.shape[1] != width:
            raise value_error(
                "NextItemPredictionTask", "inputs", f"be [N, D={width}]", list(inputs.shape)
            )

    def _get_name(self) -> str:
        return "NextItemPredictionTask"


class NextItemPredictionPrepareBlock(BuildableBlock):
    """Build the output layer of next-item prediction over V = ``target_dim`` items.

    Parameters
    ----------
    target_dim, weight_tying, item_embedding_table, softmax_temperature, sampled_softmax,
    max_n_samples, min_id, sparse_grad, corrected, sampler
        As for :class:`NextItemPredictionTask`; ``min_id`` is the lowest id to sample.
    cosine : bool
        Divide each item's row by its length. Of hidden rows the task does that.
    """

    def __init__(
        self,
        target_dim: int,
        weight_tying: bool = False,
        item_embedding_table: torch.nn.Module | None = None,
        softmax_temperature: float = 0,
        sampled_softmax: bool | None = False,
        max_n_samples: int | None = 100,
        min_id: int | None = 0,
        *,
        sparse_grad: bool = False,
        corrected: bool = False,
        sampler: CandidateSampler | None = None,
        cosine: bool = False,
    ) -> None:
        super().__init__()
        _checks.integer(type(self).__name__, "target_dim", target_dim, minimum=1)
        self.target_dim = target_dim
        self.weight_tying = weight_tying
        self.item_embedding_table = item_embedding_table
        self.softmax_temperature = softmax_temperature
        self.sampled_softmax = sampled_softmax
        self.max_n_samples = max_n_samples
        self.min_id = min_id
        self.sparse_grad = sparse_grad
        self.corrected = corrected
        self.sampler = sampler
        self.cosine = cosine

    def build(self, input_size: Any) -> Block:
        """Return the layer as a block for ``input_size[-1] = D``."""
        layer = _NextItemPredictionTask(
            input_size,
            self.target_dim,
            self.weight_tying,
            self.item_embedding_table,
            self.softmax_temperature,
            self.sampled_softmax,
            self.max_n_samples,
            self.min_id,
            sparse_grad=self.sparse_grad,
            corrected=self.corrected,
            sampler=self.sampler,
            cosine=self.cosine,
        )
        return Block(layer, [-1, self.target_dim])


def check_temperature(function: str, temperature: Any) -> None:
    """Raise unless ``temperature`` is a finite number that is not negative."""
    if not is_number(temperature):
        raise type_error(function, "softmax_temperature", "be a number", type(temperature).__name__)
    if not (math.isfinite(temperature) and temperature >= 0):
        raise value_error(
            function,
            "softmax_temperature",
            "be finite and at least 0",
            temperature,
            "0 means: do not divide.",
        )


def check_tied_table(table: object, target_dim: int, width: int) -> None:
    """Raise unless ``table`` is an embedding whose weight is [target_dim, width]."""
    function = "NextItemPredictionTask"
    weight = getattr(table, "weight", None)
    if not isinstance(weight, torch.Tensor):
        raise type_error(
            function,
            "item_embedding_table",
            "be an embedding with weight tying",
            type(table).__name__,
        )
    if list(weight.shape) != [target_dim, width]:
        raise value_error(
            function,
            "item_embedding_table",
            f"have weight [V={target_dim}, D={width}]",
            list(weight.shape),
            "Tied weights need target_dim equal to the rows of the table and a task_block that "
            "ends in its width.",
        )


def projection_to(item_dim: int, input_size: Sequence[int], task_block: Any) -> Any:
    """Return the task block that tied weights need: the given one, or a projection to their width.

    None where the widths agree.
    """
    if input_size[-1] == item_dim or task_block is not None:
        return task_block
    _say_projection(item_dim, input_size[-1])
    return MLPBlock([item_dim], activation=None)


@functools.cache
def _say_projection(item_dim: int, width: int) -> None:
    """Warn in upstream's words, once in a process for each pair of widths."""
    LOG.warning(
        "Projecting inputs of NextItemPredictionTask to '%d', as weight tying requires the "
        "input dimension '%d' to be equal to the item-id embedding dimension.",
        item_dim,
        width,
    )
