"""`sdc.Index`: codes with the model that made them and the features they stand for, so that vectors search them.

`sdc.retrieve.index.Index` knows codes alone, since models and features stand above it. This one adds both, and a search
that takes either codes or vectors, and puts what the codes find into a finer order where it is asked to.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from sdc.arrays import evenly_spread
from sdc.errors import UsageError
from sdc.extract.store import FeatureStore, is_feature_store
from sdc.retrieve.encode import code_lengths
from sdc.retrieve.features import (
    IndexFeatures,
    Precision,
    StoredRows,
    check_precision,
    encoded_features,
)
from sdc.retrieve.index import Index as CodeIndex
from sdc.retrieve.origin import is_refined
from sdc.retrieve.queries import Queries, check_codes, encode_queries, load_index_model
from sdc.retrieve.rerank import RECALL, Factor, FloatSearcher, Reranker, check_rerank, open_features, own_features
from sdc.retrieve.search_result import SearchResult
from sdc.settings import whole_number
from sdc.train import Model

if TYPE_CHECKING:
    from typing import Self

_SAMPLE = 256  # items whose codes must be those of the features that are attached


class HasModel(Protocol):
    """What has a trained head, such as `sdc.Hasher`."""

    @property
    def model(self) -> Model: ...


class Index(CodeIndex):
    """A searchable database of codes; made by `Index.build` or `Index.open`.

    Its items never change; what `sdc add` and `sdc remove` have put beside a db.bin is taken in when it is opened.

    Example:
        >>> index = sdc.Index.open("db.bin")                   # knows its model and its features
        >>> index.search(vectors, k=10, rerank="auto").rows    # (Q, 10): .95 of the exact neighbors
        >>> index = sdc.Index.build(hasher.encode(x), model=hasher).attach(x)    # the same in memory
    """

    def __init__(self, *arguments: Any, **further: Any) -> None:
        super().__init__(*arguments, **further)
        self._named_model: Path | Model | None = None
        self._model: Model | None = None
        self._precision: Precision = "stored"
        self._features: IndexFeatures | None = None
        self._attached: np.ndarray | Path | str | None = None  # what `attach` was given
        self._missing = False  # whether the recorded features were looked for in vain
        self._choices: dict[tuple[int, float], Reranker] = {}  # what `auto` has measured
        self._candidates: dict[tuple[int, float], FloatSearcher] = {}  # what queries in float have

    @classmethod
    def build(cls, codes: np.ndarray, *, model: Path | str | Model | HasModel | None = None, **options: Any) -> Self:
        """An index in memory.

        Args:
            codes: (N, bits // 8) uint8.
            model: what encoded them, for searches with vectors: a `Hasher`, or the path of a model.safetensors.
            options: those of `sdc.retrieve.index.Index.build`: ids, labels, rows, index_type, …

        Raises:
            UsageError: as `sdc.retrieve.index.Index.build`.
        """
        named = _named(model)
        if named is not None:
            named = named if isinstance(named, Model) else Model.load(named)
            packed = np.asarray(codes)
            if packed.dtype == np.uint8 and packed.shape[1:] == (named.bits // 8,):
                options.setdefault("lengths", code_lengths(named, packed))
        index = super().build(codes, **options)
        index._named_model = named
        return index

    @classmethod
    def open(
        cls,
        path: Path | str,
        *,
        verify: bool = True,
        model: Path | str | Model | HasModel | None = None,
        features: np.ndarray | Path | str | None = None,
        precision: Precision = "stored",
        **options: Any,
    ) -> Self:
        """Opens db.bin by memory map, read-only; model and features are opened when a search first needs them.

        Args:
            verify: check every byte of the index against its checksums.
            model: the one that encoded it; None takes the recorded path.
            features: those that were encoded, see `attach`; None takes the recorded path.
            precision: of the features that reranking compares, see `attach`.
            options: of searches, such as nprobe of type ivf; see `sdc.retrieve.index.Index.open`.

        Raises:
            SdcError: there is no such file, it is no db.bin, or it is damaged or truncated.
            UsageError: an option that the type of the index does not have, or other features than it was encoded from.
        """
        check_precision(precision)
        index = super().open(path, verify=verify, **options)
        index._named_model, index._precision = _named(model), precision
        return index if features is None else index.attach(features, precision=precision)

    @property
    def model(self) -> Model:
        """The model that encoded the codes: that which was given, or the recorded one.

        Raises:
            SdcError: it is not there, or damaged.
            UsageError: there is none, or it is another one.
        """
        if self._model is None:
            if self._named_model is None and not self.metadata.get("model"):
                raise UsageError(
                    f"{self.path or 'this index'} knows no model, which vectors are encoded with: give one with model=…"
                    " where it is built or opened, or search with codes"
                )
            model = load_index_model(self, self._named_model)
            if model.bits != self.bits:
                raise UsageError(f"the model makes codes of {model.bits} bits, the index has {self.bits}: give its own")
            self._model = model
        return self._model

    def attach(self, features: np.ndarray | Path | str, *, precision: Precision = "stored") -> Self:
        """Gives the index the features that reranking compares, in the place of the recorded ones.

        Args:
            features: (n, d) floats by the rows of the index, an array or a memory map; or a file: feats.h5, or any that
                `sdc import` reads, which is read into memory.
            precision: `stored` compares them as they are; `float16` and `int8` make a copy, a half or a quarter of
                32-bit features, beside feats.h5, or of an array in memory.

        Returns:
            The index itself.

        Raises:
            UsageError: they are not what the codes were made of, or do not reach to the last row.
            SdcError: the file is missing or damaged.
        """
        check_precision(precision)
        store = _opened(self, features, precision)
        store.read_at_random()
        self._features, self._precision, self._attached = store, precision, features
        self._choices.clear()
        self._candidates.clear()
        return self

    def search(
        self,
        queries: np.ndarray,
        k: int = 10,
        rerank: Factor | None = None,
        recall: float = RECALL,
        *,
        within: np.ndarray | None = None,
    ) -> SearchResult:
        """The k nearest items of each query.

        Args:
            queries: packed codes (Q, bits // 8) uint8, or vectors (Q, d) of floats, which the model encodes.
            k: how many; more than there are returns all.
            rerank: None orders by (Hamming distance, row), and vectors by (score descending, row) where the codes have
                byte tables. A number from 1 on, the factor, has the features of factor · k items compared, those that
                the codes put first, and orders by (cosine descending, row); `auto` measures once which factor reaches
                the recall. Without features at hand the codes alone give the finer order.
            recall: for `auto`, of the k nearest by the features' cosine; of vectors that are scored by byte tables, of
                what scoring every code finds. 1 does all of it.
            within: search these rows alone, in any order; all without.

        Returns:
            The pair (distances, rows), each (Q, k), with the attributes of `SearchResult`.

        Raises:
            UsageError: k < 1, queries of another width or type, rows that the index does not have, no model for
                vectors, or codes that are to be reranked.
            SdcError: a vector holds NaN or Inf; model or features are damaged, or `auto` has no features.
        """
        check_rerank(rerank, recall if rerank == "auto" else None)
        queries = np.asarray(queries)
        if queries.dtype.kind != "f":
            if rerank is not None:
                raise UsageError(
                    f"reranking compares features: give the queries' vectors (Q, d) as floats, found {queries.dtype}"
                )
            return SearchResult(*super().search(queries, k, within=within))
        encoded = encode_queries(queries, self.model, "the queries", refine=is_refined(self))
        k = whole_number("k", k)
        if k < 1:
            raise UsageError(f"k must be at least 1, found {k}")
        clamped = min(k, self.ntotal)
        if rerank is not None:
            return _result(self, self._reranker(clamped, rerank, recall), encoded, within)
        if self.model.tables is None or self.items.stored.lengths is None:
            return SearchResult(*super().search(encoded.codes, k, within=within))
        return _result(self, self._float_searcher(clamped, recall), encoded, within)

    def __reduce__(self) -> tuple[Any, ...]:
        return *super().__reduce__(), (self._named_model, self._precision, self._attached)

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self._named_model, self._precision, attached = state
        if attached is not None:
            self.attach(attached, precision=self._precision)

    def _reranker(self, k: int, factor: Factor, recall: float) -> Reranker:
        if self._features is None and not self._missing:
            self._features = open_features(self, self.model, None, self._precision, needed=factor == "auto")
            self._missing = self._features is None
        if factor != "auto":
            return Reranker.open(self, self.model, k, factor, features=self._features)
        if (k, recall) not in self._choices:
            chosen = Reranker.open(self, self.model, k, factor, recall=recall, features=self._features)
            self._choices[k, recall] = chosen
        return self._choices[k, recall]

    def _float_searcher(self, k: int, recall: float) -> FloatSearcher:
        """As `sdc search --query float`: without features at hand nothing is measured, unless a recall is asked for."""
        if (k, recall) not in self._candidates:
            store = self._features or own_features(self)[0]
            asked = None if recall == RECALL else recall
            self._candidates[k, recall] = FloatSearcher.open(self, self.model, k, recall=asked, features=store)
        return self._candidates[k, recall]


def _result(
    index: Index, searcher: Reranker | FloatSearcher, queries: Queries, within: np.ndarray | None
) -> SearchResult:
    assert queries.features is not None
    assert queries.outputs is not None
    parts = [*searcher.search(queries.codes, queries.features, queries.outputs, within)]
    if not parts:
        return SearchResult(*CodeIndex.search(index, queries.codes, searcher.k, within=within))
    distances, positions, values = (np.concatenate(columns) for columns in zip(*parts, strict=True))
    result = SearchResult(distances, index.items.rows(positions))
    setattr(result, {"similarity": "similarities", "score": "scores"}[searcher.measure], values)
    setattr(result, "rerank" if isinstance(searcher, Reranker) else "in_float", searcher.described())
    return result


def _opened(index: Index, features: np.ndarray | Path | str, precision: Precision) -> IndexFeatures:
    if isinstance(features, str | Path):
        path = Path(features)
        if is_feature_store(path):
            if index.metadata.get("features"):
                return encoded_features(index, path, verify=False, precision=precision)
            return _checked(index, StoredRows.of(FeatureStore(path, verify=False)), precision)
        from sdc.extract import read_vectors

        return _checked(index, StoredRows(read_vectors(path)[0]), precision)
    array = np.asanyarray(features)
    if array.ndim != 2 or array.dtype.kind != "f":
        raise UsageError(f"features must be floats (n, d), found {array.dtype} of shape {array.shape}")
    return _checked(index, StoredRows(array), precision)


def _checked(index: Index, rows: StoredRows, precision: Precision) -> IndexFeatures:
    """Rows that nothing vouches for: a sample of them must have the codes of the index.

    Raises:
        UsageError: they have others, another dimension, or do not reach to the last row.
    """
    if rows.dimension != index.model.dimension:
        raise UsageError(f"features of {rows.dimension} dimensions, the model takes {index.model.dimension}")
    sample = evenly_spread(index.ntotal, _SAMPLE)
    numbers = index.items.rows(sample)
    if numbers[-1] >= len(rows):
        raise UsageError(f"features of {len(rows)} rows, but the index has row {numbers[-1]}: attach all of them")
    check_codes(rows.take(numbers), index.items.codes(sample), index.model, index)
    return IndexFeatures([rows], precision=precision)


def _named(model: Path | str | Model | HasModel | None) -> Path | Model | None:
    """A model, or where it is."""
    if model is None or isinstance(model, Model):
        return model
    return Path(model) if isinstance(model, str | Path) else model.model
