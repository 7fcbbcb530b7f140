"""The second stage of a search: candidates found by Hamming distance, put into a finer order.

    index ── Hamming ──▶ 4 · FACTOR · k candidates ── asymmetric ──▶ FACTOR · k, the shortlist ── cosine ──▶ k

Asymmetric: only the database's vectors are binary, the query keeps its real outputs o (K,). An item with the signs
b ∈ {−1, +1}^K scores o·b / (‖o‖·√K), the cosine of the two: Gordo, Perronnin, Gong and Lazebnik, "Asymmetric distances
for binary embeddings", PAMI 2014, with the signs themselves as the reconstruction of an item. It needs nothing but
the codes. Cosine: of the features, of which only the shortlist's rows are read.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from sdc.errors import UsageError
from sdc.retrieve.bits import byte_signs
from sdc.retrieve.features.cosine import directions, row_lengths
from sdc.retrieve.features.feature_source import Features
from sdc.retrieve.index import Index

WIDTH = 4  # candidates by Hamming distance for each place in the shortlist
_DIGITS = 9  # similarities are rounded to so many, so that equal vectors tie wherever they stand


class Reranked(NamedTuple):
    """The k best of each query, ordered by (similarity descending, row).

    Attributes:
        distances: (Q, k) int32, Hamming.
        rows: (Q, k) int64.
        similarities: (Q, k) float64 in [−1, 1]: the features' cosine, or, without features, the asymmetric score.
    """

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
    index: Index,
    distances: np.ndarray,
    rows: np.ndarray,
    outputs: np.ndarray,
    k: int,
    *,
    shortlist: int | None = None,
    queries: np.ndarray | None = None,
    features: np.ndarray | Features | None = None,
) -> Reranked:
    """The best k of candidates that `Index.search` found, usually `WIDTH` times the shortlist.

    Args:
        index: the database, for its codes.
        distances, rows: (Q, M), what `index.search` returned.
        outputs: (Q, bits), the queries' real outputs.
        k: how many; more than M returns all.
        shortlist: of how many the features are compared, those of the best asymmetric score; None takes all M.
        queries: (Q, d), the queries' features, and
        features: the database's, by the rows of the index: (rows, d), or what `encoded_features` gives. Without these
            two the asymmetric score gives the final order.

    Raises:
        UsageError: k or the shortlist is below 1, or arrays do not fit together.
    """
    if k < 1 or (shortlist is not None and shortlist < 1):
        raise UsageError(f"k and the shortlist must be at least 1, found {k} and {shortlist}")
    if (queries is None) != (features is None):
        raise UsageError("the queries' features and the database's are compared: give both, or neither")
    if queries is not None and features is not None:
        dimension = features.shape[1] if isinstance(features, np.ndarray) else features.dimension
        if queries.shape != (len(rows), dimension):
            raise UsageError(
                f"features of {len(rows)} queries must be ({len(rows)}, {dimension}), found {queries.shape}"
            )
    scores = asymmetric(index, rows, outputs)
    kept = k if features is None else rows.shape[1] if shortlist is None else max(k, shortlist)
    order = _best(scores, rows, kept)
    distances, rows, scores = (np.take_along_axis(array, order, axis=1) for array in (distances, rows, scores))
    if queries is None or features is None:
        return Reranked(distances, rows, scores)
    similarities = np.empty(rows.shape)
    for query, found, out in zip(queries, rows, similarities, strict=True):
        out[:] = cosines(query, features, found)
    order = _best(similarities, rows, k)
    return Reranked(*(np.take_along_axis(array, order, axis=1) for array in (distances, rows, similarities)))


def asymmetric(index: Index, rows: np.ndarray, outputs: np.ndarray) -> np.ndarray:
    """o·b / (‖o‖·√K) of each query's outputs o (Q, K) and the signs b of its rows (Q, M); (Q, M), 0 where o is 0.

    The sum over bits goes byte by byte, through a table of what each value of each byte contributes to it.

    Raises:
        UsageError: the outputs are not (Q, bits).
    """
    if outputs.shape != (len(rows), index.bits):
        raise UsageError(f"outputs of {len(rows)} queries must be ({len(rows)}, {index.bits}), found {outputs.shape}")
    width = index.bits // 8
    scaled = outputs.astype(np.float64)
    scaled /= row_lengths(scaled)[:, None] * math.sqrt(index.bits)
    tables = scaled.reshape(len(rows), width, 8) @ byte_signs().astype(np.float64).T  # (Q, bytes, 256)
    scores = np.empty(rows.shape)
    for table, found, out in zip(tables, rows, scores, strict=True):
        out[:] = table[np.arange(width), index.codes(found)].sum(axis=1)
    return np.round(scores, _DIGITS, out=scores)


def cosines(query: np.ndarray, features: np.ndarray | Features, rows: np.ndarray) -> np.ndarray:
    """(n,) cosines of a query (d,) and the features of `rows` (n,), none of which other rows are read."""
    order = np.argsort(rows)  # in the order of the file
    wanted = rows[order]
    read = np.take(np.asarray(features), wanted, axis=0) if isinstance(features, np.ndarray) else features.take(wanted)
    taken = read.astype(np.float64)
    found = np.empty(len(rows))
    found[order] = (taken @ directions(query[None])[0]) / row_lengths(taken)
    return np.round(found, _DIGITS, out=found)


def _best(similarities: np.ndarray, rows: np.ndarray, count: int) -> np.ndarray:
    """(Q, count) places of the highest, ordered by (similarity descending, row)."""
    return np.lexsort((rows, -similarities), axis=1)[:, :count]
