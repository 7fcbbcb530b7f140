"""Search in a changed index: in db.bin by its own searcher, in what was added by a flat one, merged.

The searcher of db.bin knows nothing of removals: it is asked for more than k, for more again where these were not
enough, and what was removed is left out of its answer. Where all that is near to a query was removed, such as a class,
no such number would do: what remains is searched as it is then, so an exact search stays exact. For positions and
stored positions see `sdc.retrieve.index.delta.merged_view`.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Any

import numpy as np

from sdc.retrieve.index.delta.tombstones import Tombstones
from sdc.retrieve.index.flat_search import FlatSearcher
from sdc.retrieve.index.index_types import Searcher

_BITS = 48  # of a position, in a number that orders by (distance, position)
_MASK = (1 << _BITS) - 1
_MORE = 8  # asked for beyond k, where something was removed
_TIMES = 8  # as many are asked for again where these were not enough
_CELLS = 1 << 14  # neighbors of all queries asked for then, at most: for many, searching the rest is no dearer


class MergedSearcher:
    """The searcher of the items of a changed index; results are ordered by (distance, position).

    Attributes:
        base: the searcher of db.bin.
    """

    def __init__(self, base: Searcher, stored_count: int, tombstones: Tombstones, added: np.ndarray | None) -> None:
        """Takes the searcher of the `stored_count` codes of db.bin, and the codes that were added, if any."""
        self.base, self._stored_count, self._tombstones = base, stored_count, tombstones
        self._remaining = stored_count - len(tombstones)
        self._added = None if added is None else FlatSearcher(added)

    @property
    def options(self) -> Mapping[str, Any]:
        """Those of the searcher of db.bin."""
        return self.base.options

    @property
    def exact(self) -> MergedSearcher:
        """The same items with an exact search in db.bin."""
        if self.base.exact is self.base:
            return self
        added = None if self._added is None else self._added.codes
        return MergedSearcher(self.base.exact, self._stored_count, self._tombstones, added)

    def plan(self, queries: int, k: int | None, within: np.ndarray | None = None) -> str:
        """How `search` goes about it, in words; without k, how `range_search` does."""
        old, new = self._split(within)
        parts = []
        if self._added is None or (self._remaining and (old is None or len(old))):
            asked = k if k is None or old is not None else self._asked(k)
            parts.append(str(self.base.plan(queries, asked, old)))
            if len(self._tombstones) and old is None:
                parts.append(f"{len(self._tombstones)} removed codes are left out")
        if self._added is not None and (new is None or len(new)):
            count = len(self._added.codes if new is None else new)
            parts.append(f"{count} added codes {self._added.plan(queries, k and min(k, count), new)}")
        return "; ".join(parts)

    def search(self, codes: np.ndarray, k: int, within: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
        """The k nearest: distances (Q, k) int32, positions (Q, k) int64; k is at most the number searched."""
        old, new = self._split(within)
        parts = []
        most = min(k, self._remaining if old is None else len(old))
        if most or self._added is None:
            parts.append(self._in_base(codes, most, old))
        if self._added is not None:
            most = min(k, len(self._added.codes if new is None else new))
            distances, positions = self._added.search(codes, most, new)
            parts.append((distances, positions + self._remaining))
        if len(parts) == 1:
            return parts[0]
        keys = np.concatenate([distances.astype(np.int64) << _BITS | at for distances, at in parts], axis=1)
        keys.sort(axis=1)
        return (keys[:, :k] >> _BITS).astype(np.int32), keys[:, :k] & _MASK

    def candidates(self, codes: np.ndarray, count: int, within: np.ndarray | None = None) -> np.ndarray:
        """The positions (Q, count) that `search` gives."""
        return self.search(codes, count, within)[1]

    def range_search(
        self, codes: np.ndarray, radius: int, within: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """All within `radius`, inclusive, whether or not db.bin's own search is exact.

        Returns:
            limits (Q + 1,) int64, distances int32 and positions int64: those of query q are at limits[q]:limits[q + 1].
        """
        old, new = self._split(within)
        parts = []
        if self._added is None or (self._remaining and (old is None or len(old))):
            limits, distances, stored = self.base.exact.range_search(codes, radius, old)
            positions, removed = self._tombstones.merged(stored)
            query, there = _queries(limits), ~removed
            parts.append((query[there], distances[there], positions[there]))
        if self._added is not None:
            limits, distances, positions = self._added.range_search(codes, radius, new)
            parts.append((_queries(limits), distances, positions + self._remaining))
        query, distances, positions = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
        order = np.lexsort((positions, distances, query))
        limits = np.append(0, np.cumsum(np.bincount(query, minlength=len(codes))))
        return limits, distances[order], positions[order]

    def _in_base(self, codes: np.ndarray, k: int, within: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
        """The k nearest of those that db.bin still has; k is at most their number."""
        if within is not None or not len(self._tombstones):
            distances, stored = self.base.search(codes, k, within)
            return distances, self._tombstones.merged(stored)[0]
        asked = self._asked(k)
        distances, positions, short = self._first_there(codes, k, asked)
        more = _TIMES * asked
        if len(short) and more < self._stored_count and more * len(short) <= _CELLS:
            some = np.ascontiguousarray(codes[short])
            distances[short], positions[short], still = self._first_there(some, k, more)
            short = short[still]
        if len(short):
            distances[short], stored = self.base.search(np.ascontiguousarray(codes[short]), k, self._rest)
            positions[short] = self._tombstones.merged(stored)[0]
        return distances, positions

    def _first_there(self, codes: np.ndarray, k: int, asked: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The first k that were not removed of the `asked` nearest.

        Returns:
            distances, positions, and the queries that have fewer than k of them.
        """
        near, stored = self.base.search(codes, asked)
        merged, removed = self._tombstones.merged(stored)
        distances, positions, mixed = near[:, :k], merged[:, :k], np.flatnonzero(removed[:, :k].any(axis=1))
        near, merged, removed = near[mixed], merged[mixed], removed[mixed]
        order = np.argsort(removed, axis=1, kind="stable")[:, :k]  # what is there, in its order, before what is not
        distances[mixed] = np.take_along_axis(near, order, axis=1)
        positions[mixed] = np.take_along_axis(merged, order, axis=1)
        return distances, positions, mixed[(~removed).sum(axis=1) < k]

    @cached_property
    def _rest(self) -> np.ndarray:
        """The stored positions that are not removed."""
        return self._tombstones.stored(np.arange(self._remaining))

    def _asked(self, k: int) -> int:
        """How many of db.bin to ask for, so that nearly always k of them have not been removed."""
        if not len(self._tombstones):
            return min(k, self._stored_count)
        share = len(self._tombstones) / self._stored_count
        return min(self._stored_count, k + min(len(self._tombstones), _MORE + int(k * 2 * share)))

    def _split(self, within: np.ndarray | None) -> tuple[np.ndarray | None, np.ndarray | None]:
        """Of positions, ascending, the stored ones and those in what was added."""
        if within is None:
            return None, None
        cut = int(np.searchsorted(within, self._remaining))
        return self._tombstones.stored(within[:cut]), within[cut:] - self._remaining


def _queries(limits: np.ndarray) -> np.ndarray:
    """(M,) the query of each result."""
    return np.repeat(np.arange(len(limits) - 1), np.diff(limits))
