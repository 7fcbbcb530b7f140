"""How the items of a database are ranked for a query: by Hamming distance, or by what their codes decode to.

A ranking is given as groups of ties, nearest first, which `sdc.retrieve.evaluate.distance_counts` counts.
"""

from __future__ import annotations

import numpy as np

from sdc.errors import UsageError
from sdc.retrieve.bits import hamming
from sdc.retrieve.features import Features
from sdc.retrieve.index import Records
from sdc.train import Model


class ByDistance:
    """A group for each Hamming distance."""

    def __init__(self, queries: Records, database: Records) -> None:
        self._queries, self._database = queries.codes, database.codes
        self.width, self.items = 8 * self._database.shape[1] + 1, len(self._database)

    def groups(self, part: slice) -> np.ndarray:
        return hamming(self._queries[part], self._database)


class ByTables:
    """The query in float, by the cosine with what the codes decode to.

    Args:
        model: of the index.
        store: of the queries' features.
        queries, database: of the index.
        depth: how many places of the ranking are told apart; all that stands below them is one group.

    Raises:
        UsageError: the model has no byte tables, or the index was encoded without them.
    """

    def __init__(self, model: Model, store: Features, queries: Records, database: Records, depth: int) -> None:
        if model.tables is None or database.lengths is None:
            raise UsageError(
                "--query float needs a model with byte tables, and an index that it encoded: train with "
                "--search-by both or tables, or with --tables, and encode again"
            )
        self._decoder, self._store, self._queries, self._database = model.tables.decoder, store, queries, database
        self._depth = min(depth, len(database))
        self.width, self.items = self._depth + 1, len(database)

    def groups(self, part: slice) -> np.ndarray:
        features = self._store.take(self._queries.rows[part])
        assert self._database.lengths is not None
        scores = self._decoder.scores(features, self._database.codes, self._database.lengths)
        return groups_of_scores(scores, self._depth)


def groups_of_scores(scores: np.ndarray, depth: int) -> np.ndarray:
    """The groups of ties of rankings by a score, the highest first.

    Args:
        scores: (b, N).
        depth: items of each ranking that are told apart, at least, with all that tie with the last of them; the others
            are one group, numbered `depth`.

    Returns:
        (b, N) int32.
    """
    out = np.full(scores.shape, depth, np.int32)
    for row, groups in zip(scores, out, strict=True):
        least = np.partition(row, len(row) - depth)[len(row) - depth]
        items = np.flatnonzero(row >= least)
        values, group = np.unique(row[items], return_inverse=True)
        groups[items] = len(values) - 1 - group
    return out
