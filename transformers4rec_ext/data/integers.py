"""Where integers stand in a fixed list: by a table of their range, or by their order."""

from __future__ import annotations

import numpy as np

_MOST_PLACES = 4  # of the table for each integer: no more bytes than the order takes


class IntegerIndex:
    """Finds integers in a list.

    Ids that lie close together, as those of a database do, are looked up in a table from the
    smallest to the largest, of at most 16 bytes an integer; others in the list's order, by
    bisection, for which it is kept sorted: 16 bytes an integer.

    Parameters
    ----------
    items : int64 [N], N > 0
    """

    def __init__(self, items: np.ndarray) -> None:
        self._least, self._most = int(items.min()), int(items.max())
        size = self._most - self._least + 1  # of Python's integers, which do not overflow
        self._table: np.ndarray | None = None
        if size <= _MOST_PLACES * len(items) and len(items) <= 2**31:  # positions have 32 bits
            self._table = np.full(size, -1, np.int32)
            self._table[items - self._least] = np.arange(len(items), dtype=np.int32)
            self.distinct = int(np.count_nonzero(self._table >= 0)) == len(items)
        else:
            self._order = np.argsort(items)
            self._values = items[self._order]
            self.distinct = not bool((self._values[1:] == self._values[:-1]).any())

    def find(self, wanted: np.ndarray) -> np.ndarray:
        """Return the positions of ``wanted`` in the list, int64; -1 for one that is not in it."""
        if self._table is not None:
            inside = (wanted >= self._least) & (wanted <= self._most)
            place = np.where(inside, wanted, self._least) - self._least
            return np.where(inside, self._table[place], -1).astype(np.int64)
        distinct, place = np.unique(wanted, return_inverse=True)  # found faster in their order
        near = np.minimum(np.searchsorted(self._values, distinct), len(self._values) - 1)
        found = np.where(self._values[near] == distinct, self._order[near], -1)
        positions: np.ndarray = found[place]
        return positions
