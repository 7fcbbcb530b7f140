"""One pass over all pairs of queries and items: how many items, and how many relevant ones, are at each distance."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np

from sdc.progress import Progress
from sdc.retrieve.evaluate.relevance import Relevance
from sdc.retrieve.features import Cosines, Nearest, expected_overlap

_PAIRS = 1 << 23  # (query, item) pairs in memory at once: tens of megabytes


class Ranking(Protocol):
    """Ranks the database for some of the queries.

    Attributes:
        width: how many groups there are.
        items: how many items.
    """

    width: int
    items: int

    def groups(self, part: slice) -> np.ndarray:
        """(b, N) int32, a new array: the group of each item, for the queries in `part`; 0 is the nearest."""


@dataclass(frozen=True)
class ByCosine:
    """The features' own ranking, which is gone through in the same pass.

    Attributes:
        cosines: of the same queries and items.
        depth: how many ranks `score` needs; at most as many as there are without the query's own row.
        score: a query's APs by name, from its groups of ties by cosine, nearest first: the items in each, and by
            mark those that have it. All that stands below `depth` is one group.
    """

    cosines: Cosines
    depth: int
    score: Callable[[np.ndarray, Mapping[str, np.ndarray]], Mapping[str, float]]


@dataclass(frozen=True)
class DistanceCounts:
    """What the pass counts.

    Attributes:
        sizes: (Q, bits + 1) items at each Hamming distance, a query's own row left out.
        hits: by mark, (Q, bits + 1) those of them that have it.
        by_row: of each query the items that have a mark, in the order (distance, row): their ranks, from 0, and their
            marks as bits, each (m,); empty where they are not asked for.
        overlaps: by k, each query's expected |top k by Hamming ∩ top k by cosine| / k; zeros without cosines.
        float_aps: each query's APs by cosine; none without.
    """

    sizes: np.ndarray
    hits: dict[str, np.ndarray]
    by_row: list[tuple[np.ndarray, np.ndarray]]
    overlaps: dict[int, np.ndarray]
    float_aps: list[Mapping[str, float]]


class GroupCounts(NamedTuple):
    """One query's ranking as groups of ties, its own row left out.

    Attributes:
        groups: (N,) the group of each item, 0 being the nearest; its own row is beyond the last.
        marks: (N,) the items' marks as bits.
        sizes: (width,) items in each group.
        hits: (marks, width) those of them that have each mark.
    """

    groups: np.ndarray
    marks: np.ndarray
    sizes: np.ndarray
    hits: np.ndarray


def count_groups(
    groups: np.ndarray, width: int, own: np.ndarray, marks: np.ndarray, names: int
) -> Iterator[GroupCounts]:
    """Counts the items in each group of ties of some queries' rankings, and those that have each mark.

    Args:
        groups: (b, N) int32, the group of each item, nearest first; the query's own row is overwritten.
        width: how many groups there are; what stands beyond is not counted.
        own: (b,) the position of each query's own row, or −1.
        marks: (b, N) uint8, bit l stands for the l-th of `names` marks; the query's own row is overwritten.
    """
    cells = 1 << names  # in each group, one for each set of marks that an item may have
    has = np.arange(cells)[:, None] >> np.arange(names) & 1  # (cells, marks)
    for row, bits, position in zip(groups, marks, own, strict=True):
        if position >= 0:
            row[position], bits[position] = width, 0
        counts = np.bincount(cells * row + bits, minlength=cells * width)[: cells * width].reshape(width, cells)
        yield GroupCounts(row, bits, counts.sum(axis=1), (counts @ has).T)


def count_distances(
    ranking: Ranking,
    count: int,
    own: np.ndarray,
    relevance: Relevance,
    cutoffs: Sequence[int],
    by_cosine: ByCosine | None,
    *,
    in_rows: bool = False,
) -> DistanceCounts:
    """Goes over all pairs.

    Args:
        ranking: of the database.
        count: of the queries.
        own: as `sdc.retrieve.index.own_positions` gives it.
        cutoffs: values of k, at least one, for the overlaps.
        by_cosine: for overlaps and APs by cosine.
        in_rows: fill `by_row` as well, which takes a sort a query.
    """
    width = ranking.width
    counts = DistanceCounts(
        sizes=np.zeros((count, width), np.int64),
        hits={name: np.zeros((count, width), np.int64) for name in relevance.names},
        by_row=[],
        overlaps={k: np.zeros(count) for k in cutoffs},
        float_aps=[],
    )
    with Progress("evaluate", count, "queries") as progress:
        for part, distances, marks in _blocks(ranking, count, relevance):
            cosine = by_cosine.cosines.distances(part) if by_cosine else None
            block = count_groups(distances, width, own[part], marks, len(relevance.names))
            for number, (q, one) in enumerate(zip(range(part.start, part.stop), block, strict=True)):
                counts.sizes[q] = one.sizes
                for hits, values in zip(counts.hits.values(), one.hits, strict=True):
                    hits[q] = values
                if in_rows:
                    counts.by_row.append(_ranks(one.groups, one.marks))
                if cosine is not None and by_cosine:
                    if own[q] >= 0:
                        cosine[number, own[q]] = np.inf
                    _add_cosine(counts, q, cosine[number], one, by_cosine)
            progress.advance(len(distances))
    return counts


def _ranks(distances: np.ndarray, marks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    in_order = marks[np.argsort(distances, kind="stable")]
    ranks = np.flatnonzero(in_order)
    return ranks, in_order[ranks]


def _add_cosine(counts: DistanceCounts, q: int, cosine: np.ndarray, one: GroupCounts, by_cosine: ByCosine) -> None:
    """Adds what the features' ranking of query q has: its overlaps with Hamming's, and its APs."""
    near = Nearest.of(cosine, max(by_cosine.depth, *counts.overlaps))
    for k, values in counts.overlaps.items():
        values[q] = expected_overlap(near, one.groups, one.sizes, k)
    hits = {}
    for bit, (name, all_hits) in enumerate(zip(counts.hits, one.hits, strict=True)):
        here = np.bincount(near.groups[one.marks[near.items] >> bit & 1 == 1], minlength=len(near.sizes))
        hits[name] = np.append(here, all_hits.sum() - here.sum())
    sizes = np.append(near.sizes, one.sizes.sum() - near.sizes.sum())  # the last group: all that is farther
    counts.float_aps.append(by_cosine.score(sizes, hits))


def _blocks(ranking: Ranking, count: int, relevance: Relevance) -> Iterator[tuple[slice, np.ndarray, np.ndarray]]:
    """Consecutive queries with their groups of ties (b, N) int32 and the items' marks (b, N) uint8 as bits."""
    size = max(1, _PAIRS // ranking.items)
    for start in range(0, count, size):
        part = slice(start, min(start + size, count))
        yield part, ranking.groups(part), relevance.marks(part)
