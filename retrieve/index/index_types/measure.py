"""Queries to measure a type of index with, the time of a search, and what it finds."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from sdc.errors import log
from sdc.retrieve.cross_validation import query_part
from sdc.retrieve.index.index_types.base import NEIGHBORS, BuildRequest
from sdc.retrieve.index.records import Records
from sdc.retrieve.index.sorted_rows import own_positions

_QUERIES, _ENOUGH = 1000, 20  # measured with at most, and from the query split at least


@dataclass(frozen=True)
class QuerySample:
    """Queries to measure with: codes (Q, bits // 8), and (Q,) the position of each in the database, or −1."""

    codes: np.ndarray
    own: np.ndarray
    origin: str

    def __len__(self) -> int:
        return len(self.codes)

    @classmethod
    def of(cls, request: BuildRequest, rng: np.random.Generator) -> QuerySample:
        """Some of the query split, or, where that has too few, items of the database, in random order."""
        count = len(request.query_codes)
        if 0 < count < _ENOUGH:
            log.info("the query split has %d queries, too few to measure with: rows of the database stand in", count)
        part, of_split = query_part(request.codes, request.query_codes, _ENOUGH)
        sample = rng.permutation(len(part))[:_QUERIES]
        own = own_positions(request.query_rows, request.rows)[sample] if of_split else sample
        return cls(part[sample], own, "query split" if of_split else "database rows")


def timed(searches: list[Callable[[np.ndarray, int], Any]], codes: np.ndarray) -> list[float]:
    """The median milliseconds of one query by each of several searches, which take turns."""
    spent = np.empty((len(codes), len(searches)))
    for q in range(-2, len(codes)):  # the first two warm up
        for n, search in enumerate(searches):
            started = time.perf_counter()
            search(codes[abs(q) % len(codes)][None], NEIGHBORS)
            if q >= 0:
                spent[q, n] = (time.perf_counter() - started) * 1e3
    return [float(median) for median in np.median(spent, axis=0)]


def recall_of(
    search: Callable[[np.ndarray, int], tuple[np.ndarray, np.ndarray]],
    queries: Records,
    own: np.ndarray,
    sizes: np.ndarray,
    k: int,
) -> float:
    """What an index finds of the k exact neighbors of its query split; one as near as the k-th counts as found.

    Args:
        search: `Index.search`.
        own: (Q,) ≥ 0 where the database holds a query's own row, which is left out.
        sizes: (Q, bits + 1) codes at each distance, without it.
    """
    farthest = (np.cumsum(sizes, axis=1) >= k).argmax(axis=1)
    distances, rows = search(queries.codes, k + int((own >= 0).any()))
    theirs = (own >= 0)[:, None] & (rows == queries.rows[:, None])
    counts = ((distances <= farthest[:, None]) & ~theirs).sum(axis=1)
    return float(np.minimum(counts, k).mean() / k)
