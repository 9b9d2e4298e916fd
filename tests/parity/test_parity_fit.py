"""Two epochs of ``Model.fit`` and of the Trainer over recorded batches."""

from __future__ import annotations

import pytest
import torch
from recorded_models import Recorded

import transformers4rec_ext as tr

CASES = ("SGD0", "Adam1", "SGD2")


def _model(recorded, name):
    case = recorded.meta["cases"][name]
    inputs = tr.TabularSequenceFeatures.from_schema(
        recorded.schema(), masking="clm", **case["features"]
    )
    transformer = tr.GPT2Config.build(**case["build"])
    body = tr.SequentialBlock(
        inputs,
        tr.MLPBlock(case["mlp"]),
        tr.TransformerBlock(transformer, masking=inputs.masking),
    )
    top_ks = case["task"]["metrics_top_ks"]
    task = tr.NextItemPredictionTask(
        metrics=[
            metric(top_ks=top_ks, labels_onehot=True)
            for metric in (
                tr.ranking_metric.NDCGAt,
                tr.ranking_metric.AvgPrecisionAt,
                tr.ranking_metric.RecallAt,
            )
        ],
        weight_tying=case["task"]["weight_tying"],
        softmax_temperature=case["task"]["softmax_temperature"],
    )
    model = tr.Model(tr.Head(body, task, inputs=inputs))
    model.load_state_dict(recorded.state_dict(f"{name}/weights_before"))
    return model


def _batches(recorded):
    return [(recorded.below(f"batch{i}"), None) for i in range(3)]


def _optimizer(case, model):
    return getattr(torch.optim, case["optimizer"])(model.parameters(), **case["optimizer_kwargs"])


def _check_weights(recorded, name, model):
    tolerance = recorded.meta["tolerance"]
    sensitivity = recorded.meta["cases"][name]["sensitivity"]
    found = model.state_dict()
    for key, value in recorded.state_dict(f"{name}/weights_after").items():
        if key not in sensitivity:
            continue  # another name of a tensor that has one
        atol = tolerance["atol"] + 20 * sensitivity[key]
        torch.testing.assert_close(
            found[key], value, rtol=tolerance["rtol"], atol=atol, msg=lambda m, k=key: f"{k}: {m}"
        )


def _check_metrics(of, case, recorded, model, data, metrics):
    """Compare metrics with the recorded ones, which rank the padding item too (D17)."""
    with_padding = {}
    for metric in model.prediction_tasks[0].metrics:
        metric.reset()
        for inputs, _ in data:
            with torch.no_grad():
                output = model.eval()(inputs, testing=True)
            metric.update(output["predictions"], output["labels"])
        metric_name = model.prediction_tasks[0].metric_name(metric)
        for k, value in zip(metric.top_ks, metric.compute(), strict=True):
            with_padding[f"{metric_name}_{k}"] = float(value)
        metric.reset()
    tolerance = recorded.meta["tolerance"]
    tolerance = {"rel": tolerance["rtol"], "abs": tolerance["atol"]}
    expected = case[of]
    assert with_padding == pytest.approx(expected, **tolerance)
    # without a rival every rank is as good or better: of 24 labels one or two are
    assert metrics.keys() == expected.keys()
    for key, value in with_padding.items():
        assert value - 1e-6 <= float(metrics[key]) < value + 0.01


@pytest.mark.parametrize("name", CASES)
def test_fit_and_evaluate(parity, name):
    recorded = Recorded(parity, "fit")
    model, case = _model(recorded, name), recorded.meta["cases"][name]
    data = _batches(recorded)
    before = model.evaluate(data, verbose=False)
    _check_metrics("evaluate_before", case, recorded, model, data, before)
    model.train()
    optimizer = _optimizer(case, model)
    losses = model.fit(data, optimizer=optimizer, num_epochs=case["epochs"], verbose=False)
    expected = recorded.tensors[f"{name}/epoch_losses"].double().numpy()
    assert losses == pytest.approx(expected, rel=recorded.meta["tolerance"]["rtol"])
    _check_weights(recorded, name, model)
    after = model.evaluate(data, verbose=False)
    _check_metrics("evaluate_after", case, recorded, model, data, after)


@pytest.mark.parametrize("name", CASES)
def test_the_trainer_takes_the_same_steps(parity, tmp_path, name):
    recorded = Recorded(parity, "fit")
    model, case = _model(recorded, name), recorded.meta["cases"][name]
    args = tr.T4RecTrainingArguments(
        output_dir=str(tmp_path),
        use_cpu=True,
        report_to=[],
        disable_tqdm=True,
        save_strategy="no",
        logging_strategy="epoch",
        num_train_epochs=case["epochs"],
        lr_scheduler_type="constant",
        max_grad_norm=0,
    )
    data = _batches(recorded)
    trainer = tr.Trainer(
        model,
        args,
        train_dataloader=data,
        eval_dataloader=data,
        compute_metrics=True,
        optimizers=(_optimizer(case, model), None),
    )
    trainer.train()
    losses = [line["loss"] for line in trainer.state.log_history if "loss" in line]
    expected = recorded.tensors[f"{name}/epoch_losses"].double().numpy()
    assert losses == pytest.approx(expected, rel=recorded.meta["tolerance"]["rtol"])
    _check_weights(recorded, name, model)
    found = trainer.evaluate()
    metrics = {key.removeprefix("eval_/"): value for key, value in found.items() if "_at_" in key}
    _check_metrics("evaluate_after", case, recorded, model, data, metrics)
