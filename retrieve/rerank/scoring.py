"""Reranking: the candidates that a search finds by Hamming distance, put into a finer order.

    index ── Hamming ──▶ 4 · FACTOR · k candidates ── by codes ──▶ FACTOR · k, the shortlist ── cosine ──▶ k

By codes: only the database's vectors are codes, the query stays in float. Where the index's model has byte tables, an
item scores the cosine of the query and what its code decodes to, see `sdc.train.ByteTables`. Else the score is
asymmetric: the query keeps its real outputs o (K,), and an item with the signs b ∈ {−1, +1}^K scores o·b / (‖o‖·√K),
the cosine of the two: Gordo, Perronnin, Gong and Lazebnik, "Asymmetric distances for binary embeddings", PAMI 2014,
with the signs themselves as the reconstruction of an item. Neither needs anything but the codes. Cosine: of the
features, of which only the shortlist's rows are read.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Literal, NamedTuple

import numpy as np

from sdc.arrays import BYTE_SIGNS, row_lengths, unit_rows
from sdc.errors import UsageError
from sdc.retrieve.features import Features
from sdc.retrieve.index import Searchable
from sdc.train import ByteTables

Factor = float | Literal["auto"]

WIDTH = 4  # candidates by Hamming distance for each item of the shortlist
DIGITS = 9  # similarities are rounded to so many, so that equal vectors tie wherever they stand
QUERIES = 1024  # searched at once
_CELLS = 1 << 20  # candidates in memory at once


def batches(count: int, candidates: int) -> Iterator[slice]:
    """Slices of so many queries, each as many as are searched at once with so many candidates a query."""
    step = min(QUERIES, max(1, _CELLS // max(1, candidates)))
    for start in range(0, count, step):
        yield slice(start, start + step)


class Ranking(NamedTuple):
    """The k best of each query, ordered by (similarity descending, row).

    Attributes:
        distances: (Q, k) int32, Hamming.
        positions: (Q, k) int64, among the items of the index.
        similarities: (Q, k) float64: the features' cosine, or, without features, the score by codes.
    """

    distances: np.ndarray
    positions: np.ndarray
    similarities: np.ndarray


class Reranked(NamedTuple):
    """A `Ranking` with the items' rows, (Q, k) int64, in the place of their positions."""

    distances: np.ndarray
    rows: np.ndarray
    similarities: np.ndarray


def shortlist_size(k: int, factor: float, ntotal: int) -> int:
    """How many items FACTOR · k are: at least k, at most all.

    Raises:
        UsageError: the factor is below 1 or no finite number.
    """
    if not 1 <= factor < math.inf:
        raise UsageError(f"--rerank must be a number from 1 on, or auto; found {factor:g}")
    return min(ntotal, max(k, math.ceil(round(min(factor * k, ntotal), 6))))


def rerank(
    index: Searchable,
    distances: np.ndarray,
    rows: np.ndarray,
    outputs: np.ndarray,
    k: int,
    *,
    shortlist: int | None = None,
    queries: np.ndarray | None = None,
    features: np.ndarray | Features | None = None,
    tables: ByteTables | None = None,
) -> Reranked:
    """The best k of candidates that `Index.search` found, usually `WIDTH` times the shortlist.

    Args:
        index: the database, for its codes.
        distances, rows: (Q, M), what `index.search` returned.
        outputs: (Q, bits), the queries' real outputs.
        k: how many; more than M returns all.
        shortlist: of how many the features are compared, those of the best score by codes; None takes all M.
        queries: (Q, d), the queries' features, and
        features: the database's, by the rows of the index: (rows, d), or what `encoded_features` gives. Without the
            database's the score by codes gives the final order.
        tables: those that score the codes, for which the queries' features are needed; None takes the asymmetric score.

    Raises:
        UsageError: k or the shortlist is below 1, or arrays do not fit together.
    """
    positions, _ = index.items.positions(rows)
    best = rerank_positions(
        index, distances, positions, outputs, k, shortlist=shortlist, queries=queries, features=features, tables=tables
    )
    return Reranked(best.distances, index.items.rows(best.positions), best.similarities)


def rerank_positions(
    index: Searchable,
    distances: np.ndarray,
    positions: np.ndarray,
    outputs: np.ndarray,
    k: int,
    *,
    shortlist: int | None = None,
    queries: np.ndarray | None = None,
    features: np.ndarray | Features | None = None,
    tables: ByteTables | None = None,
) -> Ranking:
    """As `rerank`, of what `Index.search_positions` found."""
    if k < 1 or (shortlist is not None and shortlist < 1):
        raise UsageError(f"k and the shortlist must be at least 1, found {k} and {shortlist}")
    if (features is not None and queries is None) or (queries is not None and features is None and tables is None):
        raise UsageError("the queries' features and the database's are compared: give both, or neither")
    if queries is not None and features is not None:
        dimension = features.shape[1] if isinstance(features, np.ndarray) else features.dimension
        count = len(positions)
        if queries.shape != (count, dimension):
            raise UsageError(f"features of {count} queries must be ({count}, {dimension}), found {queries.shape}")
    scores = code_scores(index, positions, outputs, tables, queries)
    size = k if features is None else positions.shape[1] if shortlist is None else max(k, shortlist)
    best = _best(Ranking(distances, positions, scores), size)
    if features is None:
        return best
    assert queries is not None
    rows = index.items.rows(best.positions)
    similarities = np.array([cosines(query, features, near) for query, near in zip(queries, rows, strict=True)])
    return _best(best._replace(similarities=similarities.reshape(rows.shape)), k)


def code_scores(
    index: Searchable,
    positions: np.ndarray,
    outputs: np.ndarray,
    tables: ByteTables | None = None,
    queries: np.ndarray | None = None,
) -> np.ndarray:
    """Scores of some items (Q, M) for each query: by byte tables, or without them the asymmetric ones; (Q, M).

    Args:
        positions: (Q, M), of the items.
        outputs: (Q, bits), the queries' real outputs.
        tables: of the model that encoded the index.
        queries: (Q, d), the queries' features, which tables are asked with.

    Raises:
        UsageError: the outputs are not (Q, bits), or there are tables and the queries are not (Q, d).
    """
    if tables is None:
        return asymmetric(index, positions, outputs)
    expected = (len(positions), len(tables.mean))
    if queries is None or queries.shape != expected:
        shape = None if queries is None else queries.shape
        raise UsageError(f"byte tables score the queries' features, {expected}, found {shape}")
    scores = np.empty(positions.shape)
    lengths = index.items.lengths(positions)
    for number, (query, items, out) in enumerate(zip(queries, positions, scores, strict=True)):
        codes = index.items.codes(items)
        of_items = tables.lengths(codes) if lengths is None else lengths[number]
        out[:] = tables.scores(query[None], codes, of_items)[0]
    return np.round(scores, DIGITS, out=scores)


def asymmetric(index: Searchable, positions: np.ndarray, outputs: np.ndarray) -> np.ndarray:
    """o·b / (‖o‖·√K) of each query's outputs o (Q, K) and the signs b of some items (Q, M); (Q, M), 0 where o is 0.

    The sum over bits goes byte by byte, through a table of what each value of each byte contributes to it.

    Args:
        positions: (Q, M), of the items.

    Raises:
        UsageError: the outputs are not (Q, bits).
    """
    count = len(positions)
    if outputs.shape != (count, index.bits):
        raise UsageError(f"outputs of {count} queries must be ({count}, {index.bits}), found {outputs.shape}")
    width = index.bits // 8
    scaled = outputs.astype(np.float64)
    scaled /= row_lengths(scaled)[:, None] * math.sqrt(index.bits)
    tables = scaled.reshape(count, width, 8) @ BYTE_SIGNS.astype(np.float64).T  # (Q, bytes, 256)
    scores = np.empty(positions.shape)
    for table, items, out in zip(tables, positions, scores, strict=True):
        out[:] = table[np.arange(width), index.items.codes(items)].sum(axis=1)
    return np.round(scores, DIGITS, out=scores)


def cosines(query: np.ndarray, features: np.ndarray | Features, rows: np.ndarray) -> np.ndarray:
    """(n,) cosines of a query (d,) and the features of `rows` (n,); no other rows are read."""
    order = np.argsort(rows)  # in the order of the file
    ascending = rows[order]
    if isinstance(features, np.ndarray):
        vectors = np.take(features, ascending, axis=0).astype(np.float64)
    else:
        vectors = features.take(ascending).astype(np.float64)
    similarities = np.empty(len(rows))
    similarities[order] = (vectors @ unit_rows(query[None])[0]) / row_lengths(vectors)
    return np.round(similarities, DIGITS, out=similarities)


def _best(ranking: Ranking, count: int) -> Ranking:
    """The `count` most similar of each query. Positions ascend as rows do, so equals come in the order of rows."""
    order = np.lexsort((ranking.positions, -ranking.similarities), axis=1)[:, :count]
    return Ranking(*(np.take_along_axis(array, order, axis=1) for array in ranking))
