"""Rank and top-k without the score matrix: fused against reference, ties, exclusions, faults."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from item_inputs import Items
from op_table import close
from test_items import SHAPES
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from transformers4rec_ext import functional
from transformers4rec_ext.ops import reference
from transformers4rec_ext.ops.tiles import full, full_precision, ranking
from transformers4rec_ext.ops.tiles import items as walk

rank_of, best_of = functional.target_rank, functional.topk_items
OPS = torch.ops.transformers4rec_ext


@settings(max_examples=80)
@given(**SHAPES, integers=st.booleans(), exclude=st.booleans(), padding=st.sampled_from([None, 0]))
def test_fused_equals_reference(
    rows: int,
    width: int,
    items: int,
    dtype: torch.dtype,
    with_bias: bool,
    seed: int,
    integers: bool,
    exclude: bool,
    padding: int | None,
) -> None:
    data = Items.make(
        rows, width, items, dtype=dtype, with_bias=with_bias, integers=integers, seed=seed
    )
    options = {
        "bias": data.bias,
        "exclude_ids": data.exclude if exclude else None,
        "padding_idx": padding,
    }
    ranks = [
        rank_of(data.hidden, data.weight, data.targets, **options, backend=backend)
        for backend in ("fused", "reference")
    ]
    assert torch.equal(*ranks)
    k = min(items, 20)
    (scores, ids), (wanted, wanted_ids) = (
        best_of(data.hidden, data.weight, k, **options, backend=backend)
        for backend in ("fused", "reference")
    )
    assert scores.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    close(scores, wanted, torch.float32, scale=math.sqrt(width))
    if integers:  # exact scores: ties to the lower id, in both
        assert torch.equal(ids, wanted_ids)


def test_seen_items_of_later_tiles_are_left_out(small_tiles: str) -> None:
    hidden, weight = torch.ones(2, 1), torch.arange(200.0)[:, None]
    exclude = torch.tensor([[199, 197, -1, -1], [0, 198, 198, 196]])
    _, ids = best_of(hidden, weight, 3, exclude_ids=exclude, padding_idx=195)
    assert ids.tolist() == [[198, 196, 194], [199, 197, 194]]


@pytest.mark.parametrize("place", [0, 63, 64, 150, 199])
@pytest.mark.parametrize("backend", ["fused", "reference"])
def test_nan_of_any_item_is_a_miss(small_tiles: str, place: int, backend: str) -> None:
    hidden, weight = torch.ones(1, 1), torch.arange(200.0)[:, None]
    weight[place] = math.nan
    rank = rank_of(hidden, weight, torch.tensor([100]), backend=backend)
    assert rank.tolist() == [reference.MISSED]


@pytest.mark.parametrize("width", [3, 64, 200])
def test_a_collapsed_model_ranks_last(small_tiles: str, width: int) -> None:
    """All items alike, with scores that a GEMM may round differently from place to place."""
    hidden = torch.randn(37, width)
    weight = torch.randn(1, width).repeat(301, 1)
    targets = torch.randint(301, (37,))
    assert rank_of(hidden, weight, targets).tolist() == [300] * 37
    assert rank_of(hidden, weight, targets, padding_idx=0).tolist() == [
        300 - (target != 0) for target in targets.tolist()
    ]
    _, rank = functional.linear_cross_entropy(hidden, weight, targets, return_rank=True)
    assert rank.tolist() == [300] * 37


def _in_favour(
    scores: Tensor, hidden: Tensor, weight: Tensor, bias: Tensor | None, *rest: Tensor
) -> None:
    """Plant a fault: ties count for the model."""
    target_scores, _, above, _ = rest
    exact = hidden.double() @ weight.double().T
    above.add_((exact > target_scores[:, None]).sum(1) + (exact == target_scores[:, None]).any(1))


def _by_the_gemm(
    scores: Tensor, hidden: Tensor, weight: Tensor, bias: Tensor | None, *rest: Tensor
) -> None:
    """Plant a fault: the GEMM's rounding, made visible, decides between equal items."""
    target_scores, _, above, _ = rest
    wobble = 1 - 2e-7 * (torch.arange(scores.shape[1]) % 2)
    above.add_((scores.double() * wobble >= target_scores[:, None]).sum(1))


@pytest.mark.parametrize("fault", [_in_favour, _by_the_gemm])
def test_the_collapsed_model_finds_faults(fault: object, monkeypatch: pytest.MonkeyPatch) -> None:
    class Faulty:
        rank_tile = staticmethod(fault)
        pair_scores = staticmethod(OPS.pair_scores)

    monkeypatch.setattr(ranking, "_ops", Faulty)
    hidden, weight = torch.rand(37, 64), torch.rand(1, 64).repeat(301, 1)
    targets = torch.randint(301, (37,))
    assert ranking.target_rank(hidden, weight, targets, None, None, None).tolist() != [300] * 37


@pytest.mark.parametrize("width", [1, 7, 8, 30, 64, 200])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_formulas_pair_scores_have_the_kernels_bits(width: int, dtype: torch.dtype) -> None:
    hidden, weight = torch.randn(40, width, dtype=dtype), torch.randn(50, width, dtype=dtype)
    bias, ids = torch.randn(50, dtype=dtype), torch.randint(-1, 50, (40, 3))
    ours, theirs = torch.empty(2, 40, 3, dtype=torch.float64)
    reference.pair_scores(hidden, weight, bias, ids, ours)
    OPS.pair_scores(hidden, weight, bias, ids, theirs)
    assert torch.equal(ours, theirs)


@pytest.mark.parametrize("width", [7, 64, 200])
@pytest.mark.parametrize("with_bias", [False, True])
def test_the_formulas_count_each_target_once(
    width: int, with_bias: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A GEMM in float64 rounds as well: the target's own score is not what it makes of it."""
    hidden, weight = torch.randn(600, width), torch.randn(400, width)
    bias = torch.randn(400) if with_bias else None
    weight[200:] = weight[:200]  # two of each, which tie
    targets = torch.randint(400, (600,))
    kernels = ranking.target_rank(hidden, weight, targets, bias, None, 0)
    monkeypatch.setattr(ranking, "_ops", reference)
    assert torch.equal(ranking.target_rank(hidden, weight, targets, bias, None, 0), kernels)


def test_rank_does_not_depend_on_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(2)
    hidden = torch.randn(19, 24, generator=generator)
    weight = torch.randn(50, 24, generator=generator).repeat(9, 1)  # nine of each
    targets = torch.randint(450, (19,), generator=generator)
    expected = rank_of(hidden, weight, targets, backend="reference")
    assert (expected >= 8).all()
    monkeypatch.setattr(walk, "LINE_ITEMS", 1)
    for items, rows in ((1, 1), (7, 3), (64, 19), (450, 19)):
        monkeypatch.setattr(walk, "LEAST_ITEMS", items)
        monkeypatch.setattr(walk, "MOST_ITEMS", items)
        monkeypatch.setattr(walk, "BLOCK_ROWS", rows)
        assert torch.equal(rank_of(hidden, weight, targets), expected)


def test_nan_is_a_miss_unless_it_does_not_compete(small_tiles: str) -> None:
    hidden, weight = torch.ones(4, 1), torch.arange(5.0)[:, None]
    weight[2] = math.nan
    targets = torch.tensor([4, 2, 4, 0])
    exclude = torch.tensor([[-1, -1], [-1, -1], [2, 2], [-1, 3]])
    rank = rank_of(hidden, weight, targets, exclude_ids=exclude)
    assert rank.tolist() == [reference.MISSED, reference.MISSED, 0, reference.MISSED]
    hidden[0] = math.nan
    assert rank_of(hidden, weight[:2], targets % 2).tolist() == [reference.MISSED, 1, 1, 1]
    scores, ids = best_of(hidden, weight, 5)
    assert ids.tolist() == [[-1] * 5] + [[4, 3, 1, 0, -1]] * 3
    assert scores[0].tolist() == [-math.inf] * 5


def test_padding_and_seen_items_are_never_recommended(small_tiles: str) -> None:
    hidden, weight = torch.ones(2, 1), torch.arange(100.0, 0.0, -1.0)[:, None]
    exclude = torch.tensor([[1, 3, -1, -1], [99, 2, 2, 4]])
    _, ids = best_of(hidden, weight, 3, exclude_ids=exclude, padding_idx=0)
    assert ids.tolist() == [[2, 4, 5], [1, 3, 5]]
    scores, ids = best_of(hidden[:1], weight[:5], 5, exclude_ids=exclude[:1], padding_idx=0)
    assert ids.tolist() == [[2, 4, -1, -1, -1]]
    assert scores.tolist() == [[98.0, 96.0, -math.inf, -math.inf, -math.inf]]


@pytest.mark.parametrize("order", ["rising", "falling", "equal"])
def test_topk_of_sorted_scores(small_tiles: str, order: str) -> None:
    """Rising scores fill and empty the buffer all the time, falling ones never."""
    weight = {
        "rising": torch.arange(1000.0),
        "falling": -torch.arange(1000.0),
        "equal": torch.zeros(1000),
    }[order][:, None]
    _, ids = best_of(torch.ones(3, 1), weight, 70)
    expected = list(range(999, 929, -1)) if order == "rising" else list(range(70))
    assert ids.tolist() == [expected] * 3


def test_a_tile_of_no_rows() -> None:
    state = torch.empty(0, 9), torch.empty(0, 9, dtype=torch.long)
    rest = torch.empty(0, dtype=torch.long), torch.empty(0)
    for topk_tile in (reference.topk_tile, torch.ops.transformers4rec_ext.topk_tile):
        topk_tile(torch.empty(0, 20), None, 0, None, 3, *state, *rest)


def test_all_items_is_a_sort() -> None:
    hidden, weight = torch.randn(4, 8), torch.randn(500, 8)
    scores, ids = best_of(hidden, weight, 500)
    assert torch.equal(ids, (hidden @ weight.T).argsort(dim=1, descending=True, stable=True))
    assert (scores.diff(dim=1) <= 0).all()


def test_rank_of_training_is_the_rank_of_evaluation(small_tiles: str) -> None:
    data = Items.make(12, 6, 90, dtype=torch.float32)
    targets = data.some_ignored()
    _, rank = functional.linear_cross_entropy(
        data.hidden, data.weight, targets, bias=data.bias, return_rank=True, padding_idx=0
    )
    expected = rank_of(data.hidden, data.weight, data.targets, bias=data.bias, padding_idx=0)
    counted = targets >= 0
    assert torch.equal(rank[counted], expected[counted])
    assert (rank[~counted] == reference.MISSED).all()


def test_one_column_may_have_any_stride() -> None:
    hidden, weight = torch.ones(5, 1), torch.arange(9.0)[None, :].t()
    assert weight.is_contiguous()
    assert weight.stride() == (1, 9)
    assert rank_of(hidden, weight, torch.full((5,), 7)).tolist() == [1] * 5
    assert best_of(hidden, weight, 2)[1].tolist() == [[8, 7]] * 5
    loss, rank = functional.linear_cross_entropy(
        hidden, weight, torch.full((5,), 8), return_rank=True
    )
    assert rank.tolist() == [0] * 5
    assert torch.isfinite(loss)


def test_empty_batch() -> None:
    hidden, weight = torch.zeros(0, 4), torch.randn(9, 4)
    assert rank_of(hidden, weight, torch.zeros(0, dtype=torch.int64)).shape == (0,)
    scores, ids = best_of(hidden, weight, 3)
    assert scores.shape == ids.shape == (0, 3)


def test_no_gradient_is_recorded() -> None:
    data = Items.make()
    scores, _ = best_of(data.hidden, data.weight, 3)
    assert not scores.requires_grad
    assert not rank_of(data.hidden, data.weight, data.targets).requires_grad


class Precisions(TorchDispatchMode):
    """Notes how float32 matrices are multiplied, wherever some are."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: dict[tuple[int, ...], set[tuple[str, str]]] = {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func is torch.ops.aten.mm.out:
            self.seen.setdefault(tuple(kwargs["out"].shape), set()).add(precisions())
        return func(*args, **(kwargs or {}))


def precisions() -> tuple[str, str]:
    return torch.backends.cuda.matmul.fp32_precision, torch.backends.mkldnn.matmul.fp32_precision


def _a_loss(made: Items, *, with_rank: bool) -> None:
    table, options = (made.hidden, made.weight, None, made.targets), (1.0, -100, 0.0, with_rank)
    loss, maximum, total, _, kept = full.linear_cross_entropy(*table, *options, None, True)
    full.linear_cross_entropy_backward(
        torch.ones_like(loss), *table, maximum, total, kept, *options, True
    )


def _ranks_of_a_loss(made: Items) -> None:
    _a_loss(made, with_rank=True)


def _ranks(made: Items) -> None:
    ranking.target_rank(made.hidden, made.weight, made.targets, None, None, None)


@contextmanager
def lowered() -> Iterator[Precisions]:
    """Let float32 matrices be multiplied by less, and note where they are."""
    before = precisions()
    torch.set_float32_matmul_precision("medium")
    try:
        with torch.no_grad(), Precisions() as mode:
            yield mode
        assert precisions() == ("tf32", "bf16")
    finally:
        torch.set_float32_matmul_precision("highest")
    assert precisions() in (before, ("ieee", "ieee"))


SCORES, OF_THE_TABLE = (5, 11), (11, 4)


@pytest.mark.parametrize("count", [_ranks, _ranks_of_a_loss])
def test_ranks_are_counted_in_full_precision(
    count: Callable[[Items], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A score of TF32 may be further off than `rank_tile` looks: the target would not count.

    The backward pass makes the scores again, and as the sums are of such scores so are its own.
    """
    monkeypatch.setattr(walk, "KEPT_ELEMENTS", 0)
    with lowered() as mode:
        count(Items.make(dtype=torch.float32))
    assert mode.seen[SCORES] == {("ieee", "ieee")}


@pytest.mark.parametrize("with_rank", [True, False])
def test_all_else_is_multiplied_as_torch_is_told(with_rank: bool) -> None:
    with lowered() as mode:
        _a_loss(Items.make(dtype=torch.float32), with_rank=with_rank)
    assert mode.seen[OF_THE_TABLE] == {("tf32", "bf16")}
    assert (mode.seen[SCORES] == {("tf32", "bf16")}) is not with_rank


def test_the_precision_is_lowered_again_by_the_last() -> None:
    """Of two threads that rank at once the first to end leaves it to the other."""
    before = precisions()
    torch.set_float32_matmul_precision("medium")
    try:
        first, second = full_precision(), full_precision()
        first.__enter__()
        torch.set_float32_matmul_precision("medium")  # as a third thread may
        second.__enter__()
        first.__exit__(None, None, None)
        assert precisions() == ("ieee", "ieee")
        second.__exit__(None, None, None)
        assert precisions() == ("tf32", "bf16")
    finally:
        torch.set_float32_matmul_precision("highest")
    assert precisions() in (before, ("ieee", "ieee"))


def test_operators_are_called_with_gradients_enabled() -> None:
    """As a traced program does, which has no ``no_grad``."""
    data = Items.make()
    assert data.weight.requires_grad
    scores, ids = OPS.topk_items(data.hidden, data.weight, 3, data.bias, None, None)
    wanted, wanted_ids = best_of(data.hidden, data.weight, 3, bias=data.bias)
    assert torch.equal(scores, wanted)
    assert torch.equal(ids, wanted_ids)
    ranks = OPS.target_rank(data.hidden, data.weight, data.targets, data.bias, None, None)
    assert torch.equal(ranks, rank_of(data.hidden, data.weight, data.targets, bias=data.bias))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_an_item_beyond_the_table_is_not_read(dtype: torch.dtype) -> None:
    """On a GPU no check looks at ids: such a target loses, and leaves the process alive."""
    hidden, weight = torch.randn(3, 8).to(dtype), torch.randn(50, 8).to(dtype)
    targets = torch.tensor([49, 50, 2**40])
    for table in (weight, weight.t().contiguous().t()):
        loss, *_ = OPS.linear_cross_entropy(
            hidden, table, table[:, 0], targets, 1.0, -100, 0.0, True, None, False
        )
        assert loss.isnan().tolist() == [False, True, True]
        rank = OPS.target_rank(hidden, table, targets, None, targets[:, None], None)
        assert (rank == reference.MISSED).tolist() == [False, True, True]
