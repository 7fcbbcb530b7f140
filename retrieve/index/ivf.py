"""IVF: codes in lists around centroids; a search scans only the lists whose centroids are nearest to the query.

The lists are FAISS' (`IndexBinaryIVF`, its ids the positions in the database); the centroids are trained here, on codes
as they are: the mean of codes, made binary, is the majority of each bit.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from sdc.devices import cpu_count
from sdc.errors import SdcError, UsageError
from sdc.progress import Progress
from sdc.retrieve.index import file_format
from sdc.retrieve.index.flat import FlatSearcher
from sdc.retrieve.index.threads import faiss_module, run_parallel

T = TypeVar("T")

MOST_LISTS = 16384
_PER_LIST = 40  # codes a centroid is trained on
_PASSES = 10  # of training
_GROUP = 64  # queries searched by one thread at once
_ASSIGNED = 8192  # codes assigned at once
_BITS = 32  # of a position: no database has more than 2³² − 1 codes
_MASK = (1 << _BITS) - 1
_SLACK = 30  # neighbours asked for beyond k, so that nearly always all that tie with the k-th are among them


def list_count(count: int) -> int:
    """The number of lists for `count` codes: the power of 2 nearest to 4·√count, at most MOST_LISTS.

    A search costs about as much for finding lists as for scanning them then; training takes time in proportion to
    lists².
    """
    return min(MOST_LISTS, 1 << round(math.log2(4 * math.sqrt(count))), count)


def footprint(count: int, width: int, lists: int) -> int:
    """Bytes of memory that searching `count` codes of `width` bytes touches in the end."""
    return count * (width + 8) + lists * width


def train(codes: np.ndarray, lists: int, *, seed: int = 0) -> np.ndarray:
    """Centroids (lists, bits // 8) uint8 by k-majority on a sample of the codes: k-means by Hamming distance.

    The same codes and seed give the same centroids, on any number of threads. A centroid that loses all its codes
    moves to the code farthest from its own.
    """
    chance = np.random.default_rng(seed)
    size = min(len(codes), lists * _PER_LIST)
    sample = codes[np.sort(chance.choice(len(codes), size, replace=False))]
    bits = np.unpackbits(sample, axis=1, bitorder="little")
    centroids = sample[np.sort(chance.choice(size, lists, replace=False))]
    with Progress("train lists", _PASSES * size, "codes") as progress:
        for _ in range(_PASSES):
            distances, nearest = _nearest(sample, centroids, progress)
            sizes = np.bincount(nearest, minlength=lists)
            used = np.flatnonzero(sizes)
            by_list = bits[np.argsort(nearest, kind="stable")]
            starts = (np.cumsum(sizes) - sizes)[used]
            ones = np.add.reduceat(by_list, starts, axis=0, dtype=np.int32)
            centroids[used] = np.packbits(2 * ones > sizes[used, None], axis=1, bitorder="little")
            farthest = np.argsort(-distances, kind="stable")[: lists - len(used)]
            centroids[sizes == 0] = sample[farthest]
    return centroids


def assign(codes: np.ndarray, centroids: np.ndarray) -> np.ndarray:
    """(N,) int64, the list of each code: its nearest centroid, the first of equally near ones."""
    with Progress("fill lists", len(codes), "codes") as progress:
        return _nearest(codes, centroids, progress)[1]


def _nearest(codes: np.ndarray, centroids: np.ndarray, progress: Progress) -> tuple[np.ndarray, np.ndarray]:
    searcher = FlatSearcher(centroids)
    distances, nearest = np.empty(len(codes), np.int32), np.empty(len(codes), np.int64)
    for start in range(0, len(codes), _ASSIGNED):
        part = slice(start, start + _ASSIGNED)
        found = searcher.search(np.ascontiguousarray(codes[part]), 1)
        distances[part], nearest[part] = found[0][:, 0], found[1][:, 0]
        progress.advance(len(found[0]))
    return distances, nearest


def build(codes: np.ndarray, centroids: np.ndarray, assigned: np.ndarray) -> Any:
    """The FAISS index of codes whose lists are given; in a list they stand by ascending position."""
    faiss = faiss_module()
    quantizer = faiss.IndexBinaryFlat(codes.shape[1] * 8)
    quantizer.add(centroids)
    inverted = faiss.IndexBinaryIVF(quantizer, quantizer.d, len(centroids))
    inverted.own_fields = True
    quantizer.this.disown()  # it goes with its index
    order = np.argsort(assigned, kind="stable")
    ends = np.cumsum(np.bincount(assigned, minlength=len(centroids)))
    start = 0
    for number, end in enumerate(ends.tolist()):
        # One call a list makes it as long as it is; `add` would let it grow, to twice the memory.
        positions = order[start:end]
        if len(positions):
            content = codes[positions]
            ids, data = faiss.swig_ptr(positions), faiss.swig_ptr(content)
            inverted.invlists.add_entries(number, len(positions), ids, data)
        start = end
    inverted.ntotal = len(codes)
    return inverted


def mapped(path: Path, codes: np.ndarray, nprobe: int | None) -> IVFSearcher:
    """The searcher of a db.bin that `container.read` found whole, by memory map.

    Args:
        codes: by position, (N, bits // 8) uint8.
        nprobe: None takes what it was made with.

    Raises:
        UsageError: nprobe < 1.
        SdcError: FAISS cannot read it.
    """
    if nprobe is not None and nprobe < 1:
        raise UsageError(f"--nprobe must be at least 1, found {nprobe}")
    faiss = faiss_module()
    try:
        inverted = faiss.read_index_binary(str(path), faiss.IO_FLAG_MMAP_IFC)
    except RuntimeError as error:
        raise SdcError(f"FAISS cannot read {path}: {str(error).splitlines()[0]}") from None
    return IVFSearcher(inverted, codes, nprobe)


class IVFSearcher:
    """The searcher of an index of type ivf. Approximate: what stands in lists that are not scanned is not found.

    Of what is scanned, results are the first by (distance, position), on any number of threads.

    Attributes:
        nprobe: how many lists are scanned.
        lists: how many there are.
        exact: the searcher of the same codes by position, for what IVF is of no use for.
    """

    def __init__(self, inverted: Any, codes: np.ndarray, nprobe: int | None = None) -> None:
        # Nothing may add to or remove from a mapped index: FAISS would abort. So it is reached from here alone.
        self._inverted, self.exact = inverted, FlatSearcher(codes)
        self.lists = int(inverted.nlist)
        self.nprobe = inverted.nprobe = max(1, min(nprobe or inverted.nprobe, self.lists))

    def plan(self, queries: int, k: int, within: np.ndarray | None = None) -> str:
        """How `search` goes about it, in words."""
        if within is not None:
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
        found = self._share_out(partial(self._search, k), codes)
        distances, positions = (np.concatenate(parts) for parts in zip(*found, strict=True))
        short = np.flatnonzero(positions[:, -1:] < 0)
        if len(short):
            distances[short], positions[short] = self.exact.search(np.ascontiguousarray(codes[short]), k)
        return distances, positions

    def range_search(
        self, codes: np.ndarray, radius: int, within: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """All codes in the lists scanned within `radius`, inclusive; within given positions all, exactly.

        Returns:
            limits (Q + 1,) int64, distances int32 and positions int64: those of query q are at limits[q]:limits[q + 1].

        Raises:
            SdcError: as `search`.
        """
        if within is not None:
            return self.exact.range_search(codes, radius, within)
        found = self._share_out(partial(self._within, radius), codes)
        counts, distances, positions = (np.concatenate(parts) for parts in zip(*found, strict=True))
        return np.append(0, np.cumsum(counts)), distances, positions

    def write(self, write: Callable[[bytes], None]) -> None:
        """The FAISS part of db.bin, piece by piece."""
        faiss = faiss_module()
        faiss.write_index_binary(self._inverted, faiss.PyCallbackIOWriter(write, file_format.CHUNK))

    def _share_out(self, scan: Callable[[np.ndarray], T], codes: np.ndarray) -> list[T]:
        groups = [codes[start : start + _GROUP] for start in range(0, max(len(codes), 1), _GROUP)]
        return run_parallel([partial(scan, group) for group in groups], min(cpu_count(), len(groups)))

    def _search(self, k: int, codes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Of a few queries, by the calling thread; a position is −1 where too few codes were scanned."""
        wanted = min(k + _SLACK, len(self.exact.codes))
        distances, positions = self._inverted.search(codes, wanted)
        self._check(positions, -1)
        # Of codes that tie at the last place FAISS keeps those it meets first: they may go beyond the last one it gave.
        cut = (distances[:, -1] == distances[:, k - 1]) & (positions[:, -1] >= 0)
        distances, positions = _in_order(distances, positions, k)
        for query in np.flatnonzero(cut) if wanted < len(self.exact.codes) else ():
            _, near, at = self._within(int(distances[query, -1]), codes[query : query + 1])
            distances[query], positions[query] = near[:k], at[:k]
        return distances, positions

    def _within(self, radius: int, codes: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Of a few queries, by the calling thread: counts (Q,), distances and positions."""
        limits, distances, positions = self._inverted.range_search(
            codes, min(radius, self._inverted.d) + 1
        )  # exclusive
        self._check(positions, 0)
        counts = np.diff(limits.astype(np.int64))
        order = np.lexsort((positions, distances, np.repeat(np.arange(len(codes)), counts)))
        return counts, distances[order].astype(np.int32), positions[order]

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
