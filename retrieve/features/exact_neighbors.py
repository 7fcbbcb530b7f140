"""The exact nearest neighbors by cosine of many queries, in one pass over a database of any size."""

from __future__ import annotations

import numpy as np

from sdc.arrays import row_lengths, unit_rows
from sdc.progress import Progress
from sdc.retrieve.features.cosine import Nearest, cosine_distances
from sdc.retrieve.features.protocol import Features

_QUERIES, _ITEMS = 1024, 4096  # ranked at once: a block of distances is 32 MiB


def nearest(store: Features, queries: np.ndarray, database: np.ndarray, own: np.ndarray, count: int) -> list[Nearest]:
    """The `count` nearest items of each query by the features' cosine, with all that tie at the last rank.

    Args:
        store: of the features.
        queries: (Q,) their rows.
        database: (N,) the items' rows; `Nearest.items` are positions in it.
        own: (Q,) the position of each query's own row in the database, which is left out, or −1.
        count: at most as many as there are then.

    Returns:
        For each query what `Nearest.of` gives of all its distances, which never are in memory at once.
    """
    neighbors: list[Nearest] = []
    with Progress("neighbours", len(queries) * len(database), "pairs") as progress:
        for start in range(0, len(queries), _QUERIES):
            part = slice(start, start + _QUERIES)
            neighbors += _nearest(store, queries[part], database, own[part], count, progress)
    return neighbors


def _nearest(
    store: Features, queries: np.ndarray, database: np.ndarray, own: np.ndarray, count: int, progress: Progress
) -> list[Nearest]:
    least = np.full((len(queries), count), np.inf)  # distances of the nearest so far
    candidates: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
    directions, start = unit_rows(store.take(queries)), 0
    for block in store.blocks(database, _ITEMS):
        vectors = block.astype(np.float64)
        distances = cosine_distances(directions, vectors, row_lengths(vectors))
        here = np.flatnonzero((own >= start) & (own < start + len(vectors)))
        distances[here, own[here] - start] = np.inf
        least = np.partition(np.concatenate([least, distances], axis=1), count - 1, axis=1)[:, :count]
        query, column = np.nonzero(distances <= least.max(axis=1, keepdims=True))
        candidates.append((query, column + start, distances[query, column]))
        start += len(vectors)
        progress.advance(distances.size)
    query, items, distances = (np.concatenate(column) for column in zip(*candidates, strict=True))
    order = np.argsort(query, kind="stable")
    ends = np.cumsum(np.bincount(query, minlength=len(queries)))[:-1]
    neighbors = []
    for part in np.split(order, ends):
        near = Nearest.of(distances[part], count)
        neighbors.append(near._replace(items=items[part][near.items]))
    return neighbors
