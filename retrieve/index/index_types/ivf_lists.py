"""The lists of an IVF index: how many there are, their centroids, and the FAISS index of them.

The centroids are trained here, on codes as they are: the mean of codes, made binary, is the majority of each bit.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from sdc.progress import Progress
from sdc.retrieve.index.flat_search import FlatSearcher
from sdc.retrieve.index.threads import faiss_module

MOST_LISTS = 16384
_PER_LIST = 40  # codes a centroid is trained on
_PASSES = 10  # of training
_ASSIGNED = 8192  # codes assigned at once


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
    rng = np.random.default_rng(seed)
    size = min(len(codes), lists * _PER_LIST)
    sample = codes[np.sort(rng.choice(len(codes), size, replace=False))]
    bits = np.unpackbits(sample, axis=1, bitorder="little")
    centroids = sample[np.sort(rng.choice(size, lists, replace=False))]
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
        some = np.ascontiguousarray(codes[part])
        near, positions = searcher.search(some, 1)
        distances[part], nearest[part] = near[:, 0], positions[:, 0]
        progress.advance(len(some))
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
