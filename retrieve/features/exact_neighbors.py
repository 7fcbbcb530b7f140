"""The exact nearest neighbours by cosine of many queries, in one pass over a database of any size."""

from __future__ import annotations

import numpy as np

from sdc.progress import Progress
from sdc.retrieve.features.cosine import Nearest, cosine_distances, directions, row_lengths
from sdc.retrieve.features.feature_source import Features

_QUERIES, _ITEMS = 1024, 4096  # ranked at once: a block of distances is 32 MiB


def nearest(store: Features, queries: np.ndarray, database: np.ndarray, own: np.ndarray, count: int) -> list[Nearest]:
    """The `count` nearest items of each query by the features' cosine, with all that tie at the last place.

    Args:
        store: of the features.
        queries: (Q,) their rows.
        database: (N,) the items' rows; `Nearest.items` are places in it.
        own: (Q,) the place of each query's own row in the database, which is left out, or −1.
        count: at most as many as are left then.

    Returns:
        For each query what `Nearest.of` gives of all its distances, without ever holding them.
    """
    found: list[Nearest] = []
    with Progress("neighbours", len(queries) * len(database), "pairs") as progress:
        for start in range(0, len(queries), _QUERIES):
            part = slice(start, start + _QUERIES)
            found += _nearest(store, queries[part], database, own[part], count, progress)
    return found


def _nearest(
    store: Features, queries: np.ndarray, database: np.ndarray, own: np.ndarray, count: int, progress: Progress
) -> list[Nearest]:
    least = np.full((len(queries), count), np.inf)  # distances of the nearest so far
    candidates: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
    wanted, start = directions(store.take(queries)), 0
    for block in store.blocks(database, _ITEMS):
        vectors = block.astype(np.float64)
        distances = cosine_distances(wanted, vectors, row_lengths(vectors))
        here = np.flatnonzero((own >= start) & (own < start + len(vectors)))
        distances[here, own[here] - start] = np.inf
        least = np.partition(np.concatenate([least, distances], axis=1), count - 1, axis=1)[:, :count]
        query, place = np.nonzero(distances <= least.max(axis=1, keepdims=True))
        candidates.append((query, place + start, distances[query, place]))
        start += len(vectors)
        progress.advance(distances.size)
    query, items, distances = (np.concatenate(column) for column in zip(*candidates, strict=True))
    order = np.argsort(query, kind="stable")
    ends = np.cumsum(np.bincount(query, minlength=len(queries)))[:-1]
    found = []
    for chosen in np.split(order, ends):
        near = Nearest.of(distances[chosen], count)
        found.append(near._replace(items=items[chosen][near.items]))
    return found
