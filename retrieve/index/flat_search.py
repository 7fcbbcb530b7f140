"""Exact search: every code is compared, with the work split over threads or GPUs as planned."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Mapping
from functools import cached_property, partial
from itertools import pairwise
from typing import Any, TypeVar

import numpy as np

from sdc.devices import cpu_count
from sdc.errors import log
from sdc.kernels import hamming_available, hamming_nearer, hamming_nearest, key_positions
from sdc.retrieve.index.faiss_layout import flat_header
from sdc.retrieve.index.gpu import Gpus
from sdc.retrieve.index.search_plan import QUERY_GROUP, Plan, plan
from sdc.retrieve.index.threads import faiss_module, run_parallel

_GATHERED = 1 << 24  # bytes of selected codes copied at once by a thread
_MANY, _DENSE = 1000, 500  # FAISS counts for k from 1000, or 1/500 of the codes, on
_UNSORTED, _LARGE = 1000, 1 << 19  # so many candidates of so many codes are not put in order
_SAMPLED, _LINE = 1 << 16, 8  # codes that tell how far candidates lie, so many in a row
_LISTS = 1 << 30  # bytes reserved for candidates at once; what is touched of them is at most 8 for each code

Find = Callable[[np.ndarray, np.ndarray, int], tuple[np.ndarray, np.ndarray]]
T = TypeVar("T")


class FlatSearcher:
    """The searcher of a flat index: it reads the codes where they lie, in memory or in a mapped file.

    Whatever the split, results are ordered by (distance, position). `within` restricts a search to these positions,
    ascending and distinct: their codes are gathered, which at every selectivity was faster than FAISS' selectors.
    """

    def __init__(self, codes: np.ndarray) -> None:
        self.codes = codes
        self._gpus: Gpus | None = None
        self._gpu_lock = threading.Lock()  # one search at a time: they share FAISS' resources on the devices
        self._gpu_failed = False

    @property
    def options(self) -> Mapping[str, Any]:
        """None: an exact search has nothing to choose."""
        return {}

    @property
    def exact(self) -> FlatSearcher:
        """Itself; of a subclass, whose own search may miss something, a plain one."""
        return self if type(self) is FlatSearcher else FlatSearcher(self.codes)

    def plan(self, queries: int, k: int | None, within: np.ndarray | None = None) -> Plan:
        """How `search` carries out so many queries; without k, how `range_search` does."""
        gpus = 0 if k is None or self._gpu_failed else faiss_module().get_num_gpus()
        return self._plan(queries, k or 1, within, gpus)

    def search(self, codes: np.ndarray, k: int, within: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
        """The k nearest of each query: distances (Q, k) int32 and positions (Q, k) int64.

        Args:
            codes: (Q, bits // 8) uint8, contiguous.
            k: from 0 to the number of codes searched.
        """
        planned = self.plan(len(codes), k, within)
        if planned.how == "gpu":
            try:
                return self._search_gpus(codes, k, planned.shards)
            except RuntimeError as error:
                log.warning("no search on the GPU, but on the CPU: %s", str(error).splitlines()[0])
                self._gpu_failed = True
                planned = self._plan(len(codes), k, within)
        return self._search(codes, k, within, planned)

    def candidates(self, codes: np.ndarray, count: int, within: np.ndarray | None = None) -> np.ndarray:
        """The positions (Q, count) of the nearest, as `search` has them, but in any order: that is cheaper."""
        few = count < _UNSORTED or len(self.codes) < _LARGE
        if few or within is not None or not hamming_available() or self.plan(len(codes), count).how == "gpu":
            return self.search(codes, count, within)[1]
        positions = np.empty((len(codes), count), np.int64)
        for start in range(0, len(codes), QUERY_GROUP):
            self._find_candidates(codes[start : start + QUERY_GROUP], positions[start : start + QUERY_GROUP])
        return positions

    def _find_candidates(self, queries: np.ndarray, out: np.ndarray) -> None:
        """Fills `out` (Q, count): all within a distance that a sample suggests, less those beyond the count-th.

        Where they turn out to be fewer than that, an ordinary search takes its place.
        """
        count, total = out.shape[1], len(self.codes)
        planned = self._plan(len(queries), 1, None)
        slices = max(planned.shards, planned.threads)
        borders = [total * n // slices for n in range(slices + 1)]
        limits = self._likely_distance(queries, count) + 1
        tasks = [
            partial(hamming_nearer, queries, self.codes[start:end], min(count, end - start), limits)
            for start, end in pairwise(borders)
        ]
        keys, each = zip(*run_parallel(tasks, planned.threads), strict=True)
        counts = np.stack(each)  # (slices, Q, bits + 1)
        nearer = np.cumsum(counts.sum(axis=0), axis=1)
        for query, row in enumerate(out):
            if nearer[query, -1] < count:
                row[:] = self.search(queries[query : query + 1], count)[1][0]
                continue
            last = int(np.searchsorted(nearer[query], count))
            ties, filled = count - int(nearer[query, last] - counts[:, query, last].sum()), 0
            for number, start in enumerate(borders[:-1]):
                here = counts[number, query]
                tied = min(ties, int(here[last]))
                end = filled + int(here[:last].sum()) + tied
                key_positions(keys[number][query, : here.sum()], last, tied, start, row[filled:end])
                ties, filled = ties - tied, end

    def _likely_distance(self, queries: np.ndarray, count: int) -> np.ndarray:
        """(Q,) within which `count` codes lie but for bad luck: by a rank in the sample that is 6 deviations higher."""
        share = count / len(self.codes) * len(self._sample)
        rank = min(math.ceil(share + 6 * math.sqrt(share)), len(self._sample))
        return nearest(rank, queries, self._sample)[0][:, -1].astype(np.int64)

    @cached_property
    def _sample(self) -> np.ndarray:
        """Some of the codes, evenly spread, in lines of `_LINE` since memory is read so."""
        width = self.codes.shape[1]
        lines = self.codes[: len(self.codes) // _LINE * _LINE].reshape(-1, _LINE * width)
        return lines[:: max(1, len(lines) * _LINE // _SAMPLED)].reshape(-1, width)

    def range_search(
        self, codes: np.ndarray, radius: int, within: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """All within `radius`, inclusive: limits (Q + 1,) int64, distances int32 and positions int64."""
        planned = self._plan(len(codes), 1, within)
        shared = self._share_out(partial(_within_radius, radius), codes, within, planned)
        parts = [_concatenated(slices) for slices in shared]
        counts, distances, positions = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
        return np.concatenate([np.zeros(1, np.int64), np.cumsum(counts)]), distances, positions

    def write(self, write: Callable[[bytes | memoryview], None]) -> None:
        """The index as FAISS' IndexBinaryFlat is written."""
        count, width = self.codes.shape
        write(flat_header(count, width))
        for start in range(0, count, _GATHERED // width + 1):
            write(np.ascontiguousarray(self.codes[start : start + _GATHERED // width + 1]).reshape(-1).data)

    def _plan(self, queries: int, k: int, within: np.ndarray | None, gpus: int = 0) -> Plan:
        count, width = self.codes.shape
        if within is not None:
            count, gpus = len(within), 0
        return plan(queries, count, width, max(k, 1), threads=cpu_count(), gpus=gpus)

    def _search(
        self, codes: np.ndarray, k: int, within: np.ndarray | None, planned: Plan
    ) -> tuple[np.ndarray, np.ndarray]:
        parts = [_merged(slices, k) for slices in self._share_out(partial(nearest, k), codes, within, planned)]
        return _joined(parts)

    def _share_out(
        self,
        scan: Callable[[np.ndarray, np.ndarray], T],
        codes: np.ndarray,
        within: np.ndarray | None,
        planned: Plan,
    ) -> list[list[tuple[T, int | np.ndarray]]]:
        """Scans groups of queries × slices of the database; for each group the results, slice by slice.

        Beside each result stands where its slice's positions are: the first, or all.
        """
        slices = planned.shards
        takers = planned.threads if planned.how == "queries" else 1
        if within is None:  # groups of one size, as many for each thread
            count, turns = len(self.codes), -(-len(codes) // (QUERY_GROUP * takers))
            group = -(-len(codes) // max(turns * takers, 1))
        else:  # gathering is done once for as many queries as there are
            group = -(-len(codes) // takers)
            count = len(within)
            slices = max(slices, -(-count * self.codes.shape[1] // _GATHERED))
        borders = [count * n // slices for n in range(slices + 1)]
        starts = range(0, max(len(codes), 1), max(group, 1))

        def task(first: int, start: int, end: int) -> tuple[T, int | np.ndarray]:
            queries = codes[first : first + group]
            if within is None:
                return scan(queries, self.codes[start:end]), start
            return scan(queries, np.take(self.codes, within[start:end], axis=0)), within[start:end]

        tasks = [partial(task, first, start, end) for first in starts for start, end in pairwise(borders)]
        results = run_parallel(tasks, planned.threads)
        return [results[n : n + slices] for n in range(0, len(results), slices)]

    def _search_gpus(self, codes: np.ndarray, k: int, shards: int) -> tuple[np.ndarray, np.ndarray]:
        with self._gpu_lock:
            if self._gpus is None:
                self._gpus = Gpus(self.codes, shards)
            distances, positions, settled = self._gpus.search(codes, k)
        unsettled = np.flatnonzero(~settled)
        if len(unsettled):
            planned = self._plan(len(unsettled), k, None)
            distances[unsettled], positions[unsettled] = self._search(codes[unsettled], k, None, planned)
        return distances, positions


def nearest(k: int, queries: np.ndarray, codes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The k nearest codes of each query by (distance, position), on the calling thread alone."""
    k = min(k, len(codes))
    if not k or not len(queries):
        return np.empty((len(queries), k), np.int32), np.empty((len(queries), k), np.int64)
    find, group = (hamming_nearest, _LISTS // (16 * k)) if hamming_available() else _by_faiss(k, codes)
    group = max(min(QUERY_GROUP, group), 1)
    groups = [find(queries[start : start + group], codes, k) for start in range(0, len(queries), group)]
    return _joined(groups)


def _by_faiss(k: int, codes: np.ndarray) -> tuple[Find, int]:
    """FAISS' heap, or its counters where they are up to 20 times as fast, and the most queries at once.

    Both return the nearest by (distance, position).
    """
    counters = (codes.shape[1] * 8 + 1) * k * 8  # bytes for a query: k positions for each distance
    if (k >= _MANY or k * _DENSE >= len(codes)) and counters <= _LISTS:
        return _counted, _LISTS // counters
    return _heaped, QUERY_GROUP


def _counted(queries: np.ndarray, codes: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    faiss = faiss_module()
    distances, positions = np.empty((len(queries), k), np.int32), np.empty((len(queries), k), np.int64)
    faiss.hammings_knn_mc(
        faiss.swig_ptr(queries), faiss.swig_ptr(codes), len(queries), len(codes), k, codes.shape[1],
        faiss.swig_ptr(distances), faiss.swig_ptr(positions),
    )  # fmt: skip
    return distances, positions


def _heaped(queries: np.ndarray, codes: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    faiss = faiss_module()
    distances, positions = np.empty((len(queries), k), np.int32), np.empty((len(queries), k), np.int64)
    heap = faiss.int_maxheap_array_t()
    heap.nh, heap.k = len(queries), k
    heap.val, heap.ids = faiss.swig_ptr(distances), faiss.swig_ptr(positions)
    faiss.hammings_knn_hc(heap, faiss.swig_ptr(queries), faiss.swig_ptr(codes), *codes.shape, True)
    return distances, positions


def _merged(
    slices: list[tuple[tuple[np.ndarray, np.ndarray], int | np.ndarray]], k: int
) -> tuple[np.ndarray, np.ndarray]:
    """The k nearest of those of consecutive slices: equal distances stay in the order of the slices."""
    near = [(distances, _from_slice(positions, where)) for (distances, positions), where in slices]
    if len(near) == 1:
        return near[0]
    distances, positions = (np.concatenate(arrays, axis=1) for arrays in zip(*near, strict=True))
    order = np.argsort(distances, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(distances, order, axis=1), np.take_along_axis(positions, order, axis=1)


def _joined(parts: list[tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    """The results of group after group of queries."""
    if len(parts) == 1:
        return parts[0]
    return np.concatenate([part[0] for part in parts]), np.concatenate([part[1] for part in parts])


def _within_radius(radius: int, queries: np.ndarray, codes: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Counts (Q,), distances and positions in one slice, by position."""
    faiss = faiss_module()
    result = faiss.RangeSearchResult(len(queries))
    radius = min(radius, codes.shape[1] * 8)  # FAISS' radius is exclusive
    faiss.hamming_range_search(
        faiss.swig_ptr(queries), faiss.swig_ptr(codes), len(queries), len(codes), radius + 1, codes.shape[1], result
    )
    limits = faiss.rev_swig_ptr(result.lims, len(queries) + 1).astype(np.int64)
    count = int(limits[-1])
    distances = faiss.rev_swig_ptr(result.distances, count).astype(np.int32)
    return np.diff(limits), distances, faiss.rev_swig_ptr(result.labels, count).astype(np.int64)


def _concatenated(
    slices: list[tuple[tuple[np.ndarray, np.ndarray, np.ndarray], int | np.ndarray]],
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Counts, distances and positions of a group of queries, each query's by (distance, position)."""
    counts = np.stack([result[0] for result, _ in slices])
    distances = np.concatenate([result[1] for result, _ in slices])
    positions = np.concatenate([_from_slice(result[2], where) for result, where in slices])
    queries = np.concatenate([np.repeat(np.arange(counts.shape[1]), count) for count in counts])
    order = np.lexsort((positions, distances, queries))
    return counts.sum(axis=0), distances[order], positions[order]


def _from_slice(positions: np.ndarray, where: int | np.ndarray) -> np.ndarray:
    return where[positions] if isinstance(where, np.ndarray) else positions + where if where else positions
