"""Which implementation runs, without a native library too."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from transformers4rec_ext import _backend, _build, _native, functional, use_backend

PACKAGE = Path(functional.__file__).parent.parent
ISA = """
import torch
from transformers4rec_ext import _native, functional as F
generator = torch.Generator().manual_seed(3)
drawn = F.log_uniform_sample(700, 10**7, generator=generator)
scores = torch.randn(50, 700, generator=generator)
target, loss, grad = torch.zeros(3, 50)
ids, order = torch.arange(700).sort()
torch.ops.transformers4rec_ext.sampled_softmax_tile(
    scores, target, torch.arange(50), ids, order, None, drawn.log_q, 0.7, False, None, True,
    loss, grad
)
bce = torch.randn(50, 700, generator=generator)
bce_loss, bce_grad = torch.zeros(2, 50)
torch.ops.transformers4rec_ext.sampled_bce_tile(
    bce, target, torch.arange(50), ids, order, None, drawn.log_q, 0.7, torch.tensor(0.5), None,
    True, bce_loss, bce_grad
)
table = F.alias_table(torch.rand(5000, generator=generator))
weighted = F.weighted_sample(700, table, generator=generator)
uniform = F.uniform_sample(700, 10**7, generator=generator)
rows = []
for dtype, moment in ((torch.float32, (40, 67)), (torch.bfloat16, (40,)), (torch.float16, (40,))):
    weight, values = (torch.randn(n, 67, generator=generator).to(dtype) for n in (40, 90))
    state = torch.zeros(40, 67), torch.zeros(moment), torch.arange(40, dtype=torch.int32)
    touched = torch.randint(40, (90,), generator=generator)
    F.adam_rows_(weight, *state, touched, values, lr=0.1)
    F.adagrad_rows_(weight, state[1], touched, values, lr=0.1, weight_decay=0.1)
    rows += [weight.float(), *state]
print(_native.isa())
for tensor in (
    *rows,
    drawn.ids, drawn.log_q, drawn.num_tries, scores, loss, grad, bce, bce_loss, bce_grad,
    weighted.ids, weighted.log_q, weighted.num_tries, uniform.ids
):
    print(hash(tensor.numpy().tobytes()))
"""


def python(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run code in a process of its own."""
    return subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONHASHSEED": "0", **environment},
        cwd=PACKAGE.parent,
    )


def test_keyword_before_context_before_environment() -> None:
    def is_reference(backend: str | None = None) -> bool:
        return _backend.use_reference(backend, "test", "log_uniform_sample", "cpu")

    assert not is_reference()
    with use_backend("reference"):
        assert is_reference()
        assert not is_reference("auto")
        with use_backend("fused"):
            assert not is_reference()
        assert is_reference()
    assert not is_reference()
    code = (
        "from transformers4rec_ext import _backend; "
        "print(_backend.use_reference(None, 'test', 'log_uniform_sample', 'cpu'))"
    )
    assert python(code, T4R_EXT_BACKEND="reference").stdout.strip() == "True"
    assert "T4R_EXT_BACKEND: backend must be one of" in python(code, T4R_EXT_BACKEND="x").stderr


def test_context_is_restored_after_an_error() -> None:
    with pytest.raises(KeyError), use_backend("reference"):
        raise KeyError
    assert _backend.current() == "auto"
    with pytest.raises(ValueError, match="use_backend: backend must be one of"):
        use_backend("cuda").__enter__()


def test_bodies_that_overlap_leave_nothing_behind() -> None:
    """As those of two threads may; the one that ends first is not undone by the other's end."""
    first, second = use_backend("reference"), use_backend("fused")
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert _backend.current() == "fused"
    second.__exit__(None, None, None)
    assert _backend.current() == "auto"


def test_a_body_within_a_compiled_function() -> None:
    @torch.compile(fullgraph=True, backend="eager")
    def loss(hidden: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        with use_backend("reference"):
            return functional.linear_cross_entropy(hidden, weight, targets)

    arguments = torch.randn(3, 4), torch.randn(5, 4), torch.arange(3)
    torch.testing.assert_close(loss(*arguments), functional.linear_cross_entropy(*arguments))
    assert _backend.current() == "auto"


def test_fused_raises_where_there_is_no_kernel() -> None:
    with pytest.raises(RuntimeError, match="backend 'fused' needs a native kernel on meta"):
        functional.log_uniform_sample(3, 10, device="meta", backend="fused")


@pytest.mark.parametrize(
    ("archs", "said"),
    [
        ([(9, 0), (8, 6)], None),
        ([(9, 0), (7, 0)], "none for cuda:1 (7.0): leave it out with CUDA_VISIBLE_DEVICES"),
        ([(7, 0), (7, 2)], "none for cuda:0 (7.0), cuda:1 (7.2): build from source"),
    ],
)
def test_gpus_that_the_library_has_no_code_for(
    archs: list[tuple[int, int]],
    said: str | None,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The reference takes the work of all, but not of one that can do it, with a warning."""
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_capability", archs.__getitem__)
    monkeypatch.setattr(_native, "cuda_archs", lambda: "7.5;8.0;9.0+PTX")
    monkeypatch.setattr(_native, "has_kernel", lambda op, device: True)
    monkeypatch.setattr(_native, "no_code_for_gpu", "")
    _native.look_at_gpus()
    assert [said in line for line in caplog.messages] == [True] * (said is not None)
    none = said is not None and "build" in said
    assert _backend.use_reference(None, "f", "rank_tile", "cuda") is none
    assert _backend.use_reference(None, "f", "rank_tile", "cpu") is False
    assert ("7.2" in _native.why_reference("rank_tile", "cuda")) is none
    if none:
        with pytest.raises(RuntimeError, match=r"f: backend 'fused' needs .* on cuda; .*7\.5;8\.0"):
            _backend.use_reference("fused", "f", "rank_tile", "cuda")
    assert _backend.lacks_code("cuda") is none
    assert not _backend.lacks_code("cpu")


def test_row_gradients_where_the_library_has_no_code(monkeypatch: pytest.MonkeyPatch) -> None:
    """The formulas run then, which have none; what helps is an install without CUDA kernels."""
    monkeypatch.setattr(_backend, "lacks_code", lambda device_type: True)
    weight, ids = torch.randn(9, 2, requires_grad=True), torch.arange(3)
    with pytest.raises(ValueError, match="no code for this GPU: an install with T4R_EXT_BUILD=cpu"):
        functional.sampled_softmax_loss(torch.randn(3, 2), weight, ids, ids, sparse_grad=True)


def test_a_torch_for_other_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.version, "hip", "6.4")
    assert "for AMD's GPUs" in _native.why_reference("rank_tile", "cuda")


@pytest.mark.parametrize("built_for", ["13.0", None])
def test_gpus_are_looked_at_as_soon_as_cuda_runs(
    built_for: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[object] = []
    monkeypatch.setattr(torch.version, "cuda", built_for)
    monkeypatch.setattr(torch.cuda, "_lazy_call", asked.append)
    monkeypatch.setattr(_native, "cuda_archs", lambda: "9.0")
    monkeypatch.setattr(_native, "_driver_is_too_old", lambda: "")
    monkeypatch.setattr(_native, "_path", None)
    _native.load()
    assert asked == ([_native.look_at_gpus] if built_for else [])


def test_the_dispatcher_says_fused() -> None:
    report = _native.report()
    assert report["library"]
    assert report["isa"] in {"baseline", "avx2", "avx512"}
    assert {name: where["cpu"] for name, where in report["ops"].items()} == dict.fromkeys(
        _native.NATIVE_OPS, "fused"
    )


def test_everything_works_without_the_library(tmp_path: Path) -> None:
    ignore = shutil.ignore_patterns("*.so", "__pycache__")
    shutil.copytree(PACKAGE, tmp_path / "transformers4rec_ext", ignore=ignore)
    code = f"""
import sys; sys.path.insert(0, {str(tmp_path)!r})
import torch
from transformers4rec_ext import _native, functional as F
assert F.__file__.startswith({str(tmp_path)!r})
print(_native.why_not(), _native.report()["ops"]["log_uniform_sample"]["cpu"])
generator = torch.Generator().manual_seed(3)
drawn = F.log_uniform_sample(7, 100, generator=generator)
print(drawn.ids.tolist())
weight = torch.ones(100, 2, requires_grad=True)
loss = F.sampled_softmax_loss(torch.ones(1, 2), weight, drawn.ids[:1], drawn.ids, sparse_grad=True)
loss.backward()
print(weight.grad.is_sparse)
F.log_uniform_sample(7, 100, backend="fused")
"""
    done = python(code)
    why, ids, sparse = done.stdout.strip().splitlines()
    reason = "no compiled library beside the package; reinstall with a C++ compiler"
    assert why.startswith(reason)
    assert f" reference: {reason}" in why
    generator = torch.Generator().manual_seed(3)
    assert ids == str(functional.log_uniform_sample(7, 100, generator=generator).ids.tolist())
    assert sparse == "True"
    assert "RuntimeError: log_uniform_sample: backend 'fused' needs a native kernel" in done.stderr


@pytest.mark.parametrize("narrow", ["baseline", "avx2"])
def test_every_instruction_set_gives_the_same_bits(narrow: str) -> None:
    widest, narrower = python(ISA), python(ISA, T4R_EXT_ISA=narrow)
    assert widest.returncode == 0, widest.stderr
    assert narrower.returncode == 0, narrower.stderr
    name, *bits = narrower.stdout.split()
    assert name == narrow
    assert widest.stdout.split()[1:] == bits


def test_an_instruction_set_that_is_none() -> None:
    said = "T4R_EXT_ISA: ISA must be one of baseline, avx2, avx512; got 'avx3'"
    assert said in python("import transformers4rec_ext.functional", T4R_EXT_ISA="avx3").stderr
    assert python("import transformers4rec_ext.functional", T4R_EXT_ISA="").returncode == 0


@pytest.mark.parametrize(
    ("name", "said"),
    [
        (f"_kernels_{_build.INTERFACE}.abi3.so", "the native library does not load: "),
        ("_kernels.abi3.so", "_kernels.abi3.so was compiled for another version of the operators"),
        (f"_kernels_{_build.INTERFACE}1.abi3.so", "was compiled for another version"),
    ],
    ids=["broken", "before there were versions", "another version"],
)
def test_a_library_that_does_not_load_is_explained(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    name: str,
    said: str,
) -> None:
    (tmp_path / name).write_bytes(b"not a library")
    monkeypatch.setattr(_native, "_path", None)
    monkeypatch.setattr(_native, "_reason", "")
    monkeypatch.setattr(_native, "__file__", str(tmp_path / "_native.py"))
    monkeypatch.delenv("T4R_EXT_JIT", raising=False)
    _native.load()
    assert said in _native.why_not()
    assert _native.isa() is None
    (record,) = caplog.records
    assert record.levelname == "WARNING"
    assert record.getMessage() == f"{_native.why_not()}; the PyTorch reference runs instead"


def test_another_schema_is_another_version() -> None:
    """A library reads its arguments by place: of an old one a new schema would be undefined."""
    schemas = [
        getattr(torch.ops.transformers4rec_ext, op).default._schema for op in _native.NATIVE_OPS
    ]
    digest = hashlib.sha256("\n".join(map(str, schemas)).encode()).hexdigest()[:12]
    # When this fails: raise INTERFACE by one in _build.py, and write both here.
    assert (_build.INTERFACE, digest) == (1, "9693c1e36547")
