"""A query in float at the price of a Hamming scan: what the scan finds is scored by the codes, in memory.

    index ── Hamming ──▶ candidates ── byte tables ──▶ k

Items are scored as `sdc.retrieve.rerank.scoring` says: by the model's byte tables where it has such, else by the
asymmetric score. No features but the queries' own are needed. With as many candidates as there are items every code is
scored: the reference for what fewer of them find.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Protocol, TypeVar

import numpy as np

from sdc.devices import cpu_count
from sdc.errors import UsageError
from sdc.kernels import best_scores
from sdc.retrieve.index import EncodedIndex, Searchable, inside_positions, run_parallel
from sdc.retrieve.origin import is_refined
from sdc.retrieve.rerank.scoring import DIGITS, Ranking, asymmetric
from sdc.train import ByteTables, Model

_QUERIES = 64  # whose tables are in memory at once
_CELLS = 1 << 21  # candidates in memory at once
_TASK = 1 << 16  # codes scored by a thread at once, about 0.4 ms
_SPLIT = 1 << 17  # codes to be scored from which a second thread pays

T = TypeVar("T")
Best = tuple[np.ndarray, np.ndarray]  # scores and positions (n,), by (score descending, position)


class _Scorer(Protocol):
    def best(self, query: int, positions: np.ndarray, k: int) -> Best:
        """The k best items at positions (n,) for one of the queries."""


def float_search(
    index: EncodedIndex,
    model: Model,
    features: np.ndarray,
    k: int,
    *,
    candidates: int,
    codes: np.ndarray | None = None,
    outputs: np.ndarray | None = None,
    within: np.ndarray | None = None,
) -> Ranking:
    """The k best items of each query by their scores, ordered by (score descending, row).

    Args:
        index: what is searched.
        model: the one that encoded it, as it did.
        features: (Q, d), the queries' own.
        k: how many, from 1; more than there are returns all.
        candidates: how many are scored of each query, those nearest by Hamming distance, at least k; as many as there
            are scores them all.
        codes: (Q, bits // 8), the queries' codes, and
        outputs: (Q, bits), the model's of the features; computed here where they are not given.
        within: search these rows alone, in any order; all without.

    Returns:
        Of each query what scoring the same candidates one by one would put first, whatever the number of threads and
        whichever queries come together.

    Raises:
        UsageError: k < 1, arrays that do not fit together, or rows that the index does not have.

    Example:
        >>> best = float_search(index, model, vectors, 10, candidates=index.ntotal // 100)
        >>> index.items.rows(best.positions)    # (Q, 10)
    """
    if features.ndim != 2 or features.shape[1] != model.dimension:
        raise UsageError(f"queries in float must be (Q, {model.dimension}), found an array of shape {features.shape}")
    if k < 1:
        raise UsageError(f"k must be at least 1, found {k}")
    if outputs is None:
        outputs = model.outputs(features)
    if codes is None:
        codes = model.encode(features, refine=is_refined(index), query=True, outputs=outputs)
    inside = inside_positions(index.items, within)
    searched = index.ntotal if inside is None else len(inside)
    k, candidates = min(k, searched), min(max(k, candidates), searched)
    step = min(_QUERIES, max(1, _CELLS // max(candidates, 1)))
    best = []
    for start in range(0, len(features), step):
        part = slice(start, start + step)
        scorer = _scorer(index, model, features[part], outputs[part])
        if candidates == searched:
            best += _best_of_all(scorer, inside, searched, len(codes[part]), k)
        else:
            best += _best_of(scorer, index.candidates(codes[part], candidates, within=within), k)
    scores = np.array([each for each, _ in best], np.float64).reshape(len(codes), k)
    positions = np.array([each for _, each in best], np.int64).reshape(len(codes), k)
    distances = np.bitwise_count(codes[:, None] ^ index.items.codes(positions)).sum(axis=2, dtype=np.int32)
    return Ranking(distances, positions, np.round(scores, DIGITS, out=scores))


def _best_of(scorer: _Scorer, positions: np.ndarray, k: int) -> list[Best]:
    """Of each query the k best of its candidates (Q, C)."""
    count = positions.shape[1]
    borders = range(0, count + _TASK, _TASK)
    tasks = [
        partial(scorer.best, query, row[start:end], k)
        for query, row in enumerate(positions)
        for start, end in pairwise(borders)
    ]
    parts = _run(tasks, positions.size)
    each = len(borders) - 1
    return [_merged(parts[first : first + each], k) for first in range(0, len(parts), each)]


def _best_of_all(scorer: _Scorer, inside: np.ndarray | None, searched: int, queries: int, k: int) -> list[Best]:
    """Of each of some queries the k best of all items, or of those at the positions `inside`."""

    def task(start: int) -> list[Best]:
        end = min(start + _TASK, searched)
        positions = np.arange(start, end) if inside is None else inside[start:end]
        return [scorer.best(query, positions, k) for query in range(queries)]

    parts = _run([partial(task, start) for start in range(0, searched, _TASK)], searched * queries)
    return [_merged(list(of_query), k) for of_query in zip(*parts, strict=True)]


def _run(tasks: Sequence[Callable[[], T]], codes: int) -> list[T]:
    """The results of tasks that score so many codes in all."""
    return run_parallel(tasks, cpu_count() if codes >= _SPLIT else 1)


def _merged(parts: list[Best], k: int) -> Best:
    if len(parts) == 1:
        return parts[0]
    scores, positions = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    order = np.lexsort((positions, -scores))[:k]
    return scores[order], positions[order]


def _scorer(index: Searchable, model: Model, features: np.ndarray, outputs: np.ndarray) -> _Scorer:
    if model.tables is None:
        return _ByOutputs(index, outputs)
    decoder = model.tables.decoder
    return _ByTables(index, decoder, *decoder.query_tables(features), 1 / decoder.length_values())


@dataclass(frozen=True)
class _ByTables:
    """Scores by byte tables: `tables` (Q, M, 256) and `offsets` (Q,) of queries, `factors` (256,) of length bytes."""

    index: Searchable
    decoder: ByteTables
    tables: np.ndarray
    offsets: np.ndarray
    factors: np.ndarray

    def best(self, query: int, positions: np.ndarray, k: int) -> Best:
        table, offset, parts = self.tables[query], float(self.offsets[query]), []
        for records, places, shown in self.index.items.parts(positions):
            if records.lengths is not None:
                scores, best = best_scores(table, offset, records.codes, records.lengths, self.factors, places, k)
            else:  # of an index without length bytes
                codes = records.codes[places]
                at, lengths = np.arange(len(places)), self.decoder.lengths(codes)
                scores, best = best_scores(table, offset, codes, lengths, self.factors, at, k)
                best = places[best]
            parts.append((scores, shown(best)))
        return _merged(parts, k)


@dataclass(frozen=True)
class _ByOutputs:
    """The asymmetric score of the queries' outputs (Q, bits)."""

    index: Searchable
    outputs: np.ndarray

    def best(self, query: int, positions: np.ndarray, k: int) -> Best:
        scores = asymmetric(self.index, positions[None], self.outputs[query : query + 1])[0]
        order = np.lexsort((positions, -scores))[:k]
        return scores[order], positions[order]
