"""Codes with re-ranking, as `sdc search --rerank` does it: what they find, in the order of the features' cosine."""

from __future__ import annotations

import numpy as np

from sdc.compare.contender import Contender
from sdc.extract.store import FeatureStore
from sdc.retrieve import code_lengths, hamming
from sdc.retrieve.index import Index
from sdc.retrieve.rerank import WIDTH, Reranked, rerank
from sdc.train import Model

SHORTLIST = 200  # items whose features each query compares


class TwoStages(Contender):
    """Candidates by Hamming distance, the shortlist by byte tables or real outputs, its order by features on disk."""

    query = "float"

    def __init__(self, model: Model, codes: np.ndarray, store: FeatureStore, database: np.ndarray) -> None:
        self._model, self._codes, self._store = model, codes, store
        lengths = code_lengths(model, codes)
        self._index = Index.build(codes, rows=database, lengths=lengths, copy=False)
        self.bytes = codes.shape[1] + (lengths is not None)
        self.disk = self.bytes + store.row_bytes

    def prepare(self, features: np.ndarray) -> np.ndarray:
        """Features, outputs and the bytes of codes beside each other, (b, d + bits + bits // 8) float32."""
        x, model = np.asarray(features, np.float32), self._model
        outputs = model.outputs(x)
        codes = model.encode(x, query=True, outputs=outputs)
        return np.concatenate([x, outputs, codes.astype(np.float32)], axis=1)

    def search(self, prepared: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        best = self._best(prepared, k)
        return best.similarities, self._index.items.positions(best.rows)[0]

    def groups(self, prepared: np.ndarray, depth: int) -> tuple[np.ndarray, int]:
        """The shortlist by cosine, then all others by Hamming distance."""
        best = self._best(prepared, SHORTLIST)
        out = SHORTLIST + hamming(self._split(prepared)[2], self._codes)
        steps = np.zeros(best.rows.shape, np.int32)
        steps[:, 1:] = best.similarities[:, 1:] != best.similarities[:, :-1]
        np.put_along_axis(out, self._index.items.positions(best.rows)[0], np.cumsum(steps, axis=1, dtype=np.int32), 1)
        return out, SHORTLIST + 8 * self._codes.shape[1] + 1

    def _best(self, prepared: np.ndarray, k: int) -> Reranked:
        features, outputs, codes = self._split(prepared)
        tables = self._model.tables
        distances, rows = self._index.search(codes, WIDTH * SHORTLIST)
        return rerank(
            self._index, distances, rows, outputs, k, shortlist=SHORTLIST, queries=features, features=self._store,
            tables=None if tables is None else tables.decoder,
        )  # fmt: skip

    def _split(self, prepared: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        dimension, bits = self._store.dimension, self._model.bits
        codes = np.ascontiguousarray(prepared[:, dimension + bits :]).astype(np.uint8)
        return prepared[:, :dimension], np.ascontiguousarray(prepared[:, dimension : dimension + bits]), codes
