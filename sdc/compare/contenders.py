"""What `sdc compare` compares: codes of a hash head, FAISS' quantizers and plain float16, behind one interface.

FAISS' quantizers see unit vectors less the training rows' mean and rank by squared Euclidean distance, which orders
unit vectors as the cosine does. (Measured: by inner product both found fewer neighbours at every length.)

- `pq`: product quantization (Jégou et al., TPAMI 2011) of 8 bits a sub-quantizer behind a learned rotation (OPQ, Ge et
  al., CVPR 2013) to 8 dimensions a sub-quantizer, but at least 128.
  The better of that and of all dimensions, by the training rows' error, is taken.
- `rq`, `lsq`: residual quantization (Chen et al., Sensors 2010) and LSQ++ (Martinez et al., ECCV 2018), with 256
  vectors a byte that add up, and one byte more for the length of their sum, which the cosine needs.
- `rabitq`: RaBitQ (Gao and Long, SIGMOD 2024), one bit a dimension and 8 bytes of factors. What the factors leave of
  the bytes is as many principal axes, randomly rotated; or as many random directions, where there are fewer axes.
  `rabitq2` to `rabitq4` (Gao et al., SIGMOD 2025) have so many bits a dimension, and 20 bytes of factors.
- `float16`: the unit vectors in half precision, compared one by one.

All are fitted to the same rows, those of the train split: heads (of the goal neighbors too, which `sdc train` fits to
the database), byte tables and quantizers, which take a random sample of them where they are many.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from sdc.arrays import BYTE_SIGNS, unit_rows
from sdc.compare.contender import ASYMMETRIC, RERANKED, TABLES, Contender
from sdc.compare.faiss_search import SAMPLE, Quantized, Scored
from sdc.compare.whole_vectors import HNSW, INT8, WHOLE
from sdc.errors import SdcError, UsageError, unknown_name_error
from sdc.extract.store import FeatureStore
from sdc.progress import Progress
from sdc.retrieve import encode_rows, hamming
from sdc.retrieve.evaluate import groups_of_scores
from sdc.retrieve.index import faiss_module, nearest
from sdc.train import ByteTables, Model
from sdc.train.methods import METHODS

_MOST_BYTES = 1 << 13  # of rabitq; FAISS crashes where a rotation has too many numbers
PQ, RQ, LSQ, RABITQ, FLOAT16 = "pq", "rq", "lsq", "rabitq", "float16"
ADDITIVE = (RQ, LSQ)
FINER = {f"{RABITQ}{bits}": bits for bits in (2, 3, 4)}  # RaBitQ with so many bits a dimension
QUANTIZERS = (PQ, *ADDITIVE, RABITQ, *FINER, *WHOLE, FLOAT16)
SIGN_FULL = f"sign-full{RERANKED}"  # signs of all dimensions, with re-ranking
LENGTHLESS = (SIGN_FULL, INT8, HNSW, FLOAT16)  # which are built once, whatever the length
CENTROIDS = 256  # of a sub-quantizer of 8 bits
FACTORS, FINER_FACTORS = 8, 20  # bytes that RaBitQ keeps beside one bit a dimension, and beside more
_TURNS = 50  # of OPQ, as FAISS has it: 20 found .523 and .451 where 50 find .542 and .462 (SIFT, sentences; 9 bytes)
_BLOCK = 8192


def check_method(name: str) -> None:
    """Raises UsageError for a name that is no contender's."""
    if base_method(name) not in METHODS and name not in (*QUANTIZERS, SIGN_FULL):
        endings = f"sdc{ASYMMETRIC}", f"neighbors{TABLES}", f"neighbors{RERANKED}"
        raise unknown_name_error("method", name, [*METHODS, *QUANTIZERS, SIGN_FULL, *endings])


def base_method(name: str) -> str:
    """The method whose codes a contender compares: its name without an ending that says how."""
    ending = next((each for each in (ASYMMETRIC, TABLES, RERANKED) if name.endswith(each)), "")
    return name.removesuffix(ending)


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


class Asymmetric(Scored):
    """The same codes, but a query keeps its real outputs: their product with the bits as ±1 ranks.

    To FAISS that is a product quantizer whose centroids are known: byte c stands for the eight signs that are its bits.
    """

    def __init__(self, codes: Codes) -> None:
        faiss, self.model, self.bytes = faiss_module(), codes.model, codes.bytes
        self._index = faiss.IndexPQ(8 * self.bytes, self.bytes, 8, faiss.METRIC_INNER_PRODUCT)
        faiss.copy_array_to_vector(np.tile(BYTE_SIGNS, (self.bytes, 1)).ravel(), self._index.pq.centroids)
        self._index.is_trained = True
        self._index.add_sa_codes(codes.codes)

    def prepare(self, features: np.ndarray) -> np.ndarray:
        return self.model.outputs(features)


class Decoded(Contender):
    """Codes compared with the query in float, by its cosine with what they decode to, a sum of a vector a byte."""

    query = "float"

    def __init__(self, tables: ByteTables, codes: np.ndarray) -> None:
        self._tables, self._codes, self._lengths = tables, codes, tables.lengths(codes)
        self.bytes = codes.shape[1] + self._lengths.itemsize

    def prepare(self, features: np.ndarray) -> np.ndarray:
        unit: np.ndarray = unit_rows(features, np.float32)
        return unit

    def search(self, prepared: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        scores = self._tables.scores(prepared, self._codes, self._lengths)
        positions = np.argpartition(-scores, min(k, scores.shape[1] - 1), axis=1)[:, :k]
        found = np.take_along_axis(scores, positions, axis=1)
        order = np.lexsort((positions, -found), axis=1)
        return np.take_along_axis(found, order, axis=1), np.take_along_axis(positions, order, axis=1)

    def groups(self, prepared: np.ndarray, depth: int) -> tuple[np.ndarray, int]:
        return groups_of_scores(self._tables.scores(prepared, self._codes, self._lengths), depth), depth + 1


def quantize(
    name: str, store: FeatureStore, rows: np.ndarray, database: np.ndarray, size: int, seed: int
) -> Quantized | Decoded:
    """One of `QUANTIZERS`, trained on `rows` of a store, holding the rows of `database`.

    Args:
        size: bytes a vector, at most, beside the length that `ADDITIVE` keep; of no meaning for float16.

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
        if name in ADDITIVE:
            return _additive(faiss, name, sample, centre, store, database, size, seed)
        if name == PQ:
            index, chain = _train_pq(faiss, sample, size, seed)
        else:
            index, chain = _train_rabitq(faiss, sample, size, seed, FINER.get(name, 1))
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
    widths = {min(max(8 * size, 128), dimension) // size * size, dimension // size * size}
    trained = [_train_opq(faiss, sample, size, width, seed) for width in sorted(widths)]
    if len(trained) > 1:
        trained.sort(key=lambda one: _squared_error(one[0], one[1], sample))
    index, rotation = trained[0]
    return index, (rotation,)


def _train_opq(faiss: Any, sample: np.ndarray, size: int, width: int, seed: int) -> tuple[Any, Any]:
    dimension = sample.shape[1]
    rotation, guide = faiss.OPQMatrix(dimension, size, width), faiss.ProductQuantizer(width, size, 8)
    index = faiss.IndexPQ(width, size, 8, faiss.METRIC_L2)
    for quantizer in (guide, index.pq):
        quantizer.cp.seed, quantizer.cp.min_points_per_centroid = seed, 1
    rotation.niter, rotation.pq = _TURNS, guide
    rotation.train(sample)
    rotation.pq = None  # `guide` goes with this function
    index.train(rotation.apply(sample))
    return index, rotation


def _squared_error(index: Any, rotation: Any, sample: np.ndarray) -> float:
    """Of the decoded training rows; where the transform drops dimensions, what these hold counts as lost."""
    decoded = rotation.reverse_transform(index.sa_decode(index.sa_encode(rotation.apply(sample))))
    return float(np.square(decoded - sample).sum(axis=1).mean())


def _additive(
    faiss: Any, name: str, sample: np.ndarray, centre: np.ndarray, store: FeatureStore, database: np.ndarray,
    size: int, seed: int,
) -> Decoded:  # fmt: skip
    """FAISS' quantizer of centred rows, scored as byte tables are: its codebooks are such tables."""
    if len(sample) < CENTROIDS:
        raise SdcError(f"a byte of {name} chooses among {CENTROIDS} vectors, the train split has {len(sample)} rows")
    dimension = sample.shape[1]
    if name == RQ:
        quantizer = faiss.ResidualQuantizer(dimension, size, 8)
        quantizer.cp.seed, quantizer.cp.min_points_per_centroid = seed, 1
    else:
        quantizer = faiss.LocalSearchQuantizer(dimension, size, 8)
        quantizer.random_seed = seed
    quantizer.train(sample)
    codebooks = faiss.vector_to_array(quantizer.codebooks).reshape(size, CENTROIDS, dimension)
    tables = ByteTables.on_grid(codebooks, centre, float(np.square(sample).sum(axis=1).mean()))
    length = np.linalg.norm(tables.decode(quantizer.compute_codes(sample)), axis=1)
    shortest, longest = float(length.min()), float(length.max())
    tables = replace(tables, shortest=shortest, longest=max(longest, shortest + 1e-6))
    codes = np.empty((len(database), size), np.uint8)
    with Progress("encode", len(database), "rows") as progress:
        for start, block in zip(range(0, len(database), _BLOCK), store.blocks(database, _BLOCK), strict=True):
            codes[start : start + len(block)] = quantizer.compute_codes(unit_rows(block, np.float32) - centre)
            progress.advance(len(block))
    return Decoded(tables, codes)


def _train_rabitq(faiss: Any, sample: np.ndarray, size: int, seed: int, each: int) -> tuple[Any, Sequence[Any]]:
    """RaBitQ with `each` bits a dimension."""
    factors = FACTORS if each == 1 else FINER_FACTORS
    if size <= factors:
        raise UsageError(f"rabitq keeps {factors} bytes of factors beside its bits: {size} bytes leave none for these")
    if size > _MOST_BYTES:
        raise UsageError(f"rabitq of {size} bytes a vector: at most {_MOST_BYTES} are supported")
    dimension, width = sample.shape[1], 8 * (size - factors) // each // 8 * 8
    if not width:
        raise UsageError(
            f"{size} bytes leave no 8 dimensions of {each} bits beside rabitq's {factors} bytes of factors"
        )
    if width <= min(dimension, len(sample) - 1):
        turn = faiss.PCAMatrix(dimension, width, 0, True)
        turn.train(sample)
    else:
        turn = faiss.RandomRotationMatrix(dimension, width)
        turn.init(seed)
    index = faiss.IndexRaBitQ(width, faiss.METRIC_L2, each)
    index.train(turn.apply(sample))
    return index, (turn,)
