"""One pass over all pairs of queries and items: what stands at each Hamming distance, and which marks it bears."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from sdc.progress import Progress
from sdc.retrieve.bits import hamming
from sdc.retrieve.evaluate.relevance import Marks
from sdc.retrieve.features.cosine import Cosines, Nearest, expected_overlap
from sdc.retrieve.index import Records

_PAIRS = 1 << 23  # (query, item) pairs held at once: tens of megabytes


@dataclass(frozen=True)
class ByCosine:
    """The features' own ranking, which is gone through in the same pass.

    Attributes:
        cosines: of the same queries and items.
        depth: how many places of the ranking `score` needs; at most as many as there are without the query's own row.
        score: a query's APs by name, from its groups of ties by cosine, nearest first: the items in each, and by
            mark those that bear it. All that stands below `depth` is one group.
    """

    cosines: Cosines
    depth: int
    score: Callable[[np.ndarray, Mapping[str, np.ndarray]], Mapping[str, float]]


@dataclass(frozen=True)
class Tally:
    """What the pass gathers.

    Attributes:
        sizes: (Q, bits + 1) items at each Hamming distance, a query's own row left out.
        hits: by mark, (Q, bits + 1) those of them that bear it.
        by_row: of each query the items that bear a mark, in the order (distance, row): their ranks, from 0, and their
            marks as bits, each (m,); empty where they are not asked for.
        overlaps: by k, each query's expected |top k by Hamming ∩ top k by cosine| / k; zeros without cosines.
        float_aps: each query's APs by cosine; none without.
    """

    sizes: np.ndarray
    hits: dict[str, np.ndarray]
    by_row: list[tuple[np.ndarray, np.ndarray]]
    overlaps: dict[int, np.ndarray]
    float_aps: list[Mapping[str, float]]


def tally(
    queries: Records,
    database: Records,
    own: np.ndarray,
    marks: Marks,
    cutoffs: Sequence[int],
    by_cosine: ByCosine | None,
    *,
    in_rows: bool = False,
) -> Tally:
    """Goes over all pairs.

    Args:
        own: as `sdc.retrieve.index.records.own_positions` gives it.
        cutoffs: values of k, at least one, for the overlaps.
        by_cosine: for overlaps and APs by cosine.
        in_rows: fill `by_row` as well, which takes a sort a query.
    """
    count, beyond = len(queries), queries.codes.shape[1] * 8 + 1  # a query's own row is put beyond all others
    found = Tally(
        sizes=np.zeros((count, beyond), np.int64),
        hits={name: np.zeros((count, beyond), np.int64) for name in marks.names},
        by_row=[],
        overlaps={k: np.zeros(count) for k in cutoffs},
        float_aps=[],
    )
    cells = 1 << len(marks.names)  # at each distance, one for each set of marks that an item may bear
    has = np.arange(cells)[:, None] >> np.arange(len(marks.names)) & 1  # (cells, marks)
    with Progress("evaluate", count, "queries") as progress:
        for part, distances, marked in _blocks(queries, database, marks):
            cosine = by_cosine.cosines.distances(part) if by_cosine else None
            for place, q in enumerate(range(part.start, part.stop)):
                row, borne = distances[place], marked[place]
                if own[q] >= 0:
                    row[own[q]], borne[own[q]] = beyond, 0
                counts = np.bincount(cells * row + borne, minlength=cells * beyond)[: cells * beyond]
                counts = counts.reshape(beyond, cells)
                found.sizes[q] = counts.sum(axis=1)
                for hits, values in zip(found.hits.values(), (counts @ has).T, strict=True):
                    hits[q] = values
                if in_rows:
                    found.by_row.append(_ranks(row, borne))
                if cosine is not None and by_cosine:
                    if own[q] >= 0:
                        cosine[place, own[q]] = np.inf
                    _add_cosine(found, q, cosine[place], row, borne, by_cosine)
            progress.advance(len(distances))
    return found


def _ranks(distances: np.ndarray, borne: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    in_order = borne[np.argsort(distances, kind="stable")]
    ranks = np.flatnonzero(in_order)
    return ranks, in_order[ranks]


def _add_cosine(
    found: Tally, q: int, cosine: np.ndarray, row: np.ndarray, borne: np.ndarray, by_cosine: ByCosine
) -> None:
    """What the features' ranking of one query says, its distances by cosine and by Hamming being given."""
    near = Nearest.of(cosine, max(by_cosine.depth, *found.overlaps))
    for k, values in found.overlaps.items():
        values[q] = expected_overlap(near, row, found.sizes[q], k)
    hits = {}
    for bit, (name, all_hits) in enumerate(found.hits.items()):
        here = np.bincount(near.groups[borne[near.items] >> bit & 1 == 1], minlength=len(near.sizes))
        hits[name] = np.append(here, all_hits[q].sum() - here.sum())
    sizes = np.append(near.sizes, found.sizes[q].sum() - near.sizes.sum())  # the last group: all that is farther
    found.float_aps.append(by_cosine.score(sizes, hits))


def _blocks(queries: Records, database: Records, marks: Marks) -> Iterator[tuple[slice, np.ndarray, np.ndarray]]:
    """Consecutive queries with their distances (b, N) int32 and the marks (b, N) uint8 as bits."""
    size = max(1, _PAIRS // len(database))
    for start in range(0, len(queries), size):
        part = slice(start, min(start + size, len(queries)))
        yield part, hamming(queries.codes[part], database.codes), marks.of(part)
