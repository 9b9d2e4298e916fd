"""Where strings stand in a fixed list: by a hash and a comparison, without objects of Python."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

_FACTOR = np.uint64(0x9E3779B97F4A7C15)  # odd, so that no power of it is 0
_BYTES_AT_ONCE = 2**20


class StringIndex:
    """Finds strings in a list.

    16 bytes a string beside the list, where a dict takes about 120; exact, since what the hash
    finds is compared.

    Parameters
    ----------
    items : pyarrow.Array of strings, [N]
        Distinct, without nulls.
    """

    def __init__(self, items: pa.Array) -> None:
        hashes = string_hashes(items)
        self._items = items
        self._order = np.argsort(hashes)
        self._hashes = hashes[self._order]

    def find(self, wanted: pa.Array) -> np.ndarray:
        """Return the positions of ``wanted`` in the list, int64; -1 for one that is not in it."""
        found = np.full(len(wanted), -1, np.int64)
        hashes = string_hashes(wanted)
        left = np.argsort(hashes)  # what lies together is looked up together
        place = np.searchsorted(self._hashes, hashes[left])
        while len(left):
            inside = place < len(self._hashes)
            left, place = left[inside], place[inside]
            same = self._hashes[place] == hashes[left]
            left, place = left[same], place[same]
            position = self._order[place]
            equal = pc.equal(self._items.take(pa.array(position)), wanted.take(pa.array(left)))
            hit = equal.to_numpy(zero_copy_only=False)
            found[left[hit]] = position[hit]
            left, place = left[~hit], place[~hit] + 1  # another string of the same hash
        return found


def string_hashes(strings: pa.Array) -> np.ndarray:
    """Return ``sum_i (b_i + 1) factor^i mod 2^64`` of the bytes ``b_i`` of each, uint64 [N]."""
    _, buffer, data = strings.buffers()
    if not len(strings):
        return np.zeros(0, np.uint64)
    offsets = np.frombuffer(buffer, np.int32)[strings.offset : strings.offset + len(strings) + 1]
    ends = offsets.astype(np.int64)
    text = np.frombuffer(data if data is not None else b"", np.uint8)
    powers = np.full(max(1, int(np.diff(ends).max())), _FACTOR)
    powers[0] = 1
    powers = np.multiply.accumulate(powers)
    hashes = np.empty(len(strings), np.uint64)
    first = 0
    while first < len(strings):
        past = int(np.searchsorted(ends, ends[first] + _BYTES_AT_ONCE, side="right")) - 1
        last = min(max(past, first + 1), len(strings))
        hashes[first:last] = _hashes(text, ends[first : last + 1], powers)
        first = last
    return hashes


def _hashes(text: np.ndarray, ends: np.ndarray, powers: np.ndarray) -> np.ndarray:
    """Return the hashes of the strings that lie between ``ends`` of ``text``."""
    begin = ends[:-1]
    within = np.arange(ends[0], ends[-1]) - np.repeat(begin, np.diff(ends))
    terms = (text[ends[0] : ends[-1]] + np.uint64(1)) * powers[within]
    sums = np.concatenate([np.zeros(1, np.uint64), np.cumsum(terms, dtype=np.uint64)])
    hashes: np.ndarray = sums[ends[1:] - ends[0]] - sums[begin - ends[0]]  # both mod 2^64
    return hashes
