"""Search in a changed index: in db.bin by its own searcher, in what was added by a flat one, merged.

Positions are places, see `sdc.retrieve.index.delta.merged_view`. What was removed is left out of what the searcher of
db.bin finds: it is asked for more than k, and for more again where these were not enough. Where all that is near to a
query was removed, such as a class, no such number would do: the rest alone is searched then, so an exact search stays
exact.
"""

from __future__ import annotations

from functools import cached_property

import numpy as np

from sdc.retrieve.index.delta.merged_view import MergedView
from sdc.retrieve.index.flat import FlatSearcher
from sdc.retrieve.index.searcher import StoredSearcher

_BITS = 48  # of a place, in a number that orders by (distance, place)
_MASK = (1 << _BITS) - 1
_MORE = 8  # asked for beyond k, where something was removed
_TIMES = 8  # as many are asked for where these were not enough
_CELLS = 1 << 14  # neighbours of all queries asked for then, at most: for many, searching the rest is no dearer


class MergedSearcher:
    """The searcher of the items as they stand; results are ordered by (distance, place).

    Attributes:
        base: the searcher of db.bin.
    """

    def __init__(self, base: StoredSearcher, live: MergedView) -> None:
        self.base, self._gaps, self._kept, self._count = base, live.gaps, live.kept, len(live.base)
        self._added = None if live.added is None else FlatSearcher(live.added.codes)

    def plan(self, queries: int, k: int, within: np.ndarray | None = None) -> str:
        """How `search` goes about it, in words."""
        old, new = self._split(within)
        parts = []
        if self._added is None or (self._kept and (old is None or len(old))):
            parts.append(str(self.base.plan(queries, k if old is not None else self._asked(k), old)))
            if len(self._gaps) and old is None:
                parts.append(f"{len(self._gaps)} removed codes are left out")
        if self._added is not None and (new is None or len(new)):
            count = len(self._added.codes if new is None else new)
            parts.append(f"{count} added codes {self._added.plan(queries, min(k, count), new)}")
        return "; ".join(parts)

    def search(self, codes: np.ndarray, k: int, within: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
        """The k nearest: distances (Q, k) int32, places (Q, k) int64; k is at most the number searched."""
        old, new = self._split(within)
        found = []
        most = min(k, self._kept if old is None else len(old))
        if most or self._added is None:
            found.append(self._in_base(codes, most, old))
        if self._added is not None:
            most = min(k, len(self._added.codes if new is None else new))
            distances, places = self._added.search(codes, most, new)
            found.append((distances, places + self._kept))
        if len(found) == 1:
            return found[0]
        keys = np.concatenate([distances.astype(np.int64) << _BITS | places for distances, places in found], axis=1)
        keys.sort(axis=1)
        return (keys[:, :k] >> _BITS).astype(np.int32), keys[:, :k] & _MASK

    def range_search(
        self, codes: np.ndarray, radius: int, within: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """All within `radius`, inclusive: limits (Q + 1,) int64, distances int32 and places int64."""
        old, new = self._split(within)
        found = []
        if self._added is None or (self._kept and (old is None or len(old))):
            limits, distances, positions = self.base.range_search(codes, radius, old)
            places, gone = self._gaps.settled(positions)
            query, there = _queries(limits), ~gone
            found.append((query[there], distances[there], places[there]))
        if self._added is not None:
            limits, distances, places = self._added.range_search(codes, radius, new)
            found.append((_queries(limits), distances, places + self._kept))
        query, distances, places = (np.concatenate(arrays) for arrays in zip(*found, strict=True))
        order = np.lexsort((places, distances, query))
        limits = np.append(0, np.cumsum(np.bincount(query, minlength=len(codes))))
        return limits, distances[order], places[order]

    def _in_base(self, codes: np.ndarray, k: int, within: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
        """The k nearest of those that db.bin still has; k is at most their number."""
        if within is not None or not len(self._gaps):
            distances, positions = self.base.search(codes, k, within)
            return distances, self._gaps.places(positions)
        asked = self._asked(k)
        distances, places, left = self._first_there(codes, k, asked)
        more = _TIMES * asked
        if len(left) and more < self._count and more * len(left) <= _CELLS:
            distances[left], places[left], still = self._first_there(np.ascontiguousarray(codes[left]), k, more)
            left = left[still]
        if len(left):
            distances[left], positions = self.base.search(np.ascontiguousarray(codes[left]), k, self._rest)
            places[left] = self._gaps.places(positions)
        return distances, places

    def _first_there(self, codes: np.ndarray, k: int, asked: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The first k that were not removed of the `asked` nearest: distances, places; and who has fewer of them."""
        near, positions = self.base.search(codes, asked)
        found, gone = self._gaps.settled(positions)
        distances, places, left = near[:, :k], found[:, :k], np.flatnonzero(gone[:, :k].any(axis=1))
        near, found, gone = near[left], found[left], gone[left]
        order = np.argsort(gone, axis=1, kind="stable")[:, :k]  # what is there, in its order, before what is not
        distances[left] = np.take_along_axis(near, order, axis=1)
        places[left] = np.take_along_axis(found, order, axis=1)
        return distances, places, left[(~gone).sum(axis=1) < k]

    @cached_property
    def _rest(self) -> np.ndarray:
        """The positions in db.bin that are not removed."""
        return self._gaps.positions(np.arange(self._kept))

    def _asked(self, k: int) -> int:
        """How many of db.bin to ask for, so that nearly always k of them have not been removed."""
        if not len(self._gaps):
            return min(k, self._count)
        share = len(self._gaps) / self._count
        return min(self._count, k + min(len(self._gaps), _MORE + int(k * 2 * share)))

    def _split(self, within: np.ndarray | None) -> tuple[np.ndarray | None, np.ndarray | None]:
        """Of places, ascending, the positions in db.bin and in what was added."""
        if within is None:
            return None, None
        cut = int(np.searchsorted(within, self._kept))
        return self._gaps.positions(within[:cut]), within[cut:] - self._kept


def _queries(limits: np.ndarray) -> np.ndarray:
    """(M,) the query of each result."""
    return np.repeat(np.arange(len(limits) - 1), np.diff(limits))
