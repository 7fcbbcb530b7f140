"""Rankings by the features' cosine, and how much of them the codes keep."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from sdc.arrays import row_lengths, unit_rows
from sdc.retrieve.features.protocol import Features

CUTOFFS = (1, 10, 100)
_GRID = 1e9


class Cosines:
    """Cosine distances of queries to a database, both given by their rows of a feature store.

    They are computed in double precision and rounded to 1e-9, so that equal vectors tie wherever they stand.
    """

    def __init__(self, store: Features, queries: np.ndarray, database: np.ndarray) -> None:
        self.store, self.queries, self.database = store, queries, database
        self._lengths = np.concatenate([row_lengths(block.astype(np.float64)) for block in store.blocks(database)])

    def distances(self, part: slice) -> np.ndarray:
        """(1 − cosine)·1e9, whole numbers, (b, N) float64, for the queries in `part`. A row of zeros has cosine 0."""
        queries = unit_rows(self.store.take(self.queries[part]))
        out = np.empty((len(queries), len(self.database)))
        done = 0
        for block in self.store.blocks(self.database):
            columns = slice(done, done + len(block))
            out[:, columns] = cosine_distances(queries, block.astype(np.float64), self._lengths[columns])
            done += len(block)
        return out


def cosine_distances(queries: np.ndarray, items: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """(1 − cosine)·1e9, whole numbers, (b, n) float64.

    Args:
        queries: (b, d), as `unit_rows` gives them.
        items: (n, d) float64.
        lengths: (n,) theirs, as `row_lengths` gives them.
    """
    scaled: np.ndarray = (queries @ items.T) * (_GRID / lengths)
    np.subtract(_GRID, scaled, out=scaled)
    return np.asarray(np.rint(scaled, out=scaled))


class Nearest(NamedTuple):
    """The top of one ranking: the items down to a given rank, with all that tie there.

    Attributes:
        items: (M,) their positions.
        groups: (M,) which group of ties each belongs to, 0 being the nearest.
        sizes: (groups,) items in each.
    """

    items: np.ndarray
    groups: np.ndarray
    sizes: np.ndarray

    @classmethod
    def of(cls, distances: np.ndarray, count: int) -> Nearest:
        """The `count` ≤ N nearest of N distances."""
        items = np.flatnonzero(distances <= np.partition(distances, count - 1)[count - 1])
        _, groups, sizes = np.unique(distances[items], return_inverse=True, return_counts=True)
        return cls(items, groups, sizes)


def expected_overlap(near: Nearest, distances: np.ndarray, sizes: np.ndarray, k: int) -> float:
    """E |top k of one ranking ∩ top k of another| / k over random orders of ties in both.

    Args:
        near: of the one ranking, at least k items.
        distances: (N,) the other ranking's, small whole numbers.
        sizes: (distances,) the other ranking's items at each distance; an item beyond them is in no top k.
        k: a cut-off.
    """
    ours = chances(near.sizes, k)[near.groups]
    theirs = np.append(chances(sizes, k), 0)[np.minimum(distances[near.items], len(sizes))]
    return float(ours @ theirs) / k


def chances(sizes: np.ndarray, k: int) -> np.ndarray:
    """(groups,) the probability of an item of each group of ties, nearest first, to be among the top k."""
    before = np.cumsum(sizes) - sizes
    share: np.ndarray = np.clip((k - before) / np.maximum(sizes, 1), 0, 1)
    return share
