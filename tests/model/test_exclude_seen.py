"""Metrics and recommendations among the items that a session has not held."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from body_helpers import ARCHITECTURES, ITEMS, D, item_features, sessions, spread
from torch import Tensor

import transformers4rec_ext as tr
from transformers4rec_ext.model._ranking import Ranks
from transformers4rec_ext.model.positions import seen_before
from transformers4rec_ext.ranking_metric import NDCGAt, RecallAt
from transformers4rec_ext.ranks import MISSED

LENGTHS = (6, 5, 3, 2, 1, 0)
#: Architecture, masking, and whether testing asks for the last item of a session only.
KINDS = [
    *[("gpt2", "clm", last) for last in (True, False)],
    *[("xlnet-bi", "plm", last) for last in (True, False)],
    ("bert", "mlm", True),
]


def _model(
    architecture: str = "gpt2", masking: str = "clm", last: bool = False, **task: Any
) -> tr.Model:
    features = item_features(masking, eval_on_last_item_seq_only=last, embedding_dim_default=D)
    block = tr.TransformerBlock(ARCHITECTURES[architecture](), masking=features.masking)
    body = tr.SequentialBlock(features, block)
    task = {"weight_tying": True, "exclude_seen": True, **task}
    model = tr.Model(tr.Head(body, tr.NextItemPredictionTask(**task), inputs=features))
    spread(model)
    return model.eval()


def _sessions() -> Tensor:
    """Return sessions that name few items; the first asks for one that it held."""
    ids = torch.where(sessions(LENGTHS) > 0, torch.randint(1, 9, (len(LENGTHS), 6)), 0)
    ids[0, -1] = ids[0, 2]
    return ids


def _expected(scores: Tensor, ids: Tensor, last: bool) -> list[int]:
    """Return ranks by the definition, one label after the other."""
    ranks, row = [], 0
    for session in ids.tolist():
        items = [item for item in session if item]
        for place in range(1, len(items)):
            if last and place < len(items) - 1:
                continue
            seen, target, of_items = set(items[:place]), items[place], scores[row].tolist()
            rivals = set(range(1, ITEMS + 1)) - seen - {target}
            beaten_by = sum(of_items[item] >= of_items[target] for item in rivals)
            ranks.append(MISSED if target in seen else beaten_by)
            row += 1
    assert row == len(scores)
    return ranks


@pytest.mark.parametrize(("architecture", "masking", "last"), KINDS)
def test_ranks_are_those_among_the_others(architecture: str, masking: str, last: bool) -> None:
    model, ids = _model(architecture, masking, last), _sessions()
    (task,) = model.prediction_tasks
    if masking != "clm":  # a lone item is asked for there, from nothing
        ids = ids[:-2]
    ranked = model({"item_id": ids}, testing=True, returns="ranks")
    task.exclude_seen = False
    scored = model({"item_id": ids}, testing=True)
    expected = _expected(scored["predictions"], ids, last)
    assert ranked["predictions"].rank.tolist() == expected
    assert torch.equal(ranked["labels"], scored["labels"])
    torch.testing.assert_close(ranked["loss"], scored["loss"])
    assert MISSED in expected
    everywhere = model({"item_id": ids}, testing=True, returns="ranks")["predictions"].rank
    assert everywhere.tolist() != expected


class _Scores(torch.nn.Module):
    """An output layer of one's own."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.randn(ITEMS + 1, D))

    def forward(self, x: Tensor, targets: Any = None, **flags: bool) -> Any:
        return x @ self.weight.t(), targets


@pytest.mark.parametrize("last", [True, False])
@pytest.mark.parametrize("kind", ["predictions", "loss", "layer", "gbce"])
def test_metrics_are_the_same_whatever_they_are_made_of(kind: str, last: bool) -> None:
    """By ranks, by scores, and by scores of a loss or of an output layer of one's own."""
    options: dict[str, Any] = {}
    if kind == "loss":
        options["loss"] = torch.nn.MultiMarginLoss()
    if kind == "gbce":
        options["loss"] = tr.GBCELoss(tr.UniformSampler(5, max_id=ITEMS + 1, min_id=1), t=0.5)
    model, batch = _model(last=last, **options), {"item_id": _sessions()}
    (task,) = model.prediction_tasks
    if kind == "layer":
        task.pre = _Scores()
    task.metrics = torch.nn.ModuleList(
        [NDCGAt([3, 6], labels_onehot=True), RecallAt([1, 6], labels_onehot=True)]
    )
    returns = "predictions" if kind == "predictions" else "ranks"
    output = model(batch, testing=True, returns=returns)
    assert isinstance(output["predictions"], Ranks) == (kind == "gbce")
    found = model.calculate_metrics(output["predictions"], output["labels"])
    task.exclude_seen = False
    plain = model(batch, testing=True, returns="predictions")
    torch.testing.assert_close(output["loss"], plain["loss"])
    rank = torch.tensor(_expected(plain["predictions"], batch["item_id"], last))
    for metric, value in zip(task.metrics, found.values(), strict=True):
        torch.testing.assert_close(
            value, type(metric)(metric.top_ks, labels_onehot=True)(rank=rank)
        )
    if kind == "predictions":
        barred = output["predictions"] == -torch.inf
        assert barred[:, 0].all()
        assert torch.equal(output["predictions"][~barred], plain["predictions"][~barred])


class _Loss(torch.nn.CrossEntropyLoss):
    """A loss of one's own, which wants scores."""


@pytest.mark.parametrize("loss", [torch.nn.CrossEntropyLoss(), _Loss()])
def test_a_miss_is_one_however_few_items_there_are(loss: torch.nn.Module) -> None:
    """At 20 of 20 items everything is a hit that is not a miss."""
    model = _model(last=True, loss=loss)
    asked = torch.tensor([[1, 2, 1, 0, 0, 0], [3, 4, 5, 0, 0, 0]])
    found = model.evaluate([{"item_id": asked}], verbose=False)
    assert found["next-item/recall_at_20"] == 0.5


def test_in_the_trainer(tmp_path: Any) -> None:
    model, sessions_of = _model(last=True), _sessions()[:4]
    rows = [row[row > 0].numpy() for row in sessions_of]
    path = tmp_path / "sessions.parquet"
    tr.data.write_sessions(path, rows)
    args = tr.T4RecTrainingArguments(
        output_dir=str(tmp_path / "out"), max_sequence_length=6, per_device_eval_batch_size=3,
        report_to=[], use_cpu=True, predict_top_k=ITEMS, disable_tqdm=True,
    )  # fmt: skip
    schema = tr.Schema.from_item_column(num_items=ITEMS, max_length=6)
    trainer = tr.Trainer(
        model, args, schema=schema, compute_metrics=True, eval_dataset_or_path=path
    )
    found = trainer.evaluate()
    expected = model.evaluate([{"item_id": sessions_of}], verbose=False)
    key = "next-item/recall_at_10"
    assert found[f"eval_/{key}"] == pytest.approx(float(expected[key]))
    ids, _ = trainer.predict(path).predictions
    for row, recommended in zip(rows, ids.tolist(), strict=True):
        assert not set(row.tolist()) & set(recommended)


def test_evaluate_counts_only_what_was_not_seen() -> None:
    model, ids = _model(last=True), _sessions()
    found = model.evaluate([{"item_id": ids}], verbose=False)
    (task,) = model.prediction_tasks
    with torch.no_grad():
        given = torch.stack([torch.where(row.cumsum(0) < row.sum(), row, 0) for row in ids])
        kept = (given > 0).any(1)
        hidden = model({"item_id": given}, returns="hidden")[kept]
        target = torch.stack([row[row > 0][-1] for row in ids[kept]])
        seen = torch.where(given[kept] > 0, given[kept], -1)
        rank = tr.functional.target_rank(
            hidden, task.item_weights, target, exclude_ids=seen, padding_idx=0
        )
    rank = torch.where((seen == target[:, None]).any(1), MISSED, rank)
    expected = NDCGAt([10, 20], labels_onehot=True)(rank=rank)
    assert found["next-item/ndcg_at_10"] == pytest.approx(expected[0].item(), abs=1e-6)


@pytest.mark.parametrize("own_layer", [False, True])
def test_nothing_seen_is_recommended(own_layer: bool) -> None:
    model, ids = _model(), _sessions()
    if own_layer:
        model.prediction_tasks[0].pre = _Scores()
    scores, found = model({"item_id": ids}, top_k=ITEMS)
    for session, items, values in zip(ids.tolist(), found.tolist(), scores, strict=True):
        left = set(range(1, ITEMS + 1)) - set(session)
        assert set(items) - {-1} == left
        assert values.isfinite().sum() == len(left)
    for bad, error, text in (
        (torch.ones(6, 2, dtype=torch.int32), TypeError, "exclude_ids must be int64"),
        (torch.ones(1, 2, dtype=torch.int64), ValueError, r"exclude_ids must be int64 \[B=6, L\]"),
        (torch.ones(6, dtype=torch.int64), ValueError, r"exclude_ids must be int64 \[B=6, L\]"),
        ([[1]], TypeError, "exclude_ids must be a Tensor; got list"),
    ):
        with pytest.raises(error, match=text):
            model({"item_id": ids}, top_k=3, exclude_ids=bad)
    more = torch.tensor([[17, 18, -1]] * len(ids))
    _, fewer = model({"item_id": ids}, top_k=ITEMS, exclude_ids=more)
    for items, less in zip(found.tolist(), fewer.tolist(), strict=True):
        assert set(less) - {-1} == set(items) - {17, 18, -1}
    model.prediction_tasks[0].exclude_seen = False
    _, every = model({"item_id": ids}, top_k=ITEMS)
    assert (every > 0).all()


def test_training_does_not_know_of_it() -> None:
    model, batch = _model(), {"item_id": _sessions()}
    outputs = []
    for exclude in (True, False):
        model.prediction_tasks[0].exclude_seen = exclude
        outputs.append(model(batch, training=True, returns="ranks"))
    assert torch.equal(outputs[0]["loss"], outputs[1]["loss"])
    assert torch.equal(outputs[0]["predictions"].rank, outputs[1]["predictions"].rank)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_testing_step_compiles_as_one_graph() -> None:
    model, ids = _model(last=True), _sessions()
    batch = {"item_id": ids[:4]}
    expected = model(batch, testing=True, returns="ranks")
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    found = compiled(batch, testing=True, returns="ranks")
    assert torch.equal(found["predictions"].rank, expected["predictions"].rank)


def test_it_is_an_option_like_others(tmp_path: Any) -> None:
    with pytest.raises(TypeError, match="exclude_seen must be a bool"):
        tr.NextItemPredictionTask(exclude_seen=1)
    assert tr.NextItemPredictionTask().exclude_seen is False
    model, batch = _model(), {"item_id": _sessions()}
    model.save_pretrained(tmp_path)
    again = tr.Model.from_pretrained(tmp_path)
    assert again.prediction_tasks[0].exclude_seen is True
    expected = model(batch, testing=True, returns="ranks")["predictions"].rank
    found = again(batch, testing=True, returns="ranks")["predictions"].rank
    assert torch.equal(found, expected)
    again.prediction_tasks[0].exclude_seen = False  # to serve, where training validated with it
    again.save_pretrained(tmp_path / "changed")
    changed = tr.Model.from_pretrained(tmp_path / "changed")
    assert changed.prediction_tasks[0].exclude_seen is False
    empty = model({"item_id": torch.zeros(2, 6, dtype=torch.int64)}, testing=True, returns="ranks")
    assert empty["predictions"].rank.shape == (0,)
    none = model({"item_id": torch.zeros(0, 6, dtype=torch.int64)}, testing=True, returns="ranks")
    assert none["predictions"].rank.shape == (0,)


@pytest.mark.parametrize(("causal", "expected"), [(True, [-1, 5, 6, -1]), (False, [-1, 5, -1, -1])])
def test_padding_is_not_among_what_was_seen(causal: bool, expected: list[int]) -> None:
    ids = torch.tensor([[8, 9, 0, 0], [0, 5, 6, 7]])  # padded on the right and on the left
    assert seen_before(ids, torch.tensor([6]), 0, causal).tolist() == [expected]
