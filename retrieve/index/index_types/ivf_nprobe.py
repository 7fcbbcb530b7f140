"""How many lists a search has to scan to reach a recall.

No search by IVF is needed for that: an exact neighbor is found as soon as its list is scanned, so the rank of that list
among the query's nearest ones gives recall for every number of lists at once.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from sdc.progress import Progress
from sdc.retrieve.bits import hamming
from sdc.retrieve.cross_validation import choose_and_validate
from sdc.retrieve.index.flat_search import FlatSearcher
from sdc.retrieve.index.index_types import ivf_lists
from sdc.retrieve.index.index_types.base import NEIGHBORS
from sdc.retrieve.index.index_types.measure import QuerySample

_AT_ONCE = 16  # queries whose neighbors are listed together


@dataclass(frozen=True)
class ScanPlan:
    """Lists of a database, and how many of them a search has to scan.

    Attributes:
        centroids: (lists, bits // 8) uint8.
        assigned: (N,) the list of each code.
        nprobe: lists to scan.
        scanned: the share of the codes that is in these.
        recall: expected of queries that had no part in choosing `nprobe`.
    """

    centroids: np.ndarray
    assigned: np.ndarray
    nprobe: int
    scanned: float
    recall: float


def plan_scan(codes: np.ndarray, queries: QuerySample, lists: int, recall: float, seed: int) -> ScanPlan:
    """Makes the lists of codes, and finds how many must be scanned for a recall."""
    centroids = ivf_lists.train(codes, lists, seed=seed)
    assigned = ivf_lists.assign(codes, centroids)
    ranks, order = list_ranks(codes, queries, centroids, assigned)
    nprobe, recalls = choose_and_validate(
        len(queries),
        lambda some: least_nprobe(ranks[some], recall),
        lambda fewest, others: (ranks[others] < fewest).mean(axis=1),
    )
    sizes = np.bincount(assigned, minlength=lists)
    scanned = sizes[order[:, :nprobe]].sum(axis=1).mean() / len(assigned)
    return ScanPlan(centroids, assigned, nprobe, scanned, float(recalls.mean()))


def list_ranks(
    codes: np.ndarray, queries: QuerySample, centroids: np.ndarray, assigned: np.ndarray, k: int = NEIGHBORS
) -> tuple[np.ndarray, np.ndarray]:
    """After how many lists each of a query's exact neighbors is found.

    Args:
        codes: (N, bits // 8) uint8.
        assigned: (N,) their lists.

    Returns:
        ranks (Q, k), ascending, from 0, of the lists of the k neighbors that are found first among all that are no
        farther than the k-th; and order (Q, lists), each query's lists, nearest first. k is at most the number of codes
        beside a query's own.
    """
    has_own = queries.own >= 0
    k = min(k, len(codes) - int(has_own.any()))
    searcher = FlatSearcher(codes)
    ranks, order = np.empty((len(queries), k), np.int64), np.empty((len(queries), len(centroids)), np.int32)
    with Progress("measure recall", len(queries), "queries") as progress:
        for start in range(0, len(queries), _AT_ONCE):
            part = slice(start, start + _AT_ONCE)
            some = np.ascontiguousarray(queries.codes[part])
            # A query's own row is at distance 0, before or among its neighbors.
            nearest = searcher.search(some, min(k + 1, len(codes)))[0]
            farthest = np.where(has_own[part], nearest[:, -1], nearest[:, k - 1])
            order[part] = np.argsort(hamming(some, centroids), axis=1, kind="stable")
            for q, one in enumerate(range(start, start + len(some))):
                _, _, positions = searcher.range_search(some[q : q + 1], int(farthest[q]))
                rank = np.empty(len(centroids), np.int64)
                rank[order[one]] = np.arange(len(centroids))
                near = rank[assigned[positions[positions != queries.own[one]]]]
                ranks[one] = np.sort(np.partition(near, k - 1)[:k])
            progress.advance(len(some))
    return ranks, order


def least_nprobe(ranks: np.ndarray, recall: float) -> int:
    """The least number of lists that reaches a recall by one standard error of its mean over queries.

    Without that margin about half of all promises would be broken by a little. The error is that of the number which
    just reaches the recall: of more lists it is smaller, in a small sample down to 0.
    """
    error = (ranks < _reaching(ranks, recall)).mean(axis=1).std() / math.sqrt(len(ranks))
    return _reaching(ranks, min(recall + error, 1.0))


def _reaching(ranks: np.ndarray, recall: float) -> int:
    return int(np.quantile(ranks, recall, method="inverted_cdf")) + 1
