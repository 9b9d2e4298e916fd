"""NVIDIA's Transformers4Rec itself: its sampler, losses, evaluation and training step.

Imported only in its own environment (``make .venv-upstream/installed``), by `worker`: it does not
install beside current torch, transformers and numpy.
"""

from __future__ import annotations

import json
import platform
from collections.abc import Callable
from importlib.metadata import version
from typing import Any

import torch
import transformers4rec.torch as upstream
from torch.nn.functional import cross_entropy
from transformers4rec.torch.model import prediction_task

from benchmarks import cases, inputs

Run = Callable[[], Any]
_ITEM = "item_id"


def versions() -> dict[str, str]:
    """Return the releases of the package and of what it runs on."""
    found = {name: version(name) for name in ("transformers4rec", "torch", "transformers")}
    return {**found, "python": platform.python_version()}


def sampler(case: cases.SamplerCase, device: str) -> Run:
    """Return `LogUniformSampler.sample`; its tables of V numbers are made here."""
    made = prediction_task.LogUniformSampler(case.samples, case.items).to(device)
    labels = inputs.labels(case, device)
    return lambda: len(made.sample(labels)[0])


class _Drawn(torch.nn.Module):
    """Stands for the sampler of its output layer: the candidates that everybody is given."""

    def __init__(self, drawn: inputs.Candidates) -> None:
        super().__init__()
        self.drawn = drawn

    def sample(self, labels: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return self.drawn.ids, self.drawn.target_log_q.exp(), self.drawn.log_q.exp()


def _loss(layer: torch.nn.Module, tensors: inputs.Scoring) -> Run:
    layer.output_layer = torch.nn.Parameter(tensors.weight)
    hidden = tensors.hidden.requires_grad_()

    def run() -> float:
        logits, labels = layer(hidden, tensors.targets, training=True)
        loss = cross_entropy(logits, labels)
        loss.backward()
        hidden.grad = layer.output_layer.grad = None
        return loss.item()

    return run


def _output_layer(case: cases.SoftmaxCase | cases.FullCase, **options: Any) -> torch.nn.Module:
    """Return the layer that makes the task's logits, without the table that it would fill."""
    with torch.device("meta"):
        return prediction_task._NextItemPredictionTask(
            [case.rows, case.width], case.items, softmax_temperature=1, **options
        )


def sampled_softmax(case: cases.SoftmaxCase, device: str) -> Run:
    """Return its sampled softmax, forward and backward, with the candidates of the case."""
    tensors = inputs.scoring(case, device)
    layer = _output_layer(case, sampled_softmax=True, max_n_samples=case.samples)
    layer.sampler = _Drawn(inputs.candidates(case, tensors.targets))
    return _loss(layer, tensors)


def full_softmax(case: cases.FullCase, device: str) -> Run:
    """Return its cross-entropy over all items, forward and backward."""
    return _loss(_output_layer(case), inputs.scoring(case, device))


def evaluation(case: cases.FullCase, device: str) -> Run:
    """Return scores and the default metrics of its task; a call returns Recall@20."""
    tensors = inputs.scoring(case, device)
    layer = _output_layer(case)
    layer.output_layer = torch.nn.Parameter(tensors.weight)
    task = upstream.NextItemPredictionTask()

    def run() -> float:
        with torch.no_grad():
            scores, labels = layer(tensors.hidden, tensors.targets, testing=True)
            task.calculate_metrics(scores, labels)
            found = task.compute_metrics()
            task.reset_metrics()
        return float(found[f"next-item/recall_at_{cases.TOP_K}"])

    return run


def _schema(items: int, length: int) -> Any:
    feature = {
        "name": _ITEM,
        "type": "INT",
        "valueCount": {"min": "1", "max": str(length)},
        "intDomain": {"name": _ITEM, "min": "0", "max": str(items - 1), "isCategorical": True},
        "annotation": {"tag": ["item_id", "list", "categorical", "item"]},
    }
    return upstream.Schema().from_json(json.dumps({"feature": [feature]}))


def model(case: cases.StepCase) -> Any:
    """Return the network of `bench_step.model`: the same parameters, by the same names."""
    features = upstream.TabularSequenceFeatures.from_schema(
        _schema(case.items, case.length),
        max_sequence_length=case.length,
        embedding_dim_default=case.width,
        masking="causal",
        aggregation="concat",
    )
    config = upstream.GPT2Config.build(
        d_model=case.width,
        n_head=cases.HEADS,
        n_layer=cases.LAYERS,
        total_seq_length=case.length,
        dropout=cases.DROPOUT,
        initializer_range=0.02,
    )
    # as ours has them; `build` cannot be told, or does not hand them on
    config.update({"attn_pdrop": 0.0, "layer_norm_epsilon": 1e-8})
    transformer = upstream.TransformerBlock(config, masking=features.masking)
    task = upstream.NextItemPredictionTask(
        weight_tying=True, sampled_softmax=True, max_n_samples=case.samples
    )
    body = upstream.SequentialBlock(features, transformer)
    return upstream.Model(upstream.Head(body, task, inputs=features))


def step(case: cases.StepCase, device: str) -> Run:
    """Return a training step of its model by Adam; a call returns how many parameters it has."""
    trained = model(case).to(device).train()
    optimizer = torch.optim.Adam(trained.parameters(), lr=1e-3)
    parameters = sum(parameter.numel() for parameter in trained.parameters())
    ids = inputs.sessions(case, device)

    def run() -> int:
        optimizer.zero_grad(set_to_none=True)
        loss = trained({_ITEM: ids}, training=True)["loss"]
        loss.backward()
        optimizer.step()
        return parameters

    return run


#: What `worker` may be asked to build, with the case of each.
BUILDERS: dict[str, tuple[Callable[[Any, str], Run], Callable[..., Any]]] = {
    "sampler": (sampler, cases.SamplerCase),
    "sampled_softmax": (sampled_softmax, cases.SoftmaxCase),
    "full_softmax": (full_softmax, cases.FullCase),
    "evaluation": (evaluation, cases.FullCase),
    "step": (step, cases.StepCase),
}
