"""Next-item prediction: the task that a session model is trained, tested and served with."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torchmetrics import Metric

from transformers4rec_ext import _checks
from transformers4rec_ext.losses import CandidateLoss
from transformers4rec_ext.masking import MaskedItems, read_targets
from transformers4rec_ext.model._cosine import cosine_hidden
from transformers4rec_ext.model._ranking import Ranks, exploded, reads_rank, update_metrics
from transformers4rec_ext.model._sampling import (
    check_candidate_loss,
    check_flags,
    check_foreign_layer,
    check_sampling,
    check_static,
    masking_of,
    say_no_predictions,
)
from transformers4rec_ext.model.all_items import (
    best_items,
    best_of_scores,
    check_returns,
    loss_of_scores,
    outputs_at_labels,
    wanted,
)
from transformers4rec_ext.model.base import PredictionTask
from transformers4rec_ext.model.output import (
    NextItemPredictionPrepareBlock,
    _NextItemPredictionTask,
    check_temperature,
    projection_to,
)
from transformers4rec_ext.model.positions import (
    all_rows,
    labelled_rows,
    last_rows,
    seen_before,
    with_seen,
)
from transformers4rec_ext.model.upstream import is_causal, join_upstream
from transformers4rec_ext.ranking_metric import AvgPrecisionAt, NDCGAt, RecallAt
from transformers4rec_ext.samplers import CandidateSampler


class NextItemPredictionTask(PredictionTask):
    """Predict the next item of a session: softmax over all items, or over sampled ones.

    Parameters
    ----------
    loss : Module
        Called as ``loss(logits, labels)``. A plain ``CrossEntropyLoss`` with ``sampled_softmax``
        is computed fused, without logits. A :class:`~transformers4rec_ext.losses.CandidateLoss`
        such as ``GBCELoss`` samples by itself: in training it is called as
        ``loss(hidden, weight, labels)``, in testing its ``over_all_items(scores, labels)``.
    metrics : iterable of torchmetrics.Metric
    task_block : Module or buildable block, optional
    task_name : str
    weight_tying : bool
        Score with the item embedding table instead of an output layer.
    softmax_temperature : float
        T dividing the scores; 0 divides nothing.
    padding_idx : int
        The id of padding; the masking's replaces it at build.
    target_dim : int, optional
        Items V, padding row included; default the rows of the item table.
    sampled_softmax : bool
        Train against S = ``max_n_samples`` items, log-uniformly drawn: ids should be numbered by
        falling popularity. Testing never samples.
    max_n_samples : int
    return_predictions : bool
        Return the [N, 1+S] logits (detached) in training although the fused loss needs none.
    sparse_grad : bool
        In sampled training give the item weights row gradients (sparse COO), for an optimizer that
        takes them. With tied weights the item table's look-up then gives row gradients too.
    corrected : bool
        Use the logQ correction of arXiv 2507.09331.
    sampler : CandidateSampler, optional
        Draws the candidates of ``sampled_softmax`` instead of a log-uniform sampler;
        ``max_n_samples`` is then not used.
    static_shapes : bool
        In training keep all B T positions as rows and leave those without a label out of the
        loss, so that no step waits for a GPU to count them, at the price of their scores.
        Labels are then [B T], -100 where there is none. A call that returns more than the loss
        counts them still: ``Model.fit`` of full softmax does, but for ``compute_metric=False``.
    cosine_scale : float
        Above 0, scores are this times the cosine of hidden and item vector, over T (NISER,
        arXiv:1909.04276, has 16), not with a ``CandidateLoss`` or an output layer of one's own.
        Sampled training divides the rows it reads; a call over all items copies the weights.
    exclude_seen : bool
        Metrics in testing, and ``top_k``, leave out the items that the session held before the one
        that is asked for, of those that the model is given (a session cut to its latest items has
        forgotten the others); to be asked for one of them is a miss. Scores in testing are -inf
        there; those at inference, without ``top_k``, and losses are of all items. Ranks take a
        second walk over the item weights then, and int64 [N, T].

    Raises
    ------
    TypeError, ValueError   for an argument of the wrong type or out of range.

    Notes
    -----
    Labels come from the masking, not from ``targets``. The flags ``training`` and ``testing`` of
    :meth:`forward` decide what is returned, not ``.train()`` and ``.eval()``.
    """

    DEFAULT_LOSS = torch.nn.CrossEntropyLoss()
    DEFAULT_METRICS = (
        NDCGAt(top_ks=[10, 20], labels_onehot=True),
        AvgPrecisionAt(top_ks=[10, 20], labels_onehot=True),
        RecallAt(top_ks=[10, 20], labels_onehot=True),
    )
    settings = ("exclude_seen",)
    supports_top_k = True
    needs_time = True

    def __init__(
        self,
        loss: torch.nn.Module = DEFAULT_LOSS,
        metrics: Iterable[Metric] | None = DEFAULT_METRICS,
        task_block: Any = None,
        task_name: str = "next-item",
        weight_tying: bool = False,
        softmax_temperature: float = 1,
        padding_idx: int = 0,
        target_dim: int | None = None,
        sampled_softmax: bool | None = False,
        max_n_samples: int | None = 100,
        *,
        return_predictions: bool = False,
        sparse_grad: bool = False,
        corrected: bool = False,
        sampler: CandidateSampler | None = None,
        static_shapes: bool = False,
        cosine_scale: float = 0.0,
        exclude_seen: bool = False,
    ) -> None:
        super().__init__(loss=loss, metrics=metrics, task_block=task_block, task_name=task_name)
        name = "NextItemPredictionTask"
        check_temperature(name, softmax_temperature)
        _checks.integer(name, "padding_idx", padding_idx, minimum=0)
        _checks.positive_or_none(name, "target_dim", target_dim)
        _checks.positive_or_none(name, "max_n_samples", max_n_samples)
        check_flags(
            name,
            weight_tying=weight_tying,
            sampled_softmax=False if sampled_softmax is None else sampled_softmax,
            return_predictions=return_predictions,
            sparse_grad=sparse_grad,
            corrected=corrected,
            static_shapes=static_shapes,
            exclude_seen=exclude_seen,
        )
        if static_shapes:
            check_static(name, loss, bool(sampled_softmax), return_predictions, sampler)
        check_sampling(name, loss, bool(sampled_softmax), sparse_grad, corrected, sampler)
        if isinstance(loss, CandidateLoss):
            check_candidate_loss(name, loss, softmax_temperature, return_predictions, cosine_scale)
            sparse_grad = loss.sparse_grad
        self.softmax_temperature = softmax_temperature
        self.weight_tying = weight_tying
        self.padding_idx = padding_idx
        self.target_dim = target_dim
        self.sampled_softmax = sampled_softmax
        self.max_n_samples = max_n_samples
        self.return_predictions = return_predictions
        self.sparse_grad = sparse_grad
        self.corrected = corrected
        self.sampler = sampler
        self.static_shapes = static_shapes
        self.exclude_seen = exclude_seen
        self.cosine_scale = _checks.not_negative(name, "cosine_scale", cosine_scale)
        self.item_embedding_table: Any = None
        self.masking: Any = None
        self._told_no_predictions = False

    def build(  # type: ignore[override]  # upstream orders `device` and `inputs` differently here
        self,
        body: Any,
        input_size: Any,
        device: Any = None,
        inputs: Any = None,
        task_block: Any = None,
        pre: Any = None,
    ) -> None:
        """Make the output layer; a head calls this.

        Parameters
        ----------
        body : block with ``inputs``, read when ``inputs`` is None
        input_size : sequence of three ints, [B, T, D]
        device : torch device, optional
        inputs : input module with an item id column and a masking
        task_block : Module or buildable block, optional
            Takes the place of the constructor's.
        pre : Module or buildable block, optional
            An output layer of your own, called as ``pre(x, targets=, training=, testing=)``
            and returning ``(logits, labels)``.
        """
        if isinstance(input_size, dict) or len(input_size) != 3:
            raise ValueError(
                "NextItemPredictionTask needs a 3-dim vector as input, found:"
                f"{input_size}. The body must keep the time dimension [B, T, D]."
            )
        inputs = inputs if inputs is not None else getattr(body, "inputs", None)
        masking = masking_of(inputs)
        self.embeddings = inputs.categorical_module
        table = self.embeddings.item_embedding_table
        if self.target_dim is None:
            self.target_dim = table.num_embeddings
        if self.weight_tying:
            self.item_embedding_table = table
            task_block = projection_to(table.weight.shape[1], input_size, task_block)
            if self.sparse_grad:
                # A dense gradient from the look-up would make the sum dense.
                table.sparse = True
        self.masking = masking
        self.padding_idx = masking.padding_idx
        if pre is None:
            pre = NextItemPredictionPrepareBlock(
                target_dim=self.target_dim,
                weight_tying=self.weight_tying,
                item_embedding_table=self.item_embedding_table,
                softmax_temperature=self.softmax_temperature,
                sampled_softmax=self.sampled_softmax,
                max_n_samples=self.max_n_samples,
                min_id=self.padding_idx + 1,
                sparse_grad=self.sparse_grad,
                corrected=self.corrected,
                sampler=self.sampler,
                cosine=self.cosine_scale > 0,
            )
        else:
            check_foreign_layer(self.loss, self.static_shapes, self.cosine_scale)
        super().build(body, input_size, inputs, device, task_block, pre)
        join_upstream(self, inputs)

    def forward(
        self,
        inputs: torch.Tensor,
        targets: Any = None,
        training: bool = False,
        testing: bool = False,
        top_k: int | None = None,
        *,
        masked: MaskedItems | None = None,
        returns: str | None = None,
        exclude_ids: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> Any:
        """Score items at the labelled positions, or at the last position of each session.

        Parameters
        ----------
        inputs : Tensor, floating, [B, T, D], or a tuple that begins with it
        targets : not used; the labels are the masking's
        training, testing : bool
            ``training`` wins where both are set.
        top_k : int, optional
            For inference: return the best k items.
        masked : MaskedItems, optional
            The batch's item ids and labels, from the input module's ``masked_items``. Without it
            they are those of the batch that the input module saw last.
        returns : str, optional
            With a flag: "predictions" (the default in testing, and in training of a task made with
            ``return_predictions=True``), "ranks" or "loss" (the default in training). Without:
            "scores" (the default), "hidden" or, with causal masking, "all_hidden".
        exclude_ids : Tensor, int64, [B, L], optional
            With ``top_k``: items not to recommend in a row, such as those seen; -1 for none.

        Returns
        -------
        dict with a flag
            ``loss`` (float32, 0 with gradient if no position has a label), ``labels`` int64 [N]
            (zeros in sampled training) and ``predictions``: scores [N, V] or, in sampled training,
            [N, 1+S]; with "ranks" `Ranks`, with "loss" None. Then a plain ``CrossEntropyLoss``
            needs none at all, a ``CandidateLoss`` some at a time; others compute and return them.
        Tensor [B, V] of scores without; what scores them: "hidden" [B, D], "all_hidden" [B, T, D]
        (scores float32 [B, k], ids int64 [B, k]) with ``top_k``
            Best first, -inf and -1 where fewer are left; the padding item is never among them.
        """
        check_returns(returns, training or testing, top_k, self.masking)
        x = inputs[0] if isinstance(inputs, tuple | list) else inputs
        self._check_hidden(x)
        if self.pre is None or self.masking is None:
            raise RuntimeError("NextItemPredictionTask is not built yet. Give it to a Head first.")
        if self.task_block is not None:
            x = self.task_block(x)
        if training or testing:
            targets = read_targets(self.masking) if masked is None else masked.targets
            returns = wanted(self, returns, training)
            static = self.static_shapes and training and returns == "loss"
            if static:
                hidden, labels = all_rows(x, targets, self.padding_idx)
            else:
                hidden, labels, rows = labelled_rows(x, targets, self.padding_idx)
            hidden = cosine_hidden(hidden, self.cosine_scale, labels)
            seen = None
            if self.exclude_seen and not training and returns != "loss":
                causal = is_causal(self.masking)
                seen = seen_before(self._item_ids(masked), rows, self.padding_idx, causal)
            flags = {"training": training, "testing": testing}
            return outputs_at_labels(self, hidden, labels, seen, returns=returns, **flags)
        if returns == "all_hidden":
            return cosine_hidden(x, self.cosine_scale)
        item_ids = self._item_ids(masked)
        hidden = cosine_hidden(last_rows(x, item_ids, self.padding_idx), self.cosine_scale)
        if returns == "hidden":
            return hidden
        layer = self._layer()
        if self.exclude_seen and top_k is not None:
            exclude_ids = with_seen(exclude_ids, item_ids, self.padding_idx)
        if top_k is not None and layer is not None:
            return best_items(layer, hidden, top_k, self.padding_idx, exclude_ids)
        scores, _ = self.pre(hidden)
        if top_k is None:
            return scores
        return best_of_scores(scores, top_k, self.padding_idx, exclude_ids)

    @property
    def item_weights(self) -> torch.Tensor:
        """The weights [V, D] that score items, ``scores = hidden @ item_weights.T / T``.

        With ``cosine_scale`` a copy, made anew, of the table's rows divided by their lengths.

        Raises
        ------
        RuntimeError   if the task is not built, or its output layer is one of your own.
        """
        layer = self._layer()
        if layer is None:
            raise RuntimeError(
                "NextItemPredictionTask: item_weights are those of the task's own output layer, "
                f"once it is built; got {self.pre!r}."
            )
        weights: torch.Tensor = layer.output_weights
        return weights

    @property
    def needs_scores(self) -> bool:
        """Whether a metric wants scores [N, V] because the target's rank does not determine it."""
        return not all(reads_rank(metric) for metric in self._metrics())

    def calculate_metrics(
        self, predictions: torch.Tensor | Ranks | None, targets: torch.Tensor
    ) -> dict[str, torch.Tensor]:
        """Update the metrics with scores [N, V] (or ranks) and labels [N]; return their values.

        Keyed by metric name, one value per cut-off. Empty if no position has a label, or if there
        are no predictions because the fused loss ran (said once in the log).
        """
        if predictions is None:
            if not self._told_no_predictions:
                samples = self.sampled_softmax or isinstance(self.loss, CandidateLoss)
                say_no_predictions(self.task_name, bool(samples))
                self._told_no_predictions = True
            return {}
        if targets.numel() == 0:
            return {}
        padding_idx: int | None = None
        if not isinstance(predictions, Ranks):
            # Of [N, 1+S] logits no column is the padding item's.
            padding_idx = self.padding_idx if predictions.shape[-1] == self.target_dim else None
            predictions = self.forward_to_prediction_fn(predictions)
        metrics = self._metrics()
        values = update_metrics(metrics, predictions, targets, padding_idx)
        names = [self.metric_name(metric) for metric in metrics]
        return dict(zip(names, values, strict=True))

    def compute_metrics(self, **kwargs: Any) -> dict[str, torch.Tensor]:
        """Return the metrics since the last reset: ``{name}_{k}`` of ranking metrics."""
        results: dict[str, torch.Tensor] = {}
        for metric in self._metrics():
            if metric.update_called:
                results.update(exploded(self.metric_name(metric), metric))
        return results

    def remove_pad_3d(self, inp_tensor: torch.Tensor, non_pad_mask: torch.Tensor) -> torch.Tensor:
        """Return the rows [N, D] of ``inp_tensor`` [B, T, D] where the flat mask [B*T] is True."""
        rows = non_pad_mask.nonzero().squeeze(1)
        return inp_tensor.flatten(end_dim=1).index_select(0, rows)

    def _item_ids(self, masked: MaskedItems | None) -> Any:
        return self.embeddings.item_seq if masked is None else masked.item_ids

    def _layer(self) -> Any:
        """Return the task's own output layer; None where ``pre`` is something else."""
        layer = getattr(self.pre, "module", None)
        return layer if isinstance(layer, _NextItemPredictionTask) else None

    def _loss(self, x: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return loss_of_scores(self.loss, x, targets, bool(self.sampled_softmax))
