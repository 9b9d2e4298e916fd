"""The CUDA kernels of full softmax, emulated, against the CPU's and the reference."""

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

SIZES = (1, 31, 33, 129, 530, 532)  # the last two with two warps
DTYPE_CODES = {torch.float32: 0, torch.float64: 1}
DTYPES = pytest.mark.parametrize("dtype", DTYPE_CODES, ids=["float32", "float64"])
NAN, INF = math.nan, math.inf
LOG2_E = math.log2(math.e)
ODD = ("scores", "bias", "grad")


@dataclasses.dataclass
class Tile:
    """Tiles of scores [n, m], one after the other, and what is known of the rows."""

    tiles: list[Tensor]
    biases: list[Tensor | None]
    targets: Tensor
    row_grad: Tensor  # the second row is ignored
    temperature: float = 0.7
    smoothing: float = 0.001
    odd: tuple[str, ...] = ()  # what begins where no vector can be read: ODD, or some of it

    @classmethod
    def make(
        cls,
        rows: int,
        sizes: tuple[int, ...],
        dtype: torch.dtype = torch.float32,
        *,
        bias: bool = True,
        odd: tuple[str, ...] = (),
    ) -> Tile:
        """Draw tiles of these many items."""
        generator = torch.Generator().manual_seed(1000 * sum(sizes) + rows)

        def draw(*shape: int) -> Tensor:
            return 2 * torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)

        row_grad = draw(rows)
        row_grad[1:2] = 0
        return cls(
            [draw(rows, size) for size in sizes],
            [draw(size) if bias else None for size in sizes],
            torch.randint(max(1, sum(sizes)), (rows,), generator=generator),
            row_grad,
            odd=odd,
        )

    def placed(self, name: str, tensor: Tensor | None) -> Tensor | None:
        """Return a copy, perhaps at an odd address and with its rows an odd way apart."""
        if tensor is None or name not in self.odd:
            return None if tensor is None else tensor.clone()
        shape = (*tensor.shape[:-1], tensor.shape[-1] + 3)
        place = torch.full((math.prod(shape) + 1,), 7, dtype=tensor.dtype)[1:].view(shape)
        return place[..., : tensor.shape[-1]].copy_(tensor)

    def softmax(self, of: dict[str, Callable[..., None]]) -> tuple[Tensor, Tensor]:
        """Return the maximum and the total after all tiles."""
        maximum = torch.full_like(self.row_grad, -INF)
        total = torch.zeros_like(maximum, dtype=torch.float64)
        for scores, bias in zip(self.tiles, self.biases, strict=True):
            of["logsumexp"](
                self.placed("scores", scores),
                self.placed("bias", bias),
                self.temperature,
                maximum,
                total,
            )
        return maximum, total

    def lse(self, of: dict[str, Callable[..., None]]) -> Tensor:
        """Return the logsumexp in base 2, float64 [n]."""
        maximum, total = self.softmax(of)
        return maximum.double() + total.log2()

    def gradients(self, of: dict[str, Callable[..., None]], *softmax: Tensor) -> list[Tensor]:
        """Return the gradients of the scores of each tile, from the maximum and the total."""
        gradients = []
        begin = 0
        for scores, bias in zip(self.tiles, self.biases, strict=True):
            grad = self.placed("grad", torch.full_like(scores, NAN))
            of["softmax_grad"](
                self.placed("scores", scores),
                self.placed("bias", bias),
                self.targets,
                begin,
                self.temperature,
                self.smoothing,
                1 - self.smoothing,
                *softmax,
                self.row_grad,
                grad,
            )
            assert grad is not None
            gradients.append(grad)
            begin += scores.shape[1]
        return gradients

    def wide(self) -> Tile:
        """Return the tiles in float64."""
        return dataclasses.replace(
            self,
            tiles=[scores.double() for scores in self.tiles],
            biases=[None if bias is None else bias.double() for bias in self.biases],
            row_grad=self.row_grad.double(),
        )


def emulation(run: emulated.Run, device: int = 0) -> dict[str, Callable[..., None]]:
    """Return the operators of the emulated kernels."""
    library = emulated.library("softmax", run)

    def named(scores: Tensor, bias: Tensor | None, temperature: float) -> dict[str, Any]:
        rows, size = scores.shape
        return {
            "stride": scores.stride(0),
            "rows": rows,
            "size": size,
            "bias": bias,
            "scale": LOG2_E / temperature,
            "dtype": DTYPE_CODES.get(scores.dtype, 2),
            "device": device,
        }

    def logsumexp(scores: Tensor, bias: Tensor | None, t: float, *state: Tensor) -> None:
        library.t4r_logsumexp_tile_cuda(
            scores, maximum=state[0], total=state[1], **named(scores, bias, t)
        )

    def softmax_grad(
        scores: Tensor, bias: Tensor | None, targets: Tensor, begin: int, t: float, *rest: Any
    ) -> None:
        names = ("smoothing", "target_weight", "maximum", "total", "row_grad", "grad")
        library.t4r_softmax_grad_tile_cuda(
            scores,
            targets=targets,
            begin=begin,
            grad_stride=rest[-1].stride(0),
            **dict(zip(names, rest, strict=True)),
            **named(scores, bias, t),
        )

    return {"logsumexp": logsumexp, "softmax_grad": softmax_grad}


NAMES = ("logsumexp", "softmax_grad")
ON_CPU = {name: getattr(schemas.operators, f"{name}_tile") for name in NAMES}
BY_REFERENCE = {name: getattr(reference, f"{name}_tile") for name in NAMES}


def close(found: Any, wanted: Any, tolerance: float) -> None:
    torch.testing.assert_close(found, wanted, rtol=tolerance, atol=tolerance, equal_nan=True)


def same(found: list[Tensor], wanted: list[Tensor]) -> bool:
    """Tell whether these are the CPU's bits, or nearly where it has no fused multiply-add."""
    if _native.isa() == "baseline":
        close(found, wanted, 1e-6)
        return True
    return all(
        torch.equal(f.nan_to_num(7), w.nan_to_num(7)) for f, w in zip(found, wanted, strict=True)
    )


# The CPU's arithmetic in another order: float32 sums of a few terms. Then what the arithmetic
# itself is off by: 2^y by 2.5e-7, and half an ulp of a logit y, of which some are above 16.
TOLERANCES = {torch.float32: (5e-7, 4e-6), torch.float64: (1e-14, 1e-13)}


def test_the_cpu_has_kernels_to_compare_with() -> None:
    assert all(_native.has_kernel(f"{name}_tile", "cpu") for name in NAMES)


@emulated.every_run
@DTYPES
def test_softmax_and_its_gradient(run: emulated.Run, dtype: torch.dtype) -> None:
    to_cpu, to_reference = TOLERANCES[dtype]
    of = emulation(run)
    for size, odd in itertools.product(SIZES, ((), ODD)):
        tile = Tile.make(3, (size, size // 2 + 1, 5), dtype, odd=odd)
        maximum, total = tile.softmax(of)
        wanted = tile.softmax(ON_CPU)
        assert torch.equal(maximum, wanted[0])
        close(total, wanted[1], to_cpu)
        close(tile.lse(of), tile.wide().lse(BY_REFERENCE), to_reference)
        gradients = tile.gradients(of, *wanted)
        assert same(gradients, tile.gradients(ON_CPU, *wanted))
        exact = tile.wide().gradients(BY_REFERENCE, *tile.wide().softmax(BY_REFERENCE))
        close([grad.double() for grad in gradients], exact, to_reference)
        assert not any(grad[1].any() for grad in gradients)


@emulated.every_run
def test_without_a_bias(run: emulated.Run) -> None:
    of = emulation(run)
    for odd in ((), ODD):
        tile = Tile.make(2, (128, 36), bias=False, odd=odd)
        softmax = tile.softmax(ON_CPU)
        close(tile.softmax(of), softmax, 5e-7)
        assert same(tile.gradients(of, *softmax), tile.gradients(ON_CPU, *softmax))


@pytest.mark.parametrize("name", ODD)
def test_one_array_out_of_step(name: str) -> None:
    of = emulation(emulated.RUNS[0])
    tile = Tile.make(3, (64, 128), odd=(name,))
    softmax = tile.softmax(ON_CPU)
    close(tile.softmax(of), softmax, 5e-7)
    assert same(tile.gradients(of, *softmax), tile.gradients(ON_CPU, *softmax))


@DTYPES
def test_every_order_gives_the_same_bits(dtype: torch.dtype) -> None:
    for odd in ((), ODD):
        tile = Tile.make(4, (532, 140), dtype, odd=odd)
        softmax = tile.softmax(emulation(emulated.RUNS[0]))
        gradients = tile.gradients(emulation(emulated.RUNS[0]), *softmax)
        for run in emulated.RUNS[1:]:
            assert all(map(torch.equal, tile.softmax(emulation(run)), softmax))
            assert all(map(torch.equal, tile.gradients(emulation(run), *softmax), gradients))


@pytest.mark.parametrize("size", [16384 + 4096 + 4, 16384 + 3])
def test_long_rows(size: int) -> None:
    # a second batch of the block, in which a row's maximum is far above what the first one has;
    # a row that begins with a whole batch of -inf; several pieces of a row's gradient
    of = emulation(emulated.RUNS[0])
    tile = Tile.make(3, (size,))
    tile.tiles[0][1, -2] = 100.0
    tile.tiles[0][2, :16384] = -INF
    tile.tiles[0][2, 16384:] -= 1000.0
    close(tile.lse(of), tile.wide().lse(BY_REFERENCE), 4e-6)
    softmax = tile.softmax(ON_CPU)
    close(tile.lse(of), softmax[0].double() + softmax[1].log2(), 2e-6)
    tile.row_grad[1] = 1.0
    assert same(tile.gradients(of, *softmax), tile.gradients(ON_CPU, *softmax))


@emulated.every_run
def test_a_maximum_that_rises_and_falls(run: emulated.Run) -> None:
    # by less than what is tolerated, by more, far above all before, far below
    of = emulation(run)
    for dtype in DTYPE_CODES:
        tile = Tile.make(5, (40, 40, 40), dtype, bias=False)
        for row, rise in enumerate((15.0, 30.0, 300.0, -300.0, 0.0)):
            tile.tiles[1][row] += rise
        tile.tiles[2][4, 33] = 60.0
        maximum, total = tile.softmax(of)
        wanted = tile.softmax(ON_CPU)
        assert torch.equal(maximum, wanted[0])
        close(total, wanted[1], TOLERANCES[dtype][0])
        close(tile.lse(of), tile.wide().lse(BY_REFERENCE), 20 * TOLERANCES[dtype][1])


@emulated.every_run
def test_extreme_scores(run: emulated.Run) -> None:
    # in the first tile or in a later one; what the others hold does not matter to a row
    of = emulation(run)
    for value, at in itertools.product((NAN, INF, -INF, 1e30, -1e30), (0, 1)):
        tile = Tile.make(4, (40, 41))
        tile.row_grad[3] = 0  # an ignored row may hold anything
        tile.tiles[at][2, 37] = value
        tile.tiles[at][3] = value
        softmax = tile.softmax(ON_CPU)
        found = tile.softmax(of)
        close(found, softmax, 5e-7)
        lost = math.isnan(value) or value == INF
        assert found[1].isnan().tolist()[:3] == [False, False, lost]
        gradients = tile.gradients(of, *softmax)
        assert same(gradients, tile.gradients(ON_CPU, *softmax))
        assert not any(grad[3].any() for grad in gradients)


@emulated.every_run
def test_nothing_but_minus_infinity(run: emulated.Run) -> None:
    tile = Tile.make(2, (40, 41, 33))
    for scores in tile.tiles[:2]:
        scores.fill_(-INF)
    close(tile.softmax(emulation(run)), tile.softmax(ON_CPU), 5e-7)
    tile.tiles[2].fill_(-INF)
    maximum, total = tile.softmax(emulation(run))
    assert maximum.tolist() == [-INF, -INF]
    assert total.tolist() == [0.0, 0.0]


@emulated.every_run
def test_scores_made_again_above_their_maximum(run: emulated.Run) -> None:
    tile = Tile.make(2, (40,))
    maximum, total = tile.softmax(ON_CPU)
    gradients = tile.gradients(emulation(run), maximum - 200, total)
    assert same(gradients, tile.gradients(ON_CPU, maximum - 200, total))
    assert gradients[0].isfinite().all()


def test_no_rows_and_no_items() -> None:
    of = emulation(emulated.RUNS[0])
    tile = Tile.make(0, (33, 5))
    softmax = tile.softmax(of)
    assert [grad.shape for grad in tile.gradients(of, *softmax)] == [(0, 33), (0, 5)]
    tile = Tile.make(2, (33, 0))
    softmax = tile.softmax(of)
    assert all(map(torch.equal, softmax, Tile.make(2, (33,)).softmax(of)))
    assert tile.gradients(of, *softmax)[1].shape == (2, 0)


def test_other_devices_and_dtypes() -> None:
    tile = Tile.make(2, (33,))
    softmax = tile.softmax(emulation(emulated.RUNS[0]))
    other = emulation(emulated.RUNS[0], device=1)
    assert all(map(torch.equal, tile.softmax(other), softmax))
    wanted = tile.gradients(emulation(emulated.RUNS[0]), *softmax)
    assert torch.equal(tile.gradients(other, *softmax)[0], wanted[0])
    assert emulated.library("softmax").current_device() == 0
    for of, status in ((emulation(emulated.RUNS[0], device=2), 101), (other, 1)):
        wrong = tile if status == 101 else Tile.make(2, (33,), torch.float16)
        with pytest.raises(emulated.LaunchError, match=rf"cudaError {status}$"):
            wrong.softmax(of)
        with pytest.raises(emulated.LaunchError, match=rf"cudaError {status}$"):
            wrong.gradients(of, *softmax)
