"""Ids without a row are named before a batch leaves the CPU: a GPU would stop at an assertion.

The meta device stands for the GPU: it would look nothing up, and find nothing wrong.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import transformers4rec_ext as tr
from transformers4rec_ext.model.batch import on_device

META = torch.device("meta")
SCHEMA = tr.Schema.from_item_column("item_id", num_items=9, max_length=3)
SESSIONS = {"item_id": torch.tensor([[3, 1, 9], [5, 2, 0]])}
WRONG = {"item_id": SESSIONS["item_id"] + 1}
NAMED = r"inputs\['item_id'\] must hold ids from 0 to 9; got 1 to 10\. The table has int_domain"


def _model(**features: Any) -> tr.Model:
    inputs = tr.TabularSequenceFeatures.from_schema(
        SCHEMA, max_sequence_length=3, masking="clm", embedding_dim_default=4, **features
    )
    body = tr.SequentialBlock(inputs, tr.MLPBlock([4]))
    return tr.Model(tr.Head(body, tr.NextItemPredictionTask(weight_tying=True)))


def test_a_batch_that_moves() -> None:
    model = _model()
    targets = {"a": torch.ones(2)}
    inputs, moved = on_device(model, (SESSIONS, targets), META)
    assert inputs["item_id"].device == moved["a"].device == META
    with pytest.raises(ValueError, match=NAMED):
        on_device(model, (WRONG, targets), META)
    with pytest.raises(ValueError, match="got -1 to 8"):
        on_device(model, {"item_id": SESSIONS["item_id"] - 1}, META)
    ragged = {"item_id__values": torch.tensor([3, 10]), "item_id__offsets": torch.tensor([0, 2])}
    with pytest.raises(ValueError, match=r"inputs\['item_id__values'\] must .*; got 3 to 10"):
        on_device(model, ragged, META)


def test_a_batch_that_is_there_already_is_not_looked_at() -> None:
    there = {"item_id": WRONG["item_id"].to(META)}
    assert on_device(_model(), there, META)[0]["item_id"].device == META
    assert on_device(_model(), WRONG, torch.device("cpu"))[0]["item_id"] is WRONG["item_id"]


def test_numbers_are_no_ids() -> None:
    prices = {"price": torch.tensor([3, 20])}
    config = {"price": tr.FeatureConfig(tr.TableConfig(5, 4, name="price"))}
    inputs = tr.SoftEmbeddingFeatures(config, aggregation="concat")
    body = tr.SequentialBlock(inputs, torch.nn.Linear(4, 4), output_size=[-1, 4])
    model = tr.Model(tr.Head(body, tr.RegressionTask("price", summary_type=None)))
    assert inputs(prices).shape == (2, 4)
    assert on_device(model, prices, META)[0]["price"].device == META


@pytest.mark.parametrize(
    "column",
    [
        torch.nested.nested_tensor([torch.tensor([1, 10]), torch.tensor([3])], layout=torch.jagged),
        WRONG["item_id"].to_sparse(),
        WRONG["item_id"].bool(),
        WRONG["item_id"].to(torch.complex64),
    ],
    ids=["nested", "sparse", "bool", "complex"],
)
def test_what_is_no_column_of_ids_is_left_to_the_model_to_name(column: Tensor) -> None:
    model = _model()
    inputs, _ = on_device(model, {"item_id": column}, META)
    with pytest.raises(TypeError, match=r"inputs\['item_id'\] must be"):
        model(inputs)


def test_two_heads_of_one_body_look_once(monkeypatch: pytest.MonkeyPatch) -> None:
    body = _model().heads[0].body
    heads = [tr.Head(body, tr.NextItemPredictionTask(task_name=name)) for name in ("a", "b")]
    looks: list[Any] = []
    monkeypatch.setattr(tr.TabularSequenceFeatures, "check_ids", lambda _, x: looks.append(x))
    on_device(tr.Model(*heads), SESSIONS, META)
    assert looks == [SESSIONS]


class Hashed(tr.TabularTransformation):
    """Makes ids that the table has of any."""

    def forward(self, inputs: dict[str, Tensor], **kwargs: Any) -> dict[str, Tensor]:
        return {name: column % 10 for name, column in inputs.items()}


def test_ids_that_a_transformation_makes_are_not_judged_by_what_they_were() -> None:
    model = _model(pre=Hashed())
    assert model(WRONG).shape == (2, 10)
    on_device(model, WRONG, META)


def test_fit_and_evaluate() -> None:
    model = _model().to(META)
    with pytest.raises(ValueError, match=NAMED):
        model.fit([WRONG], num_epochs=1, verbose=False)
    with pytest.raises(ValueError, match=NAMED):
        model.evaluate([WRONG], verbose=False)


@pytest.mark.parametrize("steps", ["_prepare_inputs", "compute_loss", "prediction_step"])
def test_trainer(steps: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = _model()
    arguments = tr.T4RecTrainingArguments(
        output_dir=str(tmp_path), max_sequence_length=3, use_cpu=True, report_to=[]
    )
    trainer = tr.Trainer(model, arguments, schema=SCHEMA, train_dataset_or_path=[WRONG])
    monkeypatch.setattr(tr.T4RecTrainingArguments, "device", META)
    given: dict[str, tuple[Any, ...]] = {
        "_prepare_inputs": (WRONG,),
        "compute_loss": (model, WRONG),
        "prediction_step": (model, WRONG, True),
    }
    with pytest.raises(ValueError, match=NAMED):
        getattr(trainer, steps)(*given[steps])


def test_lightning() -> None:
    pytest.importorskip("lightning")
    module = _model().to_lightning().to(META)
    assert module.on_before_batch_transfer(SESSIONS, 0) is SESSIONS
    with pytest.raises(ValueError, match=NAMED):
        module.on_before_batch_transfer((WRONG, None), 0)
