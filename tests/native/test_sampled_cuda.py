"""The CUDA kernels of sampled losses and logits, emulated, against the CPU's and the reference."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable
from typing import Any

import emulated
import pytest
import torch
from torch import Tensor

from transformers4rec_ext import _native
from transformers4rec_ext.ops import reference, schemas

_native.load()
SIZES = (0, 1, 31, 33, 129, 530)  # the last with two warps
DTYPE_CODES = {torch.float32: 0, torch.float64: 1}
DTYPES = pytest.mark.parametrize("dtype", DTYPE_CODES, ids=["float32", "float64"])
LOSSES = pytest.mark.parametrize("loss", ["softmax", "corrected", "bce"])
NAN, INF = math.nan, math.inf


@dataclasses.dataclass
class Tile:
    """What the operators take; the scores of the candidates are kept to start again from."""

    scores: Tensor
    target_scores: Tensor
    targets: Tensor
    ids: Tensor | None
    target_log_q: Tensor | None
    candidate_log_q: Tensor | None
    row_grad: Tensor | None
    temperature: float = 0.7
    odd: bool = False  # rows, ids and log q begin where no vector can be read
    odd_log_q: bool = False

    @classmethod
    def make(
        cls,
        rows: int,
        size: int,
        dtype: torch.dtype = torch.float32,
        *,
        hits: bool = True,
        log_q: bool = True,
        row_grad: bool = True,
        odd: bool = False,
    ) -> Tile:
        """Draw a tile in which a third of the rows has hits, some of them several."""
        generator = torch.Generator().manual_seed(1000 * size + rows)

        def draw(*shape: int) -> Tensor:
            return 2 * torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)

        def ids(count: int) -> Tensor:
            return torch.randint(3 * size + 1, (count,), generator=generator)

        return cls(
            draw(rows, size),
            draw(rows),
            ids(rows),
            ids(size) if hits else None,
            draw(rows) if log_q else None,
            draw(size) if log_q else None,
            draw(rows) if row_grad else None,
            odd=odd,
        )

    def placed(self, tensor: Tensor | None, odd: bool = False) -> Tensor | None:
        """Return a copy, perhaps at an odd address and with its rows an odd way apart."""
        if tensor is None or not (odd or self.odd):
            return None if tensor is None else tensor.clone()
        shape = (*tensor.shape[:-1], tensor.shape[-1] + 3)
        place = torch.full((math.prod(shape) + 1,), 7, dtype=tensor.dtype)[1:].view(shape)
        return place[..., : tensor.shape[-1]].copy_(tensor)

    def hits(self) -> tuple[Tensor | None, Tensor | None]:
        """Return the sorted ids and the positions that they had."""
        if self.ids is None:
            return None, None
        ids, order = self.ids.sort()
        return self.placed(ids), self.placed(order)

    def run(self, of: dict[str, Callable[..., None]], loss: str, with_grad: bool = True) -> Any:
        """Return the losses and, if asked, the gradients of scores and of targets."""
        scores = self.placed(self.scores)
        assert scores is not None
        out = [torch.full_like(self.target_scores, NAN) for _ in range(2)]
        option: Any = loss == "corrected"
        if loss == "bce":
            option = torch.full((), 1.5, dtype=scores.dtype)
        of["bce" if loss == "bce" else "softmax"](
            scores,
            self.target_scores,
            self.targets,
            *self.hits(),
            self.target_log_q,
            self.placed(self.candidate_log_q, self.odd_log_q),
            self.temperature,
            option,
            self.row_grad,
            with_grad,
            *out,
        )
        return (out[0], scores, out[1]) if with_grad else out[0]

    def logits(self, of: dict[str, Callable[..., None]]) -> Tensor:
        """Return the logits [n, 1+S]."""
        logits = self.placed(torch.cat([self.target_scores[:, None], self.scores], dim=1))
        assert logits is not None
        of["logits"](
            logits,
            self.targets,
            *self.hits(),
            self.target_log_q,
            self.placed(self.candidate_log_q, self.odd_log_q),
            self.temperature,
        )
        return logits


def emulation(run: emulated.Run, device: int = 0) -> dict[str, Callable[..., None]]:
    """Return the operators of the emulated kernels."""
    library = emulated.library("sampled", run)

    def named(scores: Tensor, *of_tile: Any) -> dict[str, Any]:
        names = ("targets", "sorted_ids", "order", "target_log_q", "candidate_log_q")
        return {
            **dict(zip(names, of_tile[:5], strict=True)),
            "stride": scores.stride(0),
            "rows": scores.shape[0],
            "inverse_temperature": 1 / of_tile[5],
            "dtype": DTYPE_CODES.get(scores.dtype, 2),
            "device": device,
        }

    def loss(launcher: str, option: str) -> Callable[..., None]:
        def call(scores: Tensor, target_scores: Tensor, *rest: Any) -> None:
            names = (option, "row_grad", "with_grad", "loss", "target_grad")
            getattr(library, launcher)(
                scores,
                target_scores=target_scores,
                num_candidates=scores.shape[1],
                **named(scores, *rest[:6]),
                **dict(zip(names, rest[6:], strict=True)),
            )

        return call

    def logits(scores: Tensor, *rest: Any) -> None:
        library.t4r_sampled_logits_tile_cuda(
            scores, num_candidates=scores.shape[1] - 1, **named(scores, *rest)
        )

    return {
        "softmax": loss("t4r_sampled_softmax_tile_cuda", "corrected"),
        "bce": loss("t4r_sampled_bce_tile_cuda", "beta"),
        "logits": logits,
    }


NAMES = ("softmax", "bce", "logits")
ON_CPU = {name: getattr(schemas.operators, f"sampled_{name}_tile") for name in NAMES}
BY_REFERENCE = {name: getattr(reference, f"sampled_{name}_tile") for name in NAMES}


def close(found: Any, wanted: Any, tolerance: float) -> None:
    torch.testing.assert_close(found, wanted, rtol=tolerance, atol=tolerance, equal_nan=True)


def wide(tile: Tile) -> Tile:
    """Return the tile in float64."""
    names = ("scores", "target_scores", "target_log_q", "candidate_log_q", "row_grad")
    tensors = {name: getattr(tile, name) for name in names}
    return dataclasses.replace(
        tile, **{name: None if t is None else t.double() for name, t in tensors.items()}
    )


def test_the_cpu_has_kernels_to_compare_with() -> None:
    assert all(_native.has_kernel(f"sampled_{name}_tile", "cpu") for name in NAMES)


# The CPU's arithmetic in another order: float32 sums of up to 17 terms. Then what the arithmetic
# itself is off by: 2^y by 2.5e-7, and half an ulp of a logit y, of which some are above 16.
TOLERANCES = {torch.float32: (5e-7, 4e-6), torch.float64: (1e-14, 1e-13)}


@emulated.every_run
@DTYPES
@LOSSES
def test_losses(run: emulated.Run, dtype: torch.dtype, loss: str) -> None:
    to_cpu, to_reference = TOLERANCES[dtype]
    for size, odd in itertools.product(SIZES, (False, True)):
        tile = Tile.make(3, size, dtype, odd=odd)
        found = tile.run(emulation(run), loss)
        close(found, tile.run(ON_CPU, loss), to_cpu)
        exact = wide(tile).run(BY_REFERENCE, loss)
        close([part.double() for part in found], list(exact), to_reference)


@emulated.every_run
@LOSSES
def test_losses_without_their_options(run: emulated.Run, loss: str) -> None:
    for size, odd in itertools.product((33, 128), (False, True)):
        tile = Tile.make(2, size, hits=False, log_q=False, row_grad=False, odd=odd)
        close(tile.run(emulation(run), loss), tile.run(ON_CPU, loss), 5e-7)


@emulated.every_run
@LOSSES
def test_rows_that_do_not_fit_into_shared_memory(run: emulated.Run, loss: str) -> None:
    for dtype, with_grad in itertools.product(DTYPE_CODES, (False, True)):
        tile = Tile.make(3, 530, dtype, odd=with_grad)
        with emulated.most_shared(2048):
            found = tile.run(emulation(run), loss, with_grad)
        close(found, tile.run(ON_CPU, loss, with_grad), TOLERANCES[dtype][0])


@emulated.every_run
@LOSSES
def test_without_a_gradient_scores_are_only_read(run: emulated.Run, loss: str) -> None:
    tile = Tile.make(3, 129)
    of = emulation(run)
    kept: list[Tensor] = []
    keep = {name: lambda *args, f=f: kept.append(args[0]) or f(*args) for name, f in of.items()}
    assert torch.equal(tile.run(keep, loss, with_grad=False), tile.run(of, loss)[0])
    assert torch.equal(kept[0], tile.scores)


@DTYPES
@LOSSES
def test_every_order_and_alignment_gives_the_same_bits(dtype: torch.dtype, loss: str) -> None:
    tile = Tile.make(4, 530, dtype)
    places = [tile, dataclasses.replace(tile, odd=True), dataclasses.replace(tile, odd_log_q=True)]
    first, *others = (
        place.run(emulation(run), loss) for run, place in itertools.product(emulated.RUNS, places)
    )
    for found in others:
        assert all(map(torch.equal, found, first))


@LOSSES
def test_long_rows(loss: str) -> None:
    # more than one batch a thread, and the last one not whole; the CPU adds 32 float32 at a time
    tile = Tile.make(1, 4 * 1024 * 4 + 4 * 1024 + 3)
    close(tile.run(emulation(emulated.RUNS[0]), loss), tile.run(ON_CPU, loss), 3e-6)
    close(
        [part.double() for part in tile.run(emulation(emulated.RUNS[0]), loss)],
        list(wide(tile).run(BY_REFERENCE, loss)),
        4e-6,
    )


@emulated.every_run
@LOSSES
def test_all_candidates_hit(run: emulated.Run, loss: str) -> None:
    for size in (1, 33, 70):
        tile = Tile.make(2, size)
        tile.targets = torch.tensor([5, 6])
        tile.ids = torch.full((size,), 5)
        found = tile.run(emulation(run), loss)
        close(found, tile.run(BY_REFERENCE, loss), 4e-6)
        assert not found[1][0].any()
        assert found[1][1].all()


@emulated.every_run
@LOSSES
def test_extreme_scores(run: emulated.Run, loss: str) -> None:
    # what the others hold does not matter to a row
    of = emulation(run)
    values, places = (NAN, INF, -INF, 1e30, -1e30), ("candidate", "target", "both")
    for value, where in itertools.product(values, places):
        tile = Tile.make(3, 40, log_q=False, hits=False)
        if where != "target":
            tile.scores[1, 37] = value
        if where != "candidate":
            tile.target_scores[1] = value
        found = tile.run(of, loss)
        close(found, tile.run(ON_CPU, loss), 5e-7)
        if math.isnan(value):
            assert found[0].isnan().tolist() == [False, True, False]


@emulated.every_run
@LOSSES
def test_rows_of_minus_infinity(run: emulated.Run, loss: str) -> None:
    tile = Tile.make(3, 40, log_q=False, hits=False)
    tile.scores[1] = -INF
    tile.scores[2] = -INF
    tile.target_scores[2] = -INF
    close(tile.run(emulation(run), loss), tile.run(ON_CPU, loss), 5e-7)


def test_small_terms_of_binary_cross_entropy_count() -> None:
    # 1 + e^-14 is not exact in float32: a product of such factors would lose a twentieth
    tile = Tile.make(2, 4096, hits=False, log_q=False)
    tile.scores = tile.scores / 10 - 14 * tile.temperature
    tile.target_scores += 1000.0
    found = tile.run(emulation(emulated.RUNS[0]), "bce")[0].double()
    torch.testing.assert_close(found, wide(tile).run(BY_REFERENCE, "bce")[0], rtol=3e-6, atol=0)


@emulated.every_run
@DTYPES
def test_logits(run: emulated.Run, dtype: torch.dtype) -> None:
    for size, odd in itertools.product(SIZES, (False, True)):
        tile = Tile.make(3, size, dtype, odd=odd)
        found = tile.logits(emulation(run))
        assert torch.equal(found, tile.logits(ON_CPU))
        close(found.double(), wide(tile).logits(BY_REFERENCE), TOLERANCES[dtype][1])
    bare = Tile.make(2, 37, dtype, hits=False, log_q=False)
    assert torch.equal(bare.logits(emulation(run)), bare.logits(ON_CPU))


def test_no_rows() -> None:
    loss, scores, target_grad = Tile.make(0, 33).run(emulation(emulated.RUNS[0]), "softmax")
    assert (loss.shape, scores.shape, target_grad.shape) == ((0,), (0, 33), (0,))
    assert Tile.make(0, 33).logits(emulation(emulated.RUNS[0])).shape == (0, 34)


@pytest.mark.parametrize("loss", ["softmax", "bce", "logits"])
def test_other_devices_and_dtypes(loss: str) -> None:
    def result(tile: Tile, device: int = 0) -> Any:
        of = emulation(emulated.RUNS[0], device)
        return tile.logits(of) if loss == "logits" else tile.run(of, loss)[0]

    tile = Tile.make(2, 33)
    assert torch.equal(result(tile, device=1), result(tile))
    assert emulated.library("sampled").current_device() == 0
    with pytest.raises(emulated.LaunchError, match="cudaError 101"):
        result(tile, device=2)
    with pytest.raises(emulated.LaunchError, match=r"cudaError 1$"):
        result(Tile.make(2, 33, torch.float16))
