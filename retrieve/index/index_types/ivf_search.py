"""Search in an IVF index: only the lists whose centroids are nearest to the query are scanned.

The lists are FAISS' (`IndexBinaryIVF`, its ids the positions in the database).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, TypeVar

import numpy as np

from sdc.devices import cpu_count
from sdc.errors import SdcError
from sdc.retrieve.index.flat_search import FlatSearcher
from sdc.retrieve.index.threads import faiss_module, run_parallel

T = TypeVar("T")

_GROUP = 64  # queries searched by one thread at once
_BITS = 32  # of a position: no database has more than 2³² − 1 codes
_MASK = (1 << _BITS) - 1
_SLACK = 30  # neighbors asked for beyond k, so that nearly always all that tie with the k-th are among them
_WRITTEN = 1 << 20  # bytes that FAISS hands over at once


class IVFSearcher:
    """The searcher of an index of type ivf. Approximate: what stands in lists that are not scanned is not found.

    Of what is scanned, results are the first by (distance, position), on any number of threads.

    Attributes:
        nprobe: how many lists are scanned.
        lists: how many there are.
        exact: the searcher of the same codes by position, for what IVF is of no use for, such as all within a distance.
    """

    def __init__(self, inverted: Any, codes: np.ndarray, nprobe: int | None = None) -> None:
        # Nothing may add to or remove from a mapped index: FAISS would abort. So it is reached from here alone.
        self._inverted, self.exact = inverted, FlatSearcher(codes)
        self.lists = int(inverted.nlist)
        self.nprobe = inverted.nprobe = max(1, min(nprobe or inverted.nprobe, self.lists))

    @property
    def options(self) -> Mapping[str, Any]:
        """How many lists are scanned."""
        return {"nprobe": self.nprobe}

    def plan(self, queries: int, k: int | None, within: np.ndarray | None = None) -> str:
        """How `search` goes about it, in words; without k, how `exact.range_search` does."""
        if within is not None or k is None:
            return f"all of them, {self.exact.plan(queries, k, within)}"
        return f"those in the {self.nprobe} nearest of {self.lists} lists, or all where these hold fewer than {k}"

    def search(self, codes: np.ndarray, k: int, within: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
        """The k nearest: distances (Q, k) int32, positions (Q, k) int64; k is at most the number searched.

        Within given positions the search is exact: how many lists it would take is not known for them. So is that of a
        query for which the lists scanned hold fewer than k codes.

        Raises:
            SdcError: the lists are damaged (which only an index that was not verified may be).
        """
        if within is not None:
            return self.exact.search(codes, k, within)
        groups = self._share_out(partial(self._search, k), codes)
        distances, positions = (np.concatenate(parts) for parts in zip(*groups, strict=True))
        short = np.flatnonzero(positions[:, -1:] < 0)
        if len(short):
            distances[short], positions[short] = self.exact.search(np.ascontiguousarray(codes[short]), k)
        return distances, positions

    def candidates(self, codes: np.ndarray, count: int, within: np.ndarray | None = None) -> np.ndarray:
        """The positions (Q, count) that `search` gives."""
        return self.search(codes, count, within)[1]

    def write(self, write: Callable[[bytes], None]) -> None:
        """The FAISS part of db.bin, piece by piece."""
        faiss = faiss_module()
        faiss.write_index_binary(self._inverted, faiss.PyCallbackIOWriter(write, _WRITTEN))

    def _share_out(self, scan: Callable[[np.ndarray], T], codes: np.ndarray) -> list[T]:
        groups = [codes[start : start + _GROUP] for start in range(0, max(len(codes), 1), _GROUP)]
        return run_parallel([partial(scan, group) for group in groups], min(cpu_count(), len(groups)))

    def _search(self, k: int, codes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Of a few queries, by the calling thread; a position is −1 where too few codes were scanned."""
        asked = min(k + _SLACK, len(self.exact.codes))
        distances, positions = self._inverted.search(codes, asked)
        self._check(positions, -1)
        # Of codes that tie at the last place FAISS keeps those it meets first: they may go beyond the last one it gave.
        cut = (distances[:, -1] == distances[:, k - 1]) & (positions[:, -1] >= 0)
        distances, positions = _in_order(distances, positions, k)
        for query in np.flatnonzero(cut) if asked < len(self.exact.codes) else ():
            near, at = self._scanned_within(int(distances[query, -1]), codes[query : query + 1])
            distances[query], positions[query] = near[:k], at[:k]
        return distances, positions

    def _scanned_within(self, radius: int, code: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Distances and positions of what the lists scanned have within a radius of one query, in their order."""
        _, distances, positions = self._inverted.range_search(code, min(radius, self._inverted.d) + 1)  # exclusive
        self._check(positions, 0)
        order = np.lexsort((positions, distances))
        return distances[order].astype(np.int32), positions[order]

    def _check(self, positions: np.ndarray, least: int) -> None:
        if positions.size and not least <= positions.min() <= positions.max() < len(self.exact.codes):
            raise SdcError("this index is damaged: its lists name codes that it does not hold; open it verified")


def _in_order(distances: np.ndarray, positions: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """The first k of each row by (distance, position), sorted as one number each; position −1 comes last."""
    keys = distances.astype(np.int64) << _BITS | positions & _MASK
    keys.sort(axis=1)
    distances, positions = (keys[:, :k] >> _BITS).astype(np.int32), keys[:, :k] & _MASK
    positions[positions == _MASK] = -1
    return distances, positions
