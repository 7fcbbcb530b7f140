"""Where an id is: found among millions by its hash, since looking at all of them takes longer than a search."""

from __future__ import annotations

import numpy as np

from sdc.retrieve.index.ids import Ids, encode_id
from sdc.retrieve.index.records import Records

_BLOCK = 1 << 14  # ids hashed at once


class IdLookup:
    """Finds records by their ids; 16 bytes an id, and a quarter of a second to make for a million.

    The hash of an id is the sum of its bytes, each times a random number that belongs to its place in the id.

    Attributes:
        records: those that are looked up.
    """

    def __init__(self, records: Records) -> None:
        self.records = records
        if records.ids is None:
            return
        longest = int(np.diff(records.ids.offsets).max(initial=0))
        self._weights = np.random.default_rng().integers(0, 1 << 64, longest, np.uint64)
        hashes = _hashes(records.ids, self._weights)
        self._order = np.argsort(hashes, kind="stable")
        self._hashes = hashes[self._order]

    def find(self, name: str) -> int:
        """The first position whose id is `name`, or -1."""
        if self.records.ids is None:
            return self.records.find(name)
        try:
            sought = Ids.of([encode_id(name)])
        except UnicodeEncodeError:  # JSON can say half of a surrogate pair, which no id has
            return -1
        if len(sought.text) > len(self._weights):
            return -1
        (hash_,) = _hashes(sought, self._weights)
        first, end = (int(np.searchsorted(self._hashes, hash_, side)) for side in ("left", "right"))
        for position in self._order[first:end].tolist():
            if self.records.ids.take(np.array([position])) == [name]:
                return int(position)
        return -1


def _hashes(ids: Ids, weights: np.ndarray) -> np.ndarray:
    """(N,) uint64, modulo 2^64."""
    hashes = np.empty(len(ids), np.uint64)
    for start in range(0, len(ids), _BLOCK):
        offsets = ids.offsets[start : start + _BLOCK + 1]
        lengths = np.diff(offsets)
        within = np.arange(offsets[-1] - offsets[0]) - np.repeat(offsets[:-1] - offsets[0], lengths)
        sums = np.zeros(len(within) + 1, np.uint64)
        np.cumsum((ids.text[offsets[0] : offsets[-1]] + np.uint64(1)) * weights[within], out=sums[1:])
        hashes[start : start + _BLOCK] = sums[offsets[1:] - offsets[0]] - sums[offsets[:-1] - offsets[0]]
    return hashes
