"""Small stand-ins for classes of Transformers4Rec: their attributes and methods, not their code.

They carry the names and the module of upstream's, by which ``transformers4rec_ext.interop`` knows
them, so that its tests run everywhere. ``make test-upstream`` runs against the real ones.
"""

from __future__ import annotations

import copy
import types
from typing import Any

import torch
import torchmetrics
from torch import nn

V, T, D = 50, 6, 8
TASKS = types.ModuleType("transformers4rec.torch.model.prediction_task")
METRICS = types.ModuleType("transformers4rec.torch.ranking_metric")


def _of(module: types.ModuleType) -> Any:
    """Return a decorator that makes a class one of ``module``."""

    def add(cls: type) -> type:
        cls.__module__ = module.__name__
        setattr(module, cls.__name__, cls)
        return cls

    return add


@_of(METRICS)
class NDCGAt(torchmetrics.Metric):
    """By a rank, for labels [N]."""

    full_state_update = False

    def __init__(self, top_ks: Any = None, labels_onehot: bool = False) -> None:
        super().__init__()
        self.top_ks, self.labels_onehot = list(top_ks or [2, 5]), labels_onehot
        self.add_state("metric_mean", default=[], dist_reduce_fx="cat")

    def update(self, preds: torch.Tensor, target: torch.Tensor) -> None:
        rank = (preds > preds.gather(1, target[:, None])).sum(1)
        gain = 1 / (rank + 2.0).log2()
        self.metric_mean.append(torch.stack([gain * (rank < k) for k in self.top_ks], dim=1))

    def compute(self) -> torch.Tensor:
        return torch.cat(self.metric_mean).mean(0)


class OwnMetric(NDCGAt):
    """A metric that a user derived from upstream's."""


@_of(TASKS)
class LogUniformSampler(nn.Module):
    """Uniform here: the law does not matter."""

    def __init__(self, max_n_samples: int, max_id: int, min_id: int) -> None:
        super().__init__()
        self.max_n_samples, self.max_id, self.unique_sampling = max_n_samples, max_id, True
        self.n_sample = 2 * max_n_samples
        law = torch.ones(max_id)
        law[:min_id] = 0
        self.register_buffer("dist", law / law.sum())
        self.register_buffer("unique_sampling_dist", 1 - (1 - self.dist) ** self.n_sample)

    def sample(self, labels: torch.Tensor) -> tuple[torch.Tensor, ...]:
        drawn = torch.multinomial(self.dist, self.n_sample, True).unique()[: self.max_n_samples]
        return drawn, self.unique_sampling_dist[labels], self.unique_sampling_dist[drawn]


@_of(TASKS)
class _NextItemPredictionTask(nn.Module):
    def __init__(self, width: int, task: Any) -> None:
        super().__init__()
        self.input_size, self.target_dim = [-1, T, width], task.target_dim
        self.weight_tying = task.weight_tying
        self.item_embedding_table = task.item_embedding_table
        self.softmax_temperature = task.softmax_temperature
        self.sampled_softmax = task.sampled_softmax
        if not self.weight_tying:
            self.output_layer = nn.Parameter(torch.randn(self.target_dim, width) / 4)
        if self.sampled_softmax:
            self.sampler = LogUniformSampler(task.max_n_samples, self.target_dim, 1)

    def forward(self, x: torch.Tensor, targets: Any = None, **kwargs: Any) -> Any:
        table = self.item_embedding_table.weight if self.weight_tying else self.output_layer
        return x @ table.t() / self.softmax_temperature, targets


class Block(nn.Module):
    """A module that others call through ``module``."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, x: Any, **kwargs: Any) -> Any:
        return self.module(x, **kwargs)


@_of(TASKS)
class PredictionTask(nn.Module):
    """What a head builds."""

    def build(self, body: Any, input_size: Any, inputs: Any, pre: Any = None) -> None:
        self.pre, self.built = pre, True

    def metric_name(self, metric: Any) -> str:
        return f"{self.task_name}/ndcg_at"


@_of(TASKS)
class NextItemPredictionTask(PredictionTask):
    """Scores of the labelled rows, or of the last ones."""

    target_name = None
    task_name = property(lambda self: self._task_name)

    def __init__(self, metrics: Any = None, sampled_softmax: bool = False, **options: Any) -> None:
        super().__init__()
        metrics = [NDCGAt([3, 5], labels_onehot=True)] if metrics is None else metrics
        self.metrics, self.loss = nn.ModuleList(metrics), nn.CrossEntropyLoss()
        self._task_name = "next-item"
        self.softmax_temperature = options.get("softmax_temperature", 1)
        self.weight_tying = options.get("weight_tying", False)
        self.padding_idx, self.target_dim = 0, None
        self.sampled_softmax, self.max_n_samples = sampled_softmax, 20
        self.item_embedding_table = self.masking = self.pre = self.task_block = None
        self.forward_to_prediction_fn = torch.clone

    def build(self, body: Any, input_size: Any, inputs: Any = None, **kwargs: Any) -> None:
        self.embeddings, self.masking = inputs.categorical_module, inputs.masking
        self.target_dim = self.embeddings.item_embedding_table.num_embeddings
        if self.weight_tying:
            self.item_embedding_table = self.embeddings.item_embedding_table
        super().build(body, input_size, inputs, Block(_NextItemPredictionTask(D, self)))

    def forward(self, x: Any, training: bool = False, testing: bool = False, **kwargs: Any) -> Any:
        if training or testing:
            labels = self.masking.masked_targets
            scores, y = self.pre(x[labels != 0], targets=labels[labels != 0])
            return {"loss": self.loss(scores, y), "labels": y, "predictions": scores}
        last = (self.embeddings.item_seq != 0).sum(1) - 1
        scores = self.pre(x[torch.arange(len(x)), last])[0]
        return scores if kwargs.get("top_k") is None else scores.topk(kwargs["top_k"])


class Masking(nn.Module):
    """Remembers the targets of the last batch."""

    padding_idx = 0
    masked_targets: Any = None


class CausalLanguageModeling(Masking):
    """By its name a label stands one position before its item."""


class Embeddings(nn.Module):
    """Remembers the ids of the last batch."""

    def __init__(self) -> None:
        super().__init__()
        self.item_embedding_table = nn.Embedding(V, D, padding_idx=0)


class Inputs(nn.Module):
    """Columns with the next item of every position as its target."""

    item_id = "item_id"

    def __init__(self) -> None:
        super().__init__()
        self.categorical_module, self.masking = Embeddings(), CausalLanguageModeling()

    def forward(self, batch: Any) -> torch.Tensor:
        ids = self.categorical_module.item_seq = batch["item_id"]
        self.masking.masked_targets = nn.functional.pad(ids[:, 1:], (0, 1))
        return self.categorical_module.item_embedding_table(ids)


Inputs.__module__ = "transformers4rec.torch.features.sequence"


class Head(nn.Module):
    """Hands ``top_k`` to instances of upstream's next-item task only."""

    def __init__(self, task: Any) -> None:
        super().__init__()
        self.body = Inputs()
        self.prediction_task_dict = nn.ModuleDict({task.task_name: task})
        task.build(self.body, [-1, T, D], inputs=self.body)

    def forward(self, batch: Any, top_k: int | None = None, **flags: bool) -> Any:
        hidden = self.body(batch)
        (task,) = self.prediction_task_dict.values()
        if not any(flags.values()) and isinstance(task, TASKS.NextItemPredictionTask):
            flags["top_k"] = top_k
        return task(hidden, targets=None, **flags)


Head.__module__ = "transformers4rec.torch.model.base"


def copied(head: Any) -> Any:
    """Return a copy without what the last batch left behind."""
    head.body.masking.masked_targets = None
    return copy.deepcopy(head)
