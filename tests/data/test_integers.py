"""Integers in a list: found where a dict finds them, close together or far apart."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from transformers4rec_ext.data.integers import IntegerIndex

LEAST, MOST = -(2**63), 2**63 - 1
close = st.integers(-20, 20)
far = st.sampled_from([LEAST, LEAST + 1, -1, 0, 5, 2**31, MOST - 1, MOST])
numbers = st.lists(close, min_size=1, max_size=40) | st.lists(close | far, min_size=1, max_size=40)


@given(items=numbers, wanted=st.lists(close | far, max_size=40))
@example(items=[MOST, MOST - 2], wanted=[LEAST, MOST - 1, MOST, 0])  # a table at the very end
@example(items=[LEAST, LEAST + 2], wanted=[MOST, LEAST + 1, LEAST])
@example(items=[LEAST, MOST], wanted=[MOST, 0])  # a range of more than 63 bits
def test_they_are_found_where_a_dict_finds_them(items: list[int], wanted: list[int]) -> None:
    items = list(dict.fromkeys(items))
    place = {item: at for at, item in enumerate(items)}
    index = IntegerIndex(np.array(items, np.int64))
    found = index.find(np.array(wanted, np.int64))
    assert found.dtype == np.int64
    assert found.tolist() == [place.get(item, -1) for item in wanted]
    assert index.distinct


@given(items=numbers)
def test_a_repeated_one_is_noticed(items: list[int]) -> None:
    assert IntegerIndex(np.array(items, np.int64)).distinct == (len(set(items)) == len(items))


@pytest.mark.parametrize(("stride", "bytes_each"), [(1, 4), (4, 16), (5, 16), (10**9, 16)])
def test_no_more_than_sixteen_bytes_an_integer(stride: int, bytes_each: int) -> None:
    index = IntegerIndex(np.arange(1000) * stride)
    kept = sum(held.nbytes for held in vars(index).values() if isinstance(held, np.ndarray))
    assert kept == pytest.approx(1000 * bytes_each, abs=16)
