"""What `sdc compare` compares: codes of a hash head, FAISS' quantizers and plain float16, behind one interface.

FAISS' quantizers see unit vectors less the training rows' mean and rank by squared Euclidean distance, which orders
unit vectors as the cosine does. (Measured: by inner product both found fewer neighbours at every length.)

- `pq`: product quantization (Jégou et al., TPAMI 2011) of 8 bits a sub-quantizer behind a learned rotation (OPQ, Ge et
  al., CVPR 2013) to 8 dimensions a sub-quantizer, but at least 128.
- `rabitq`: RaBitQ (Gao and Long, SIGMOD 2024), one bit a dimension and 8 bytes of factors. What the factors leave of
  the bytes is as many principal axes, randomly rotated; or as many random directions, where there are fewer axes.
- `float16`: the unit vectors in half precision, compared one by one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from sdc.compare.contender import Contender
from sdc.errors import SdcError, UsageError, unknown_name_error
from sdc.extract.store import FeatureStore
from sdc.progress import Progress
from sdc.retrieve import byte_signs, encode_rows, hamming
from sdc.retrieve.features import unit_rows
from sdc.retrieve.index import faiss_module, nearest
from sdc.train import Model
from sdc.train.methods import METHODS

_MOST_BYTES = 1 << 13  # of rabitq; FAISS crashes where a rotation has too many numbers
ASYMMETRIC = "-asymmetric"  # ends the name of a method whose codes are compared with the query's real outputs
PQ, RABITQ, FLOAT16 = "pq", "rabitq", "float16"
QUANTIZERS = (PQ, RABITQ, FLOAT16)
CENTROIDS = 256  # of a sub-quantizer of 8 bits
FACTORS = 8  # bytes that RaBitQ keeps beside its bits
SAMPLE = 65_536  # training rows of a quantizer, at most: FAISS takes no more for 256 centroids
_TURNS = 20  # of OPQ; FAISS' 50 take twice the time and find no more
_BLOCK = 8192


def check_method(name: str) -> None:
    """Raises UsageError for a name that is no contender's."""
    if name.removesuffix(ASYMMETRIC) not in METHODS and name not in QUANTIZERS:
        raise unknown_name_error("method", name, [*METHODS, *QUANTIZERS, f"sdc{ASYMMETRIC}"])


class Codes(Contender):
    """Codes compared by Hamming distance."""

    query = "code"

    def __init__(self, model: Model, codes: np.ndarray) -> None:
        self.model, self.codes, self.bytes = model, codes, codes.shape[1]

    @classmethod
    def encode(cls, model: Model, store: FeatureStore, database: np.ndarray) -> Codes:
        with Progress("encode", len(database), "rows") as progress:
            return cls(model, encode_rows(model, store, database, progress))

    def prepare(self, features: np.ndarray) -> np.ndarray:
        return self.model.encode(features, query=True)

    def search(self, prepared: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        return nearest(k, prepared, self.codes)

    def groups(self, prepared: np.ndarray, depth: int) -> tuple[np.ndarray, int]:
        return hamming(prepared, self.codes), 8 * self.bytes + 1


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


class Asymmetric(Scored):
    """The same codes, but a query keeps its real outputs: their product with the bits as ±1 ranks.

    To FAISS that is a product quantizer whose centroids are known: byte c stands for the eight signs that are its bits.
    """

    def __init__(self, codes: Codes) -> None:
        faiss, self.model, self.bytes = faiss_module(), codes.model, codes.bytes
        self._index = faiss.IndexPQ(8 * self.bytes, self.bytes, 8, faiss.METRIC_INNER_PRODUCT)
        faiss.copy_array_to_vector(np.tile(byte_signs(), (self.bytes, 1)).ravel(), self._index.pq.centroids)
        self._index.is_trained = True
        self._index.add_sa_codes(codes.codes)

    def prepare(self, features: np.ndarray) -> np.ndarray:
        return self.model.outputs(features)


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


def quantize(name: str, store: FeatureStore, rows: np.ndarray, database: np.ndarray, size: int, seed: int) -> Quantized:
    """One of `QUANTIZERS`, trained on `rows` of a store, holding the rows of `database`.

    Args:
        size: bytes a vector, at most; of no meaning for float16.

    Raises:
        SdcError: there are too few training rows.
        UsageError: the features have too few dimensions for so many bytes, or the bytes do not suffice.
    """
    faiss = faiss_module()
    if name == FLOAT16:
        index = faiss.IndexScalarQuantizer(store.dimension, faiss.ScalarQuantizer.QT_fp16, faiss.METRIC_INNER_PRODUCT)
        return Quantized(index, (), 0.0).add(store, database)
    sample_rows = np.random.default_rng(seed).permutation(rows)[:SAMPLE]
    sample = unit_rows(store.take(np.sort(sample_rows)), np.float32)
    centre = sample.mean(axis=0)
    sample -= centre
    try:
        index, chain = (_train_pq if name == PQ else _train_rabitq)(faiss, sample, size, seed)
    except RuntimeError as error:
        if "interrupted" in str(error):  # by Ctrl-C: FAISS asks Python for signals now and then
            raise KeyboardInterrupt from None
        raise
    return Quantized(index, chain, centre).add(store, database)


def _train_pq(faiss: Any, sample: np.ndarray, size: int, seed: int) -> tuple[Any, Sequence[Any]]:
    dimension = sample.shape[1]
    if size > dimension:
        raise UsageError(
            f"a byte of pq stands for one dimension at least: these features give at most {dimension} bytes, not {size}"
        )
    if len(sample) < CENTROIDS:
        raise SdcError(f"a byte of pq chooses among {CENTROIDS} centroids, the train split has {len(sample)} rows")
    width = min(max(8 * size, 128), dimension) // size * size
    rotation, guide = faiss.OPQMatrix(dimension, size, width), faiss.ProductQuantizer(width, size, 8)
    index = faiss.IndexPQ(width, size, 8, faiss.METRIC_L2)
    for quantizer in (guide, index.pq):
        quantizer.cp.seed, quantizer.cp.min_points_per_centroid = seed, 1
    rotation.niter, rotation.pq = _TURNS, guide
    rotation.train(sample)
    rotation.pq = None  # `guide` goes with this function
    index.train(rotation.apply(sample))
    return index, (rotation,)


def _train_rabitq(faiss: Any, sample: np.ndarray, size: int, seed: int) -> tuple[Any, Sequence[Any]]:
    if size <= FACTORS:
        raise UsageError(f"rabitq keeps {FACTORS} bytes of factors beside its bits: {size} bytes leave none for these")
    if size > _MOST_BYTES:
        raise UsageError(f"rabitq of {size} bytes a vector: at most {_MOST_BYTES} are supported")
    dimension, width = sample.shape[1], 8 * (size - FACTORS)
    if width <= min(dimension, len(sample) - 1):
        turn = faiss.PCAMatrix(dimension, width, 0, True)
        turn.train(sample)
    else:
        turn = faiss.RandomRotationMatrix(dimension, width)
        turn.init(seed)
    index = faiss.IndexRaBitQ(width, faiss.METRIC_L2)
    index.train(turn.apply(sample))
    return index, (turn,)
