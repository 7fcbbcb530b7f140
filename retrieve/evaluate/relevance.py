"""Which items are relevant to a query: those that share a label with it, or that its ground truth lists."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from sdc.errors import SdcError
from sdc.extract.store import NO_LABEL
from sdc.retrieve.index import Records, own_positions

FINE, COARSE = "labels", "labels_coarse"


@dataclass(frozen=True)
class Relevance:
    """What makes items relevant to a query: at most 8 marks, each a level of labels or a list of a ground truth.

    Attributes:
        names: of the marks.
        marks: takes consecutive queries and gives (b, N) uint8, a new array: bit l stands for the mark names[l].
    """

    names: tuple[str, ...]
    marks: Callable[[slice], np.ndarray]


def levels(queries: Records, database: Records) -> tuple[str, ...]:
    """The levels of labels that both have, the fine one first; coarse labels alone are none."""

    def both(level: str) -> bool:
        known = [getattr(records, level) for records in (queries, database)]
        return all(labels is not None and not unlabelled(labels).all() for labels in known)

    return tuple(itertools.takewhile(both, (FINE, COARSE)))


def by_labels(queries: Records, database: Records) -> Relevance:
    """A mark for each of `levels` at which an item is relevant."""
    known = levels(queries, database)

    def of(part: slice) -> np.ndarray:
        marks = np.zeros((len(queries.rows[part]), len(database)), np.uint8)
        for bit, level in enumerate(known):
            good = share_label(getattr(queries, level)[part], getattr(database, level)).view(np.uint8)
            marks |= good << bit if bit else good
        return marks

    return Relevance(known, of)


def by_groundtruth(queries: Records, database: Records, names: Sequence[str]) -> Relevance:
    """A mark for each of the queries' lists of these names.

    Raises:
        SdcError: a list has a row that is not in the database, or a row is in two lists of a query.
    """
    bits = np.repeat(np.arange(len(names)), [len(queries.groundtruth[name].values) for name in names])
    rows = np.concatenate([queries.groundtruth[name].values for name in names])
    query = np.concatenate(
        [np.repeat(np.arange(len(queries)), np.diff(queries.groundtruth[name].offsets)) for name in names]
    )
    positions = own_positions(rows, database.rows)
    strange = rows[positions < 0]
    if len(strange):
        raise SdcError(f"the ground truth names row {strange[0]}, which is not in the database: encode again")
    order = np.lexsort((positions, query))
    bits, positions, query = bits[order], positions[order], query[order]
    twice = np.flatnonzero((np.diff(positions) == 0) & (np.diff(query) == 0))
    if len(twice):
        first = int(twice[0])
        name, row = queries.names(query[[first]])[0], database.rows[positions[first]]
        both = " and ".join(names[bit] for bit in sorted(bits[first : first + 2]))
        raise SdcError(f"the ground truth of query {name} has row {row} as both {both}: correct it, and import again")

    def of(part: slice) -> np.ndarray:
        marks = np.zeros((len(queries.rows[part]), len(database)), np.uint8)
        some = slice(*np.searchsorted(query, (part.start, part.stop)))
        marks[query[some] - part.start, positions[some]] = 1 << bits[some]
        return marks

    return Relevance(tuple(names), of)


def share_label(queries: np.ndarray, database: np.ndarray) -> np.ndarray:
    """(Q, N) bools: the two have the same label, or with multi-hot labels (…, C) at least one in common.

    What has no label shares none.
    """
    if queries.ndim == 1:
        same: np.ndarray = queries[:, None] == database[None, :]
        same[queries == NO_LABEL] = False
        return same
    shared: np.ndarray = queries.astype(np.float32) @ database.T.astype(np.float32)
    return shared > 0


def unlabelled(labels: np.ndarray) -> np.ndarray:
    """(N,) bools: which of these labels (N,) are none. Rows of zeros (N, C) count as labels, which nothing shares."""
    return np.asarray(labels == NO_LABEL if labels.ndim == 1 else np.zeros(len(labels), bool))
