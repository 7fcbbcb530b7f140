"""The codes on CUDA devices, searched by FAISS' GpuIndexBinaryFlat."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import Any

import numpy as np

from sdc.retrieve.index.threads import faiss_module

_SPARE = 64  # more than k are asked for: a query whose last places tie is only settled by what follows the tie
_WIDE = 1024  # the most that are asked for beyond k: builds of FAISS differ in their limit, this is the lowest


class Gpus:
    """Shards of the codes, one a device, copied there once.

    A GPU lists equal distances in any order. So more than k neighbors are asked for: where their last distance
    is beyond the k-th, all that tie with it are among them, and the order (distance, position) can be made.

    Raises:
        RuntimeError: as FAISS does, where a device has too little memory.
    """

    def __init__(self, codes: np.ndarray, shards: int) -> None:
        borders = np.linspace(0, len(codes), shards + 1).astype(np.int64).tolist()
        self._shards = [
            (_resident(codes[start:end], device), start, end - start)
            for device, (start, end) in enumerate(pairwise(borders))
        ]

    def search(self, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Distances (Q, k) int32, positions (Q, k) int64, and whether each query is settled (Q,)."""
        wide = max(k, min(4 * k + _SPARE, _WIDE))
        with ThreadPoolExecutor(len(self._shards)) as pool:  # an index on a GPU is for one thread at a time
            results = list(pool.map(lambda shard: shard[0].search(queries, min(wide, shard[2])), self._shards))
        distances = np.concatenate([near for near, _ in results], axis=1)
        positions = np.concatenate(
            [positions + start for (_, positions), (_, start, _) in zip(results, self._shards, strict=True)], axis=1
        )
        order = np.lexsort((positions, distances), axis=1)[:, :k]
        distances, positions = (np.take_along_axis(array, order, axis=1) for array in (distances, positions))
        settled = np.ones(len(queries), bool)
        for (near, _), (_, _, count) in zip(results, self._shards, strict=True):
            if near.shape[1] < count:
                settled &= near[:, -1] > distances[:, -1]
        return distances.astype(np.int32, copy=False), positions.astype(np.int64, copy=False), settled


def _resident(codes: np.ndarray, device: int) -> Any:
    faiss = faiss_module()
    config = faiss.GpuIndexBinaryFlatConfig()
    config.device = device
    index = faiss.GpuIndexBinaryFlat(faiss.StandardGpuResources(), codes.shape[1] * 8, config)
    index.add(np.ascontiguousarray(codes))
    return index
