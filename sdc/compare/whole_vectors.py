"""What `sdc compare` compares that has no length of code: FAISS' indexes of whole vectors.

- `int8`: every value of the unit vectors in 8 bits, compared one by one.
- `hnsw`: a graph over such vectors (Malkov and Yashunin, TPAMI 2020), of 32 links and a search width of `DEPTH`.
- `ivfpq`: product quantization of 4 bits with fast scan (André et al., TPAMI 2021) in an inverted file, in as many
  bytes as codes have; what it finds is ordered by the vectors in half precision, which stay in memory.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from sdc.arrays import unit_rows
from sdc.compare.faiss_search import SAMPLE, Quantized
from sdc.errors import SdcError
from sdc.extract.store import FeatureStore
from sdc.retrieve.index import faiss_module

INT8, HNSW, IVFPQ = "int8", "hnsw", "ivfpq"
WHOLE = (INT8, HNSW, IVFPQ)
DEPTH = 128  # of a ranking by hnsw or ivfpq; all that stands below counts as tied
_LINKS = 32
_REFINED = 1024  # candidates of ivfpq that are compared by their vectors
_SCANNED = 16  # of the lists of ivfpq a search scans one in so many, but at least
_FEWEST = 8


class Approximate(Quantized):
    """An index that gives the first `DEPTH` of a ranking, the same at any k below it."""

    def __init__(self, index: Any) -> None:
        self._index, self._chain, self._centre, self.bytes = index, (), 0.0, 0

    def groups(self, prepared: np.ndarray, depth: int) -> tuple[np.ndarray, int]:
        return super().groups(prepared, min(depth, DEPTH))


class Refined(Approximate):
    """The candidates of an inverted file, ordered by their vectors."""

    def search(self, prepared: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        faiss = faiss_module()
        lists = faiss.extract_index_ivf(self._index.base_index).nlist
        scanned = faiss.SearchParametersIVF(nprobe=max(_FEWEST, lists // _SCANNED))
        factor = min(_REFINED, self._index.ntotal) / k
        params = faiss.IndexRefineSearchParameters(k_factor=max(factor, 1.0), base_index_params=scanned)
        results: tuple[np.ndarray, np.ndarray] = self._index.search(prepared, k, params=params)
        return results


def build_whole(
    name: str, store: FeatureStore, rows: np.ndarray, database: np.ndarray, size: int, seed: int
) -> Quantized:
    """One of `WHOLE`, trained on `rows` of a store, holding the rows of `database`.

    Args:
        size: bytes of a code of `ivfpq`; of no meaning for the others.

    Raises:
        SdcError: there are too few training rows, or the features do not divide into so many parts.
    """
    faiss, dimension = faiss_module(), store.dimension
    drawn = np.random.default_rng(seed).permutation(rows)[:SAMPLE]
    sample = unit_rows(store.take(np.sort(drawn)), np.float32)
    kind, product = faiss.ScalarQuantizer.QT_8bit, faiss.METRIC_INNER_PRODUCT
    if name == INT8:
        index = faiss.IndexScalarQuantizer(dimension, kind, product)
        index.train(sample)
        return Quantized(index, (), 0.0).add(store, database)
    if name == HNSW:
        index = faiss.IndexHNSWSQ(dimension, kind, _LINKS, product)
        index.hnsw.efSearch = DEPTH
        index.train(sample)
        built = Approximate(index).add(store, database)
        graph = 4 * index.hnsw.neighbors.size() + 8 * index.hnsw.offsets.size() + 4 * index.hnsw.levels.size()
        built.bytes = dimension + round(graph / len(database))
        return built
    lists = min(1 << round(math.log2(4 * math.sqrt(len(database)))), len(sample) // 4)
    if dimension % (2 * size) or lists < 1 or len(sample) < 16:
        raise SdcError(
            f"ivfpq of {size} bytes cuts vectors into {2 * size} equal parts and learns 16 centroids each: these "
            f"have {dimension} dimensions and {len(sample)} training rows"
        )
    index = faiss.index_factory(dimension, f"IVF{lists},PQ{2 * size}x4fs,Refine(SQfp16)", product)
    index.train(sample)
    built = Refined(index).add(store, database)
    built.bytes = size + 8 + 2 * dimension  # code, position in its list, vector
    return built
