"""Scores that are cosines: what they are, their losses, gradients and ranks, who refuses them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from task_helpers import TARGETS, V, batch, hidden_of, next_item_model, parts, sequence_inputs

import transformers4rec_ext as tr
from transformers4rec_ext.functional import Candidates
from transformers4rec_ext.losses import GBCELoss
from transformers4rec_ext.model._cosine import unit_rows, unit_rows_of
from transformers4rec_ext.model.positions import IGNORED
from transformers4rec_ext.samplers import InBatchSampler, MixedSampler, UniformSampler

ROWS = [0, 1, 2, 3, 4, 6, 7, 12]  # positions of TARGETS in the flattened batch
SCALE, TEMPERATURE = 16, 0.5
COSINE = {"cosine_scale": SCALE, "softmax_temperature": TEMPERATURE}
every_layer = pytest.mark.parametrize("tied", [False, True])


class Fixed:
    """A sampler that returns an item twice, and some of the batch's targets."""

    ids = torch.tensor([12, 3, 30, 3, 49, 8])
    log_q = torch.tensor([0.1, -0.5, 0.3, -0.7, -0.2, -1.0])

    def draw(self, targets: torch.Tensor, generator: Any = None) -> Any:
        drawn = Candidates(self.ids, self.log_q, torch.tensor(6), torch.tensor(6))
        return drawn, targets.float() / -50


def _cosines(model: Any, task: Any) -> torch.Tensor:
    """Return the scores [8, V] of the labelled positions, by torch's own cosine."""
    hidden = hidden_of(model, training=True).flatten(0, 1)[ROWS]
    layer = task.pre.module
    table = layer.item_embedding_table.weight if layer.weight_tying else layer.output_layer
    return SCALE * F.cosine_similarity(hidden[:, None], table[None], dim=-1) / TEMPERATURE


def _gradients(model: Any) -> dict[str, torch.Tensor]:
    """Return them dense, without that of padding, which only torch's cosine gives one."""
    found = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    dense = {name: g.to_dense() if g.is_sparse else g for name, g in found.items()}
    return {name: g[1:] if name.endswith("item_id.weight") else g for name, g in dense.items()}


@every_layer
def test_scores_and_the_full_softmax(tied: bool) -> None:
    model, task = parts(weight_tying=tied, **COSINE)
    expected = _cosines(model, task)
    output = model(batch(), training=True, returns="predictions")
    torch.testing.assert_close(output["predictions"], expected)
    loss = F.cross_entropy(expected, torch.tensor(TARGETS))
    loss.backward()
    gradients = _gradients(model)
    fused = model(batch(), training=True)["loss"]
    torch.testing.assert_close(fused, loss)
    fused.backward()
    torch.testing.assert_close(_gradients(model), gradients)


@every_layer
@pytest.mark.parametrize("sparse", [False, True])
def test_the_sampled_softmax(tied: bool, sparse: bool) -> None:
    """A candidate that is the row's target does not count, both times that it was drawn."""
    model, task = parts(
        weight_tying=tied, sampled_softmax=True, sampler=Fixed(), sparse_grad=sparse, **COSINE
    )
    scores, targets = _cosines(model, task), torch.tensor(TARGETS)
    theirs = scores[:, Fixed.ids] - Fixed.log_q
    theirs = theirs.masked_fill(Fixed.ids == targets[:, None], -torch.inf)
    own = scores[torch.arange(8), targets] - targets / -50
    logits = torch.cat([own[:, None], theirs], dim=1)
    assert logits.isinf().sum() == 4  # 49, 12, and 3 twice
    loss = F.cross_entropy(logits, torch.zeros(8).long())
    loss.backward()
    gradients = _gradients(model)
    output = model(batch(), training=True, returns="predictions")
    torch.testing.assert_close(output["loss"], loss)
    torch.testing.assert_close(output["predictions"], logits)
    output["loss"].backward()
    assert task.pre.module._table.grad.is_sparse == sparse
    torch.testing.assert_close(_gradients(model), gradients)


def test_the_length_of_an_item_vector_makes_no_difference() -> None:
    model, task = parts(**COSINE)
    before = model(batch())
    with torch.no_grad():
        task.pre.module.output_layer.mul_(torch.rand(V, 1) + 0.1)
    torch.testing.assert_close(model(batch()), before)


@every_layer
def test_ranks_and_the_best_items_are_of_the_same_scores(tied: bool) -> None:
    model, task = parts(weight_tying=tied, **COSINE)
    scores = model(batch())
    torch.testing.assert_close(task.item_weights.norm(dim=-1)[1:], torch.ones(V - 1))
    hidden = model(batch(), returns="hidden")
    torch.testing.assert_close(hidden @ task.item_weights.T / TEMPERATURE, scores)
    every = model(batch(), returns="all_hidden")
    last = torch.stack([every[0, 5], every[1, 2], every[2, 1], every[3, 0]])
    torch.testing.assert_close(last, hidden)
    values, ids = model(batch(), top_k=5)
    best = scores[:, 1:].topk(5)
    torch.testing.assert_close(values, best.values)
    assert torch.equal(ids, best.indices + 1)
    output = model(batch(), testing=True)
    ranks = model(batch(), testing=True, returns="ranks")["predictions"]
    found, labels = output["predictions"], output["labels"]
    own = found.gather(1, labels[:, None])
    expected = (found[:, 1:] > own).sum(dim=1)
    assert torch.equal(ranks.rank, expected)


def test_the_row_of_padding_stays_zero_and_shrinks_no_gradient() -> None:
    """A length of zero is not replaced by a small one, by whose inverse the gradient would grow."""
    rows = torch.tensor([[0.0, 0.0], [3.0, 4.0]], requires_grad=True)
    made = unit_rows(rows)
    torch.testing.assert_close(made, torch.tensor([[0.0, 0.0], [0.6, 0.8]]))
    made.sum().backward()
    torch.testing.assert_close(rows.grad, torch.tensor([[0.0, 0.0], [0.032, -0.024]]))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_lengths_of_half_precision_are_float32(dtype: torch.dtype) -> None:
    """In float16 the first would be infinite."""
    for size in (2e4, 3e-4):
        rows = torch.full((2, 64), size, dtype=dtype)
        made = unit_rows(rows)
        assert made.dtype == dtype
        expected = torch.full((2, 64), 0.125, dtype=dtype)
        torch.testing.assert_close(made, expected, rtol=0.01, atol=0)


def test_gradcheck_of_the_rows_of_a_batch() -> None:
    weight = torch.randn(9, 3, dtype=torch.float64, requires_grad=True)
    targets, ids = torch.tensor([2, 8, 2]), torch.tensor([4, 2, 1])
    found = unit_rows_of(weight, targets, ids)
    assert found.candidate_ids.tolist() == [0, 1, 2]
    assert found.targets.tolist() == [1, 4, 1]
    assert torch.autograd.gradcheck(lambda w: unit_rows_of(w, targets, ids).weight, weight)


def test_gradients_of_one_target_meet_in_float32() -> None:
    """A thousand of them, each rounded to bfloat16 before it is added, would be off by percents."""
    torch.manual_seed(0)
    weight = torch.randn(5, 8).bfloat16().requires_grad_()
    hidden, targets = torch.randn(1000, 8).bfloat16(), torch.full((1000,), 3)

    def gradient(of: torch.Tensor) -> torch.Tensor:
        rows = unit_rows_of(of, targets, torch.tensor([1, 2]))
        loss = tr.functional.sampled_softmax_loss(
            hidden.to(of.dtype), rows.weight, rows.targets, rows.candidate_ids, reduction="sum"
        )
        (found,) = torch.autograd.grad(loss, of)
        return found[3].double()

    exact = gradient(weight.detach().double().requires_grad_())
    assert (gradient(weight) - exact).norm() < 0.01 * exact.norm()


@pytest.mark.parametrize("sampled", [False, True])
def test_what_has_no_label_reaches_no_gradient(sampled: bool) -> None:
    """Nor, where all rows are kept, an item that the batch does not hold."""
    own = {"sampled_softmax": True, "sampler": Fixed(), "sparse_grad": True} if sampled else {}
    for static in (False, True) if sampled else (False,):
        task = next_item_model(static_shapes=static, **own, **COSINE).prediction_tasks[0]
        x = torch.randn(4, 6, 8)
        targets = F.pad(batch()["item_id"][:, 1:], (0, 1))
        x[targets == 0] = torch.nan
        x.requires_grad_()
        task.masking.masked_targets = targets
        output = task(x, training=True)
        output["loss"].backward()
        assert x.grad.isfinite().all()
        weight = task.pre.module.output_layer
        if sampled:
            assert set(weight.grad.coalesce().indices()[0].tolist()) == {*TARGETS, 12, 3, 30, 49, 8}
        assert (output["labels"] == IGNORED).sum() == (16 if static else 0)


@pytest.mark.parametrize(
    ("ids", "error", "message"),
    [
        (torch.tensor([], dtype=torch.int64), ValueError, "candidate_ids must hold at least one"),
        (torch.tensor([1, 2], dtype=torch.int32), TypeError, "candidate_ids must be int64"),
        (torch.tensor([[1, 2]]), ValueError, r"candidate_ids must be int64 \[S\]"),
        ([1, 2], TypeError, "candidate_ids must be a Tensor"),
        (torch.tensor([1, 50]), ValueError, r"candidate_ids must lie in \[0, 50\); got 50"),
    ],
)
def test_candidates_that_are_none(ids: Any, error: type[Exception], message: str) -> None:
    sampler = Fixed()
    sampler.ids = ids
    model, _ = parts(sampled_softmax=True, sampler=sampler, **COSINE)
    with pytest.raises(error, match=message):
        model(batch(), training=True)


@pytest.mark.parametrize(
    "sampler",
    [
        InBatchSampler(torch.arange(V), min_id=1),
        MixedSampler([UniformSampler(9, V, 1), InBatchSampler(torch.arange(V), min_id=1)]),
    ],
    ids=lambda sampler: type(sampler).__name__,
)
def test_any_sampler(sampler: Any) -> None:
    model, _ = parts(sampled_softmax=True, sampler=sampler, weight_tying=True, **COSINE)
    torch.manual_seed(2)
    output = model(batch(), training=True, returns="predictions")
    zeros = torch.zeros(8).long()
    torch.testing.assert_close(output["loss"], F.cross_entropy(output["predictions"], zeros))


def test_it_is_kept_with_the_model(tmp_path: Path) -> None:
    model = next_item_model(weight_tying=True, **COSINE)
    model.save_pretrained(tmp_path)
    torch.testing.assert_close(tr.Model.from_pretrained(tmp_path)(batch()), model(batch()))


def test_refusals() -> None:
    make = tr.NextItemPredictionTask
    with pytest.raises(ValueError, match="cosine_scale must be finite and at least 0; got -1"):
        make(cosine_scale=-1)
    with pytest.raises(TypeError, match="cosine_scale must be a number; got str"):
        make(cosine_scale="16")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="cosine_scale must be 0 with GBCELoss"):
        make(GBCELoss(UniformSampler(9, V, 1)), cosine_scale=16)
    with pytest.raises(ValueError, match=r"pre must be None with cosine_scale=16; got another"):
        make(cosine_scale=16).build(
            None, [-1, 6, 8], inputs=sequence_inputs(), pre=torch.nn.Identity()
        )
