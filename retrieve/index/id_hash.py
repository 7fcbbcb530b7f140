"""Where an id is: found among millions by its hash, since looking at all of them takes longer than a search."""

from __future__ import annotations

import numpy as np

from sdc.retrieve.index.ids import Ids
from sdc.retrieve.index.records import Records

_BLOCK = 1 << 14  # ids hashed at once


class IdLookup:
    """Finds entries by their ids; 16 bytes an id, and a quarter of a second to make for a million.

    The hash of an id is the sum of its bytes, each times a random number of its place.

    Attributes:
        entries: those that are found.
    """

    def __init__(self, entries: Records) -> None:
        self.entries = entries
        if entries.ids is None:
            return
        longest = int(np.diff(entries.ids.offsets).max(initial=0))
        self._weights = np.random.default_rng().integers(0, 1 << 64, longest, np.uint64)
        hashes = _hashes(entries.ids, self._weights)
        self._order = np.argsort(hashes, kind="stable")
        self._hashes = hashes[self._order]

    def find(self, name: str) -> int:
        """The first position whose id is `name`, or -1."""
        if self.entries.ids is None:
            return self.entries.find(name)
        try:
            wanted = Ids.of([name])
        except UnicodeEncodeError:  # JSON can say half of a surrogate pair, which no id has
            return -1
        if len(wanted.text) > len(self._weights):
            return -1
        (sought,) = _hashes(wanted, self._weights)
        first, end = (int(np.searchsorted(self._hashes, sought, side)) for side in ("left", "right"))
        for position in self._order[first:end].tolist():
            if self.entries.ids.take(np.array([position])) == [name]:
                return int(position)
        return -1


def _hashes(ids: Ids, weights: np.ndarray) -> np.ndarray:
    """(N,) uint64, modulo 2^64."""
    found = np.empty(len(ids), np.uint64)
    for start in range(0, len(ids), _BLOCK):
        offsets = ids.offsets[start : start + _BLOCK + 1]
        lengths = np.diff(offsets)
        places = np.arange(offsets[-1] - offsets[0]) - np.repeat(offsets[:-1] - offsets[0], lengths)
        sums = np.zeros(len(places) + 1, np.uint64)
        np.cumsum((ids.text[offsets[0] : offsets[-1]] + np.uint64(1)) * weights[places], out=sums[1:])
        found[start : start + _BLOCK] = sums[offsets[1:] - offsets[0]] - sums[offsets[:-1] - offsets[0]]
    return found
