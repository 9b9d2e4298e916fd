"""What models, tasks and the engine compute on the CPU and on another device, as JSON."""

from __future__ import annotations

import itertools
import json
import tempfile
from collections.abc import Callable
from typing import Any

import device_steps
import torch

import transformers4rec_ext as tr
from transformers4rec_ext import functional as F

ITEMS, WIDTH, LENGTH = 200, 16, 12
COUNTS = torch.arange(ITEMS + 1)
TASKS: dict[str, dict[str, Any]] = {
    "all items": {},
    "all items, static shapes": {"static_shapes": True},
    "cosines": {"cosine_scale": 8.0},
    "untied": {"weight_tying": False},
    "sampled": {"sampled_softmax": True, "max_n_samples": 50},
    "sampled, static shapes": {"sampled_softmax": True, "max_n_samples": 50, "static_shapes": True},
    "sampled, row gradients": {"sampled_softmax": True, "max_n_samples": 50, "sparse_grad": True},
    "counts and batch": {
        "sampled_softmax": True,
        "sampler": tr.MixedSampler(
            [tr.PopularitySampler(30, COUNTS, min_id=1), tr.InBatchSampler(COUNTS, min_id=1)]
        ),
    },
    "gbce": {"loss": tr.GBCELoss(tr.UniformSampler(30, max_id=ITEMS + 1, min_id=1), t=0.75)},
}
BODIES = {
    "causal": ("causal", tr.GPT2Config),
    "masked": ("mlm", tr.BertConfig),
    "permutation": ("plm", tr.XLNetConfig),
    "replacement": ("rtd", tr.ElectraConfig),
    "windowed attention": ("mlm", tr.LongformerConfig),
}


def next_item(body: str, **task: Any) -> tr.Model:
    """Return a small model of item ids."""
    masking, config = BODIES[body]
    schema = tr.Schema.from_item_column("item_id", num_items=ITEMS, max_length=LENGTH)
    inputs = tr.TabularSequenceFeatures.from_schema(
        schema,
        max_sequence_length=LENGTH,
        embedding_dim_default=WIDTH,
        masking=masking,
        aggregation="concat",
        sparse_grad=task.get("sparse_grad", False),
    )
    transformer = config.build(d_model=WIDTH, n_head=2, n_layer=1, total_seq_length=LENGTH)
    block = tr.SequentialBlock(inputs, tr.TransformerBlock(transformer, masking=inputs.masking))
    made = tr.NextItemPredictionTask(**{"weight_tying": True, **task})
    return tr.Model(tr.Head(block, made, inputs=inputs))


def many_columns() -> tr.Model:
    """Return a model of all kinds of columns and three tasks."""
    columns = tr.data.music_streaming_testing_data.schema.remove_by_name("session_id")
    inputs = tr.TabularSequenceFeatures.from_schema(
        columns,
        continuous_projection=8,
        d_output=WIDTH,
        masking="causal",
        pre="stochastic-swap-noise",
    )
    tasks = [
        tr.NextItemPredictionTask(weight_tying=True),
        tr.BinaryClassificationTask("click", summary_type="attn"),
        tr.RegressionTask("play_percentage", summary_type="mean"),
    ]
    return tr.Model(tr.Head(tr.SequentialBlock(inputs, tr.MLPBlock([WIDTH])), tasks))


def sessions() -> dict[str, torch.Tensor]:
    """Return a batch, padded on the right."""
    ids = torch.randint(1, ITEMS + 1, (6, LENGTH))
    return {"item_id": ids * (torch.arange(LENGTH) < torch.randint(3, LENGTH + 1, (6, 1)))}


def use(model: tr.Model, batches: list[Any], device: str) -> dict[str, float]:
    """Train a model, evaluate it, ask it and save it; return numbers of each."""
    model.to(device)
    model.fit(batches, num_epochs=2)
    values = flat(model.evaluate(batches))
    for name, parameter in model.named_parameters():
        assert parameter.device.type == device, name
        values[name] = float(parameter.detach().abs().sum())
    with tempfile.TemporaryDirectory() as folder:
        model.save(folder, format="safetensors")
        model.load_weights(f"{folder}/t4rec_model_class.safetensors")
    return values


def flat(metrics: dict[str, Any]) -> dict[str, float]:
    """Return the values of nested dicts by the paths to them."""
    values = {}
    for name, value in metrics.items():
        inner = flat(value) if isinstance(value, dict) else {"": float(value)}
        values |= {f"{name} {path}".strip(): number for path, number in inner.items()}
    return values


def best(model: tr.Model, device: str) -> dict[str, float]:
    """Return what a model recommends."""
    model.to(device).eval()
    model.top_k = 3
    batch = sessions()
    with torch.no_grad():
        scores, ids = model({name: value.to(device) for name, value in batch.items()})
    assert scores.device.type == ids.device.type == device
    return {"scores": float(scores.sum()), "ids": float(ids.sum())}


def engine(device: str) -> dict[str, float]:
    """Use the functions and the optimizers without a model."""
    values = {}
    for loss, rule in itertools.product(device_steps.LOSSES, device_steps.OPTIMIZERS):
        hidden, weight, targets = device_steps.batch(device)
        optimizer = rule([weight])
        for _ in range(2):
            device_steps.train(loss, optimizer, hidden, weight, targets)
        values[f"{loss.__name__} {rule.__name__}"] = float(weight.detach().abs().sum())
    rank = F.target_rank(hidden.detach(), weight.detach(), targets)
    scores, ids = F.topk_items(hidden.detach(), weight.detach(), 4)
    values |= {"rank": float(rank.sum()), "scores": float(scores.sum()), "ids": float(ids.sum())}
    return values


def cases() -> dict[str, Callable[[str], dict[str, float]]]:
    """Return what is computed by name; each takes the device."""
    data = tr.data.music_streaming_testing_data

    def task(name: str) -> Callable[[str], dict[str, float]]:
        def run(device: str) -> dict[str, float]:
            model = next_item("causal", **TASKS[name])
            return use(model, [sessions(), sessions()], device) | best(model, device)

        return run

    def body(name: str) -> Callable[[str], dict[str, float]]:
        return lambda device: use(next_item(name), [sessions(), sessions()], device)

    def columns(device: str) -> dict[str, float]:
        rows = data.torch_synthetic_data(num_rows=8)
        return use(many_columns(), [(rows, rows)], device)

    return {
        **{name: task(name) for name in TASKS},
        **{name: body(name) for name in BODIES},
        "many columns and tasks": columns,
        "functions and optimizers": engine,
    }


def main(device: str) -> None:
    """Print each case's numbers on the CPU and on the device."""
    found: dict[str, list[dict[str, float]]] = {}
    for name, run in cases().items():
        found[name] = []
        for where in ("cpu", device):
            torch.manual_seed(0)
            found[name].append(run(where))
    print(json.dumps(found))
