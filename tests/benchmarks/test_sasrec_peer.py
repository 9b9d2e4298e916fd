"""The plain-PyTorch SASRec that ours is raced against: the paper's network, rows and losses."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.peers import sasrec
from transformers4rec_ext.data import Catalogue, ParquetSessions

V, T, D = 23, 7, 8
ROWS = torch.tensor([[0, 0, 0, 5, 9, 2, 5, 1], [3, 8, 4, 21, 1, 6, 7, 2], [0, 0, 0, 0, 0, 0, 9, 3]])


def _model(dropout: float = 0.0) -> sasrec.SASRec:
    model = sasrec.SASRec(V, max_length=T, width=D, layers=2, heads=1, dropout=dropout)
    with torch.no_grad():
        for parameter in model.parameters():  # biases and norms too
            parameter.add_(torch.randn_like(parameter) / 5)
        model.items.weight[0] = 0
    return model.double()


@pytest.mark.parametrize("heads", [1, 2])
def test_a_block_is_torchs_pre_norm_layer(heads: int) -> None:
    block = sasrec.Block(D, heads, 0.0).double()
    theirs = nn.TransformerEncoderLayer(
        D, heads, D, 0.0, layer_norm_eps=1e-8, batch_first=True, norm_first=True
    ).double()
    pairs = {
        block.attention_norm: theirs.norm1,
        block.output: theirs.self_attn.out_proj,
        block.feed_norm: theirs.norm2,
        block.feed_in: theirs.linear1,
        block.feed_out: theirs.linear2,
    }
    for ours, other in pairs.items():
        for parameter in other.parameters():
            nn.init.normal_(parameter)
        ours.load_state_dict(other.state_dict())
    nn.init.normal_(theirs.self_attn.in_proj_bias)
    block.query_key_value.weight.data.copy_(theirs.self_attn.in_proj_weight)
    block.query_key_value.bias.data.copy_(theirs.self_attn.in_proj_bias)
    x = torch.randn(3, T, D, dtype=torch.float64)
    causal = torch.ones(T, T, dtype=torch.bool).tril()
    torch.testing.assert_close(
        block(x, causal.expand(3, 1, T, T)), theirs(x, src_mask=~causal), rtol=1e-12, atol=1e-12
    )


def test_embeddings_are_scaled_and_get_positions() -> None:
    model = _model()
    for block in model.blocks:
        for layer in (block.output, block.feed_out):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)
    x = model.items.weight[ROWS[1, 1:]] * math.sqrt(D) + model.positions.weight
    expected = model.norm(x)
    torch.testing.assert_close(model(ROWS[1:2, 1:])[0], expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("at", range(1, T))
def test_it_is_causal(at: int) -> None:
    model, ids = _model(), ROWS[1:2, :-1].clone()
    before = model(ids)
    ids[0, at] += 1
    after = model(ids)
    assert torch.equal(after[:, :at], before[:, :at])
    assert not torch.isclose(after[:, at:], before[:, at:]).any(dim=2).all()


def test_padding_has_no_influence() -> None:
    model, ids = _model(), ROWS[:1, :-1]
    before = model(ids)[0, 3:]
    with torch.no_grad():
        model.items.weight[0] = 1e3
        model.positions.weight[:3] = -1e3
    torch.testing.assert_close(model(ids)[0, 3:], before, rtol=1e-12, atol=1e-12)


def test_padding_gets_no_gradient_and_no_nan() -> None:
    model = _model()
    sasrec.loss(model, ROWS, "sampled", 4).backward()
    gradients = [parameter.grad for parameter in model.parameters()]
    assert all(gradient is not None and gradient.isfinite().all() for gradient in gradients)
    assert not model.items.weight.grad[0].any()


def test_dropout_is_for_training_only() -> None:
    model, ids = _model(0.5), ROWS[:, :-1]
    assert not torch.isclose(model(ids), model(ids)).all()
    model.eval()
    assert torch.equal(model(ids), model(ids))


def test_a_query_is_the_hidden_state_at_each_item_of_its_row() -> None:
    model = _model()
    hidden, weight = model.query(torch.tensor([[5, 9, 2, 5, 0], [3, 8, 0, 0, 0], [1, 2, 3, 4, 5]]))
    rows = [[0, 0, 0, 5, 9, 2, 5], [0, 0, 0, 0, 0, 3, 8], [0, 0, 1, 2, 3, 4, 5]]
    for found, expected, length in zip(hidden, model(torch.tensor(rows)), (4, 2, 5), strict=True):
        assert torch.equal(found[:length], expected[-length:])
    assert weight is model.items.weight
    assert hidden.shape == (3, 5, D)


def test_negatives_are_uniform_over_the_other_items() -> None:
    targets = torch.tensor([1, 3, 5])
    drawn = sasrec.negatives_of(targets, 30_000, 6)
    for target, row in zip(targets.tolist(), drawn, strict=True):
        counts = row.bincount(minlength=6)
        assert counts.sum() == counts[1:].sum() == 30_000
        assert counts[target] == 0
        others = counts[[item for item in range(1, 6) if item != target]].double() / 30_000
        error = math.sqrt(0.25 * 0.75 / 30_000)
        assert (others - 0.25).abs().max() < 6.6 * error  # by chance in fewer than 1e-9 of runs


@pytest.mark.parametrize("objective", sasrec.LOSSES)
def test_a_loss_is_the_mean_over_positions_with_an_item(
    objective: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, count = _model(), 1 if objective == "bce" else 3

    def negatives(targets: Tensor, number: int, num_items: int) -> Tensor:
        assert (number, num_items) == (count, V)
        return torch.stack([(targets + k) % (V - 1) + 1 for k in range(number)], dim=1)

    monkeypatch.setattr(sasrec, "negatives_of", negatives)
    hidden, weight = model(ROWS[:, :-1]), model.items.weight
    losses = []
    for b, t in (ROWS[:, :-1] != 0).nonzero().tolist():
        target = ROWS[b, t + 1]
        assert target != 0
        scores = weight @ hidden[b, t]
        others = scores[negatives(target[None], count, V)[0]]
        if objective == "full":
            losses.append(scores[1:].logsumexp(0) - scores[target])
        elif objective == "sampled":
            losses.append(torch.cat([scores[target][None], others]).logsumexp(0) - scores[target])
        else:
            losses.append(-F.logsigmoid(scores[target]) - F.logsigmoid(-others[0]))
    assert len(losses) == 4 + 7 + 1
    found = sasrec.loss(model, ROWS, objective, count)
    torch.testing.assert_close(found, torch.stack(losses).mean(), rtol=1e-12, atol=1e-12)


def test_rows_are_the_last_training_items_of_every_user(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    lists = [rng.integers(10, 60, length).tolist() for length in (4, 30, 3, 12, 9, 10, 2, 0, 5)]
    pq.write_table(pa.table({"items": lists}), tmp_path / "s.parquet")
    sessions = ParquetSessions(tmp_path / "s.parquet", "items")
    catalogue = Catalogue.fit(sessions)
    loader = sasrec.TrainingRows(sessions, catalogue, max_length=T, batch_size=3, seed=4)
    expected = []
    for items in lists:
        kept = items[:-2] if len(items) >= 3 else items
        kept = catalogue.encode(pa.array(kept[-(T + 1) :], pa.int64())).tolist()
        if len(kept) >= 2:
            expected.append((0,) * (T + 1 - len(kept)) + tuple(kept))
    orders = []
    for epoch in (0, 1, 0):
        batches = list(loader.batches(epoch))
        assert [len(batch) for batch in batches] == [3, 3, 1]
        orders.append([tuple(row) for row in torch.cat(batches).tolist()])
        assert sorted(orders[-1]) == sorted(expected)
    assert len(loader) == 3
    assert orders[0] == orders[2] != orders[1]


@pytest.mark.parametrize("objective", sasrec.LOSSES)
def test_it_learns_what_follows_what(objective: str) -> None:
    """Each item is followed by the next one: the target must come first of all items."""
    model = sasrec.SASRec(V, max_length=T, width=32, dropout=0.1)
    step = sasrec.Step(model, objective, 1 if objective == "bce" else 8, lr=1e-2)
    starts = torch.arange(V - 1)
    rows = (starts[:, None] + torch.arange(T + 1)) % (V - 1) + 1
    losses = [step(rows, number) for number in range(60)]
    assert losses[-1] < 0.5 * losses[0]
    model.eval()
    hidden, weight = model.query(rows[:, :-1])
    assert torch.equal((hidden[:, -1] @ weight[1:].T).argmax(dim=1) + 1, rows[:, -1])
