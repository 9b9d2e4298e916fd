"""State files: what comes back, who can read them, and what may be filled from them."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import hypothesis
import hypothesis.strategies as st
import pytest
import safetensors.torch
import torch
from safetensors import safe_open
from torch import Tensor, nn

from transformers4rec_ext import _checkpoint
from transformers4rec_ext._checkpoint import load_state, open_state, save_state
from transformers4rec_ext.optim import LazyAdam

DTYPES = list(_checkpoint._NAMES)


def equal(one: Any, other: Any) -> bool:
    """Tell whether two states are the same, to the type, the bit and the order of keys."""
    if isinstance(one, Tensor):
        same = isinstance(other, Tensor) and one.dtype == other.dtype and one.shape == other.shape
        return same and bits(one) == bits(other)
    if type(one) is not type(other):
        return False
    if isinstance(one, dict):
        return list(one) == list(other) and all(equal(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(equal, one, other))
    return repr(one) == repr(other)  # nan is nan, 1 is not True


def bits(tensor: Tensor) -> bytes:
    return tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def round_trip(tmp_path: Path, state: Any) -> Any:
    save_state(tmp_path / "state", state)
    return load_state(tmp_path / "state")


def sample(dtype: torch.dtype, *shape: int) -> Tensor:
    return torch.randint(0, 2, shape).to(dtype)


# What comes back


@pytest.mark.parametrize("shape", [(), (0,), (3, 0, 2), (1,), (7,), (5, 3)], ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_dtype_and_shape(tmp_path: Path, dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    state = {"odd": torch.ones(3, dtype=torch.uint8), "t": sample(dtype, *shape)}
    assert equal(round_trip(tmp_path, state), state)


def test_bits_survive(tmp_path: Path) -> None:
    values = torch.tensor([math.nan, -math.inf, -0.0, 1e-45, 3.4e38])
    state = {"f": values, "b": values.bfloat16(), "i": torch.tensor([2**63 - 1, -(2**63)])}
    assert equal(round_trip(tmp_path, state), state)


@pytest.mark.parametrize("piece", [8, 12, 100])
def test_strides_do_not_matter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, piece: int) -> None:
    """Also where a tensor or a row of it is larger than what is written at once."""
    monkeypatch.setattr(_checkpoint, "_PIECE_BYTES", piece)
    base = torch.arange(60.0).view(3, 4, 5)
    state = {
        "transposed": base.permute(2, 0, 1),
        "every second": base[:, ::2, 1:],
        "expanded": torch.arange(4.0).expand(3, 4),
        "long": torch.arange(30),
    }
    loaded = round_trip(tmp_path, state)
    assert equal(loaded, state)
    assert all(tensor.is_contiguous() for tensor in loaded.values())
    # into tensors of any strides too
    targets = {name: torch.zeros(tensor.shape[::-1]) for name, tensor in state.items()}
    targets = {name: t.permute(*range(t.dim())[::-1]) for name, t in targets.items()}
    with open_state(tmp_path / "state") as file:
        file.fill(targets)
    assert all(torch.equal(targets[name], state[name]) for name in state)


LEAVES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(),
    st.builds(
        lambda shape, dtype: sample(dtype, *shape),
        st.lists(st.integers(0, 3), max_size=3),
        st.sampled_from(DTYPES),
    ),
)
KEYS = st.one_of(st.integers(), st.text(st.characters(exclude_characters=".", codec="utf-8")))


@hypothesis.given(
    st.dictionaries(
        KEYS,
        st.recursive(
            LEAVES,
            lambda inner: st.one_of(
                st.lists(inner, max_size=3),
                st.lists(inner, max_size=3).map(tuple),
                st.dictionaries(KEYS, inner, max_size=3),
            ),
            max_leaves=8,
        ),
        max_size=4,
    )
)
def test_any_state(tmp_path_factory: pytest.TempPathFactory, state: dict[Any, Any]) -> None:
    try:
        loaded = round_trip(tmp_path_factory.mktemp("any"), state)
    except ValueError as error:
        # 1 and "1" beside each other
        if "give each tensor a name of its own" not in str(error):
            raise
    else:
        assert equal(loaded, state)


def test_tied_tensors_are_stored_once(tmp_path: Path) -> None:
    table = torch.randn(1000, 8)
    rows = table[:10]
    state = {"in": table, "out": {"weight": table.view(1000, 8)}, "rows": rows, "copy": table + 0}
    loaded = round_trip(tmp_path, state)
    assert equal(loaded, state)
    assert loaded["in"] is loaded["out"]["weight"]
    assert loaded["in"] is not loaded["copy"]
    assert (tmp_path / "state").stat().st_size < 2 * table.nbytes + rows.nbytes + 2000
    with safe_open(tmp_path / "state", framework="pt") as file:
        assert sorted(file.keys()) == ["copy", "in", "rows"]


def test_empty_tensors_are_not_tied(tmp_path: Path) -> None:
    loaded = round_trip(tmp_path, {"a": torch.empty(0), "b": torch.empty(0)})
    assert loaded["a"] is not loaded["b"]


class Tied(nn.Module):
    """A table that is input and output."""

    def __init__(self, width: int = 4) -> None:
        super().__init__()
        self.table = nn.Embedding(10, width)
        self.norm = nn.BatchNorm1d(width)
        self.out = nn.Linear(width, 10, bias=False)
        self.out.weight = self.table.weight

    def forward(self, ids: Tensor) -> Tensor:
        return self.out(self.norm(self.table(ids)))


OPTIMIZERS = {
    "adam": lambda p: torch.optim.Adam(p, fused=True),
    "adamw": lambda p: torch.optim.AdamW([{"params": list(p), "lr": 0.1}], amsgrad=True),
    "sgd": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9),
    "lbfgs": lambda p: torch.optim.LBFGS(p, max_iter=3),
    "adagrad": lambda p: torch.optim.Adagrad(p, lr=torch.tensor(0.1), foreach=True),
    "rmsprop": lambda p: torch.optim.RMSprop(p, centered=True),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_module_and_optimizer_continue(tmp_path: Path, name: str) -> None:
    def train(model: Tied, optimizer: torch.optim.Optimizer, steps: range) -> None:
        for step in steps:
            ids = torch.arange(step, step + 6) % 10

            def closure(ids: Tensor = ids) -> Tensor:
                optimizer.zero_grad()
                loss = nn.functional.cross_entropy(model(ids), ids)
                loss.backward()
                return loss

            optimizer.step(closure)

    make = OPTIMIZERS[name]
    model = Tied()
    optimizer = make(model.parameters())
    train(model, optimizer, range(3))
    before = {"model": model.state_dict(), "optimizer": optimizer.state_dict()}
    save_state(tmp_path / "state", before)
    other = Tied()
    fresh = make(other.parameters())
    with open_state(tmp_path / "state") as file:
        file.fill(other.state_dict(), "model")
        fresh.load_state_dict(file.read("optimizer"))
    assert other.out.weight is other.table.weight
    after = {"model": dict(other.state_dict()), "optimizer": fresh.state_dict()}
    assert equal(after, {**before, "model": dict(before["model"])})
    train(model, optimizer, range(3, 6))
    train(other, fresh, range(3, 6))
    assert equal(dict(other.state_dict()), dict(model.state_dict()))
    assert equal(fresh.state_dict(), optimizer.state_dict())


@pytest.mark.parametrize("rowwise", [False, True])
def test_rows_with_step_counts_of_their_own(tmp_path: Path, rowwise: bool) -> None:
    """The state of an optimizer that updates only touched rows: one integer a row."""

    def train(table: nn.Embedding, optimizer: LazyAdam, steps: range) -> None:
        for step in steps:
            optimizer.zero_grad()
            table(torch.tensor([step, 2 * step, 3])).square().sum().backward()
            optimizer.step()

    tables = [nn.Embedding(50, 4, sparse=True) for _ in range(2)]
    first, second = (LazyAdam(table.parameters(), 0.1, rowwise=rowwise) for table in tables)
    train(tables[0], first, range(4))
    saved = {"model": tables[0].state_dict(), "optimizer": first.state_dict()}
    save_state(tmp_path / "state", saved)
    with open_state(tmp_path / "state") as file:
        file.fill(tables[1].state_dict(), "model")
        second.load_state_dict(file.read("optimizer"))
    assert second.state_dict()["state"][0]["step"].dtype == torch.int32
    for table, optimizer in zip(tables, (first, second), strict=True):
        train(table, optimizer, range(4, 8))
    assert equal(second.state_dict()["state"], first.state_dict()["state"])
    assert torch.equal(tables[0].weight, tables[1].weight)


# Other readers


def test_safetensors_reads_it(tmp_path: Path) -> None:
    model = Tied()
    path = tmp_path / "model.safetensors"
    save_state(path, model.state_dict())
    loaded = safetensors.torch.load_file(path)
    assert "out.weight" not in loaded  # it is table.weight, and safetensors knows no ties
    assert loaded.keys() | {"out.weight"} == model.state_dict().keys()
    assert all(torch.equal(tensor, model.state_dict()[name]) for name, tensor in loaded.items())
    other = Tied()
    assert safetensors.torch.load_model(other, path) == (set(), [])
    assert equal(dict(other.state_dict()), dict(model.state_dict()))
    with safe_open(path, framework="np") as file:
        assert file.metadata()["format"] == "pt"
        assert json.loads(file.metadata()[_checkpoint._STATE])["dict"][-1] == [
            "out.weight",
            {"tensor": "table.weight"},
        ]


def test_every_tensor_is_aligned(tmp_path: Path) -> None:
    """Mixed widths, of odd sizes: readers view the mapped file as the tensor's dtype."""
    state = {f"{i}": sample(dtype, 3) for i, dtype in enumerate(DTYPES)}
    save_state(tmp_path / "state", state)
    loaded = safetensors.torch.load_file(tmp_path / "state")
    assert equal(dict(sorted(loaded.items())), dict(sorted(state.items())))
    raw = (tmp_path / "state").read_bytes()
    length = int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8 : 8 + length])
    for name, tensor in state.items():
        assert (8 + length + header[name]["data_offsets"][0]) % tensor.element_size() == 0


# Filling


def test_fill_converts(tmp_path: Path) -> None:
    save_state(tmp_path / "state", {"a": torch.tensor([1.5, 2.5])})
    target = {"a": torch.zeros(2, dtype=torch.bfloat16)}
    with open_state(tmp_path / "state") as file:
        file.fill(target)
    assert equal(target, {"a": torch.tensor([1.5, 2.5]).bfloat16()})


@pytest.mark.parametrize(
    ("state", "text"),
    [
        ({"a": torch.ones(2), "b": torch.ones(3)}, r"b \(3,\) instead of \(2,\)"),
        ({"a": torch.ones(2)}, "no b"),
        ({"a": torch.ones(2), "b": torch.ones(2), "c": torch.ones(2)}, "an unexpected c"),
        ({"a": torch.ones(2), "b": 3.0}, r"b \('no tensor',\) instead of"),
        ({"a": torch.ones(2), "b": torch.ones(2)}, "b not tied"),
    ],
)
def test_fill_refuses_before_it_changes_anything(
    tmp_path: Path, state: dict[str, Any], text: str
) -> None:
    save_state(tmp_path / "state", state)
    shared = torch.zeros(2)
    with (
        open_state(tmp_path / "state") as file,
        pytest.raises(ValueError, match=f"load_state: file must have the tensors.*{text}"),
    ):
        file.fill({"a": shared, "b": shared})
    assert shared.tolist() == [0, 0]


def test_a_part_that_is_not_there(tmp_path: Path) -> None:
    save_state(tmp_path / "state", {"a": {"b": torch.ones(1)}, "n": 1})
    with open_state(tmp_path / "state") as file:
        assert file.read("a", "b").tolist() == [1]
        assert file.read("n") == 1
        for keys in (("c",), ("a", "c"), ("n", "c")):
            with pytest.raises(ValueError, match="load_state: file must hold 'c'; got"):
                file.read(*keys)
        with pytest.raises(ValueError, match=r"hold a dictionary at \('n',\); got int in"):
            file.fill({"b": torch.ones(1)}, "n")
