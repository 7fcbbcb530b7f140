"""What `sdc compare` has FAISS search: any index of its, by real numbers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from sdc.arrays import unit_rows
from sdc.compare.contender import Contender
from sdc.extract.store import FeatureStore
from sdc.progress import Progress

SAMPLE = 65_536  # training rows of a quantizer, at most: FAISS takes no more for 256 centroids
_BLOCK = 8192


class Scored(Contender):
    """What FAISS compares by real numbers. FAISS' order decides between items that tie at the search's depth."""

    query = "float"
    _index: Any

    def search(self, prepared: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        results: tuple[np.ndarray, np.ndarray] = self._index.search(prepared, k)
        return results

    def groups(self, prepared: np.ndarray, depth: int) -> tuple[np.ndarray, int]:
        distances, positions = self.search(prepared, depth)
        out = np.full((len(prepared), self._index.ntotal), depth, np.int32)
        steps = np.zeros(distances.shape, np.int32)
        steps[:, 1:] = distances[:, 1:] != distances[:, :-1]
        query, column = np.nonzero(positions >= 0)  # −1 stands where FAISS found no more
        out[query, positions[query, column]] = np.cumsum(steps, axis=1)[query, column]
        return out, depth + 1


class Quantized(Scored):
    """Unit vectors less `centre`, through a chain of FAISS' transforms, in a FAISS index."""

    def __init__(self, index: Any, chain: Sequence[Any], centre: np.ndarray | float) -> None:
        self._index, self._chain, self._centre, self.bytes = index, chain, centre, int(index.sa_code_size())

    def prepare(self, features: np.ndarray) -> np.ndarray:
        x = unit_rows(features, np.float32) - self._centre
        for step in self._chain:
            x = step.apply(x)
        return np.ascontiguousarray(x, np.float32)

    def add(self, store: FeatureStore, database: np.ndarray) -> Quantized:
        with Progress("encode", len(database), "rows") as progress:
            for block in store.blocks(database, _BLOCK):
                self._index.add(self.prepare(block))
                progress.advance(len(block))
        return self
