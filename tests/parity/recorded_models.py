"""Whole recorded models: the numbers of one group of tests/parity, and the model they are of."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch

from transformers4rec_ext import (
    Head,
    MLPBlock,
    Model,
    NextItemPredictionTask,
    Schema,
    SequentialBlock,
    TabularSequenceFeatures,
    TransformerBlock,
)
from transformers4rec_ext.config import transformer as configs
from transformers4rec_ext.masking import MaskedItems, masking_registry
from transformers4rec_ext.ranking_metric import AvgPrecisionAt, NDCGAt, RecallAt

CUT_OFFS = [10, 20, 50, 90]


class Recorded:
    """The numbers of one group, and what they are compared by."""

    def __init__(self, parity, group: str) -> None:
        self.meta, self.tensors = parity(group)

    def below(self, prefix: str) -> dict[str, torch.Tensor]:
        """Return what is recorded below a prefix. Names of features contain slashes themselves."""
        prefix = f"{prefix}/"
        return {k[len(prefix) :]: v for k, v in self.tensors.items() if k.startswith(prefix)}

    def state_dict(self, prefix: str = "weights") -> dict[str, torch.Tensor]:
        weights = self.below(prefix)
        aliases = self.meta["aliases"][prefix]
        return weights | {alias: weights[name] for alias, name in aliases.items()}

    def schema(self) -> Schema:
        return Schema.from_json(json.dumps(self.meta["schema"]))

    def close(self, actual: torch.Tensor, name: str) -> None:
        tolerance = {key: self.meta["tolerance"][key] for key in ("rtol", "atol")}
        torch.testing.assert_close(actual, self.tensors[name], **tolerance)

    def gradients_close(
        self, model: Model, prefix: str, stats: dict[str, Any] | None = None
    ) -> None:
        """Compare the gradients recorded below ``prefix``, and of all their norms and maxima."""
        gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
        relative = self.meta["tolerance"]["grad_rtol_of_max"]
        recorded = self.below(prefix)
        assert recorded
        for name, gradient in recorded.items():
            bound = relative * gradient.abs().max() + 1e-7
            assert (gradients[name] - gradient).abs().max() <= bound, name
        if stats is None:
            return
        assert set(gradients) == {name for name, of in stats.items() if of is not None}
        for name, gradient in gradients.items():
            # The bound of an entry, summed up as the norm sums entries.
            noise = {"absmax": 1e-7, "l2": 1e-7 * gradient.numel() ** 0.5}
            for of, value in (("absmax", gradient.abs().max()), ("l2", gradient.norm())):
                expected = pytest.approx(stats[name][of], rel=relative, abs=noise[of])
                assert float(value) == expected, f"{of} of {name}"


class RecordedModel(Recorded):
    """A group of one architecture, and the model that it is of."""

    def model(self, masking: str, *, bare: bool = False, fresh: bool = False, **task: Any) -> Model:
        """Return the model with its recorded weights; ``task`` are arguments of its task.

        With ``bare`` the transformer knows of no masking, so that nothing makes it causal. With
        ``fresh`` the weights are as they were initialised.
        """
        given = self.meta["model"]
        inputs = TabularSequenceFeatures.from_schema(
            self.schema(),
            masking=None if bare else masking,
            **given["features"],
        )
        config = getattr(configs, given["config_cls"]).build(**given["build"])
        transformer = TransformerBlock(config, masking=inputs.masking)
        body = SequentialBlock(inputs, MLPBlock(given["mlp"]), transformer)
        weights = self.state_dict()
        if bare:
            width = len(weights["heads.0.body.0._masking.masked_item_embedding"])
            inputs.set_masking(masking_registry.parse(masking)(width))
            weights = {k: v for k, v in weights.items() if not k.startswith("heads.0.body.2.mask")}
        ks = {"top_ks": CUT_OFFS, "labels_onehot": True}
        metrics = [NDCGAt(**ks), AvgPrecisionAt(**ks), RecallAt(**ks)]
        task = {**given["task"], "metrics": metrics, **task}
        model = Model(Head(body, NextItemPredictionTask(**task), inputs=inputs))
        if not fresh:
            model.load_state_dict(weights, strict=True)
        return model.eval()

    def put_in(self, model: Model, case: str, *, hide: bool = True) -> None:
        """Make the model's masking return what a case drew; hide nothing if not ``hide``."""
        schema, targets = (self.tensors[f"{case}/{n}"] for n in ("mask_schema", "masked_targets"))
        arguments: dict[str, Any] = {
            name: self.tensors[f"{case}/{name}"]
            for name in ("target_mapping", "perm_mask")
            if f"{case}/{name}" in self.tensors
        }
        if not hide:
            schema = torch.zeros_like(schema)

        def mask(item_ids, training=False, testing=False):
            return MaskedItems(item_ids, schema, targets, arguments)

        model.heads[0].body.inputs.masking.mask = mask


def metrics_by_rank(scores: torch.Tensor, labels: torch.Tensor) -> dict[str, list[float]]:
    """Return the three recorded metrics at four cut-offs from the rank of each label."""
    ranks = (scores > scores.gather(1, labels[:, None])).sum(1).double()
    values: dict[str, list[float]] = {}
    for name, gain in (
        ("ndcg_at", 1 / torch.log2(ranks + 2)),
        ("avg_precision_at", 1 / (ranks + 1)),
        ("recall_at", torch.ones_like(ranks)),
    ):
        values[f"next-item/{name}"] = [
            float(torch.where(ranks < k, gain, 0.0).mean()) for k in CUT_OFFS
        ]
    return values
