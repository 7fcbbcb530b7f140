"""The figures of a verdict, all from a sample: a second or two, however many items there are."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal

import numpy as np

from sdc.arrays import evenly_spread
from sdc.errors import SdcError
from sdc.extract.store import FeatureStore
from sdc.retrieve.features import IndexFeatures, encoded_features
from sdc.retrieve.index import EncodedIndex
from sdc.retrieve.queries import load_index_model
from sdc.retrieve.rerank import Reranker, choose_shortlist
from sdc.retrieve.verdict.figures import Figures, Recall, Warned
from sdc.retrieve.verdict.sample import QUERIES, Sample
from sdc.retrieve.verdict.words import equal_codes, itq_as_well, stale
from sdc.train import Model

K, RECALL = 10, 0.95  # neighbors, and the recall that re-ranking is to reach
_CODES = 1 << 16  # looked at for equal ones
_EQUAL = 0.5  # share of the commonest code from which on most codes are equal
_TIMED, _SECONDS = 40, 0.3  # queries timed at most, and for how long


def judge(index: EncodedIndex, model: Path | None = None, features: Path | None = None) -> Figures:
    """Measures an index.

    Args:
        model, features: where they are; None takes the recorded paths. Without them there is less to say.

    Example:
        >>> for line in verdict_lines(judge(Index.open("db.bin"))):
        ...     print(line)
    """
    warned = [*_stale(index, model, features), *_equal_codes(index)]
    milliseconds = {"codes": _timed(lambda code: index.search(code, K), _some_codes(index))}
    known, recall, missing = None, None, None
    store: IndexFeatures | None = None
    try:
        known, store = load_index_model(index, model), encoded_features(index, features, verify=False)
        sample = Sample.of(index, known, store, K)
        missing = None if sample else "there is a single item"
    except SdcError as error:
        sample, missing = None, str(error)
    if sample and known and store:
        recall = _recall(sample, known)
        milliseconds["reranked"] = _time_reranked(index, known, store, sample, recall)
        if known.tables is None and known.metadata.get("method") != "itq" and (itq := sample.as_good_itq()) is not None:
            warned.append(itq_as_well(recall.codes, itq))
    has_length = index.items.lengths(np.zeros(1, np.int64)) is not None
    return Figures(
        count=index.ntotal,
        bits=index.bits,
        method=index.metadata.get("model", {}).get("method"),
        tables=None if known is None else known.tables is not None,
        bytes=index.bits // 8 + has_length,
        dimension=None if store is None else store.dimension,
        feature_bytes=None if store is None else store.row_bytes,
        recall=recall,
        milliseconds=milliseconds,
        missing=missing,
        warned=warned,
    )


def _recall(sample: Sample, model: Model) -> Recall:
    choice = choose_shortlist(sample.index, model, sample.store, sample.k, RECALL, near=sample.near)
    reranker = Reranker(sample.index, model, sample.store, sample.k, choice.shortlist)
    return Recall(
        sample.k, float(sample.by_codes[0].mean()), choice.achieved, choice.shortlist, reranker.candidates,
        len(sample.queries), len(sample.index),
    )  # fmt: skip


def _time_reranked(index: EncodedIndex, model: Model, store: IndexFeatures, sample: Sample, recall: Recall) -> float:
    reranker = Reranker(index, model, store, min(K, index.ntotal), recall.shortlist)
    features = sample.query_features
    outputs = model.outputs(features)

    def search(number: np.ndarray) -> object:
        return list(reranker.search(sample.queries.codes[number], features[number], outputs[number]))

    return _timed(search, iter(np.arange(len(features))[:, None]))


def _timed(search: Callable[[np.ndarray], object], queries: Iterator[np.ndarray]) -> float:
    """The median milliseconds of a query, of as many as there is time for, in turn; the first one warms up."""
    spent: list[float] = []
    started = time.perf_counter()
    for query in itertools.cycle(queries):
        before = time.perf_counter()
        search(query)
        spent.append((time.perf_counter() - before) * 1e3)
        if len(spent) > _TIMED or (len(spent) > 1 and time.perf_counter() - started > _SECONDS):
            break
    return float(np.median(spent[1:]))


def _some_codes(index: EncodedIndex) -> Iterator[np.ndarray]:
    """Codes to search with, each (1, bits // 8)."""
    codes = (
        index.items.codes(evenly_spread(len(index.items), QUERIES)) if index.queries is None else index.queries.codes
    )
    return iter(codes[:QUERIES, None])


def _equal_codes(index: EncodedIndex) -> Iterator[Warned]:
    codes = index.items.codes(evenly_spread(len(index.items), _CODES))
    distinct, counts = np.unique(codes, axis=0, return_counts=True)
    if len(codes) > 1 and counts.max() >= _EQUAL * len(codes):
        yield equal_codes(len(codes), len(distinct), int(counts.max()), index.metadata.get("model", {}).get("method"))


def _stale(index: EncodedIndex, model: Path | None, features: Path | None) -> Iterator[Warned]:
    """Whether the model or the features beside the index are others than those it was made from."""
    if not index.metadata.get("model") or not index.metadata.get("features"):
        return
    kinds: tuple[tuple[Literal["model", "features"], Path | None], ...] = (("model", model), ("features", features))
    for what, named in kinds:
        path, fingerprint = index.recorded(what)
        path = named or path
        if not path.exists():
            continue
        held = Model.load(path) if what == "model" else FeatureStore(path, verify=False)
        if held.fingerprint != fingerprint:
            yield stale(what, path, index.path)
