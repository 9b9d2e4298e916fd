"""Strings in a list: found where a dict finds them, whatever they hash to."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from transformers4rec_ext.data import strings
from transformers4rec_ext.data.strings import StringIndex, string_hashes

texts = st.lists(st.text(alphabet=st.sampled_from("ab\0é人"), max_size=5), max_size=30)


@given(items=texts, wanted=texts, cut=st.integers(0, 5))
@pytest.mark.parametrize("collide", [False, True])
@pytest.mark.parametrize("at_once", [1, 2**20])
def test_they_are_found_where_a_dict_finds_them(
    items: list[str], wanted: list[str], cut: int, collide: bool, at_once: int
) -> None:
    items = list(dict.fromkeys(items))
    place = {item: at for at, item in enumerate(items)}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(strings, "_BYTES_AT_ONCE", at_once)
        if collide:  # all to two values
            real = string_hashes
            patch.setattr(strings, "string_hashes", lambda of: real(of) % np.uint64(2))
        # slices have buffers of more than themselves
        index = StringIndex(pa.array([*"xyzzy", *items], pa.string())[5:])
        found = index.find(pa.array([*["pad"] * cut, *wanted, "end"], pa.string())[cut:-1])
    assert found.dtype == np.int64
    assert found.tolist() == [place.get(item, -1) for item in wanted]


@given(items=texts)
def test_the_hash_is_its_sum(items: list[str]) -> None:
    factor, expected = int(strings._FACTOR), []
    for item in items:
        terms = ((byte + 1) * factor**at for at, byte in enumerate(item.encode()))
        expected.append(sum(terms) % 2**64)
    assert string_hashes(pa.array(items, pa.string())).tolist() == expected


def test_names_that_are_alike_do_not_collide() -> None:
    names = [f"item {number:06}" for number in range(100_000)]
    assert len(np.unique(string_hashes(pa.array(names)))) == 100_000
    wanted = pa.array(["item 000000", "item 099999", "item 100000", "item 0", ""])
    assert StringIndex(pa.array(names)).find(wanted).tolist() == [0, 99_999, -1, -1, -1]
