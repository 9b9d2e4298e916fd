"""What nvcc makes of the 16-byte accesses: the source asks for them, PTX shows whether they are."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest

from transformers4rec_ext import _build

# In each file: what is in the names of the kernels that read rows in packs, the loads of 16 bytes
# that they have at least, and how many stores of 16 bytes (each in the loop's four unrolled turns).
KERNELS = {
    "softmax": [("logsumexp_rows.*Pack", 4, 0), ("softmax_grad_rows.*Pack", 4, 4)],
    "sampled": [("softmax_rows.*Lb1", 4, 4), ("bce_rows.*Lb1", 4, 4)],
    "topk": [("select.*Pack", 1, 0)],
    "ranks": [("count_above.*Pack", 1, 0)],
    # weight, and state of as many elements, which take two stores where the weight has 16 bits
    "rows": [
        ("update_rows.*Li[24]ELb0.*AdamRows", 4, 3),
        ("update_rows.*Li8ELb0.*AdamRows", 4, 5),
        ("update_rows.*Li[24]ELb0.*AdagradRows", 4, 2),
        ("update_rows.*Li8ELb0.*AdagradRows", 4, 3),
    ],
}


@pytest.fixture(scope="module")
def nvcc() -> Path:
    toolkit = next(_build.toolkits(), None)
    if toolkit is None:
        assert os.environ.get("T4R_EXT_BUILD") != "cuda", "there is no nvcc"
        pytest.skip("no CUDA toolkit is found; CUDA_HOME names the folder of one")
    return toolkit.nvcc


@pytest.mark.parametrize("family", KERNELS)
def test_packs_are_read_and_written_by_one_instruction(
    nvcc: Path, family: str, tmp_path: Path
) -> None:
    source = _build.ROOT / "csrc" / "cuda" / f"{family}_cuda.cu"
    ptx = tmp_path / "kernels.ptx"
    flags = [flag for flag in _build.NVCC_ARGS if flag.startswith(("-std", "-O", "--fmad"))]
    subprocess.run(
        [nvcc, *flags, "-arch=compute_80", "-ptx", source, "-o", ptx],
        check=True,
    )
    entries = re.split(r"\.entry ", ptx.read_text())[1:]
    for name, loads, stores in KERNELS[family]:
        kernels = [text for text in entries if re.search(name, text.partition("(")[0])]
        assert len(kernels) == 2, name  # of float32 and float64, or of float16 and bfloat16
        for text in kernels:
            found = {
                way: len(re.findall(rf"\b{way}\.global\.(?:\w+\.)?(?:v4\.\w32|v2\.\w64)\b", text))
                for way in ("ld", "st")
            }
            assert found["ld"] >= loads, name
            assert found["st"] == stores, name
