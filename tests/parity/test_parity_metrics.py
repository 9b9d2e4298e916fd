"""The ranking metrics give upstream's recorded values, row by row and in the mean."""

from __future__ import annotations

import pytest
import torch

from transformers4rec_ext import ranking_metric
from transformers4rec_ext.ranking_metric import ranking_metrics_registry

METRICS = ("NDCGAt", "AvgPrecisionAt", "RecallAt", "PrecisionAt", "DCGAt", "MeanReciprocalRankAt")


@pytest.mark.parametrize("metric_class", METRICS)
def test_rows_and_means(parity, metric_class):
    meta, tensors = parity("metrics")
    cases = {k: c for k, c in meta["cases"].items() if c["metric"] == metric_class}
    assert len(cases) == 18
    for name, case in cases.items():
        tolerance = {"msg": name, **meta["tolerance"]}
        arguments = {"top_ks": case["top_ks"], "labels_onehot": case["labels_onehot"]}
        metric = getattr(ranking_metric, metric_class)(**arguments)
        assert metric.top_ks == case["effective_top_ks"], name
        for update in range(case["n_updates"]):
            scores = tensors[f"{case['data']}/update{update}/scores"]
            target = tensors[f"{case['data']}/update{update}/target"]
            if case["target_given_as"] != "target as stored":
                target = torch.nn.functional.one_hot(target, scores.shape[-1]).float()
            if update == 0:
                fresh = getattr(ranking_metric, metric_class)(**arguments)
                torch.testing.assert_close(
                    fresh(scores, target), tensors[f"{name}/forward0"], **tolerance
                )
            metric.update(scores, target)
            rows = metric.metric_mean[-1]
            torch.testing.assert_close(rows, tensors[f"{name}/rows{update}"], **tolerance)
        torch.testing.assert_close(metric.compute(), tensors[f"{name}/compute"], **tolerance)


def test_registry_names(parity):
    for class_name, names in parity("metrics")[0]["registry_names"].items():
        for name in names:
            assert type(ranking_metrics_registry.parse(name)).__name__ == class_name
